"""Headers from the Hub: what is read, what is kept, and what strangers' servers cannot do."""

from __future__ import annotations

import functools
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_folder
from hub_server import FakeHub, Served, serving, whole
from tiny import tiny_model

from snugfit.cli.main import main
from snugfit.core import TensorInfo
from snugfit.errors import FormatError, NetworkError, SnugfitError
from snugfit.formats import hub as hub_module
from snugfit.formats.gguf import padded
from snugfit.formats.gguf_writer import encode_header
from snugfit.formats.hub_client import HubClient, Limits
from snugfit.headers import open_headers
from snugfit.models import Model, open_model
from snugfit.units import MIB

GGUF = "owner/tiny-GGUF"
FOLDER = "owner/tiny"
LIMITS = Limits(header_bytes=4 * MIB)
IMPATIENT = Limits(idle_seconds=0.5, total_seconds=1.0, header_bytes=4 * MIB)
LONGEST_WAIT = 3.0  # seconds, on a busy machine too, that a failure within 1.0 may take
VOCABULARY = 40_000
TOKENS = [f"token{number:06d}" for number in range(VOCABULARY)]


def header_of(type_name: str, *, splits: int = 1, part: int = 0, **more: Any) -> bytes:
    """A llama of two layers with a real tokenizer's share of its header."""
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": np.uint32(2),
        "llama.context_length": np.uint32(4096),
        "llama.embedding_length": np.uint32(4096),
        "llama.attention.head_count": np.uint32(32),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": np.ones(VOCABULARY, np.int32),
        "tokenizer.ggml.merges": [f"{one} x" for one in TOKENS],
        "tokenizer.chat_template": "{{ messages }}" * 50,
        "general.file_type": np.uint32(7),
        "general.quantization_version": np.uint32(2),
    } | more
    tensors = tensors_of(type_name)
    if splits > 1:
        metadata["split.no"] = np.uint16(part)
        metadata["split.count"] = np.uint16(splits)
        metadata["split.tensors.count"] = np.int32(len(tensors))
        tensors = tensors[part::splits]
        if part:
            metadata = {key: metadata[key] for key in metadata if key.startswith("split.")}
    return encode_header(metadata, tensors)


def tensors_of(type_name: str) -> list[TensorInfo]:
    names = [f"blk.{layer}.ffn_{role}.weight" for layer in (0, 1) for role in ("up", "down")]
    shapes = {"token_embd.weight": (VOCABULARY, 4096)} | dict.fromkeys(names, (4096, 4096))
    return [TensorInfo(name, shape, type_name) for name, shape in shapes.items()]


def gguf(type_name: str, **options: Any) -> Served:
    header = header_of(type_name, **options)
    tensors = tensors_of(type_name)[options.get("part", 0) :: options.get("splits", 1)]
    return Served(header, len(header) + sum(padded(t.size_bytes) for t in tensors))


