"""A pass that is killed, interrupted or met by another: what is left, and what follows."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made import SMALL_SLAB, count_of_tasks, importance_of, output, write_gguf
from passes import Child

from snugfit.errors import OutputError
from snugfit.formats.gguf import read_gguf
from snugfit.models import open_model
from snugfit.streaming.destination import Destination
from snugfit.streaming.executor import Threads
from snugfit.streaming.journal import Journal, journal_of
from snugfit.streaming.outputs import parts_of
from snugfit.streaming.stream import stream

KILLS = 20
NAMES = ("out.gguf", *(f"split-0000{number}-of-00003.gguf" for number in (1, 2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with model.gguf, and in `whole/` what a pass that nobody disturbed makes of it."""
    folder = tmp_path_factory.mktemp("killed")
    model = write_gguf(folder / "model.gguf")
    whole = folder / "whole"
    whole.mkdir()
    outputs = [
        output(whole / "out.gguf", model),
        output(whole / "split.gguf", model, "Q8_0", split_tensors=2),
    ]
    stream(model, outputs, Threads(1), importance=importance_of(model))
    yield folder


def unchanged(folder: Path, name: str) -> bool:
    return (folder / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_killed_at_any_moment(folder: Path) -> None:
    """Every kill leaves each target absent or whole; what is left is gone on with."""
    chance, resumed = random.Random(5), 0
    tasks = count_of_tasks(open_model(str(folder / "model.gguf")))
    for _ in range(KILLS):
        child = Child(folder, 0.005)
        # When so many tasks were begun, and a bit later: within any step of any of them.
        wanted = chance.randrange(1, tasks)
        while len(child.read) < wanted and child.next():
            pass
        time.sleep(chance.random() * 0.02)
        child.stop(signal.SIGKILL)
        child.wait()
        resumed += any("going on" in line for line in child.said)
        for name in NAMES:
            assert not (folder / name).exists() or unchanged(folder, name)
        if (folder / NAMES[1]).exists():  # stands for all splits
            assert all((folder / name).exists() for name in NAMES[1:])
            if (folder / NAMES[0]).exists():
                clear(folder)
    assert resumed > KILLS // 4
    assert Child(folder).wait() == 0
    assert all(unchanged(folder, name) for name in NAMES)
    assert not list(folder.glob(".*"))


def clear(folder: Path) -> None:
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)


def test_only_what_is_not_done_is_done_again(folder: Path) -> None:
    clear(folder)
    child = Child(folder, 0.01)
    while len(child.read) < 20:
        assert child.next()
    child.stop(signal.SIGKILL)
    child.wait()
    journals = [journal_of(folder / name) for name in ("out.gguf", "split.gguf")]
    entries = [set(journal.read_text().splitlines()[1:]) for journal in journals]
    again = Child(folder)
    assert again.wait() == 0
    done = entries[0] & entries[1]
    tasks = count_of_tasks(open_model(str(folder / "model.gguf")))
    assert 0 < len(done) < tasks
    assert len(again.read) == tasks - len(done)
    assert all(unchanged(folder, name) for name in NAMES)


def test_interrupted(folder: Path) -> None:
    """Ctrl-C says in one line that what is done is kept, and how to go on."""
    clear(folder)
    child = Child(folder, 0.1)
    while len(child.read) < 10:
        assert child.next()
    child.stop(signal.SIGINT)
    assert child.wait() == 130
    (line,) = child.said
    assert "interrupted" in line and "the same command" in line
    assert not any((folder / name).exists() for name in NAMES)
    again = Child(folder)
    assert again.wait() == 0
    assert [("going on" in line) for line in again.said] == [True, True]
    assert all(unchanged(folder, name) for name in NAMES)


def test_second_writer_is_refused(folder: Path) -> None:
    clear(folder)
    first = Child(folder, 5.0)
    assert first.next()
    second = Child(folder)
    assert second.wait() == 1
    assert second.said == [
        f"{folder / 'out.gguf'}: another process is writing it. Wait for it, or choose "
        "another path with -o."
    ]
    first.stop(signal.SIGKILL)
    first.wait()
    assert Child(folder).wait() == 0
    assert all(unchanged(folder, name) for name in NAMES)


def begun(folder: Path, tmp_path: Path) -> Path:
    """Return a folder in which a pass of out.gguf was stopped after five tasks."""
    shutil.copy2(folder / "model.gguf", tmp_path / "model.gguf")
    model = open_model(str(tmp_path / "model.gguf"))

    def stop(done: int, _total: int) -> None:
        if done > 5 * 64 * 512:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        stream(
            model,
            [output(tmp_path / "out.gguf", model)],
            Threads(1),
            progress=stop,
            slab_bytes=SMALL_SLAB,
        )
    return tmp_path


