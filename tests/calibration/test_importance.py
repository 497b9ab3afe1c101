"""Importance against sums taken by plain hooks on the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROLES, VOCABULARY, Tiny, tiny_model

from snugfit.archs.decoder import Decoder
from snugfit.calibration.importance import measure
from snugfit.errors import FormatError
from snugfit.formats.imatrix import read_imatrix, write_imatrix

torch.set_num_threads(1)

Inputs = dict[tuple[str, int], torch.Tensor]


def decoder_of(tiny: Tiny) -> Decoder:
    return Decoder(tiny.metadata, tiny.shapes, tiny.load)


def ids(sequences: int = 5, length: int = 60) -> torch.Tensor:
    return torch.randint(
        0, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(2)
    )


def inputs_by_hooks(tiny: Tiny, tokens: torch.Tensor) -> Inputs:
    """Return the inputs [tokens, columns] of each (GGUF matrix, expert) in one pass."""
    found: Inputs = {}

    def keep(name: str) -> None:
        module = tiny.model.get_submodule(name)
        if name == "lm_head":
            key = "output.weight" if "output.weight" in tiny.tensors else "token_embd.weight"
        else:
            _, _, index, rest = name.split(".", 3)
            key = f"blk.{index}.{ROLES[rest]}.weight"

        def hook(_: object, arguments: tuple[torch.Tensor, ...]) -> None:
            found[key, 0] = arguments[0].detach().flatten(0, -2)

        module.register_forward_pre_hook(hook)

    def keep_experts(index: int) -> None:
        def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            states, chosen, _ = (argument.detach() for argument in arguments)
            for expert in range(8):
                routed = states[(chosen == expert).any(dim=-1)]
                gate, up = (routed @ module.gate_up_proj[expert].T).chunk(2, dim=-1)
                block = f"blk.{index}"
                found[f"{block}.ffn_gate_exps.weight", expert] = routed
                found[f"{block}.ffn_up_exps.weight", expert] = routed
                product = torch.nn.functional.silu(gate) * up
                found[f"{block}.ffn_down_exps.weight", expert] = product.detach()

        experts = tiny.model.get_submodule(f"model.layers.{index}.mlp.experts")
        experts.register_forward_pre_hook(hook)

    for name, module in tiny.model.named_modules():
        if isinstance(module, torch.nn.Linear) or name.endswith("mlp.gate"):
            keep(name)
        elif name.endswith("mlp.experts"):
            keep_experts(int(name.split(".")[2]))
    with torch.no_grad():
        tiny.model(input_ids=tokens)
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3-tied", "qwen3moe"])
def test_sums_are_those_of_hooks_on_the_whole_model(kind: str) -> None:
    tiny = tiny_model(kind)
    importance = measure(decoder_of(tiny), ids().numpy())
    expected = inputs_by_hooks(tiny, ids())
    assert {name for name, _ in expected} == set(importance.weights)
    for (name, expert), inputs in expected.items():
        found = importance.weights[name]
        assert found.counts[expert] == len(inputs)
        squares = inputs.double().square().sum(0).numpy()
        assert np.allclose(found.squares[expert], squares, rtol=1e-4), name


def test_every_matrix_of_the_layers_is_measured_and_the_file_keeps_it(tmp_path: Path) -> None:
    tiny = tiny_model("qwen3moe")
    importance = measure(decoder_of(tiny), ids(), datasets=("some.txt",))
    layers = {n for n, shape in tiny.shapes.items() if n.startswith("blk.") and len(shape) > 1}
    assert set(importance.weights) == {*layers, "output.weight"}
    assert (importance.chunk_count, importance.chunk_size) == (5, 60)
    assert importance.datasets == ("some.txt",)
    assert importance.weights["blk.1.ffn_up_exps.weight"].counts.sum() == 2 * 5 * 60
    write_imatrix(tmp_path / "importance.gguf", importance)
    again = read_imatrix(tmp_path / "importance.gguf")
    for name, sums in importance.weights.items():
        assert np.array_equal(again.weights[name].squares, sums.squares)
        assert np.array_equal(again.weights[name].counts, sums.counts)


def test_an_expert_without_tokens_has_zeros() -> None:
    tiny = tiny_model("qwen3moe")
    tokens = ids(1, 3)  # six choices for eight experts
    sums = measure(decoder_of(tiny), tokens).weights["blk.0.ffn_down_exps.weight"]
    idle = sums.counts == 0
    assert idle.any()
    assert not sums.squares[idle].any()
    assert sums.squares[~idle].all(axis=1).all()


def test_groups_of_sequences_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(tiny_model("qwen3moe"))
    whole = measure(decoder, ids())
    monkeypatch.setattr("snugfit.archs.decoder.HIDDEN_BYTES", 2 * 60 * 256 * 4)
    steps: list[tuple[int, int]] = []
    parts = measure(decoder, ids(), lambda done, total: steps.append((done, total)))
    assert steps == [(done, 9) for done in range(1, 10)]  # three groups of two layers and the head
    for name, sums in whole.weights.items():
        assert np.array_equal(parts.weights[name].counts, sums.counts)
        assert np.allclose(parts.weights[name].squares, sums.squares, rtol=1e-4)


def test_damaged_weights_are_found() -> None:
    tiny = tiny_model("qwen3")
    tiny.tensors["blk.1.ffn_up.weight"][3, 4] = np.inf
    with pytest.raises(FormatError, match=r"blk\.1: its output is not finite"):
        measure(decoder_of(tiny), ids())
