"""How much memory a pass takes: measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snugfit.core import TensorInfo
from snugfit.formats.gguf_writer import encode_header, layout_of
from snugfit.units import MIB

SCRIPT = """
import sys
from pathlib import Path
from snugfit.models import open_model
from snugfit.quantize import Output, quantize_all

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

model = open_model(sys.argv[1])
quantize_all(model, [Output(Path(sys.argv[2]) / "first", dict.fromkeys(model.tensors, "TQ2_0"))])
"""
MODEL_BYTES = 400 * MIB
MOST_BYTES = 40 * MIB  # above what the same pass over a small model takes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Of a sparse file: pages of zeros are read, and count where they are kept, as any others."""
    small, large = (
        peak_bytes(tmp_path, "small", 16 * MIB),
        peak_bytes(tmp_path, "large", MODEL_BYTES),
    )
    assert large < small + MOST_BYTES < MODEL_BYTES / 4


def peak_bytes(folder: Path, name: str, size_bytes: int) -> int:
    columns = 4096
    tensors = [TensorInfo("token_embd.weight", (size_bytes // 2 // columns, columns), "BF16")]
    metadata = {"general.architecture": "llama", "llama.block_count": np.uint32(0)}
    path = folder / f"{name}.gguf"
    with path.open("wb") as file:
        file.write(encode_header(metadata, tensors))
        file.truncate(layout_of(metadata, tensors).file_bytes)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + "print(peak())", str(path), str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    path.unlink()
    (folder / "first").unlink()
    return int(done.stdout)
