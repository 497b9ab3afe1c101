"""What a pass writes: the same bytes whatever the tasks, for one file or many, whole or split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_folder
from made import (
    METADATA,
    SHAPES,
    SMALL_SLAB,
    bits_of,
    importance_of,
    output,
    types_of,
    write_gguf,
)
from tiny import tiny_model

from snugfit.core import Configuration, TensorInfo
from snugfit.errors import FormatError, OutputError, UnsupportedError
from snugfit.formats.gguf import read_gguf
from snugfit.formats.gguf_writer import encode_header
from snugfit.mixes import types_of_mix
from snugfit.models import Model, open_model
from snugfit.quantize import Output, predicted_bytes, quantize, quantize_all
from snugfit.quants.codecs import dequantize_rows, quantize_rows
from snugfit.runtimes.llama_cpp import LlamaCppRuntime
from snugfit.streaming.executor import Threads
from snugfit.streaming.stream import stream
from snugfit.streaming.tasks import run_task

TYPES = ("Q4_K", "Q8_0", "IQ4_XS")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return write_gguf(tmp_path_factory.mktemp("stream") / "model.gguf")


def data_of(path: Path) -> dict[str, bytes]:
    file = read_gguf(path)
    return {name: file.rows(name).tobytes() for name in file.tensors}


def test_rows_are_those_of_the_kernels(model: Model, tmp_path: Path) -> None:
    """Against tensors quantized whole, each expert with its own importance."""
    importance = importance_of(model)
    path = tmp_path / "out.gguf"
    written = quantize(model, path, types_of(model, "Q4_K"), importance=importance)
    assert written.without_importance == ("output.weight",)
    found = data_of(path)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        rows = dequantize_rows(bits_of(shape, seed), "BF16")
        if len(shape) == 1:
            assert found[name] == rows.tobytes()
            continue
        means = importance.mean_squares(name)
        stack = rows.reshape(-1, *shape[-2:])
        expected = [
            quantize_rows(matrix, "Q4_K", None if means is None else means[number])
            for number, matrix in enumerate(stack)
        ]
        assert found[name] == np.concatenate(expected).tobytes()


@pytest.mark.parametrize("slab_bytes", [1, SMALL_SLAB - 4096, 3 * SMALL_SLAB, 2**30])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bytes_do_not_depend_on_the_tasks(
    model: Model, tmp_path: Path, slab_bytes: int, threads: int
) -> None:
    importance = importance_of(model)
    stream(model, [output(tmp_path / "whole.gguf", model)], Threads(1), importance=importance)
    stream(
        model,
        [output(tmp_path / "parts.gguf", model)],
        Threads(threads),
        importance=importance,
        slab_bytes=slab_bytes,
    )
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()


def test_several_outputs_of_one_read(model: Model, tmp_path: Path) -> None:
    """Each is the file that it would be alone, and every row is read once."""
    reads: list[tuple[str, int, int]] = []

    def read(name: str, first: int, count: int) -> Any:
        reads.append((name, first, count))
        return model.read(name, first, count)

    importance = importance_of(model)
    outputs = [output(tmp_path / f"{name}.gguf", model, name) for name in TYPES]
    all_written = quantize_all(replace(model, read=read), outputs, importance=importance)
    assert len(reads) == len(set(reads)) == len(SHAPES)
    for made, written in zip(outputs, all_written, strict=True):
        alone = tmp_path / "alone.gguf"
        quantize(model, alone, made.types, importance=importance)
        assert written.path.read_bytes() == alone.read_bytes()
        assert written.file_bytes == alone.stat().st_size == predicted_bytes(model, made)


def test_metadata_replaces_and_adds(model: Model, tmp_path: Path) -> None:
    changed = {"general.name": "other", "general.added": np.uint64(7), "general.file_type": 99}
    made = output(tmp_path / "out.gguf", model, file_type=15, metadata=changed)
    (written,) = quantize_all(model, [made])
    metadata = read_gguf(written.path).metadata
    assert metadata["general.name"] == "other"
    assert metadata["general.added"] == 7
    assert metadata["general.file_type"] == 99
    assert written.file_bytes == predicted_bytes(model, made) == written.path.stat().st_size


SPLITS: dict[str, dict[str, int]] = {
    "of two tensors": {"split_tensors": 2},
    "of one tensor": {"split_tensors": 1},
    "of 200 kB": {"split_bytes": 200_000},
    "of all": {"split_bytes": 2**30},
}


@pytest.mark.parametrize("kind", SPLITS)
def test_splits(model: Model, tmp_path: Path, kind: str) -> None:
    """Read by gguf-py they hold what one file holds; their sizes are as predicted and allowed."""
    from gguf import GGUFReader

    made = output(tmp_path / "out.gguf", model, **SPLITS[kind])
    (written,) = quantize_all(model, [made])
    quantize(model, tmp_path / "one.gguf", types_of(model, "Q4_K"))
    count = len(written.paths)
    names = [f"out-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    assert [path.name for path in written.paths] == names
    assert written.file_bytes == sum(path.stat().st_size for path in written.paths)
    assert written.file_bytes == predicted_bytes(model, made)
    assert all(p.stat().st_size <= made.split_bytes for p in written.paths if made.split_bytes)
    found = {}
    for number, path in enumerate(written.paths):
        reader = GGUFReader(path)
        assert reader.fields["split.no"].contents() == number
        assert reader.fields["split.count"].contents() == count
        assert reader.fields["split.tensors.count"].contents() == len(SHAPES)
        assert ("general.architecture" in reader.fields) == (number == 0)
        found |= {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}
    assert found == data_of(tmp_path / "one.gguf")
    metadata = read_gguf(written.path).metadata.items()
    of_model = {key: value for key, value in metadata if not key.startswith("split.")}
    assert of_model == read_gguf(tmp_path / "one.gguf").metadata


def test_splits_smaller_than_a_tensor(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"token_embd\.weight takes .* larger splits"):
        quantize_all(model, [output(tmp_path / "out.gguf", model, split_bytes=100_000)])
    assert list(tmp_path.iterdir()) == []


def test_kept_splits(model: Model, tmp_path: Path) -> None:
    """A source in splits gives as many, with the same tensors, though another count was asked."""
    made = output(tmp_path / "source.gguf", model, "BF16", split_tensors=4)
    (source,) = quantize_all(model, [made])
    split = open_model(str(source.path))
    kept = output(tmp_path / "out-00001-of-00009.gguf", split, keep_split=True)
    (written,) = quantize_all(split, [kept])
    assert [path.name for path in written.paths] == [
        "out-00001-of-00002.gguf",
        "out-00002-of-00002.gguf",
    ]
    for path, of_source in zip(written.paths, source.paths, strict=True):
        assert tensors_in(path) == tensors_in(of_source)
    (joined,) = quantize_all(split, [output(tmp_path / "one.gguf", split)])
    assert data_of(written.path) == data_of(joined.path)
    assert "split.count" not in read_gguf(joined.path).metadata


def tensors_in(path: Path) -> list[str]:
    from gguf import GGUFReader

    return [tensor.name for tensor in GGUFReader(path).tensors]


def test_splits_run_in_the_engine(tmp_path: Path) -> None:
    """The embedded llama.cpp loads splits, and answers as it does from one file."""
    demo = open_model("demo")
    types = types_of_mix(demo, "Q4_0")
    one, split = quantize_all(
        demo,
        [Output(tmp_path / "one.gguf", types), Output(tmp_path / "x.gguf", types, split_tensors=9)],
    )
    assert len(split.paths) > 3
    assert answer(split.path) == answer(one.path)


def answer(path: Path) -> list[int]:
    with LlamaCppRuntime(threads=1).start(path, Configuration(ctx=64)) as engine:
        return list(engine.generate("def main(", 8, temperature=0).tokens)


def test_shards_of_a_folder_are_kept(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "shards", tiny_model("qwen3"), shard_bytes="1MB")
    model = open_model(str(folder))
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    kept = output(tmp_path / "out.gguf", model, "Q8_0", keep_split=True)
    (written,) = quantize_all(model, [kept])
    assert len(written.paths) == len(shards)
    for path, shard in zip(written.paths, shards, strict=True):
        assert {model.file_of[name] for name in tensors_in(path)} == {shard}
    quantize(model, tmp_path / "one.gguf", types_of(model, "Q8_0"))
    assert data_of(written.path) == data_of(tmp_path / "one.gguf")


def test_quantized_tensors_that_keep_their_type_are_copied(model: Model, tmp_path: Path) -> None:
    types = types_of(model, "Q4_K")
    quantize(model, tmp_path / "first.gguf", types, importance=importance_of(model))
    again = open_model(str(tmp_path / "first.gguf"))
    quantize(again, tmp_path / "second.gguf", types)
    assert data_of(tmp_path / "first.gguf") == data_of(tmp_path / "second.gguf")


def test_tasks_run_anywhere_and_twice(model: Model, tmp_path: Path) -> None:
    """An executor of another kind, which loses half of what it did and does it again."""

    class Elsewhere:
        def __call__(self, _model: Model, work: Any, tasks: Any) -> Any:
            import pickle

            other = open_model(str(model.path))
            sent = pickle.loads(pickle.dumps(work))
            todo = list(tasks)
            for task in [*todo[::2], *reversed(todo)]:
                run_task(other, sent, pickle.loads(pickle.dumps(task)))
            yield from todo

    importance = importance_of(model)
    made = output(tmp_path / "out.gguf", model)
    quantize_all(model, [made], importance=importance, executor=Elsewhere())
    quantize(model, tmp_path / "here.gguf", made.types, importance=importance)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()


def test_one_name_twice(model: Model, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="named twice"):
        quantize_all(model, [output(tmp_path / "a.gguf", model) for _ in range(2)])


def test_progress_ends_at_all_weights(model: Model, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    stream(
        model,
        [output(tmp_path / "out.gguf", model)],
        Threads(2),
        progress=lambda *at: seen.append(at),
        slab_bytes=SMALL_SLAB,
    )
    total = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_header_only_model_is_predicted_and_not_written(tmp_path: Path) -> None:
    tensors = [TensorInfo(name, shape, "BF16") for name, shape in SHAPES.items()]
    path = tmp_path / "header.gguf"
    path.write_bytes(encode_header(METADATA, tensors))
    model, whole = open_model(str(path)), write_gguf(tmp_path / "model.gguf")
    made = output(tmp_path / "out.gguf", model)
    assert predicted_bytes(model, made) == predicted_bytes(whole, made)
    with pytest.raises(FormatError, match="header only"):
        quantize_all(model, [made])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["header.gguf", "model.gguf"]
