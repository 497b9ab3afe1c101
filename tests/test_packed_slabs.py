"""Packed weights are made by runs of rows, on threads and in other processes, each row once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_packed_models import PACKERS, packed_folders

from snugfit.archs.conversion.reading import read_rows
from snugfit.archs.conversion.rules import unchanged
from snugfit.archs.conversion.tensors import ConvertedTensor, Piece
from snugfit.core import TensorInfo
from snugfit.formats.packed import logical_tensors
from snugfit.formats.packed.recent import Latest
from snugfit.formats.packed.weights import Weight
from snugfit.formats.safetensors import read_safetensors
from snugfit.models import Model, open_model
from snugfit.units import MIB

cloudpickle = pytest.importorskip("ray.cloudpickle")  # what sends models to other machines
ROWS = 29  # of a slab, which is neither a block's, nor a head's, nor a matrix's


def slabs(model: Model) -> Iterator[tuple[str, int, int]]:
    for name, tensor in model.tensors.items():
        for first in range(0, tensor.rows, ROWS):
            yield name, first, min(ROWS, tensor.rows - first)


@pytest.mark.parametrize(
    ("method", "kind"), [*((method, "llama") for method in PACKERS), ("fp8", "qwen3moe")]
)
def test_slabs_on_threads_and_elsewhere_are_the_model(
    method: str, kind: str, tmp_path: Path
) -> None:
    plain, packed = (open_model(str(path)) for path in packed_folders(tmp_path, method, kind))
    sent = cloudpickle.dumps(packed)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda slab: packed.read(*slab), slabs(packed)))
    for slab, found in zip(slabs(packed), made, strict=True):
        assert np.array_equal(floats(found), floats(plain.read(*slab))), slab
    # What was made meanwhile stays here.
    assert len(cloudpickle.dumps(packed)) <= len(sent) + 100
    elsewhere = cloudpickle.loads(sent)
    name = "blk.0.attn_q.weight"
    assert np.array_equal(floats(elsewhere.read(name, 3, 9)), floats(plain.read(name, 3, 9)))


def floats(rows: Any) -> Any:
    """Return values of rows in float32: the sign of a zero is no difference."""
    return rows.view(np.float32)


HEADS = 4


def of_heads(values: Any) -> Any:
    """Halves of each head in turns, as of llama's queries."""
    return values.reshape(HEADS, 2, -1, values.shape[-1]).swapaxes(1, 2)


def tiled(values: Any) -> Any:
    """Every fourth head first, as of Qwen3.5's values."""
    return values.reshape(2, HEADS, -1, values.shape[-1]).swapaxes(0, 1)


def latent(values: Any) -> Any:
    """Some rows of each head turned over, as of DeepSeek's keys."""
    return values.reshape(HEADS, -1, values.shape[-1])[:, :20].swapaxes(1, 2)


def turned(values: Any) -> Any:
    return values.T


def copied(values: Any) -> Any:
    return values * 1


