"""Shapes read off metadata, and metadata that lies."""

import numpy as np
import pytest
from shapes import metadata_of, spec_of_shape
from shapes import tensors_of as tensors_of_shape

from snugfit.archs.conversion.rows import CONVERSIONS
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.archs.decoder_rows import DECODERS
from snugfit.archs.table import ARCHITECTURES, spec_of
from snugfit.core import LayerCache, TensorInfo
from snugfit.errors import FormatError

METADATA = {
    "general.architecture": "qwen3",
    "qwen3.block_count": np.uint32(2),
    "qwen3.context_length": np.uint32(2048),
    "qwen3.embedding_length": np.uint32(64),
    "qwen3.attention.head_count": np.uint32(4),
    "qwen3.attention.head_count_kv": np.uint32(2),
    "qwen3.attention.key_length": np.uint32(32),
    "qwen3.attention.value_length": np.uint32(32),
}


def tensors_of(layers=2, key_rows=(64, 64), value_rows=(64, 64)):
    tensors = [TensorInfo("token_embd.weight", (300, 64), "BF16")]
    for layer in range(layers):
        tensors += [
            TensorInfo(f"blk.{layer}.attn_q.weight", (128, 64), "BF16"),
            TensorInfo(f"blk.{layer}.attn_k.weight", (key_rows[layer], 64), "BF16"),
            TensorInfo(f"blk.{layer}.attn_v.weight", (value_rows[layer], 64), "BF16"),
        ]
    return tensors


def spec(changes=None, **shapes):
    metadata = {**METADATA, **(changes or {})}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    return spec_of("tiny", metadata, tensors_of(**shapes), file_bytes=9000, header_bytes=500)


def test_shapes_are_read():
    found = spec()
    assert (found.layers, found.hidden_size, found.context_length) == (2, 64, 2048)
    assert (found.vocabulary, found.heads, found.experts, found.experts_used) == (300, 4, 0, 0)
    assert (found.file_bytes, found.header_bytes, found.cache_basis) == (9000, 500, "exact")
    assert found.caches == (LayerCache(0, 64, 64, 2), LayerCache(1, 64, 64, 2))


def test_heads_may_differ_by_layer():
    found = spec(
        {"qwen3.attention.head_count_kv": np.array([2, 1], np.int32)},
        key_rows=(64, 32),
        value_rows=(64, 32),
    )
    assert [cache.key_width for cache in found.caches] == [64, 32]


def test_head_size_and_key_heads_have_defaults():
    found = spec(
        {
            "qwen3.attention.key_length": None,
            "qwen3.attention.value_length": None,
            "qwen3.attention.head_count_kv": None,
        }
    )
    assert found.caches[0] == LayerCache(0, 64, 64, 4)  # 4 heads of 64 / 4


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("qwen3.block_count", None, "is missing"),
        ("qwen3.block_count", 0, "is 0"),
        ("qwen3.block_count", 2**60, "not between"),
        ("qwen3.block_count", 3, "tensors are of 2 layers"),
        ("qwen3.block_count", "2", "not a whole number"),
        ("qwen3.block_count", True, "not a whole number"),
        ("qwen3.context_length", 0, "is 0"),
        ("qwen3.embedding_length", None, "is missing"),
        ("qwen3.attention.head_count", 0, "is 0"),
        ("qwen3.attention.head_count", np.uint64(2**60), "not between"),
        ("qwen3.attention.head_count_kv", [2], "has 1 numbers for 2 layers"),
        ("qwen3.attention.head_count_kv", np.array([2, -1]), "is -1"),
        ("qwen3.attention.head_count_kv", 1, "blk.0.attn_k.weight computes 64"),
        ("qwen3.attention.key_length", np.float32(32), "not a whole number"),
        ("qwen3.attention.value_length", 2**40, "not between"),
        ("general.architecture", None, "general.architecture is missing"),
        ("general.architecture", 7, "general.architecture is missing"),
    ],
)
def test_absurd_metadata_is_refused_in_one_line(key, value, text):
    with pytest.raises(FormatError, match=text) as caught:
        spec({key: value})
    message = str(caught.value)
    assert message.startswith("tiny: ")
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("shape", "key", "value", "text"),
    [
        ("gemma3", "attention.sliding_window", -5, "is -5"),
        ("gemma3", "attention.sliding_window_pattern", [True, False], "2 numbers for 4 layers"),
        ("gemma3", "attention.sliding_window_pattern", [7, 0, 0, 0], "is 7"),
        ("gemma3", "attention.sliding_window_pattern", np.float32(2), "not a whole number"),
        ("gemma4", "attention.shared_kv_layers", 5, "is 5"),
        ("deepseek2", "attention.key_length_mla", 2**40, "not between"),
        ("deepseek4", "attention.compress_ratios", None, "is missing"),
        ("deepseek4", "attention.compress_ratios", [4], "1 numbers for 4 layers"),
        ("deepseek4", "attention.indexer.key_length", None, "is missing"),
        ("qwen35", "ssm.conv_kernel", 0, "is 0"),
        ("qwen35", "ssm.state_size", "128", "not a whole number"),
        ("qwen35", "full_attention_interval", 0, "is 0"),
        ("qwen35", "nextn_predict_layers", 4, "is 4"),
        ("lfm2", "shortconv.l_cache", None, "is missing"),
        ("kimi-linear", "kda.head_dim", 2**60, "not between"),
        ("nemotron_h_moe", "expert_used_count", [1, 2], "2 numbers for 4 layers"),
    ],
)
def test_absurd_windows_and_states_are_refused_in_one_line(shape, key, value, text):
    metadata = metadata_of(shape) | {f"{shape}.{key}": value}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(FormatError, match=text) as caught:
        spec_of(shape, metadata, tensors_of_shape(shape), file_bytes=0, header_bytes=0)
    assert "\n" not in str(caught.value)