@pytest.fixture(scope="module")
def quantizations() -> dict[str, Served]:
    return {
        "README.md": whole(b"# Tiny"),
        "tiny-Q8_0.gguf": gguf("Q8_0"),
        "tiny-Q4_0.gguf": gguf("Q4_0"),
        "BF16/tiny-BF16-00001-of-00002.gguf": gguf("BF16", splits=2, part=0),
        "BF16/tiny-BF16-00002-of-00002.gguf": gguf("BF16", splits=2, part=1),
        "mmproj-tiny-F16.gguf": whole(b"GGUF, but nobody reads it"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "tiny"
    return write_folder(path, tiny_model("qwen3moe"), shard_bytes="1MB")


@pytest.fixture
def hub(
    quantizations: dict[str, Served],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    stored = {path.name: whole(path.read_bytes()) for path in folder.iterdir()}
    with serving(FakeHub({GGUF: dict(quantizations), FOLDER: stored})) as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_module, "cache_folder", lambda: tmp_path / "cache")
        be_patient(monkeypatch, LIMITS)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield fake


def be_patient(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    client = functools.partial(HubClient, limits=limits)
    monkeypatch.setattr(hub_module, "HubClient", client)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def refused(name: str, **options: Any) -> str:
    """Open headers, which fails in one line."""
    with pytest.raises(SnugfitError) as caught:
        open_headers(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_gguf_header_is_the_file_s_without_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    served = hub.repositories[GGUF]["tiny-Q8_0.gguf"]
    (tmp_path / "tiny-Q8_0.gguf").write_bytes(served.start)
    local = open_model(str(tmp_path / "tiny-Q8_0.gguf"))
    remote = open_headers(f"{GGUF}:tiny-Q8_0.gguf").model
    assert remote.spec() == local.spec()
    assert remote.spec().file_bytes == served.size_bytes
    assert hub.sent_bytes < len(served.start) + 8 * MIB < served.size_bytes
    with pytest.raises(FormatError, match="only its header was read"):
        remote.load("token_embd.weight")


def test_safetensors_are_seen_as_their_folder_is(hub: FakeHub, folder: Path) -> None:
    local, remote = open_model(str(folder)), open_headers(FOLDER).model
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert remote.tensors == local.tensors
    known = {key: value for key, value in local.metadata.items() if "tokenizer." not in key}
    assert remote.metadata == known
    assert remote.file_bytes == local.file_bytes
    assert "tokenizer.json" not in " ".join(hub.asked())


def test_quantizations_of_a_repository_are_one_table(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", GGUF, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = [(one["mix"], one["parts"], one["is_model"]) for one in document["quantizations"]]
    assert found == [("BF16", 2, True), ("Q8_0", 1, True), ("Q4_0", 1, True), ("F16", 1, False)]
    sizes = {name: served.size_bytes for name, served in hub.repositories[GGUF].items()}
    for one in document["quantizations"]:
        assert one["bytes"] == sum(sizes[name] for name in one["files"])
    assert hub.asked() == [f"/api/models/{GGUF}"]  # no header is needed to list them
    assert main(["inspect", GGUF]) == 0
    assert "aside" in capsys.readouterr().out


def test_plan_takes_every_file_of_a_repository_as_a_candidate(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    room = ["--ram", "450MiB", "--ctx", "512"]
    assert main(["plan", GGUF, *room, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    sizes = {name: served.size_bytes for name, served in hub.repositories[GGUF].items()}
    assert [one["mix"] for one in plan["candidates"]] == ["BF16", "Q8_0", "Q4_0"]
    assert plan["mix"] == "Q8_0"
    assert plan["file_bytes"] == sizes["tiny-Q8_0.gguf"]
    assert main(["plan", GGUF, *room]) == 0
    assert f"snugfit run {GGUF}:Q8_0" in capsys.readouterr().out
    assert main(["plan", GGUF, *room, "--for", "all", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["commands"]
    assert f" --hf-repo {GGUF}:Q8_0 " in made["llama.cpp"]["lines"][0]
    assert f"FROM hf.co/{GGUF}:Q8_0\n" in made["ollama"]["files"]["Modelfile"]
    assert made["lm-studio"]["lines"][0] == f"lms get {GGUF}@Q8_0"
    assert f" {GGUF}/tiny-Q8_0.gguf " in made["lm-studio"]["lines"][-1]
    assert main(["plan", f"{GGUF}:tiny-Q4_0.gguf", *room, "--for", "llama.cpp", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["commands"]
    assert f" --hf-repo {GGUF} --hf-file tiny-Q4_0.gguf " in made["llama.cpp"]["lines"][0]
    assert main(["plan", FOLDER, "--ram", "1GiB", "--for", "ollama,vllm", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["commands"]
    assert "/tiny-" in made["ollama"]["files"]["Modelfile"]
    assert "needs a GPU" in made["vllm"]["refusal"]
    assert main(["plan", GGUF, "--ram", "700MiB", "--like", "q4_0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mix"] == "Q4_0"
    assert main(["memory", GGUF]) == 1
    assert "Name one" in capsys.readouterr().err


def test_tables_have_a_row_for_every_file(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", GGUF, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == GGUF
    specs = {pick: found.spec() for pick, found in open_headers(GGUF).models.items()}
    assert {row["quantization"]: row["file_bytes"] for row in document["rows"]} == {
        pick: spec.file_bytes for pick, spec in specs.items()
    }


def test_second_quantization_costs_a_fraction_of_the_first(hub: FakeHub) -> None:
    """Its tokenizer is passed over: the first one told how long it is."""
    for number in range(8):
        hub.repositories[GGUF][f"tiny-v{number}-Q8_0.gguf"] = gguf("Q8_0")
    header_bytes = len(hub.repositories[GGUF]["tiny-Q8_0.gguf"].start)
    assert header_bytes > 1.5 * MIB
    models = open_headers(GGUF).models
    assert len(models) == 11
    assert hub.sent_bytes < 5 * header_bytes
    specs = [found.spec() for pick, found in models.items() if "v" in pick]
    assert all(spec.tensors == specs[0].tensors for spec in specs)


def test_tokenizers_that_differ_are_not_taken_for_each_other(hub: FakeHub) -> None:
    longer = [*TOKENS[:-1], "x" * 999]
    odd = gguf("Q4_0", **{"tokenizer.ggml.tokens": longer})
    hub.repositories[GGUF]["odd-Q4_1.gguf"] = odd
    model = open_headers(GGUF).models["Q4_1"]
    assert model.tensors == {tensor.name: tensor for tensor in tensors_of("Q4_0")}
    assert model.spec().header_bytes == len(odd.start)


def test_mix_names_a_file_and_nonsense_does_not(hub: FakeHub) -> None:
    model = open_headers(f"{GGUF}:bf16").model
    assert model.file_bytes == sum(
        served.size_bytes for name, served in hub.repositories[GGUF].items() if "BF16" in name
    )
    assert len(model.tensors) == 5
    assert "There are: BF16, Q8_0, Q4_0" in refused(f"{GGUF}:Q2_K")
    del hub.repositories[GGUF]["BF16/tiny-BF16-00002-of-00002.gguf"]
    assert "1 of 2 splits" in refused(f"{GGUF}:BF16/tiny-BF16-00001-of-00002.gguf")


def test_what_was_read_serves_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    online = {name: open_headers(name).models for name in (GGUF, FOLDER)}
    asked = len(hub.requests)
    for name, models in online.items():
        again = open_headers(name, is_offline=True)
        assert "from the cache" in again.note
        assert {p: m.spec() for p, m in again.models.items()} == {
            p: m.spec() for p, m in models.items()
        }
    assert len(hub.requests) == asked
    open_headers(GGUF)
    assert hub.asked()[asked:] == [f"/api/models/{GGUF}"]  # the listing, and nothing else
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "not in the cache" in refused("owner/other")
    assert len(hub.requests) == asked + 1


def test_a_new_commit_is_read_anew(hub: FakeHub) -> None:
    assert open_headers(f"{GGUF}:Q8_0").model.spec().tensors[0].type_name == "Q8_0"
    hub.commit = "f" * 40
    hub.repositories[GGUF]["tiny-Q8_0.gguf"] = gguf("Q4_0")
    assert open_headers(f"{GGUF}:Q8_0").model.spec().tensors[0].type_name == "Q4_0"


def test_cache_serves_where_the_server_fails(hub: FakeHub) -> None:
    open_headers(f"{GGUF}:Q8_0")
    hub.status = 503
    assert "from the cache" in open_headers(f"{GGUF}:Q8_0").note
    hub.status = 403  # but it may take access away
    assert "access was not granted" in refused(f"{GGUF}:Q8_0")


def test_damaged_cache_is_read_anew(hub: FakeHub, tmp_path: Path) -> None:
    before = {name: open_headers(name).models for name in (f"{GGUF}:Q8_0", FOLDER)}
    for kept in (tmp_path / "cache").rglob("*"):
        if kept.is_file():
            kept.write_bytes(kept.read_bytes()[:50])
    for name, models in before.items():
        assert open_headers(name).models[""].spec() == models[""].spec()


def test_redirect_to_another_host_does_not_carry_the_token(hub: FakeHub) -> None:
    with serving(FakeHub(hub.repositories)) as elsewhere:
        hub.elsewhere = elsewhere.address.replace("127.0.0.1", "localhost")
        assert open_headers(f"{GGUF}:Q8_0").model.spec().layers == 2
        assert all("Bearer" in h["authorization"] for _, h in lowered(hub))
        assert elsewhere.requests
        assert not any("authorization" in headers for _, headers in lowered(elsewhere))


def lowered(hub: FakeHub) -> list[tuple[str, dict[str, str]]]:
    return [(path, {k.lower(): v for k, v in h.items()}) for path, h in hub.requests]


def test_server_without_ranges_is_read_no_further_than_needed(hub: FakeHub) -> None:
    hub.fault = "no ranges"
    served = hub.repositories[GGUF]["tiny-Q8_0.gguf"]
    assert open_headers(f"{GGUF}:Q8_0").model.spec().file_bytes == served.size_bytes
    assert hub.sent_bytes < served.size_bytes / 4


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("hangs", "cannot be reached|took longer"),
        ("drips headers", "took longer than 1 s"),
        ("drips", "took longer than 1 s"),
        ("truncates", "cannot be reached|sent 100 of"),
        ("wrong range", "asked for bytes from 0 on"),
        ("endless", "starts with b'.xff"),
        ("no JSON", "did not answer as a Hub does"),
    ],
)
@pytest.mark.parametrize("name", [f"{GGUF}:Q8_0", FOLDER])
def test_hostile_server_fails_in_time_and_in_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, fault: str, says: str, name: str
) -> None:
    hub.fault = fault
    be_patient(monkeypatch, IMPATIENT)
    if fault == "endless" and name == FOLDER:
        says = "not valid JSON"
    begun = time.monotonic()
    line = refused(name)
    assert time.monotonic() - begun < LONGEST_WAIT
    assert any(part in line.replace("\\", ".") for part in says.split("|")), line


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "hf auth login"),
        (403, "access was not granted"),
        (404, "no such model"),
        (418, "status 418"),
        (429, "too many requests"),
        (500, "out of order (status 500)"),
    ],
)
def test_refusals_say_what_to_do(hub: FakeHub, status: int, says: str) -> None:
    hub.status = status
    assert says in refused(GGUF)


def liar(at: int, value: int) -> Served:
    """A sound header whose 64-bit number at a position lies, in a file of a terabyte."""
    header = header_of("Q8_0")
    return Served(header[:at] + value.to_bytes(8, "little") + header[at + 8 :], 2**40)


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (liar(8, 2**34), "are the most that is believed"),
        (liar(16, 2**34), "are the most that is believed"),
        (liar(24, 2**39), "its header has more than 4.00 MiB"),
        (liar(24, 2**63), "truncated or damaged"),
        (Served(header_of("Q8_0", x=np.zeros(2**21)), 2**40), "its header has more than 4.00 MiB"),
        (Served(header_of("Q8_0"), 10_000_000), "past the end of the file"),
        (whole(header_of("Q8_0")[:100_000]), "damaged"),
        (whole(b""), "not a GGUF file"),
    ],
)
def test_headers_that_lie(hub: FakeHub, served: Served, says: str) -> None:
    hub.repositories[GGUF] = {"evil-Q8_0.gguf": served}
    assert says in refused(f"{GGUF}:evil-Q8_0.gguf")
    assert hub.sent_bytes < 16 * MIB
    assert says in refused(f"{GGUF}:evil-Q8_0.gguf")  # nothing of it was kept


def test_safetensors_that_lie(hub: FakeHub) -> None:
    files = hub.repositories[FOLDER]
    shard = min(name for name in files if name.endswith(".safetensors"))
    sound = files[shard]
    files[shard] = Served((2**40).to_bytes(8, "little"), 2**41)
    assert "its header claims" in refused(FOLDER)
    files[shard] = Served((2**20).to_bytes(8, "little"), 2**41)
    assert "not JSON" in refused(FOLDER)
    del files[shard]
    assert "not on the Hub" in refused(FOLDER)
    files[shard] = sound
    assert open_headers(FOLDER).model.spec().layers == 2


def test_listing_that_lies(hub: FakeHub) -> None:
    name = "../../../../etc/evil-Q8_0.gguf"
    hub.repositories[GGUF] = {name: gguf("Q8_0")}
    begun = refused(GGUF)  # such an address is not that file's, or not there
    assert "evil" in begun or "no such" in begun
    hub.repositories[GGUF] = {}
    assert "neither safetensors nor GGUF" in refused(GGUF)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused(GGUF)
    with pytest.raises(NetworkError):
        open_model(f"{GGUF}:Q8_0")


def to_download_from(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_download_takes_all_splits_of_a_mix(
    hub: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_download_from(hub, tmp_path, monkeypatch)
    source = open_model(str(folder))
    hub.repositories["owner/small"] = dict(two_splits(source))
    opened = open_model("owner/small:F32")
    assert opened.tensors.keys() == source.tensors.keys()
    for name in source.tensors:
        assert (opened.load(name) == source.load(name)).all(), name
    hub.status = 503  # what was downloaded serves where headers were never read apart
    headers = open_headers("owner/small:F32", is_offline=True)
    assert "downloaded before" in headers.note
    assert headers.model.spec() == opened.spec()


OLD = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", OLD])
def test_a_revision_is_read_as_it_was(hub: FakeHub, revision: str) -> None:
    hub.revisions = {
        name: (OLD, {GGUF: {"tiny-Q5_0.gguf": gguf("Q5_0"), "tiny-Q8_0.gguf": gguf("F16")}})
        for name in ("v1.0", "refs/pr/1")
    }
    before, after = (open_headers(f"{GGUF}{at}:Q8_0").model for at in (f"@{revision}", ""))
    assert {t.type_name for t in before.tensors.values()} == {"F16"}
    assert {t.type_name for t in after.tensors.values()} == {"Q8_0"}
    headers = open_headers(f"{GGUF}@{revision}")
    assert list(headers.models) == ["Q8_0", "Q5_0"]
    assert headers.weights == f"{GGUF}@{revision}"
    hub.status = 503  # each revision's listing is kept for itself
    assert list(open_headers(f"{GGUF}@{revision}").models) == ["Q8_0", "Q5_0"]
    assert "BF16" in open_headers(GGUF).models
    assert "not in the cache" in refused(f"{GGUF}@v2", is_offline=True)


def test_a_revision_that_is_not_there(hub: FakeHub) -> None:
    assert "no such model, revision or file" in refused(f"{GGUF}@nothing:Q8_0")
    assert "no such file or directory" in refused(f"{GGUF}@../../etc")


def test_download_takes_the_revision_that_is_named(
    hub: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_download_from(hub, tmp_path, monkeypatch)
    small = open_model(str(folder))
    hub.repositories["owner/small"] = {"small-F32.gguf": whole(b"GGUF of another kind")}
    hub.revisions["old"] = (OLD, {"owner/small": dict(two_splits(small))})
    opened = open_model("owner/small@old:F32")
    assert opened.tensors.keys() == small.tensors.keys()
    hub.revisions["old"][1][FOLDER] = hub.repositories.pop(FOLDER)
    assert open_model(f"{FOLDER}@old").tensors.keys() == small.tensors.keys()
    with pytest.raises(SnugfitError, match=r"small-F32\.gguf"):
        open_model("owner/small:F32")


def two_splits(source: Model) -> Iterator[tuple[str, Served]]:
    infos = [replace(tensor, type_name="F32") for tensor in source.tensors.values()]
    for part in (0, 1):
        own = infos[part::2]
        splits = {
            "split.no": np.uint16(part),
            "split.count": np.uint16(2),
            "split.tensors.count": np.int32(len(infos)),
        }
        metadata = splits if part else source.metadata | splits
        data = (source.load(info.name).tobytes() for info in own)
        content = encode_header(metadata, own) + b"".join(d.ljust(padded(len(d))) for d in data)
        yield f"F32/small-F32-0000{part + 1}-of-00002.gguf", whole(content)


def test_several_quantizations_are_not_downloaded_unasked(hub: FakeHub) -> None:
    with pytest.raises(FormatError, match=f"Name one, as {GGUF}:BF16"):
        open_model(GGUF)
    assert hub.asked() == [f"/api/models/{GGUF}"]


def test_catalogue_plans_without_a_network(
    no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = ["--vram", "16GiB", "--ram", "64GiB"]
    assert main(["plan", "qwen3.6-35b-a3b", *machine]) == 0
    shown = capsys.readouterr()
    assert "from the catalogue" in shown.err
    assert "snugfit fit Qwen/Qwen3.6-35B-A3B" in shown.out
    assert main(["plan", "Qwen3.6-35B-A3B", *machine, "--like", "Q4_K_M", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["model"], plan["mix"]) == ("qwen3.6-35b-a3b", "Q4_K_M")
    assert "from the catalogue" in plan["headers"]


@pytest.mark.parametrize(
    ("name", "mix", "published_gigabytes"),
    [
        ("qwen3.6-27b", "BF16", 53.80),
        ("qwen3.6-27b", "Q8_0", 28.60),
        ("gemma-4-e2b", "BF16", 9.31),
        ("gemma-4-31b", "BF16", 61.41),
    ],
)
def test_catalogue_predicts_published_files(
    no_network: None,
    capsys: pytest.CaptureFixture[str],
    name: str,
    mix: str,
    published_gigabytes: float,
) -> None:
    assert main(["plan", name, "--ram", "128GiB", "--ctx", "4096", "--like", mix, "--json"]) == 0
    file_bytes = json.loads(capsys.readouterr().out)["file_bytes"]
    assert file_bytes == pytest.approx(published_gigabytes * 1e9, rel=0.006)


def test_catalogue_has_no_weights(no_network: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "qwen3-8b", "hello"]) == 1
    assert "Name them: Qwen/Qwen3-8B" in capsys.readouterr().err
    assert main(["plan", "qwen3-8"]) == 1
    assert "Did you mean qwen3-8b?" in capsys.readouterr().err
    with pytest.raises(FormatError, match="shapes, not its weights"):
        open_headers("qwen3-8b").model.load("output.weight")
