"""Quantizing on a Ray cluster: the same bytes, whatever happens to a worker."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from test_packed_models import packed_folders

from snugfit.core import TensorInfo
from snugfit.errors import FormatError, SnugfitError
from snugfit.formats.gguf_writer import GgufWriter
from snugfit.mixes import types_of_mix
from snugfit.models import Model, open_model
from snugfit.quantize import Output, quantize_all
from snugfit.streaming import cluster
from snugfit.streaming.cluster import RayWorkers, groups_of
from snugfit.streaming.estimate import plan_pass
from snugfit.streaming.tasks import Task

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    with warnings.catch_warnings():  # Ray leaves sockets and files to the collector
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(cluster, "GROUP_WEIGHTS", 2**17)  # dozens of groups
    return open_model("demo-moe")


def outputs_of(model: Model, folder: Path) -> list[Output]:
    folder.mkdir()
    return [Output(folder / f"{mix}.gguf", types_of_mix(model, mix)) for mix in ("IQ3_S", "Q4_K_M")]


def same_bytes(one: list[Output], other: list[Output]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.path.read_bytes() == b.path.read_bytes() for a, b in pairs)


def kill_a_worker() -> bool:
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::run_group"):
            process.kill()
            return True
    return False


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_writes_the_same_bytes_though_a_worker_is_killed(
    tmp_path: Path, two_workers: None, demo: Model
) -> None:
    here, there = outputs_of(demo, tmp_path / "here"), outputs_of(demo, tmp_path / "there")
    quantize_all(demo, here, threads=1)
    killed: list[int] = []

    def progress(done: int, whole: int) -> None:
        if not killed and done < whole / 2 and kill_a_worker():
            killed.append(done)

    quantize_all(demo, there, executor=RayWorkers("local:2"), progress=progress)
    assert killed
    assert same_bytes(here, there)
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"IQ3_S.gguf", "Q4_K_M.gguf"}


@pytest.mark.filterwarnings("ignore")
def test_workers_unpack_what_is_stored_packed(tmp_path: Path, two_workers: None) -> None:
    model = open_model(str(packed_folders(tmp_path, "gptq", "qwen3moe")[1]))
    here, there = outputs_of(model, tmp_path / "here"), outputs_of(model, tmp_path / "there")
    quantize_all(model, here, threads=2)
    quantize_all(model, there, executor=RayWorkers("local:2"))
    assert same_bytes(here, there)


@pytest.mark.filterwarnings("ignore")
def test_damage_that_a_worker_finds_is_one_line(tmp_path: Path, two_workers: None) -> None:
    values = np.ones((64, 256), np.float32)
    values[40, 7] = np.nan
    tensors = [TensorInfo("blk.0.ffn_up.weight", values.shape, "F32")]
    with GgufWriter(tmp_path / "m.gguf", {"general.architecture": "llama"}, tensors) as writer:
        writer.write(tensors[0].name, values.view(np.uint8))
    model = open_model(str(tmp_path / "m.gguf"))
    output = Output(tmp_path / "q.gguf", {tensors[0].name: "Q4_K"})
    with pytest.raises(FormatError, match=r"ffn_up.weight, row 40, column 7") as caught:
        quantize_all(model, [output], executor=RayWorkers("local"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_groups_hold_every_task_once(demo: Model) -> None:
    tasks = [Task(name, 0, tensor.rows, (0,)) for name, tensor in demo.tensors.items()]
    groups = list(groups_of(demo, tasks))
    assert [task for group in groups for task in group] == tasks
    assert len(groups) > 10


def test_a_node_with_another_program_or_folder_is_named(
    tmp_path: Path, demo: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(version: str, work: Any) -> Any:
        return cluster.run_group((version, demo, work), [Task("output_norm.weight", 0, 1, (0,))])

    from snugfit.streaming.tasks import Place, Target, Work

    place = Place(tmp_path / "nowhere", 0, demo.tensors["output_norm.weight"])
    work = Work((Target(tmp_path / "out.gguf", 0, {"output_norm.weight": place}),))
    assert "Install the same" in str(run("0.0.0", work))
    monkeypatch.setattr(cluster, "version", lambda _: "0.0.0")
    found = run("0.0.0", work)
    assert isinstance(found, SnugfitError)
    assert "does not see" in str(found)


def test_a_plan_of_a_pass_counts_every_byte(demo: Model, tmp_path: Path) -> None:
    outputs = outputs_of(demo, tmp_path / "plan")
    plan = plan_pass(demo, outputs, [("a", 3), ("b", 1)])
    assert plan.read_bytes == sum(tensor.size_bytes for tensor in demo.tensors.values())
    assert [share.workers for share in plan.shares] == [3, 1]
    for whole, part in (("tasks", "tasks"), ("read_bytes",) * 2, ("written_bytes",) * 2):
        assert sum(getattr(share, part) for share in plan.shares) == getattr(plan, whole)
    assert plan.seconds == pytest.approx(plan.core_seconds / 4)
    quantize_all(demo, outputs)
    assert plan.written_bytes == sum(output.path.stat().st_size for output in outputs)
