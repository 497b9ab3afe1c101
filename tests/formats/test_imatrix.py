"""llama.cpp's importance matrix, both ways."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from snugfit.errors import FormatError
from snugfit.formats.imatrix import ColumnSums, Importance, read_imatrix, write_imatrix

SAMPLE = Importance(
    {
        "blk.0.attn_q.weight": ColumnSums(
            np.array([[2.0, 4.0, 8.0]], np.float32), np.array([2.0], np.float32)
        ),
        "blk.0.ffn_up_exps.weight": ColumnSums(
            np.array([[3.0, 9.0], [0.0, 0.0]], np.float32), np.array([3.0, 0.0], np.float32)
        ),
    },
    ("text.txt",),
    7,
    512,
)


def test_round_trip(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "i.gguf", SAMPLE)
    found = read_imatrix(tmp_path / "i.gguf")
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("text.txt",), 7, 512)
    for name, sums in SAMPLE.weights.items():
        assert (found.weights[name].squares == sums.squares).all()
        assert (found.weights[name].counts == sums.counts).all()


def test_layout_is_llama_cpp_s(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "i.gguf", SAMPLE)
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    shapes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}
    assert shapes["blk.0.ffn_up_exps.weight.in_sum2"] == [2, 2]
    assert shapes["blk.0.ffn_up_exps.weight.counts"] == [1, 2]
    assert shapes["blk.0.attn_q.weight.counts"] == [1, 1]


def test_expert_without_tokens_counts_all_columns_alike() -> None:
    means = SAMPLE.mean_squares("blk.0.ffn_up_exps.weight")
    assert means is not None
    assert means.tolist() == [[1.0, 3.0], [1.0, 1.0]]
    assert SAMPLE.mean_squares("output.weight") is None


def test_other_gguf_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(FormatError, match="not an importance matrix"):
        read_imatrix(tmp_path / "model.gguf")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_impossible_sums_are_refused(tmp_path: Path, bad: float) -> None:
    squares = np.array([[1.0, bad]], np.float32)
    sums = ColumnSums(squares, np.array([1.0], np.float32))
    write_imatrix(tmp_path / "i.gguf", Importance({"blk.0.attn_q.weight": sums}, (), 1, 512))
    with pytest.raises(FormatError, match="negative or non-finite"):
        read_imatrix(tmp_path / "i.gguf")


# The old form


def old_file(*entries: tuple[str, int, list[float]], end: bytes = b"") -> bytes:
    made = struct.pack("<i", len(entries))
    for name, calls, sums in entries:
        made += struct.pack("<i", len(name)) + name.encode() + struct.pack("<i", calls)
        made += struct.pack("<i", len(sums)) + np.array(sums, "<f4").tobytes()
    return made + end


END = struct.pack("<ii", 7, 8) + b"wiki.txt"
ENTRIES = (("blk.0.attn_q.weight", 4, [2.0, 4.0]), ("blk.0.ffn_up_exps.weight", 0, [1.0, 3.0]))


def test_old_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(old_file(*ENTRIES, end=END))
    found = read_imatrix(path)
    assert (found.datasets, found.chunk_count) == (("wiki.txt",), 7)
    assert found.mean_squares("blk.0.attn_q.weight").tolist() == [[0.5, 1.0]]
    assert found.mean_squares("blk.0.ffn_up_exps.weight").tolist() == [[1.0, 3.0]]
    path.write_bytes(old_file(*ENTRIES))
    assert (read_imatrix(path).datasets, read_imatrix(path).chunk_count) == ((), 0)


def test_old_files_that_lie_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    whole = old_file(*ENTRIES, end=END)
    for length in range(4, len(whole) - len(END)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match="too early"):
            read_imatrix(path)
    for damage in (
        struct.pack("<i", 2**31 - 1) + whole[4:],
        struct.pack("<i", -1) + whole[4:],
        whole[:4] + struct.pack("<i", 2**30) + whole[8:],
        old_file(("x", -1, [1.0])),
        old_file(("x", 1, [])),
        old_file(("x", 1, [float("nan")])),
        old_file(("x", 1, [-1.0])),
        b"not a matrix at all, but some text of a README",
    ):
        path.write_bytes(damage)
        with pytest.raises(FormatError, match=r"it is no importance matrix|negative"):
            read_imatrix(path)
