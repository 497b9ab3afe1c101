"""Tables of memory: the bytes of planning, and the cards that hold them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from headers import spec_from_header

from snugfit.core import Configuration, ModelSpec
from snugfit.errors import UnsupportedError, UsageError
from snugfit.hardware.detect import machine_of
from snugfit.hardware.named import DRIVER_BYTES, machine_named
from snugfit.headers import open_headers
from snugfit.planning.axes import Goal
from snugfit.planning.cuts import cuts_of
from snugfit.planning.memory import predict, use_of
from snugfit.tables import (
    DESKTOP_BYTES,
    RAM_SIZES,
    Cards,
    Tables,
    cards_sold,
    definitions,
    examples_of,
    tables_of,
    usual_contexts,
)
from snugfit.units import GIB


def catalogue(name: str) -> ModelSpec:
    return open_headers(name).model.spec()


def test_bytes_are_those_of_memory() -> None:
    spec = spec_from_header("Qwen3.6-35B-A3B")
    tables = tables_of("m", {"": spec}, contexts=[32768, 4096], kv_type="q8_0")
    assert tables.contexts == (4096, 32768)
    (row,) = tables.rows
    machine = machine_of([GIB], GIB)
    for needs, experts in ((row.whole, 0), (row.experts_in_ram, spec.layers)):
        for need in needs:
            configuration = Configuration(
                need.ctx, "Q8_0", gpu_layers=spec.layers + 1, cpu_expert_layers=experts
            )
            use = predict(spec, configuration, machine)
            gpu, ram = use.devices
            assert need.gpu_bytes == gpu.total_bytes
            assert need.ram_bytes == ram.total_bytes
            parts = (need.gpu_weights_bytes, need.gpu_cache_bytes)
            parts += (need.gpu_compute_bytes, need.gpu_overhead_bytes)
            assert sum(parts) == need.gpu_bytes
            upper = math.ceil(use.compute_band * gpu.compute_bytes)
            assert need.gpu_safer_bytes == gpu.total_bytes + upper + DESKTOP_BYTES
            assert need.ram_size_bytes == min(
                size for size in RAM_SIZES if size >= ram.total_bytes + 4 * GIB
            )


@pytest.mark.parametrize(
    ("name", "size"), [("RTX 3060 12GB", 12), ("RTX 4080", 16), ("RTX 3090", 24), ("RTX A6000", 48)]
)
def test_minimum_agrees_with_planning_for_that_card(name: str, size: int) -> None:
    spec, devices = catalogue("qwen3.6-27b"), machine_named(name).devices
    tables = tables_of("m", {"": spec})
    cuts = {cut.mix: cut.footprint for cut in cuts_of(spec, Goal())}
    assert cuts.keys() == {row.quantization for row in tables.rows}
    seen = set()
    for row in tables.rows:
        for need in row.whole:
            whole = Configuration(need.ctx, gpu_layers=spec.layers + 1)
            fits = use_of(cuts[row.quantization], whole, devices).devices[0].fits
            assert need.minimum is not None
            assert (need.minimum.size_bytes <= size * GIB) == fits
            seen.add(fits)
    assert seen == {True, False}


def test_safer_holds_the_desktop_that_is_given() -> None:
    spec = catalogue("qwen3.6-27b")
    bare, full = (
        tables_of("m", {"": spec}, desktop_bytes=size, mixes=["Q4_K_M"], contexts=[8192])
        for size in (0, 8 * GIB)
    )
    one, other = bare.rows[0].whole[0], full.rows[0].whole[0]
    assert other.gpu_safer_bytes - one.gpu_safer_bytes == 8 * GIB
    assert one.minimum == other.minimum == one.safer == Cards(1, 20 * GIB)
    assert other.safer == Cards(1, 32 * GIB)


def test_file_sizes_are_those_that_are_published() -> None:
    tables = tables_of("m", {"": catalogue("qwen3.6-27b")})
    size = {row.quantization: row.file_bytes / 1e9 for row in tables.rows}
    assert size["Q8_0"] == pytest.approx(28.60, rel=0.01)
    assert size["BF16"] == pytest.approx(53.80, rel=0.01)


def test_larger_files_and_contexts_never_need_less() -> None:
    for model in ("qwen3.6-27b", "qwen3.6-35b-a3b", "gemma-4-31b"):
        tables = tables_of("m", {"": catalogue(model)})
        assert [row.file_bytes for row in tables.rows] == sorted(
            (row.file_bytes for row in tables.rows), reverse=True
        )
        for row in tables.rows:
            for needs in (row.whole, row.experts_in_ram):
                sizes = [
                    (need.minimum.size_bytes, need.gpu_bytes) for need in needs if need.minimum
                ]
                assert sizes == sorted(sizes)
                assert all(
                    n.gpu_bytes <= n.minimum.size_bytes - DRIVER_BYTES for n in needs if n.minimum
                )


def test_what_no_card_holds_is_split_over_a_server() -> None:
    spec = catalogue("deepseek-v4-pro")
    tables = tables_of("m", {"": spec}, contexts=[8192])
    need = tables.rows[0].whole[0]
    assert need.minimum == Cards(8, 141 * GIB)
    configuration = Configuration(8192, gpu_layers=spec.layers + 1)

    def fits(cards: Cards) -> bool:
        size = cards.size_bytes - DRIVER_BYTES
        use = predict(spec, configuration, machine_of([size] * cards.gpus, GIB))
        return all(device.fits for device in use.devices[:-1])

    assert fits(need.minimum)
    assert not any(map(fits, cards_sold()[: cards_sold().index(need.minimum)]))
    assert "8×141" in definitions(tables)
    assert "H200" in " ".join(examples_of(need.minimum))


def test_what_nothing_holds_has_no_card() -> None:
    tables = tables_of("m", {"": catalogue("qwen3.6-27b")}, contexts=[10**12], mixes=["Q8_0"])
    need = tables.rows[0].whole[0]
    assert need.minimum is None
    assert need.safer is None
    assert tables.cards == []
    assert "262,144" in definitions(tables)["too long"]


def test_cards_are_those_that_are_sold() -> None:
    sold = cards_sold()
    single = [cards.size_bytes for cards in sold if cards.gpus == 1]
    servers = [cards.size_bytes * cards.gpus for cards in sold if cards.gpus > 1]
    assert single == sorted(set(single))
    assert servers == sorted(servers)
    assert servers[0] > single[-1]
    assert {8, 12, 16, 24, 32, 48, 80} <= {size // GIB for size in single}
    assert all(examples_of(cards) for cards in sold)
    assert examples_of(Cards(1, 24 * GIB)) == ["RTX 4090", "RX 7900 XTX", "Arc Pro B60"]


def test_usual_contexts_end_at_the_model_s_own() -> None:
    assert usual_contexts(1024) == [1024]
    assert usual_contexts(40960) == [8192, 32768, 40960]
    assert usual_contexts(131072) == usual_contexts(10**6) == [8192, 32768, 131072]
    tables = tables_of("m", {"": catalogue("demo-moe")}, contexts=[0, 512, 1024])
    assert tables.contexts == (512, 1024)


def test_rows_are_files_that_exist_where_there_are_several() -> None:
    spec = spec_from_header("Phi-4")
    smaller = replace(spec, file_bytes=spec.file_bytes // 2)
    tables = tables_of("owner/m", {"small": smaller, "Q8_0": spec})
    assert [(row.quantization, row.file_bytes) for row in tables.rows] == [
        ("Q8_0", spec.file_bytes),
        ("small", smaller.file_bytes),
    ]
    assert not tables.has_experts
    assert [row.experts_in_ram for row in tables.rows] == [(), ()]
    chosen = tables_of("owner/m", {"small": smaller, "Q8_0": spec}, mixes=["q8_0"])
    assert [row.quantization for row in chosen.rows] == ["Q8_0"]
    with pytest.raises(UnsupportedError, match="There are: small, Q8_0"):
        tables_of("owner/m", {"small": smaller, "Q8_0": spec}, mixes=["Q2_K"])


def test_a_file_taken_as_it_is_has_the_mix_of_its_name() -> None:
    spec = spec_from_header("gpt-oss-120b")

    def only(tables: Tables) -> str:
        return tables.rows[0].quantization

    named = replace(spec, name="gpt-oss-120b-UD-Q4_K_XL")
    assert only(tables_of("m", {"": named}, contexts=[8192])) == "UD-Q4_K_XL"
    assert only(tables_of("m", {"": spec}, contexts=[8192])) == "as it is"


def test_what_cannot_be_is_refused() -> None:
    spec = catalogue("demo-moe")
    with pytest.raises(UsageError, match="number of tokens"):
        tables_of("m", {"": spec}, contexts=[-1])
    with pytest.raises(UsageError, match="KV cache"):
        tables_of("m", {"": spec}, kv_type="Q3_K")
    with pytest.raises(UnsupportedError, match="not a known mix"):
        tables_of("m", {"": spec}, mixes=["Q9"])
