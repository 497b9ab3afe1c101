"""The layer-by-layer decoder against the whole model as transformers runs it."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from tiny import KINDS, VOCABULARY, Tiny, tiny_model

from snugfit.archs.decoder import Decoder
from snugfit.errors import FormatError, SnugfitError, UnsupportedError

torch.set_num_threads(1)


def decoder_of(tiny: Tiny, **changes: Any) -> Decoder:
    parts = {"metadata": tiny.metadata, "shapes": tiny.shapes, "load": tiny.load} | changes
    return Decoder(**parts)


def ids(sequences: int = 3, length: int = 200) -> torch.Tensor:
    return torch.randint(
        0, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(1)
    )


def logits_of(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    hidden = decoder.embed(tokens)
    for index in range(decoder.layer_count):
        with decoder.layer(index) as layer:
            hidden = layer(hidden)
    return decoder.logits(hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_whole_model(kind: str) -> None:
    tiny = tiny_model(kind)
    with torch.no_grad():
        expected = tiny.model(input_ids=ids()).logits
    found = logits_of(decoder_of(tiny), ids())
    assert found.shape == expected.shape
    assert expected.std() > 0.5  # otherwise agreement would say nothing
    assert (found - expected).abs().max() < 1e-4


def test_advance_works_in_place_over_batches_of_sequences() -> None:
    decoder = decoder_of(tiny_model("qwen3"))
    tokens = ids(sequences=6, length=40)
    hidden = decoder.embed(tokens)
    for index in range(decoder.layer_count):
        decoder.advance(index, hidden)
    assert torch.allclose(decoder.logits(hidden), logits_of(decoder, tokens), atol=1e-5)


def test_a_later_token_changes_nothing_before_it() -> None:
    decoder = decoder_of(tiny_model("qwen3moe"))
    first, second = ids(1, 50), ids(1, 50)
    second[0, 30] = (second[0, 30] + 1) % VOCABULARY
    before, after = logits_of(decoder, first), logits_of(decoder, second)
    assert torch.allclose(before[:, :30], after[:, :30], atol=1e-5)
    assert not torch.allclose(before[:, 30:], after[:, 30:], atol=1e-2)


def test_a_layer_s_weights_are_read_for_its_block_and_freed_after_it() -> None:
    tiny = tiny_model("qwen3")
    read: list[str] = []
    decoder = decoder_of(tiny, load=lambda name: read.append(name) or tiny.tensors[name])
    assert read == []
    with decoder.layer(1) as layer:
        assert {name.split(".")[1] for name in read} == {"1"}
        weight = weakref.ref(layer.module.get_parameter("mlp.up_proj.weight"))
        assert layer.matrices["blk.1.ffn_up.weight"] == (288, 256)
    assert weight() is None
    assert layer.module.get_parameter("mlp.up_proj.weight").device.type == "meta"


def test_watched_sees_every_matrix_under_its_name() -> None:
    tiny = tiny_model("qwen3moe")
    decoder = decoder_of(tiny)
    seen: dict[str, int] = {}

    def see(names: tuple[str, ...], expert: int, inputs: torch.Tensor) -> None:
        for name in names:
            assert inputs.shape[-1] == tiny.shapes[name][-1]
            seen[name] = seen.get(name, 0) + inputs.shape[:-1].numel()

    decoder.advance(0, decoder.embed(ids(2, 30)), see)
    assert set(seen) == {
        name for name, shape in tiny.shapes.items() if name.startswith("blk.0.") and len(shape) > 1
    }
    assert seen["blk.0.attn_q.weight"] == 60
    assert seen["blk.0.ffn_down_exps.weight"] == 120  # two experts a token


def test_weights_may_come_from_memory_that_cannot_be_written() -> None:
    tiny = tiny_model("llama")
    for array in tiny.tensors.values():
        array.flags.writeable = False
    assert logits_of(decoder_of(tiny), ids(1, 8)).isfinite().all()


def test_groups_bound_the_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(tiny_model("qwen3"))
    monkeypatch.setattr("snugfit.archs.decoder.HIDDEN_BYTES", 2 * 40 * 256 * 4)
    assert [len(group) for group in decoder.groups(ids(5, 40))] == [2, 2, 1]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"missing": "blk.1.ffn_up.weight"}, FormatError, "blk.1.ffn_up.weight: .* missing"),
        ({"missing": "token_embd.weight"}, FormatError, "token_embd.weight: .* missing"),
        ({"shape": ("blk.0.attn_k.weight", (64, 256))}, FormatError, "blk.0.attn_k.weight: has"),
        ({"shape": ("blk.0.attn_q.bias", (384,))}, UnsupportedError, "blk.0.attn_q.bias: has no"),
        ({"key": ("qwen3.block_count", np.uint32(1_000_000))}, FormatError, "1000000, but 2"),
        ({"key": ("qwen3.block_count", None)}, FormatError, "qwen3.block_count is missing"),
        ({"key": ("qwen3.embedding_length", np.uint32(0))}, FormatError, "embedding_length is 0"),
        ({"key": ("qwen3.attention.head_count", np.uint32(16))}, FormatError, "metadata says"),
        ({"key": ("qwen3.attention.head_count_kv", np.array([4, 2]))}, UnsupportedError, "differs"),
        ({"key": ("qwen3.rope.scaling.type", "longrope")}, UnsupportedError, "longrope"),
        ({"key": ("general.architecture", "mamba")}, UnsupportedError, "llama, qwen2, qwen3, qwen"),
        ({"key": ("qwen3.expert_count", np.uint32(8))}, UnsupportedError, "experts"),
    ],
)
def test_damage_is_said_in_one_line(change: Any, kind: type[Exception], words: str) -> None:
    tiny = tiny_model("qwen3")
    metadata, shapes = dict(tiny.metadata), tiny.shapes
    if "missing" in change:
        del shapes[change["missing"]]
    if "shape" in change:
        shapes[change["shape"][0]] = change["shape"][1]
    if "key" in change:
        key, value = change["key"]
        metadata[key] = value
        if value is None:
            del metadata[key]
    with pytest.raises(kind, match=words) as caught:
        Decoder(metadata, shapes, tiny.load)
    assert "\n" not in str(caught.value)


def test_data_of_another_shape_than_declared_is_an_error() -> None:
    tiny = tiny_model("qwen3")
    decoder = decoder_of(tiny, load=lambda name: tiny.tensors[name][..., :-1])
    with pytest.raises(FormatError, match="header says"), decoder.layer(0):
        pass


def test_a_token_past_the_vocabulary_is_an_error() -> None:
    with pytest.raises(FormatError, match="has 320 tokens"):
        decoder_of(tiny_model("qwen3")).embed(torch.tensor([[0, VOCABULARY]]))


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_model("qwen3")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SnugfitError, match=r"transformers.*pip install 'snugfit\[torch\]'"):
        decoder_of(tiny)


def test_import_brings_in_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, snugfit.archs.decoder, snugfit.archs.tokenizer, snugfit.scoring,"
        " snugfit.calibration.corpus, snugfit.calibration.importance\n"
        "sys.exit(bool({'torch', 'transformers', 'tokenizers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
