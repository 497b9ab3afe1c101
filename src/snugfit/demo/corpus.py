"""Text that any machine with Python has, split by file into train, calibration and held-out.

Sources: the standard library (sources, tests and the documentation topics that `help()` shows) and
the English manual pages. Manual pages carry many licences, so they are used for training only; the
calibration and held-out files that ship with the demo come from the standard library (PSF licence).
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MANUAL_SECTIONS = ("man1", "man2", "man3", "man5", "man7", "man8")
# Machine-made tables teach a small model nothing and flatter its perplexity.
SKIPPED_PARTS = {"site-packages", "__pycache__", "encodings", "data", "idlelib", "pydoc_data"}
SMALLEST_FILE_BYTES, LARGEST_FILE_BYTES = 400, 200_000
SPLIT_OF_BUCKET = {0: "held_out", 1: "calibration"}  # of 40 buckets; the other 38 train
BUCKETS = 40


def documents() -> Iterator[tuple[str, str, str]]:
    """Yield (split, name, text) for every document, in a fixed order for one machine."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        size = path.stat().st_size
        if SKIPPED_PARTS & set(name.parts) or not SMALLEST_FILE_BYTES <= size <= LARGEST_FILE_BYTES:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        yield split_of(str(name)), str(name), text
    for topic, text in help_topics(library):
        yield split_of(topic), topic, text
    for path in manual_pages():
        text = plain_text_of_manual_page(path)
        if len(text) >= SMALLEST_FILE_BYTES:
            yield "train", path.name, text


def split_of(name: str) -> str:
    """Assign a document to a split by a hash of its name, so that it never moves."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % BUCKETS
    return SPLIT_OF_BUCKET.get(bucket, "train")


def help_topics(library: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the language reference that `help()` carries."""
    path = library / "pydoc_data" / "topics.py"
    if not path.exists():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            for topic, text in ast.literal_eval(node.value).items():
                yield f"help/{topic}", text


def manual_pages() -> list[Path]:
    root = Path("/usr/share/man")
    return sorted(
        path
        for section in MANUAL_SECTIONS
        if (root / section).is_dir()
        for path in (root / section).glob("*.gz")
        if not path.is_symlink() and path.stat().st_size < LARGEST_FILE_BYTES
    )


def plain_text_of_manual_page(path: Path) -> str:
    """Strip roff requests and escapes; enough for training text, not a roff interpreter."""
    source = gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")
    lines = []
    for line in source.splitlines():
        if line.startswith(('.\\"', "'\\\"", ".de", ".if", ".ie", ".nr", ".ds", "..", ".so")):
            continue
        if line.startswith((".SH", ".SS", ".Sh", ".Ss")):
            line = "\n" + line[3:].strip().strip('"')
        elif line.startswith((".", "'")):
            line = line.split(" ", 1)[1].replace('"', "") if " " in line else ""
        lines.append(line)
    text = "\n".join(lines)
    text = re.sub(r"\\f(\[\w*\]|\(..|.)", "", text)
    text = re.sub(r"\\s[+-]?\d|\\[&|^/,c:%]|\\\*\(..", "", text)
    text = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(bu", "*")
    text = text.replace("\\e", "\\").replace("\\ ", " ")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_texts(folder: Path) -> None:
    """Write the calibration and held-out files that ship, documents in order, and their licence."""
    texts: dict[str, list[str]] = {"calibration": [], "held_out": []}
    for split, _, text in documents():
        if split in texts:
            texts[split].append(text)
    folder.mkdir(parents=True, exist_ok=True)
    for split, parts in texts.items():
        (folder / f"{split}.txt").write_text("\n".join(parts), encoding="utf-8")
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    (folder / "LICENSE").write_text(licence.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    write_texts(Path(__file__).parent / "text")
