"""Addresses of clusters that are none, or where nothing answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from snugfit.errors import SnugfitError, UsageError
from snugfit.mixes import types_of_mix
from snugfit.models import open_model
from snugfit.quantize import Output, quantize_all
from snugfit.streaming.cluster import RayWorkers


@pytest.mark.parametrize("address", ["local:0", "local:many", "local:-1", "local:99999"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="no number of workers"):
        RayWorkers(address)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_one_line_at_once(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray")
    model = open_model("demo")
    output = Output(tmp_path / "q.gguf", types_of_mix(model, "Q8_0"))
    with pytest.raises(SnugfitError, match="no cluster answers") as caught:
        quantize_all(model, [output], executor=RayWorkers(address))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
