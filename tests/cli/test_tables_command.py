"""`snugfit tables` as people type it: every format says the same, and names are only names."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from snugfit.cli.main import main
from snugfit.cli.tables_text import gib, short_context
from snugfit.core import TensorInfo
from snugfit.formats.gguf_writer import encode_header

MODEL = ("qwen3.6-35b-a3b", "--like", "Q8_0,Q4_K_M,IQ2_M", "--ctx", "8192,131072")
EVIL = "=cmd|'x'!A1<script>alert(1)<|script>[a](b)`c`\x1b[2J\n-Q4_K_M"
VOID = {"meta"}


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    status = main(["tables", *map(str, arguments)])
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, status: int) -> str:
    assert main(["tables", *map(str, arguments)]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1, said.err
    return said.err


class Page(HTMLParser):
    """The texts of a page by element, and whether every element ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.titles: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [value or "" for name, value in attrs if name == "title"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))


def cells_of(row: dict[str, Any], placement: str) -> list[str]:
    """What people read of a row, from the bytes of the JSON document."""
    cells = []
    for need in row[placement]:
        cells.append(gib(need["gpu_bytes"]))
        for cards in (need["minimum"], need["safer"]):
            assert cards["gpus"] == 1
            cells.append(str(cards["size_bytes"] // 2**30))
    return cells


def test_every_format_says_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    document = json.loads(shown(capsys, *MODEL, "--json"))
    assert document == json.loads(shown(capsys, *MODEL, "--format", "json"))
    terminal = shown(capsys, *MODEL)
    markdown = shown(capsys, *MODEL, "--format", "markdown")
    page = Page(shown(capsys, *MODEL, "--format", "html"))
    lines = list(csv.DictReader(io.StringIO(shown(capsys, *MODEL, "--format", "csv"))))
    assert len(lines) == 3 * 2 * 2
    numbers = [text for tag, text in page.texts if tag == "td"]
    for placement, experts in (("whole", "gpu"), ("experts_in_ram", "ram")):
        for row in document["rows"]:
            cells, name = cells_of(row, placement), row["quantization"]
            assert f"{' | '.join(cells)} |" in markdown
            assert re.search(rf"^{name} .* {' +'.join(cells)}$", terminal, re.MULTILINE)
            assert " ".join(cells) in " ".join(numbers)
            for need in row[placement]:
                (line,) = (
                    line
                    for line in lines
                    if (line["quantization"], line["experts"], line["ctx"])
                    == (name, experts, str(need["ctx"]))
                )
                for field in ("gpu_bytes", "gpu_safer_bytes", "ram_bytes", "ram_size_bytes"):
                    assert line[field] == str(need[field])
                assert line["file_bytes"] == str(row["file_bytes"])
                assert line["minimum_gpu_bytes"] == str(need["minimum"]["size_bytes"])
                assert any(t.startswith(f"{need['gpu_bytes']:,} bytes") for t in page.titles)
    for text in document["definitions"].values():
        assert " ".join(text.split()[:4]) in terminal
        assert text.split(",")[0] in markdown.replace("\\", "")


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("model", ["qwen3.6-35b-a3b", "deepseek-v4-pro", "demo", "gemma-4-e2b"])
def test_terminal_is_never_too_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(capsys, model, "--ctx", "4096,8192,32768,65536,131072").splitlines()
    assert max(map(len, lines[:-1])) <= columns
    assert lines[-1] == f"Next: snugfit tables {model} -o {model}.html"
    document = json.loads(shown(capsys, model, "--json"))
    names = [row["quantization"] for row in document["rows"]]
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in names)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    metadata = {"general.architecture": "x<b>|\x1b[31m", "x<b>|\x1b[31m.block_count": 1}
    metadata |= {"x<b>|\x1b[31m.context_length": 4096, "x<b>|\x1b[31m.embedding_length": 64}
    metadata |= {"x<b>|\x1b[31m.attention.head_count": 2}
    names = ("token_embd", "blk.0.attn_k", "blk.0.attn_v", "blk.0.ffn_down")
    tensors = [TensorInfo(f"{name}.weight", (64, 64), "Q8_0") for name in names]
    path = tmp_path / f"{EVIL}.gguf"
    path.write_bytes(encode_header(metadata, tensors))
    return path


@pytest.mark.parametrize("option", ["", "markdown", "html", "csv"])
def test_names_are_only_names(capsys: pytest.CaptureFixture[str], evil: Path, option: str) -> None:
    text = shown(capsys, evil, *(("--format", option) if option else ()))
    assert "\x1b" not in text
    if option == "csv":
        assert text.endswith("\r\n")
        assert "\n" not in text.replace("\r\n", "")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert rows[0]["model"].startswith("'=cmd|")
        assert rows[0]["quantization"] == "Q4_K_M"
        assert not any(v.startswith(("=", "+", "-", "@")) for row in rows for v in row.values())
    elif option == "markdown":
        title = text.splitlines()[0]
        assert "\\<script\\>" in title
        assert "\\[a\\](b)\\`c\\`" in title
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) == 1
    elif option == "html":
        page = Page(text)
        assert "script" not in page.names
        assert not {"src", "href", "onclick"} & page.attributes
        assert any("<script>alert(1)" in words for tag, words in page.texts if tag == "h1")


