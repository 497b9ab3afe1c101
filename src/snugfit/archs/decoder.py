"""Runs a model one decoder layer at a time, as transformers' own torch modules with GGUF's weights.

No more is in memory than the layer that runs, or the embedding, or the head. Every matrix answers
to its GGUF name, whichever way transformers stores it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from snugfit.archs.decoder_rows import (
    EMBEDDING,
    GLOBAL_TENSORS,
    HEAD,
    INTERLEAVED,
    LAYER_PARAMETERS,
    NORM,
    ROPE_FACTORS,
    config_fields,
    row_of,
)
from snugfit.errors import FormatError, SnugfitError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...]
# Called for every matrix product: GGUF names of the matrices (those that share the product's inputs
# in one parameter), which expert (0 for a plain matrix), inputs float32 [..., columns].
See = Callable[[tuple[str, ...], int, "Tensor"], None]

SEQUENCES_AT_ONCE = 4  # enough to keep a matrix product busy with sequences of 512
HIDDEN_BYTES = 512 * 2**20  # of hidden states kept between layers


@dataclass(frozen=True)
class Part:
    """A piece of the model with its weights in memory: one decoder layer, or final norm and head.

    Called with hidden states float32 [sequences, length, width], it returns the layer's output in
    the same shape, or the head's logits [..., vocabulary]. `module` is there for hooks; `matrices`
    maps the GGUF name of each 2-D or stacked weight to its shape.
    """

    module: nn.Module
    matrices: dict[str, Shape]
    _run: Callable[[Tensor], Tensor] = field(repr=False)
    _names: dict[int, tuple[tuple[str, ...], int]] = field(repr=False)  # address -> what is there

    def __call__(self, hidden: Tensor) -> Tensor:
        return self._run(hidden)

    @contextmanager
    def watched(self, see: See) -> Iterator[None]:
        """Call `see` with the inputs of every matrix product inside the block.

        An expert's inputs are the tokens routed to it; an expert without tokens is not seen.
        """
        from torch.nn.functional import linear
        from torch.overrides import TorchFunctionMode

        names = self._names

        class Watch(TorchFunctionMode):
            """Tells a product by the address of its weight: modules and fused experts alike."""

            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if function is linear and args[1].data_ptr() in names:
                    see(*names[args[1].data_ptr()], args[0])
                return function(*args, **(kwargs or {}))

        with Watch():
            yield


class Decoder:
    """A model whose layers come and go. `load(name)` gives a tensor as float32 in its own shape.

    Raises UnsupportedError for an architecture without a row or tensors without a place,
    FormatError for missing tensors and wrong shapes (all are checked before any is read),
    SnugfitError without torch.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        shapes: Mapping[str, Shape],
        load: Callable[[str], np.ndarray[Any, Any]],
    ) -> None:
        self.row = row_of(metadata)
        self.architecture = str(metadata["general.architecture"])
        self.shapes = {name: tuple(int(length) for length in shapes[name]) for name in shapes}
        self._load = load
        fields = config_fields(metadata, self.shapes)
        self._check_layer_count(fields["num_hidden_layers"])
        self._skeleton, self._rotary = _skeleton(self.row.model_type, fields)
        self.config = self._skeleton.config
        self._check_shapes()
        if ROPE_FACTORS in self.shapes:
            self._rotary.inv_freq /= self.tensor(ROPE_FACTORS)

    @property
    def layer_count(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        return int(self.config.vocab_size)

    @property
    def head_name(self) -> str:
        """Name of the tensor that gives the logits: a tied model uses its embedding."""
        return HEAD if HEAD in self.shapes else EMBEDDING

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, float32, in the shape that its header declared. Raises FormatError."""
        import torch

        # torch refuses memory that it cannot write to, such as a mapped file.
        array = np.require(self._load(name), np.float32, ["C", "W"])
        if array.shape != self.shapes[name]:
            raise FormatError(
                f"{name}: holds {array.shape}, but its header says {self.shapes[name]}. "
                "Download the model again."
            )
        return torch.from_numpy(array)

    def embed(self, ids: Tensor) -> Tensor:
        """Return hidden states float32 [sequences, length, width] of token ids [sequences, length].

        Raises FormatError for a token that the model does not have.
        """
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocabulary:
            raise FormatError(
                f"token {int(ids.max())}: the model has {self.vocabulary} tokens. "
                "Use the tokenizer that came with it."
            )
        return self.tensor(EMBEDDING)[ids]

    @contextmanager
    def layer(self, index: int) -> Iterator[Part]:
        """Hold decoder layer `index` in memory for the block."""
        import torch

        module = copy.deepcopy(self._skeleton.model.layers[index])
        state = {name: self._parameter(index, name) for name, _ in module.named_parameters()}
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False)

        def run(hidden: Tensor) -> Tensor:
            # Without a mask, transformers' sdpa attention is causal over whole sequences.
            positions = torch.arange(hidden.shape[1])[None]
            rotation = self._rotary(hidden, positions)
            output: Tensor = module(
                hidden, attention_mask=None, position_ids=positions, position_embeddings=rotation
            )
            return output

        names = {
            name: _names_of(index, name)
            for name, parameter in module.named_parameters()
            if parameter.ndim > 1
        }
        try:
            yield self._part(module, names, run)
        finally:
            module.to("meta")  # whoever still holds the module does not hold its weights

    @contextmanager
    def head(self) -> Iterator[Part]:
        """Hold the final norm and the output matrix in memory for the block."""
        from torch import nn

        skeleton = self._skeleton
        module = nn.Sequential(copy.deepcopy(skeleton.model.norm), copy.deepcopy(skeleton.lm_head))
        state = {"0.weight": self.tensor(NORM), "1.weight": self.tensor(self.head_name)}
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False)
        try:
            yield self._part(module, {"1.weight": (self.head_name,)}, module)
        finally:
            module.to("meta")

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits float32 [..., vocabulary] of the last layer's hidden states [..., width].

        The head is read for each call; `head()` keeps it for many.
        """
        with self.head() as head:
            return head(hidden)

    def advance(self, index: int, hidden: Tensor, see: See | None = None) -> None:
        """Replace hidden states [sequences, length, width] by what layer `index` makes of them.

        A few sequences run at a time, so that the layer's own intermediate results stay small.
        """
        import torch

        with torch.no_grad(), self.layer(index) as layer:
            for first in range(0, len(hidden), SEQUENCES_AT_ONCE):
                batch = hidden[first : first + SEQUENCES_AT_ONCE]
                if see is None:
                    batch.copy_(layer(batch))
                else:
                    with layer.watched(see):
                        output = layer(batch)
                    batch.copy_(output)

    def groups(self, sequences: Tensor) -> list[Tensor]:
        """Split token ids [sequences, length] so that hidden states take at most `HIDDEN_BYTES`.

        Every group reads all layers again, which costs less than hidden states that do not fit.
        """
        bytes_a_sequence = 4 * sequences.shape[1] * self.width
        step = max(1, HIDDEN_BYTES // bytes_a_sequence)
        return [sequences[first : first + step] for first in range(0, len(sequences), step)]

    def _part(
        self,
        module: nn.Module,
        names: Mapping[str, tuple[str, ...]],
        run: Callable[[Tensor], Tensor],
    ) -> Part:
        """`names` maps each matrix parameter of `module` to its GGUF names."""
        found: dict[int, tuple[tuple[str, ...], int]] = {}
        for name, gguf_names in names.items():
            parameter = module.get_parameter(name)
            matrices = parameter if parameter.ndim == 3 else [parameter]
            for expert, matrix in enumerate(matrices):
                found[matrix.data_ptr()] = gguf_names, expert
        shapes = {name: self.shapes[name] for group in names.values() for name in group}
        return Part(module, shapes, run, found)

    def _parameter(self, index: int, name: str) -> Tensor:
        """Return a layer's parameter in transformers' layout, put together from its tensors."""
        import torch

        sources = _names_of(index, name)
        if len(sources) == 1:
            found = self.tensor(sources[0])
        else:
            found = torch.cat([self.tensor(source) for source in sources], dim=-2)
        module_name = name.rpartition(".")[0]
        if self.row.interleaved_heads and module_name in INTERLEAVED:
            return halves_of_pairs(found, getattr(self.config, INTERLEAVED[module_name]))
        return found

    def _check_layer_count(self, declared: int) -> None:
        """Before a skeleton of that many layers is built: the number comes from a stranger."""
        stored = {name.split(".")[1] for name in self.shapes if name.startswith("blk.")}
        if stored != {str(index) for index in range(len(stored))} or len(stored) != declared:
            raise FormatError(
                f"{self.architecture}.block_count is {declared}, but {len(stored)} layers are "
                "stored. Download the missing files."
            )

    def _check_shapes(self) -> None:
        model = self._skeleton.model
        expected: dict[str, Shape] = {
            EMBEDDING: (self.vocabulary, self.width),
            self.head_name: (self.vocabulary, self.width),
            NORM: (self.width,),
        }
        if ROPE_FACTORS in self.shapes:
            expected[ROPE_FACTORS] = tuple(self._rotary.inv_freq.shape)
        for index, layer in enumerate(model.layers):
            for name, parameter in layer.named_parameters():
                expected |= _source_shapes(_names_of(index, name), tuple(parameter.shape))
        for name, shape in expected.items():
            if name not in self.shapes:
                raise FormatError(f"{name}: the tensor is missing. Download the model again.")
            if self.shapes[name] != shape:
                raise FormatError(
                    f"{name}: has shape {self.shapes[name]}, but the metadata says {shape}. "
                    "Download the model again."
                )
        for name in self.shapes.keys() - expected.keys() - GLOBAL_TENSORS:
            raise UnsupportedError(
                f"{name}: has no place in a {self.architecture} model as transformers defines it."
            )


def halves_of_pairs(rows: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's reordering of the rows of queries or keys: [heads * head size, ...].

    In GGUF the two elements that rope turns together are neighbours; transformers has the first of
    all pairs in the first half of a head and the second in the other.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape).contiguous()


def _names_of(index: int, parameter: str) -> tuple[str, ...]:
    return tuple(f"blk.{index}.{role}" for role in LAYER_PARAMETERS[parameter])


def _source_shapes(names: tuple[str, ...], shape: Shape) -> dict[str, Shape]:
    """Tensors put together by rows share them evenly."""
    if len(names) == 1:
        return {names[0]: shape}
    part = (*shape[:-2], shape[-2] // len(names), shape[-1])
    return dict.fromkeys(names, part)


def _skeleton(model_type: str, fields: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return transformers' model without weights, and its rotary embedding, which has buffers."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise SnugfitError(
            f"{error.name}: not installed; calibration and evaluation need it. "
            "Install it with: pip install 'snugfit[torch]'"
        ) from None
    try:
        config = AutoConfig.for_model(model_type, **fields)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config,
                dtype=torch.float32,
                attn_implementation="sdpa",
                # One product an expert, whose inputs can be watched.
                experts_implementation="eager",
            )
        rotary = type(model.model.rotary_emb)(model.config)
    except Exception as error:  # whatever transformers makes of a stranger's numbers
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"metadata: transformers refuses this {model_type}: {reason}") from None
    return model.eval(), rotary
