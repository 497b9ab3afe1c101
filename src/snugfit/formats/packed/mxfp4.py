"""gpt-oss: experts in MXFP4, as NAME_blocks and NAME_scales of one tensor NAME."""

from __future__ import annotations

from snugfit.formats.packed.source import Source
from snugfit.formats.packed.weights import MXFP4_COLUMNS, check_shape, mxfp4_matrix


def mxfp4_weights(source: Source) -> None:
    """Add stacks of experts, kept bit for bit: [experts, rows, columns].

    Rows are outputs, unlike in unpacked gpt-oss files; rows of gate and up alternate in
    gate_up_proj. Raises FormatError.
    """
    for name in source.ending("_blocks"):
        blocks = source.part(f"{name}_blocks", name)
        scales = source.part(f"{name}_scales", name)
        check_shape(blocks, (*scales.shape, MXFP4_COLUMNS // 2), name)
        shape = (*scales.shape[:-1], MXFP4_COLUMNS * (scales.shape or (0,))[-1])
        source.add(name, blocks, shape, mxfp4_matrix(blocks, scales, shape), "MXFP4")
    for name in source.ending("_scales"):
        source.part(f"{name}_blocks", name)