def test_a_layer_that_only_drafts_keeps_nothing_here():
    found = spec_of_shape("qwen35moe:drafting")
    assert found.layers == 5
    assert [cache.layer for cache in found.caches] == [3]
    assert [state.layer for state in found.states] == [0, 1, 2]


def test_layers_that_share_a_cache_keep_it_once():
    found = spec_of_shape("gemma4:shared-layers")
    assert [cache.layer for cache in found.caches] == [0, 1, 2, 3, 4, 5]
    assert [cache.window for cache in found.caches] == [300, 300, 0, 300, 300, 0]


def test_a_mixture_needs_its_experts():
    moe = {key.replace("qwen3", "qwen3moe"): value for key, value in METADATA.items()}
    moe["general.architecture"] = "qwen3moe"
    with pytest.raises(FormatError, match="expert_count is 0"):
        spec_of("tiny", moe, tensors_of(), file_bytes=0, header_bytes=0)
    moe |= {"qwen3moe.expert_count": np.uint32(8), "qwen3moe.expert_used_count": np.uint32(2)}
    found = spec_of("tiny", moe, tensors_of(), file_bytes=0, header_bytes=0)
    assert (found.experts, found.experts_used) == (8, 2)


def test_an_unknown_architecture_is_sized_by_its_tensors():
    strange = {
        "general.architecture": "qwen3x",
        "qwen3x.context_length": np.uint32(512),
        "qwen3x.embedding_length": np.uint32(64),
    }
    tensors = [
        *tensors_of(key_rows=(48, 16), value_rows=(80, 16)),
        TensorInfo("blk.2.attn_qkv.weight", (128 + 96, 64), "BF16"),
        TensorInfo("blk.2.attn_output.weight", (64, 128), "BF16"),
        TensorInfo("blk.3.ssm_in.weight", (64, 64), "BF16"),
    ]
    found = spec_of("strange", strange, tensors, file_bytes=0, header_bytes=0)
    assert found.cache_basis == "estimated"
    assert found.layers == 4
    assert [(c.layer, c.key_width, c.value_width) for c in found.caches] == [
        (0, 48, 80),
        (1, 16, 16),
        (2, 48, 48),
    ]


def test_every_model_that_can_be_converted_and_run_has_a_row():
    assert all(name == row.name for name, row in ARCHITECTURES.items())
    rows = [row for row in CONVERSIONS.values() if isinstance(row, ConversionRow)]
    converted = {row.architecture for row in rows}
    assert DECODERS.keys() <= converted <= ARCHITECTURES.keys()