def test_page_is_one_file_for_light_and_dark(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "demo-moe", "--format", "html")
    page = Page(text)
    assert not {"link", "script", "img", "iframe"} & page.names
    assert "url(" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "prefers-color-scheme: dark" in text
    classes = set(re.findall(r'class="(to-[\w]+)"', text))
    assert classes
    for colour in classes:
        assert text.count(f"--{colour}: #") == 2  # once for light, once for dark


@pytest.mark.parametrize(
    ("suffix", "begins"),
    [(".md", "# "), (".csv", "model,"), (".html", "<!doctype html>"), (".json", "{")],
)
def test_suffix_decides_and_a_file_is_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, begins: str
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("old")
    assert "rows" in shown(capsys, "demo", "-o", path)
    assert path.read_bytes().decode().startswith(begins)
    document = json.loads(shown(capsys, "demo", "-o", path, "--json"))
    assert document["model"] == "demo"
    assert list(tmp_path.iterdir()) == [path]


def test_format_names_what_a_suffix_does_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "out.txt"
    shown(capsys, "demo", "-o", path, "--format", "CSV")
    assert path.read_text().startswith("model,")


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, says in (
        (("--format", "xls"), "markdown, csv, html, json"),
        (("-o", tmp_path / "x.xls"), "--format"),
        (("-o", tmp_path / "x.html", "--format", "csv"), "ends as html"),
        (("--json", "--format", "csv"), "-o FILE"),
        (("--ctx", "8k"), "8192,131072"),
        (("--ctx", "8192,"), "8192,131072"),
        (("--desktop", "3"), "not a size"),
        (("--kv", "q3_k"), "KV cache"),
    ):
        assert says in fails(capsys, "demo", *arguments, status=2)
    assert "not a known mix" in fails(capsys, "demo", "--like", "Q9", status=1)
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_written_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x.html").mkdir()
    assert "cannot be written" in fails(capsys, "demo", "-o", tmp_path / "x.html", status=1)
    assert "cannot be written" in fails(capsys, "demo", "-o", tmp_path / "no/x.html", status=1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


def test_numbers_are_written_as_people_do() -> None:
    gibibytes = (0, 9.994, 9.996, 99.94, 99.96, 1234.5)
    assert [gib(round(size * 2**30)) for size in gibibytes] == [
        *("0.00", "9.99", "10.0", "99.9", "100", "1234"),
    ]
    assert [short_context(ctx) for ctx in (512, 1024, 131072, 2**20, 202752, 5000)] == [
        *("512", "1k", "128k", "1M", "198k", "5,000"),
    ]
