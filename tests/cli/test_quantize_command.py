"""snugfit quantize with llama-quantize's options and words, against files that it wrote."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_folder
from headers import unpacked_header
from make_quantize_types import FILES, FILES_RECORD, described, filled, one_entry
from shapes import metadata_of, tensors_of
from tiny import tiny_model

from snugfit.cli.main import main
from snugfit.formats.gguf import read_gguf
from snugfit.formats.imatrix import ColumnSums, Importance, write_imatrix
from snugfit.runtimes.llama_cpp_probe import write_sparse

GUESSED = 1024  # llama.cpp's mark on the number of a file that has none
RECORDED: dict[str, Any] = json.loads(FILES_RECORD.read_text())["files"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny", tiny_model("qwen3moe"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "source.gguf"
    write_sparse(path, metadata_of("llama"), tensors_of("llama"))
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main(["quantize", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    assert main(["quantize", *map(str, arguments)]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    return shown.err


@pytest.mark.parametrize("case", FILES)
def test_files_hold_what_llama_quantize_s_hold(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    name, mix, options = FILES[case]
    monkeypatch.chdir(tmp_path)
    write_sparse(Path("source.gguf"), metadata_of(name), tensors_of(name))
    given = filled(options, {"{imatrix}": one_entry(Path("imatrix.gguf"), 128).name})
    words = [*given, "source.gguf", "out.gguf", mix, "1"]
    planned = run_json(capsys, *words, "--dry-run")
    assert not Path("out.gguf").exists()
    made = run_json(capsys, *words)
    found = described(read_gguf(Path("out.gguf")))
    assert planned["file_bytes"] == made["file_bytes"] == found["file_bytes"]
    expected = copy.deepcopy(RECORDED[case])
    _, number = expected["metadata"]["general.file_type"]
    if number >= GUESSED:  # by the type of most tensors; here it is that of most weights
        assert found["metadata"].pop("general.file_type") == ["u", 1]
        expected["metadata"].pop("general.file_type")
    if "gpt-oss.leading_dense_block_count" in expected["metadata"]:  # of which one is gone
        expected["metadata"]["gpt-oss.leading_dense_block_count"] = ["u", 0]
    assert found == expected


def test_several_types_of_one_model(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out-{type}.gguf"
    planned = run_json(capsys, model, out, "q4_k", "IQ4_XS", "7", "1", "--dry-run")["files"]
    made = run_json(capsys, model, out, "q4_k", "IQ4_XS", "7", "1")["files"]
    names = ["out-IQ4_XS.gguf", "out-Q4_K_M.gguf", "out-Q8_0.gguf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for plan, one in zip(planned, made, strict=True):
        assert plan["file_bytes"] == one["file_bytes"] == Path(one["path"]).stat().st_size
        stored = {t.name: t.type_name for t in read_gguf(one["path"]).tensors.values()}
        assert stored == plan["types"]
        assert sum(plan["bytes_of_type"].values()) <= plan["file_bytes"]
    assert [one["mix"] for one in made] == ["Q4_K_M", "IQ4_XS", "Q8_0"]
    assert "{type}" in fails(capsys, model, tmp_path / "out.gguf", "Q4_K", "Q6_K")


def test_words_are_read_as_llama_quantize_reads_them(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    beside = model.parent / "ggml-model-Q8_0.gguf"
    assert run_json(capsys, model, "7", "--dry-run")["path"] == str(beside)
    assert run_json(capsys, model, "Q8_0", "2", "--dry-run")["path"] == str(beside)
    given = run_json(capsys, "--pure", model, tmp_path / "x.gguf", "copy", "--dry-run")
    assert given["mix"] == "COPY"
    kept = run_json(capsys, model, "-o", tmp_path / "x.gguf", "--like", "q4_k", "--dry-run")
    assert (kept["mix"], kept["path"]) == ("Q4_K_M", str(tmp_path / "x.gguf"))
    for words in ((), ("x.gguf",), ("Q8_0", "--like", "Q8_0"), ("Q8_0", "--size", "1MiB")):
        assert "TYPE" in fails(capsys, model, *words)
    assert "Q4_K_M" in fails(capsys, model, "Q4_Z", status=1)
    assert "Q4_K_M" in fails(capsys, model, "x.gguf", "Q4_Z", status=1)
    assert list(tmp_path.iterdir()) == []


def test_a_size_counts_what_options_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sized = ("--size", "44GiB", "--dry-run")
    with unpacked_header("Llama-3.3-70B") as path:
        whole = run_json(capsys, path, *sized)
        assert whole["mix"] == "Q4_K_M"
        pure = run_json(capsys, path, *sized, "--pure")
        assert (pure["mix"], set(pure["weights_of_type"])) == ("Q4_K_M", {"F32", "Q4_K"})
        pruned = run_json(capsys, path, *sized, "--prune-layers", ",".join(map(str, range(20))))
        assert pruned["mix"] == "Q6_K"
        blind = run_json(capsys, path, "--size", "26GiB", "--prune-layers", "70", "--dry-run")
        assert blind["mix"] == "Q2_K"
        text = tmp_path / "text.txt"
        seeing = run_json(capsys, path, "--size", "22GiB", "--dry-run", "--text", text)
        assert seeing["mix"] == "IQ2_S"
        assert "smallest" in fails(capsys, path, "--size", "10GiB", "--dry-run", status=1)
        for document in (whole, pure, pruned):
            assert document["file_bytes"] <= 44 * 2**30


def test_gaps_in_importance_are_filled_safely_and_listed(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    full, imatrix, out = (tmp_path / name for name in ("f.gguf", "i.gguf", "o.gguf"))
    run_json(capsys, folder, full, "F16")
    weights = {}
    for name, tensor in read_gguf(full).tensors.items():
        if tensor.rows > 1 and name.startswith("blk.") and "ffn_up" not in name:
            matrices = tensor.shape[-3] if len(tensor.shape) > 2 else 1
            counts = np.ones(matrices, np.float32)
            counts[1:2] = 0
            weights[name] = ColumnSums(np.ones((matrices, tensor.columns), np.float32), counts)
    write_imatrix(imatrix, Importance(weights, ("text",), 1, 512))
    options = ("--imatrix", imatrix, "--exclude-weights", "attn_k.")
    options += ("--tensor-type", "attn_k=IQ3_XXS", "--tensor-type", "ffn_(up|gate)_exps=iq2_xxs")
    planned = run_json(capsys, full, out, "Q4_K_M", *options, "--dry-run")
    made = run_json(capsys, full, out, "Q4_K_M", *options)
    assert made["file_bytes"] == planned["file_bytes"] == out.stat().st_size
    stored = {name: tensor.type_name for name, tensor in read_gguf(out).tensors.items()}
    assert stored == planned["types"]
    for document in (planned, made):
        replaced = document["replaced_types"]
        assert all("ffn_up" in name or "attn_k." in name for name in replaced)
        assert {stored[name] for name in replaced} == {one["given"] for one in replaced.values()}
        assert not {"IQ2_XXS", "IQ3_XXS"} & {stored[name] for name in replaced}
        assert set(document["experts_without_tokens"].values()) == {1}
    assert main(["quantize", *map(str, (full, out, "Q4_K_M", *options))]) == 0
    warned = capsys.readouterr().err
    assert "without which" in warned
    assert "reached by no token" in " ".join(warned.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("IQ2_M",), "importance"),
        (("Q4_0", "--tensor-type", "ffn"), "REGEX=TYPE"),
        (("Q4_0", "--tensor-type", "(ffn=q8_0"), "expression"),
        (("Q4_0", "--tensor-type", "ffn=q9"), "Known"),
        (("Q4_0", "--tensor-type-file", "missing.txt"), "missing.txt"),
        (("Q4_0", "--output-tensor-type", "Q4_K_M"), "Known"),
        (("Q4_0", "--prune-layers", "0,x"), "layers"),
        (("Q4_0", "--prune-layers", "-1"), "layers"),
        (("Q4_0", "--prune-layers", "4"), "0 to 3"),
        (("Q4_0", "--prune-layers", "0,1,2,3"), "no layer"),
        (("Q4_0", "--override-kv", "general.name"), "KEY=TYPE:VALUE"),
        (("Q4_0", "--override-kv", "general.name=int:"), "no int"),
        (("Q4_0", "--override-kv", "general.name=int:5"), "a str"),
        (("Q4_0", "--override-kv", "llama.block_count=int:-4"), "no int"),
        (("Q4_0", "--override-kv", "llama.block_count=int:4294967296"), "no int"),
        (("Q4_0", "--override-kv", "llama.logit_scale=float:1e39"), "no float"),
        (("Q4_0", "--override-kv", "llama.logit_scale=float:nan"), "no float"),
        (("Q4_0", "--override-kv", "llama.x=bool:yes"), "no bool"),
        (("Q4_0", "--override-kv", f"llama.x=str:{'x' * 128}"), "no str"),
        (("Q4_0", "--override-kv", "split.count=int:2"), "follows"),
        (("Q4_0", "--override-kv", "a b=int:2"), "no key"),
        (("Q4_0", "--include-weights", "a", "--exclude-weights", "b"), "not both"),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    said: str,
) -> None:
    out = tmp_path / "out.gguf"
    metadata = metadata_of("llama") | {"general.name": "x"}
    source = tmp_path / "source.gguf"
    write_sparse(source, metadata, tensors_of("llama"))
    assert said in fails(capsys, source, out, *options)
    assert not out.exists()


def test_a_list_of_types_in_a_file(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "types.txt"
    listed.write_text("attn_v=q8_0\n  FFN_[[:alpha:]]+=q5_0\tattn=f16")
    options = ("--tensor-type-file", listed, "--tensor-type", r"blk\.0\.attn_v=q4_1", "--dry-run")
    types = run_json(capsys, model, "Q4_0", *options)["types"]
    assert types["blk.0.attn_v.weight"] == "Q4_1"
    assert types["blk.1.attn_v.weight"] == "Q8_0"
    assert types["blk.1.ffn_up.weight"] == "Q5_0"
    assert types["blk.1.attn_k.weight"] == "F16"


def test_splits_are_kept_each_tensor_where_it_was(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    split, out = tmp_path / "split.gguf", tmp_path / "out.gguf"
    assert main(["convert", str(model), "-o", str(split), "--split-max-tensors", "20"]) == 0
    capsys.readouterr()
    sources = sorted(tmp_path.glob("split-*.gguf"))
    assert len(sources) > 1
    planned = run_json(capsys, "--keep-split", sources[0], out, "Q4_0", "--dry-run")
    made = run_json(capsys, "--keep-split", sources[0], out, "Q4_0")
    parts = [Path(path) for path in made["paths"]]
    assert [part.name for part in parts] == [path.name.replace("split", "out") for path in sources]
    assert planned["file_bytes"] == sum(part.stat().st_size for part in parts)
    places = [read_gguf(path).places for path in (sources[0], parts[0])]
    numbers = [{n: place.path.name[-19:] for n, place in found.items()} for found in places]
    assert numbers[0] == numbers[1]
    pruned = run_json(capsys, "--keep-split", "--prune-layers", 0, sources[0], out, "Q4_0")
    assert sum(Path(path).stat().st_size for path in pruned["paths"]) == pruned["file_bytes"]


def test_convert_without_a_file_or_with_another_type(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    assert main(["convert", str(model)]) == 2
    assert "-o OUT.gguf" in capsys.readouterr().err
    assert main(["convert", str(model), "--dry-run", "--json", "--outtype", "f32"]) == 0
    assert set(json.loads(capsys.readouterr().out)["weights_of_type"]) == {"F32"}
    assert main(["convert", str(model), "--type", "Q8_0"]) == 2
    assert "quantize" in capsys.readouterr().err
    for size in ("5M", "5MB", "5MiB"):
        assert main(["convert", str(model), "--dry-run", "--json", "--split-max-size", size]) == 0
        capsys.readouterr()
    assert main(["convert", str(model), "--dry-run", "--split-max-size", "5"]) == 2


def test_a_dry_run_on_a_cluster_is_planned_from_a_header(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "v4.gguf"
    document = run_json(
        capsys, "deepseek-v4-pro", out, "Q4_K_M", "--dry-run", "--cluster", "local:64"
    )
    planned = document["pass"]
    assert planned["written_bytes"] == document["file_bytes"] > 800 * 2**30
    assert planned["read_bytes"] > 700 * 2**30
    assert planned["tasks"] > 100_000
    assert planned["core_seconds"] == pytest.approx(64 * planned["seconds"])
    assert [node["workers"] for node in planned["nodes"]] == [64]
    assert not out.exists()


def test_a_cluster_of_no_workers_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    words = (model, tmp_path / "q.gguf", "Q8_0", "--cluster", "local:none")
    assert "no number of workers" in fails(capsys, *words)
