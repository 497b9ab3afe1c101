"""How much memory one pass of tokens needs: what llama.cpp's graph allocator keeps at its busiest.

Measured on the embedded llama.cpp b11549 by changing one width at a time; the tests hold the rules
against 120 configurations of ten published models and against shapes of other families.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snugfit.archs.cache import cells_of, tokens_of_pass
from snugfit.core import Configuration, LayerCache, LayerState, ModelSpec
from snugfit.quants.types import TYPES

FLOAT_BYTES, HALF_BYTES = 4, 2
TOKEN_INPUT_BYTES = 40  # a few numbers a token: its id, its position, where it is stored
BLOCK_NAME = re.compile(r"blk\.(\d+)\.(.+)")
# Bytes that an indexer adds for each token and each cell it looks at: scores, and what it chose.
INDEX_BYTES = 6
# Hidden states and feed-forward widths that are alive at once, where it is not five and three.
ALIVE = {"gemma3n": (5, 4), "llama4": (6, 3)}
ALIVE_USUALLY, UNGATED = (5, 3), (5, 1)
# Hidden states that one layer hands to the next where that is on another GPU, and before them what
# the first GPU is handed. Several streams are handed over twice: as they are, and mixed. What
# Mamba scans goes to the next GPU and back.
HANDED = {"gemma3n": (8, 11), "deepseek4": (1, 8), "mamba": (3, 5), "mamba2": (3, 5)}
HANDED_USUALLY = (1, 1)
INDEX_OF_VALUE_BYTES = 8  # of each number of a value that is stored transposed

# Of 713 configurations of 35 models (contexts of 512 and more, 64 to 1024 tokens at a time) those
# with flash attention agree with the embedded llama.cpp on the CPU within BAND, mostly within 1 %,
# but for the architectures below. Without it, scores that take turns with the rest of a layer are
# simplified: that adds an error, which is large where the context is short.
BAND = 0.05
WIDER_BANDS = {"deepseek4": 0.2, "deepseek32": 0.1, "glm-dsa": 0.1, "granitehybrid": 0.1}
BAND_OF_SCORES, BAND_OF_FEW_SCORES, FEW_SCORES = 0.05, 0.35, 2048


@dataclass(frozen=True)
class Graph:
    """Widths in elements that set how much one micro-batch keeps alive at its busiest moment."""

    hidden: int
    query: int
    key_value: int
    heads: int
    feed_forward: int  # all experts that a token uses
    expert_outputs: int  # of all experts that a token uses, before they are summed; 0 if dense
    vocabulary: int
    alive: tuple[int, int]  # hidden states and feed-forward widths
    layer_inputs: int  # that every layer gets beside the hidden state, of all layers
    latent: int  # queries, absorbed queries and outputs of latent attention; 0 without
    scan: int  # inputs, convolution and output of a layer that scans; 0 without
    scan_numbers: int  # of the states that one sequence has there
    is_compressed: bool
    is_indexed: bool
    is_parallel: bool  # both halves of a layer read the same input
    caches: tuple[LayerCache, ...]  # one of each kind
    handed: tuple[int, int]  # hidden states that the first GPU and each later one is handed
    band: float  # how far off the embedded engine on the CPU, relative

    def feed_forward_width(self) -> int:
        """Return the elements a token keeps alive at most in the second half of a layer.

        The experts' outputs take the place of gate and up if they fit there, and go beside them
        otherwise, unless the product had fitted into a hidden state's place.
        """
        times, copies = self.alive
        hidden, wide = times * self.hidden + 2 * self.layer_inputs, copies * self.feed_forward
        if self.expert_outputs <= 2 * self.feed_forward:
            return hidden + wide
        if self.feed_forward <= self.hidden:
            return hidden + max(wide, self.expert_outputs)
        return hidden + wide + self.expert_outputs

    def attention_width(self, cells: int, *, flash_attention: bool) -> int:
        """Return the elements a token keeps alive at most in the first half of a layer.

        Without flash attention each head has its score for each of the `cells` in the cache.
        """
        if self.is_compressed:
            # Four streams of hidden states, mixed before and after.
            width = 15 * self.hidden + 2 * self.query + 5 * self.key_value
        elif self.latent:
            width = 5 * self.hidden + self.latent
        elif self.query == self.hidden:
            width = 6 * self.hidden
        else:
            width = 5 * self.hidden + 2 * self.query
        if flash_attention:
            return width
        kept = 0 if self.is_compressed else 2 * self.key_value
        return width + kept + self.heads * cells

    def scan_width(self) -> int:
        return 5 * self.hidden + self.scan if self.scan else 0


def graph_of(spec: ModelSpec) -> Graph:
    """Read the widths off the matrices; the widest layer counts."""
    rows, columns = _widths(spec)
    kinds = _kinds(spec.caches)
    experts_wide = columns.get("ffn_down_exps.weight", 0)
    used = spec.experts_used if experts_wide else 0
    key = max((cache.key_width for cache in spec.caches), default=0)
    query = max(rows.get("attn_q_b.weight", 0), rows.get("attn_q.weight", 0))
    is_compressed = any(cache.tokens_per_cell > 1 for cache in spec.caches)
    is_latent = bool(rows.get("attn_k_b.weight")) and not is_compressed
    scan, scan_numbers = _scan(rows, columns, spec.states)
    return Graph(
        hidden=spec.hidden_size,
        query=query if is_compressed else columns.get("attn_output.weight", spec.hidden_size),
        key_value=key,
        heads=spec.heads,
        feed_forward=max(columns.get("ffn_down.weight", 0), used * experts_wide),
        expert_outputs=used * spec.hidden_size,
        vocabulary=spec.vocabulary,
        alive=ALIVE.get(spec.architecture, ALIVE_USUALLY if _is_gated(rows, columns) else UNGATED),
        layer_inputs=columns.get("per_layer_token_embd.weight", 0),
        latent=query + 2 * spec.heads * key if is_latent else 0,
        scan=scan,
        scan_numbers=scan_numbers,
        is_compressed=is_compressed,
        is_indexed=any(cache.is_index for cache in kinds),
        is_parallel=not rows.keys() & {"ffn_norm.weight", "post_attention_norm.weight"},
        caches=kinds,
        handed=HANDED.get(spec.architecture, HANDED_USUALLY),
        band=WIDER_BANDS.get(spec.architecture, BAND),
    )


def _scan(
    rows: Mapping[str, int], columns: Mapping[str, int], states: Sequence[LayerState]
) -> tuple[int, int]:
    """Return the widths that a layer with a state keeps alive, and the numbers of states there.

    Mamba keeps its inputs, what it convolves twice, and its output. The delta rule keeps what it
    convolves and three times its output, and has its state twice.
    """
    convolutions = [part for part in rows if re.fullmatch(r"ssm_conv1d.*\.weight", part)]
    if not convolutions:
        return 0, 0
    numbers = max((state.numbers for state in states), default=0)
    convolved = sum(rows[part] for part in convolutions)
    output = columns.get("ssm_out.weight", convolved // len(convolutions))
    if rows.keys() & {"ssm_beta.weight", "ssm_ba.weight"}:
        kept = (columns[convolutions[0]] - 1) * convolved
        return convolved + 3 * output, 2 * numbers - kept
    return rows.get("ssm_in.weight", 0) + 2 * convolved + output, numbers


def _is_gated(rows: Mapping[str, int], columns: Mapping[str, int]) -> bool:
    """Whether the feed-forward part has a gate: a matrix of its own, or half of the way up."""
    is_fused = rows.get("ffn_up.weight", 0) == 2 * columns.get("ffn_down.weight", -1)
    has_gate = any(name.startswith(("ffn_gate.", "ffn_gate_exps", "ffn_gate_up")) for name in rows)
    return is_fused or has_gate or not any(name.startswith("ffn_up") for name in rows)


def input_bytes(graph: Graph, configuration: Configuration) -> int:
    """Return what a graph is given: for each kind of cache, which cells each token may see."""
    mask = HALF_BYTES if configuration.flash_attention else FLOAT_BYTES
    # Compressed attention has a mask of its own for what the indexer chose.
    chosen = HALF_BYTES if graph.is_compressed else 0
    masks = sum(
        cells_of(cache, configuration) * (chosen if cache.is_index else mask)
        for cache in graph.caches
    )
    return tokens_of_pass(configuration) * (masks + TOKEN_INPUT_BYTES)


def busiest_bytes(graph: Graph, configuration: Configuration) -> int:
    """Return the compute buffer of a processor that has the whole model."""
    size = _layer_bytes(graph, configuration) + input_bytes(graph, configuration)
    return max(size, logit_bytes(graph, configuration))


def gpu_bytes(
    graph: Graph,
    configuration: Configuration,
    *,
    copies: int = 1,
    is_first: bool = True,
    streamed_bytes: int = 0,
    outputs: int | None = None,
) -> int:
    """Return the compute buffer of a GPU, as the engine's log has it.

    The embeddings were looked up in RAM. GPUs in a pipeline keep `copies` of the inputs, and of
    what they are handed, beside all that follows: the first is handed the embeddings, a later one
    the hidden states. `streamed_bytes` come from RAM for a while. `outputs` are the tokens whose
    logits are wanted: one a slot, but in builds before August 2026 all of a pass, as in
    llama-perplexity still.
    """
    layer = _layer_bytes(graph, configuration) - embedded_bytes(graph, configuration)
    layer += streamed_bytes
    count = configuration.slots if outputs is None else outputs
    logits = count * (graph.vocabulary + 2 * graph.hidden) * FLOAT_BYTES
    inputs = input_bytes(graph, configuration)
    if copies > 1:
        handed = _handed_bytes(graph, configuration, is_first=is_first)
        kept = inputs + handed + _further_inputs(graph, configuration)
        return max(layer, logits) + copies * kept
    return max(layer + inputs, logits)


def host_bytes(graph: Graph, configuration: Configuration, *, copies: int = 1) -> int:
    """Return the compute buffer of RAM where GPUs have all layers.

    It holds the inputs and the embeddings: looked up, and as a program might give them instead.
    """
    tokens = tokens_of_pass(configuration)
    inputs, embedded = input_bytes(graph, configuration), embedded_bytes(graph, configuration)
    looked_up = tokens * graph.layer_inputs * FLOAT_BYTES
    if copies == 1:
        return inputs + embedded + looked_up
    given = embedded // 2 + _further_inputs(graph, configuration)
    return copies * (inputs + given) + embedded // 2 + looked_up


def _handed_bytes(graph: Graph, configuration: Configuration, *, is_first: bool) -> int:
    first, other = graph.handed
    width = first * graph.hidden + graph.layer_inputs if is_first else other * graph.hidden
    return tokens_of_pass(configuration) * width * FLOAT_BYTES


def _further_inputs(graph: Graph, configuration: Configuration) -> int:
    """Return inputs that count where there are copies: elsewhere others are gone by then.

    An indexer has a mask of its own. Without flash attention values are stored transposed, each
    number at an index.
    """
    size = 0
    if graph.is_indexed and not graph.is_compressed:
        size += _cells_scored(graph, configuration) * HALF_BYTES
    if not configuration.flash_attention:
        widths = [cache.value_width for cache in graph.caches if cache.value_width]
        size += len(widths) * max(widths, default=0) * INDEX_OF_VALUE_BYTES
    return tokens_of_pass(configuration) * size


def _layer_bytes(graph: Graph, configuration: Configuration) -> int:
    """Return what the busiest moment of a layer keeps alive, without the graph's inputs."""
    tokens = tokens_of_pass(configuration)
    states = configuration.slots * graph.scan_numbers * FLOAT_BYTES
    return max(
        tokens * graph.feed_forward_width() * FLOAT_BYTES,
        _attention_bytes(graph, configuration),
        tokens * graph.scan_width() * FLOAT_BYTES + states,
    )