def told(folder: Path, type_name: str = "Q4_K", **options: object) -> list[str]:
    """Run a pass and return its notices; the file must be what an undisturbed pass makes."""
    model = open_model(str(folder / "model.gguf"))
    lines: list[str] = []
    outputs = [output(folder / "out.gguf", model, type_name, **options)]
    (parts,) = stream(model, outputs, Threads(2), notice=lines.append)
    fresh = folder / "fresh"
    fresh.mkdir()
    outputs = [output(fresh / "out.gguf", model, type_name, **options)]
    (expected,) = stream(model, outputs, Threads(2))
    for part, other in zip(parts, expected, strict=True):
        assert part.path.read_bytes() == other.path.read_bytes()
    assert not list(folder.glob(".*"))
    return lines


def test_larger_tasks_go_on_with_smaller_ones(folder: Path, tmp_path: Path) -> None:
    (line,) = told(begun(folder, tmp_path))
    assert "going on" in line


@pytest.mark.parametrize(
    "options",
    [
        {"type_name": "Q5_K"},
        {"metadata": {"general.name": "other"}},
        {"split_tensors": 2},
        {"file_type": 15},
    ],
    ids=str,
)
def test_other_settings_start_anew(
    folder: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    (line,) = told(begun(folder, tmp_path), **options)  # type: ignore[arg-type]
    assert "starting anew" in line


def test_another_source_starts_anew(folder: Path, tmp_path: Path) -> None:
    begun(folder, tmp_path)
    (tmp_path / "model.gguf").touch()
    (line,) = told(tmp_path)
    assert "starting anew" in line


def test_lost_partial_file_starts_anew(folder: Path, tmp_path: Path) -> None:
    begun(folder, tmp_path)
    (tmp_path / ".out.gguf.partial").unlink()
    (line,) = told(tmp_path)
    assert "starting anew" in line


def test_journal_cut_at_any_byte(folder: Path, tmp_path: Path) -> None:
    """A journal that was cut anywhere holds only runs that were in it; so does a damaged one."""
    begun(folder, tmp_path)
    model = open_model(str(tmp_path / "model.gguf"))
    path = journal_of(tmp_path / "out.gguf")
    text = path.read_bytes()
    fingerprint = text.split(b"\n")[0].rsplit(b" ", 1)[1].decode()

    def done(content: bytes) -> dict[int, list[tuple[int, int]]] | None:
        path.write_bytes(content)
        journal = Journal(tmp_path / "out.gguf")
        try:
            return journal.done(fingerprint)
        finally:
            journal.close(keep=True)

    def rows(runs: dict[int, list[tuple[int, int]]] | None) -> set[tuple[int, int]]:
        return {
            (tensor, row)
            for tensor, spans in (runs or {}).items()
            for first, end in spans
            for row in range(first, end)
        }

    whole = rows(done(text))
    assert len(whole) >= 5 * 64 - 64
    sizes = [len(rows(done(text[:length]))) for length in range(len(text) + 1)]
    assert sizes == sorted(sizes)
    for position in range(len(text)):
        damaged = text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]
        assert rows(done(damaged)) <= whole
    path.write_bytes(text)
    assert read_gguf(tmp_path / "model.gguf").tensors == model.tensors


def test_lock_outlives_a_file_that_was_replaced(tmp_path: Path) -> None:
    """Whoever waited at a journal that its owner then removed does not write without a lock."""
    first = Journal(tmp_path / "out.gguf")
    with pytest.raises(OutputError, match="another process"):
        Journal(tmp_path / "out.gguf")
    first.close(keep=False)
    second = Journal(tmp_path / "out.gguf")
    assert second.path.exists()
    with pytest.raises(OutputError, match="another process"):
        Journal(tmp_path / "out.gguf")
    second.close(keep=False)


def test_halves_of_a_replaced_set_are_never_one(folder: Path, tmp_path: Path) -> None:
    """An older set of splits is gone as a whole before the first file of a new one is there."""
    model = open_model(str(folder / "model.gguf"))
    wanted = output(tmp_path / "set.gguf", model, "Q8_0", split_tensors=3)
    stream(model, [wanted], Threads(1))
    parts = parts_of(model, wanted)
    destination = Destination(wanted, parts, "of a test")
    destination.find(lambda _line: None)
    destination.begin()
    parts[1].partial.unlink()  # the renaming fails midway
    with pytest.raises(OutputError):
        destination.publish()
    assert not parts[0].path.exists()
    destination.abandon()
