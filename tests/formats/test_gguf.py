"""Reading and writing GGUF, against the `gguf` package and against hostile files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snugfit.core import TensorInfo
from snugfit.errors import FormatError, SnugfitError, UnsupportedError
from snugfit.formats.gguf import SKIM_BYTES, read_gguf
from snugfit.formats.gguf_writer import GgufWriter, encode_header, header_size

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.bool": True,
    "a.uint8": np.uint8(7),
    "a.int16": np.int16(-7),
    "a.uint32": np.uint32(2**32 - 1),
    "a.uint64": np.uint64(2**63),
    "a.float": 0.5,
    "a.double": np.float64(1e300),
    "a.floats": np.array([1.0, 2.0], np.float32),
    "a.ints": [1, -2, 3],
    "a.strings": ["", "ü", "\U0001f600"],
}
TENSORS = [
    TensorInfo("token_embd.weight", (4, 64), "F32"),
    TensorInfo("blk.0.ffn_up_exps.weight", (2, 3, 32), "Q8_0"),
    TensorInfo("blk.0.attn_norm.weight", (5,), "F16"),
]


def write_sample(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(1)
    data = {t.name: generator.integers(0, 200, t.size_bytes, np.uint8) for t in TENSORS}
    with GgufWriter(path, METADATA, TENSORS) as writer:
        for name, values in data.items():
            writer.write(name, values)
    return data


def test_gguf_package_reads_what_we_write(tmp_path: Path) -> None:
    data = write_sample(tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    for key, value in METADATA.items():
        found = reader.fields[key].contents()
        expected = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        assert found == expected, key
    for tensor, info in zip(reader.tensors, TENSORS, strict=True):
        assert tensor.name == info.name
        assert tuple(int(n) for n in tensor.shape) == info.shape[::-1]
        assert tensor.tensor_type == info.type.id
        assert tensor.data.tobytes() == data[info.name].tobytes()


def test_we_read_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    weights = np.arange(64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("token_embd.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert file.metadata["llama.block_count"] == 3
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
    assert file.tensors["token_embd.weight"].shape == (2, 32)
    assert (file.rows("token_embd.weight").view("<f4") == weights).all()


def test_round_trip_keeps_every_value_and_type(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.gguf")
    file = read_gguf(tmp_path / "a.gguf")
    again = encode_header(file.metadata, list(file.tensors.values()))
    assert again == (tmp_path / "a.gguf").read_bytes()[: len(again)]
    assert file.header_bytes == len(again)


def test_predicted_size_is_the_written_size(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.gguf")
    assert GgufWriter(tmp_path / "b.gguf", METADATA, TENSORS).file_bytes == (
        (tmp_path / "a.gguf").stat().st_size
    )


def test_splits_are_joined(tmp_path: Path) -> None:
    for number, tensor in enumerate(TENSORS[:2]):
        split = {
            "split.no": np.uint16(number),
            "split.count": np.uint16(2),
            "split.tensors.count": np.int32(2),
        }
        metadata = (METADATA if number == 0 else {}) | split
        path = tmp_path / f"m-{number + 1:05d}-of-00002.gguf"
        with GgufWriter(path, metadata, [tensor]) as writer:
            writer.write(tensor.name, np.full(tensor.size_bytes, number, np.uint8))
    file = read_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert list(file.tensors) == [tensor.name for tensor in TENSORS[:2]]
    assert (file.rows(TENSORS[1].name) == 1).all()
    assert "split.count" not in file.metadata
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(FormatError, match="the split is missing"):
        read_gguf(tmp_path / "m-00001-of-00002.gguf")


def test_header_only_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "h.gguf").write_bytes(encode_header(METADATA, TENSORS))
    file = read_gguf(tmp_path / "h.gguf")
    assert not file.has_data
    with pytest.raises(FormatError, match="header only"):
        file.rows(TENSORS[0].name)


def damaged(kind: str, sound: bytes) -> bytes:
    counts_at = 8
    match kind:
        case "empty":
            return b""
        case "wrong magic":
            return b"GGML" + sound[4:]
        case "big endian":
            return sound[:4] + struct.pack(">I", 3) + sound[8:]
        case "cut in the header":
            return sound[:100]
        case "cut in the data":
            return sound[:-40]
        case "2^60 tensors":
            return sound[:counts_at] + struct.pack("<Q", 2**60) + sound[16:]
        case "2^60 pairs":
            return sound[:16] + struct.pack("<Q", 2**60) + sound[24:]
        case "string of 2^60 bytes":
            return sound[:24] + struct.pack("<Q", 2**60) + sound[32:]
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "is empty"),
        ("wrong magic", "not a GGUF file"),
        ("big endian", "big-endian"),
        ("cut in the header", "more than its 100 bytes"),
        ("cut in the data", "past the end of the file"),
        ("2^60 tensors", "more than its"),
        ("2^60 pairs", "more than its"),
        ("string of 2^60 bytes", "truncated or damaged"),
    ],
)
def test_damaged_files_give_one_clear_line(tmp_path: Path, kind: str, says: str) -> None:
    write_sample(tmp_path / "a.gguf")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damaged(kind, (tmp_path / "a.gguf").read_bytes()))
    with pytest.raises((FormatError, UnsupportedError), match=says) as caught:
        read_gguf(bad)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_is_read_or_refused(data: st.DataObject) -> None:
    """No header, however damaged, may end in anything but a result or one explained line."""
    header = bytearray(encode_header(METADATA, TENSORS))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(header) - 1))
        header[position] = data.draw(st.integers(0, 255))
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / "snugfit-fuzz.gguf"
    path.write_bytes(bytes(header))
    try:
        read_gguf(path)
    except SnugfitError as error:
        assert str(error).isprintable()
    finally:
        path.unlink()


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"the old file")
    with pytest.raises(RuntimeError), GgufWriter(target, METADATA, TENSORS) as writer:
        writer.write(TENSORS[0].name, np.zeros(TENSORS[0].size_bytes, np.uint8))
        raise RuntimeError("killed")
    assert target.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [target]


def test_forgotten_tensor_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="unwritten"),
        GgufWriter(tmp_path / "out.gguf", METADATA, TENSORS),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


# Short strings, and those whose lengths or contents look like something else.
TOKEN = st.one_of(
    st.text(max_size=4),
    st.sampled_from(["", "\0", "\0" * 7, "a" + "\0" * 7, "\0" * 16, "x" * 255, "x" * 256]),
    st.integers(250, 700).map(lambda length: "\1\0" * length),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(TOKEN, max_size=40), st.sampled_from([0, 1, SKIM_BYTES // 11]))
def test_passing_over_a_tokenizer_ends_where_reading_it_does(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str], plain: int
) -> None:
    listed = [*tokens, *("abc",) * plain, *tokens]
    metadata = METADATA | {
        "tokenizer.ggml.tokens": listed,
        "tokenizer.ggml.scores": np.ones(len(listed), np.float32),
        "tokenizer.ggml.merges": listed[::-1],
        "z.last": 1,
    }
    path = tmp_path_factory.mktemp("skim") / "a.gguf"
    path.write_bytes(encode_header(metadata, TENSORS))
    whole, skimmed = read_gguf(path), read_gguf(path, skim=True)
    assert whole.metadata["tokenizer.ggml.tokens"] == listed
    assert skimmed.metadata.keys() == whole.metadata.keys() - set(list(metadata)[-4:-1])
    assert skimmed.tensors == whole.tensors
    assert skimmed.header_bytes == whole.header_bytes
    assert skimmed.header_bytes == header_size(skimmed.metadata, TENSORS, skimmed.absent_bytes)