def _attention_bytes(graph: Graph, configuration: Configuration) -> int:
    cells = _cells_scored(graph, configuration)
    flash = configuration.flash_attention
    width = graph.attention_width(cells, flash_attention=flash)
    if TYPES[configuration.kv_type].is_quantized and graph.is_parallel:
        # Queries are rotated as cached keys are, while the other half waits for its input.
        width = max(width, graph.feed_forward_width() + graph.query)
    size = width * FLOAT_BYTES
    turned = 0  # keys of latent attention are turned round to serve as values
    if graph.latent and not flash:
        turned = cells * graph.key_value * HALF_BYTES
    if graph.is_indexed and not graph.is_compressed:
        size += cells * INDEX_BYTES
    copied = turned + _copied_keys(graph, configuration)
    return tokens_of_pass(configuration) * size + copied


def band_of(graph: Graph, configuration: Configuration) -> float:
    """Return how far off the buffer may be on the CPU, as a part of it."""
    if configuration.flash_attention:
        return graph.band
    few = _cells_scored(graph, configuration) <= FEW_SCORES
    return graph.band + (BAND_OF_FEW_SCORES if few else BAND_OF_SCORES)


def logit_bytes(graph: Graph, configuration: Configuration) -> int:
    return configuration.slots * (graph.vocabulary + 5 * graph.hidden) * FLOAT_BYTES