ARRANGED = {
    "unchanged": lambda values: unchanged(values, None),  # type: ignore[arg-type]
    "odd rows": lambda values: values[1::2],
    "backwards": lambda values: values[::-1],
    "heads": of_heads,
    "tiled": tiled,
    "latent": latent,
    "turned": turned,
    "columns": lambda values: values.T[::2],
    "copied": copied,
}
# Rows that are made for one that is stored; a copying arrangement makes all for every slab.
MOST_MADE = {"heads": 2.5, "copied": np.inf}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield rows of each run that is made."""
    rows, lock, found = Weight.rows, threading.Lock(), list[int]()

    def noted(weight: Weight, first: int, last: int) -> Any:
        with lock:
            found.append(last - first)
        return rows(weight, first, last)

    with monkeypatch.context() as patch:
        patch.setattr(Weight, "rows", noted)
        yield found


@pytest.mark.parametrize("stack", [0, 3])
@pytest.mark.parametrize("arrangement", ARRANGED)
def test_rows_are_made_once_however_they_are_arranged(
    arrangement: str, stack: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange, shape = ARRANGED[arrangement], (*([stack] if stack else []), 256, 96)
    codes = torch.randn(shape).to(torch.float8_e4m3fn)
    scales = torch.rand(*shape[:-1], 1)
    save_file({"w": codes, "w_scale_inv": scales}, tmp_path / "model.safetensors")
    settings = {"quant_method": "fp8"}
    stored = logical_tensors(
        str(tmp_path),
        read_safetensors(tmp_path / "model.safetensors"),
        {"dtype": "float32"},
        settings,
    )
    values = (codes.float() * scales).numpy().reshape(-1, 256, 96)
    arranged = [arrange(matrix) for matrix in values]
    width = arranged[0].shape[-1]
    wanted = np.concatenate([matrix.reshape(-1, width) for matrix in arranged])
    tensor = ConvertedTensor(
        TensorInfo("w", wanted.shape, "F32"), "F32", (Piece("w", len(wanted), arrange, stack),)
    )
    runs = [(first, min(25, len(wanted) - first)) for first in range(0, len(wanted), 25)]
    with counted(monkeypatch) as made, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda run: read_rows(tensor, stored, *run), runs))
    assert np.array_equal(np.concatenate(found).view(np.float32), wanted)
    most = MOST_MADE.get(arrangement, 1.0) * 256 * max(stack, 1)
    assert sum(made) <= most + 256  # of which threads may have been late for one


SCRIPT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from snugfit.archs.conversion.arrange import interleaved
from snugfit.archs.conversion.reading import read_rows
from snugfit.archs.conversion.tensors import ConvertedTensor, Piece
from snugfit.core import TensorInfo
from snugfit.formats.packed import logical_tensors
from snugfit.formats.safetensors import StoredTensor
import snugfit.quants.codecs

path, rows, columns = Path(sys.argv[1]), int(sys.argv[2]), 16384
files = {
    "w": StoredTensor(path, "w", "F8_E4M3", (rows, columns), 0),
    "w_scale_inv": StoredTensor(path, "w_scale_inv", "F32", (rows // 128, columns // 128), 0),
}
stored = logical_tensors("folder", files, {}, {"quant_method": "fp8"})
piece = Piece("w", rows, lambda values: interleaved(values, rows // 128))
tensor = ConvertedTensor(TensorInfo("w", (rows, columns), "BF16"), "BF16", (piece,))
with ThreadPoolExecutor(4) as threads:
    list(threads.map(lambda at: read_rows(tensor, stored, at, 64).nbytes, range(0, rows, 64)))
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
"""


def peak_bytes(path: Path, rows: int) -> int:
    with path.open("wb") as file:  # sparse: zeros count, where they are kept, as any others
        file.truncate(rows * 16384)
    command = [sys.executable, "-c", SCRIPT, str(path), str(rows)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_a_matrix(tmp_path: Path) -> None:
    small, large = (peak_bytes(tmp_path / "w", rows) for rows in (256, 4096))
    assert large - small < 24 * MIB < 4096 * 16384 / 2  # of what is stored; twice that is made


def test_what_was_made_last_is_made_once_and_no_more_is_kept() -> None:
    latest, made, begun = Latest(2), list[int](), threading.Event()

    def make(key: int) -> Any:
        begun.wait(5)
        made.append(key)
        return key

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(latest.get, key, lambda key=key: make(key)) for key in (1, 2, 1, 2)]
        begun.set()
        assert [one.result() for one in asked] == [1, 2, 1, 2]
    assert sorted(made) == [1, 2]
    latest.get(3, lambda: make(3))
    latest.get(1, lambda: make(1))
    assert sorted(made) in ([1, 1, 2, 3], [1, 2, 3]) and len(latest.made) == 2
    assert cloudpickle.loads(cloudpickle.dumps(latest)).made == {}


def test_a_shard_that_was_cut_short_is_one_line(tmp_path: Path) -> None:
    _, folder = packed_folders(tmp_path, "fp8", "llama")
    model = open_model(str(folder))
    shard = folder / "model.safetensors"
    first = model.read("blk.0.ffn_up.weight", 0, 4)
    assert len(first) == 4
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 8)
    with pytest.raises(Exception, match=r"ends at byte|is shorter than") as raised:
        for name, tensor in model.tensors.items():
            model.read(name, 0, tensor.rows)
    assert "\n" not in str(raised.value)
