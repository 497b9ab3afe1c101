"""What a pass refuses midway: one clear line, and nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_folder
from made import SMALL_SLAB, output, write_gguf
from tiny import tiny_model

from snugfit.errors import FormatError, OutputError, SnugfitError
from snugfit.formats.gguf import read_gguf
from snugfit.formats.reading import loaded, mapped
from snugfit.models import Model, open_model
from snugfit.quantize import quantize_all
from snugfit.quants.codecs import BadNumberError
from snugfit.streaming.executor import Threads
from snugfit.streaming.stream import stream
from snugfit.streaming.tasks import Place


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return write_gguf(tmp_path / "model.gguf")


def refused(
    model: Model, folder: Path, kind: type[SnugfitError], event: Callable[[], object], at: int = 9
) -> str:
    """Run a pass during which `event` happens before read number `at`; return its one line."""
    reads, lock = 0, threading.Lock()

    def read(name: str, first: int, count: int) -> Any:
        nonlocal reads
        with lock:
            reads += 1
            if reads == at:
                event()
        return model.read(name, first, count)

    out = folder / "out"
    out.mkdir()
    outputs = [
        output(out / "a.gguf", model, "Q8_0"),
        output(out / "b.gguf", model, "Q8_0", split_tensors=2),
    ]
    with pytest.raises(kind) as failure:
        stream(replace(model, read=read), outputs, Threads(2), slab_bytes=SMALL_SLAB)
    assert list(out.iterdir()) == []
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_source_cut_short_midway(model: Model, tmp_path: Path) -> None:
    line = refused(model, tmp_path, FormatError, lambda: os.truncate(model.path, 500_000))
    assert str(model.path) in line
    assert "ends at byte 500000" in line or "changed while it was read" in line


@pytest.mark.parametrize("kind", ["qwen3", "llama"])  # llama's rows move, so a map of them is read
def test_shard_cut_short_midway(tmp_path: Path, kind: str) -> None:
    folder = write_folder(tmp_path / "folder", tiny_model(kind), shard_bytes="1MB")
    model = open_model(str(folder))
    shard = sorted(folder.glob("*.safetensors"))[-1]
    line = refused(model, tmp_path, FormatError, lambda: os.truncate(shard, 1000), at=3)
    assert str(shard) in line


def test_source_written_to_midway(model: Model, tmp_path: Path) -> None:
    """Its size is the same, and so is its time to the second."""

    def write() -> None:
        with model.path.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"changed")

    line = refused(model, tmp_path, FormatError, write)
    assert line.startswith(f"{model.path}: changed while it was read.")


def test_source_replaced_midway(model: Model, tmp_path: Path) -> None:
    """By another file with the same size and times."""
    other = tmp_path / "other.gguf"
    shutil.copy2(model.path, other)
    line = refused(model, tmp_path, FormatError, lambda: other.replace(model.path))
    assert line.startswith(f"{model.path}: changed while it was read.")


def test_source_removed_midway(model: Model, tmp_path: Path) -> None:
    assert str(model.path) in refused(model, tmp_path, FormatError, model.path.unlink)


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80], ids=["nan", "inf"])
@pytest.mark.parametrize("name", ["blk.0.ffn_up_exps.weight", "blk.0.attn_norm.weight"])
def test_bad_numbers(model: Model, tmp_path: Path, bits: int, name: str) -> None:
    """The first of several is named, whichever thread meets one first."""
    place, columns = read_gguf(model.path).places[name], 512
    rows = model.tensors[name].rows
    with model.path.open("r+b") as file:
        for row in (rows * 2 // 3, rows - 1):
            file.seek(place.offset + 2 * (row * columns + 17))
            file.write(np.uint16(bits).tobytes())
    poisoned = open_model(str(model.path))
    line = refused(poisoned, tmp_path, BadNumberError, lambda: None)
    assert f"tensor {name}, row {rows * 2 // 3}, column 17" in line


def fail_at_write(number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse one write, as it would in the middle of a file."""
    writes, write = 0, Place.write

    def refusing(self: Place, first_row: int, blocks: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == number:
            raise OSError(code, os.strerror(code))
        write(self, first_row, blocks)

    monkeypatch.setattr(Place, "write", refusing)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_write_that_fails_midway(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_at_write(7, code, monkeypatch)
    line = refused(model, tmp_path, OutputError, lambda: None, at=0)
    says = "cannot be written" if code == errno.EIO else "the disk is full"
    assert says in line and str(tmp_path / "out") in line


def test_no_room_from_the_start(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outputs that fit alone do not fit together."""
    used = shutil.disk_usage(tmp_path)
    one, two = (output(tmp_path / f"{name}.gguf", model) for name in "ab")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: used._replace(free=700_000))
    quantize_all(model, [one])
    one.path.unlink()
    with pytest.raises(OutputError, match="free"):
        quantize_all(model, [one, two])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf"]


def test_file_size_limit(model: Model, tmp_path: Path) -> None:
    """The system's own refusal, in a process that may write no file of this size."""
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        ["snugfit", "quantize", "demo", "-o", out / "a.gguf", "--like", "Q8_0"],
        executable=Path(sys.executable).with_name("snugfit"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)),
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "the disk is full" in line
    assert list(out.iterdir()) == []


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_fills_up(model: Model, tmp_path: Path) -> None:
    """Room enough at the start is taken by somebody else; a partial file does not keep the rest."""
    wanted = output(Path(), model)
    with small_disk(tmp_path / "disk", 4 * 2**20) as disk:
        wanted, lock = replace(wanted, path=disk / "out.gguf"), threading.Lock()

        def read(name: str, first: int, count: int) -> Any:
            with lock, suppress(OSError):
                (disk / "other").write_bytes(b"\0" * 4 * 2**20)  # all that there is
            return model.read(name, first, count)

        with pytest.raises(OutputError, match="the disk is full"):
            stream(replace(model, read=read), [wanted], Threads(2), slab_bytes=SMALL_SLAB)
        assert [path.name for path in disk.iterdir()] == ["other"]


def test_views_of_a_map_are_read(tmp_path: Path) -> None:
    """Any view of a mapped file is the same in memory; after a cut it is an error, not a signal."""
    values = np.arange(6 * 8 * 4, dtype=np.int16).reshape(6, 8, 4)
    path = tmp_path / "values"
    path.write_bytes(b"head" + values.tobytes())
    views: list[Callable[[Any], Any]] = [
        lambda all_: all_,
        lambda all_: all_[2:5],
        lambda all_: all_[::-1, 1:7:2],
        lambda all_: all_.swapaxes(0, 1)[3:],
        lambda all_: all_.reshape(12, 16)[:, ::3].T,
        lambda all_: all_[4, 1].view(np.uint8),
        lambda all_: all_[:0],
        lambda all_: all_ * 2,
    ]
    whole = mapped(path, values.dtype, 4, values.shape)
    for view in views:
        found = loaded(view(whole))
        assert (found == view(values)).all() and found.shape == view(values).shape
        assert not (found.size and isinstance(found.base, np.memmap))
    os.truncate(path, 100)
    with pytest.raises(FormatError, match="ends at byte 100"):
        loaded(whole[:3])
    with pytest.raises(FormatError, match="shorter"):
        mapped(path, values.dtype, 4, values.shape)