def embedded_bytes(graph: Graph, configuration: Configuration) -> int:
    """Return the embeddings of one pass: looked up in RAM, then handed over."""
    return 2 * tokens_of_pass(configuration) * graph.hidden * FLOAT_BYTES


def _cells_scored(graph: Graph, configuration: Configuration) -> int:
    """Return the cells that one attention looks at: compressed ones come beside the window's."""
    cells = [cells_of(cache, configuration) for cache in graph.caches]
    windows = [cells_of(cache, configuration) for cache in graph.caches if cache.window]
    together = max(windows, default=0) if graph.is_compressed else 0
    return max(cells, default=0) + together


def _copied_keys(graph: Graph, configuration: Configuration) -> int:
    """Return the keys of one layer's caches as floats: compressed attention joins them."""
    is_copied = graph.is_compressed and configuration.flash_attention
    if not is_copied or TYPES[configuration.kv_type].is_quantized:
        return 0
    return FLOAT_BYTES * sum(
        cells_of(cache, configuration) * cache.key_width for cache in graph.caches
    )


def _kinds(caches: Sequence[LayerCache]) -> tuple[LayerCache, ...]:
    """Return one cache of each kind, whatever its widths."""
    kinds = {(cache.window, cache.tokens_per_cell, cache.is_index): cache for cache in caches}
    return tuple(kinds.values())


def _widths(spec: ModelSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Return part -> most rows of one matrix, and part -> most columns, over all layers."""
    rows: dict[str, int] = {}
    columns: dict[str, int] = {}
    for tensor in spec.tensors:
        match = BLOCK_NAME.fullmatch(tensor.name)
        part = match[2] if match else tensor.name
        lengths = [length for length in tensor.shape[:-1] if length > 1] or [1]
        rows[part] = max(rows.get(part, 0), lengths[-1])
        columns[part] = max(columns.get(part, 0), tensor.columns)
    return rows, columns
