"""The real engine in its child process: what it allocates, and every way in which it can end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_gguf import TinyShape, write_tiny_gguf

from snugfit.core import Configuration
from snugfit.errors import RuntimeFailure, UsageError
from snugfit.runtimes import llama_cpp_process
from snugfit.runtimes.llama_cpp import LlamaCppRuntime, child_settings
from snugfit.runtimes.llama_cpp_process import CHILD_MODULE, Child, child_environment
from snugfit.units import MIB

CTX = 2048
PRECISION_BYTES = 0.0051 * MIB  # the log's two decimals of a MiB, rounded
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals")


def start(path: Path, timeout_seconds: float = 30, **options: object) -> LlamaCppRuntime:
    configuration = Configuration(**({"ctx": CTX} | options))  # type: ignore[arg-type]
    return LlamaCppRuntime(threads=1, timeout_seconds=timeout_seconds).start(path, configuration)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def single_line(failure: pytest.ExceptionInfo[RuntimeFailure]) -> str:
    text = str(failure.value)
    assert text.isprintable()
    assert text.endswith(".")
    return text


# What it allocates.


@pytest.mark.parametrize(
    ("options", "cells", "bytes_of_32"),
    [
        ({}, CTX, 64),
        ({"kv_type": "q8_0"}, CTX, 34),
        ({"ctx": 2000}, CTX, 64),  # padded to a multiple of 256
        ({"ctx": 2000, "slots": 3}, 3 * 768, 64),  # each slot's share is padded
    ],
)
def test_the_cache_has_the_bytes_of_its_formula(
    tiny_model: Path, options: dict[str, object], cells: int, bytes_of_32: int
) -> None:
    shape = TinyShape()
    expected = shape.layers * 2 * shape.kv_width * cells * bytes_of_32 // 32
    with start(tiny_model, **options) as runtime:
        allocated = runtime.allocated()
    assert allocated["kv_cache"] == pytest.approx(expected, abs=PRECISION_BYTES)


def test_weights_are_the_files_bytes_and_devices_add_up(
    tiny_model: Path, engine: LlamaCppRuntime
) -> None:
    allocated = engine.allocated()
    # The file has a header of some kilobytes besides.
    assert 0 <= tiny_model.stat().st_size - allocated["weights"] < 0.02 * MIB
    assert allocated["compute"] > 0
    devices = engine.allocated_by_device().values()
    assert sum(sum(parts.values()) for parts in devices) == sum(allocated.values())


def test_the_compute_buffer_follows_ubatch_and_flash_attention(
    tiny_model: Path, engine: LlamaCppRuntime
) -> None:
    usual = engine.allocated()["compute"]
    with start(tiny_model, ubatch=64) as runtime:
        assert runtime.allocated()["compute"] < usual / 2
    with start(tiny_model, flash_attention=False) as runtime:
        assert runtime.allocated()["compute"] > usual * 2


def test_experts_can_be_kept_on_the_processor(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "moe.gguf", TinyShape(experts=4))
    with start(path, cpu_expert_layers=2, gpu_layers=3) as runtime:
        assert runtime.generate("the", 4, temperature=0).generated_tokens == 4
        assert runtime.allocated_by_device()["CPU_Mapped"]["weights"] > 0


# Asking.


def test_tokens_written_out_in_a_text_are_read_only_when_asked(engine: LlamaCppRuntime) -> None:
    plain = engine.tokenize("in<|end|>")
    assert plain == [259, *b"<|end|>"]
    assert engine.tokenize("in<|end|>", special=True) == [259, 260]


def test_chat_goes_through_the_models_template(tmp_path: Path, engine: LlamaCppRuntime) -> None:
    message = {"role": "user", "content": "Hi"}
    assert engine.chat([message], 1, 0).prompt_tokens == len("<|user|>Hi\n<|assistant|>")
    path = write_tiny_gguf(tmp_path / "plain.gguf", chat_template="")
    with start(path) as runtime:
        answer = runtime.chat([message], 4, 0)
        assert answer.tokens == runtime.generate("user: Hi\nassistant:", 4, 0).tokens


def test_an_interrupted_request_stops_the_engine(tiny_model: Path) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with start(tiny_model) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.generate("the", 1900, 0, on_text=interrupt)
        wait_until(lambda: not runtime.request("/slots", None)[0]["is_processing"])
        kept = runtime.request("/slots", None)[0]["n_prompt_tokens"]  # and answered
    assert 0 < kept < 1900


def test_greedy_means_no_penalty_even_if_the_file_recommends_one(
    tmp_path: Path, engine: LlamaCppRuntime
) -> None:
    path = write_tiny_gguf(tmp_path / "penalty.gguf", repeat_penalty=5.0)
    with start(path) as runtime:
        answer = runtime.generate("the", 64, 0)
    assert len(set(answer.tokens)) < 64  # there is something to penalize
    assert answer.tokens == engine.generate("the", 64, 0).tokens


def test_a_seed_repeats_a_random_answer(engine: LlamaCppRuntime) -> None:
    answers = [engine.generate("the", 24, 2.0, seed=seed).tokens for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_two_threads_are_answered_at_the_same_time(engine: LlamaCppRuntime) -> None:
    alone = {prompt: engine.generate(prompt, 64, 0).tokens for prompt in ("the", "in")}
    together: dict[str, tuple[int, ...]] = {}

    def ask(prompt: str) -> None:
        together[prompt] = engine.generate(prompt, 64, 0).tokens

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {prompt: len(tokens) for prompt, tokens in together.items()} == {"the": 64, "in": 64}


def test_a_prompt_beyond_the_context_is_refused_with_a_remedy(engine: LlamaCppRuntime) -> None:
    with pytest.raises(RuntimeFailure, match="exceeds the available context size") as failure:
        engine.generate([65] * 5000)
    assert single_line(failure).endswith("Raise --ctx.")
    assert engine.generate("the", 1).generated_tokens == 1


# Files and settings that cannot be loaded.


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(RuntimeFailure, match=r"^absent\.gguf: no such file\.") as failure:
        start(Path("absent.gguf"))
    single_line(failure)


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "picture.gguf"
    path.write_bytes(b"\x89PNG\r\n" + bytes(range(256)) * 8)
    with pytest.raises(RuntimeFailure, match="invalid magic") as failure:
        start(path)
    assert single_line(failure).endswith("Download or convert the file again.")


def test_a_truncated_file_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "half.gguf"
    content = tiny_model.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RuntimeFailure, match="not within the file bounds") as failure:
        start(path)
    single_line(failure)


def test_cache_types_that_cannot_be_are_explained(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="'q9' is not a cache type"):
        start(tiny_model, kv_type="q9")
    with pytest.raises(RuntimeFailure, match="quantized V cache requires flash_attn") as failure:
        start(tiny_model, kv_type="q8_0", flash_attention=False)
    assert "--flash-attention on" in single_line(failure)


# How it ends.


@posix_only
@pytest.mark.parametrize("name", ["SIGABRT", "SIGKILL", "SIGSEGV"])
def test_a_child_that_dies_while_answering_is_a_failure_and_can_be_started_again(
    tiny_model: Path, name: str
) -> None:
    runtime = start(tiny_model)
    child = runtime.process_id
    with pytest.raises(RuntimeFailure, match=f"ended by {name} while answering") as failure:
        runtime.generate("the", 1500, 0, on_text=lambda _: os.kill(child, getattr(signal, name)))
    single_line(failure)
    assert ("Memory may have run out" in str(failure.value)) == (name == "SIGKILL")
    assert not psutil.pid_exists(child)  # not even a zombie
    with pytest.raises(RuntimeFailure, match="no model is loaded"):
        runtime.generate("the")
    with runtime.start(tiny_model, Configuration(ctx=512)):
        assert runtime.generate("the", 2, 0).generated_tokens == 2


@posix_only
def test_a_child_that_hangs_is_killed(tiny_model: Path) -> None:
    runtime = start(tiny_model, timeout_seconds=1.0)
    child = runtime.process_id
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(RuntimeFailure, match="no sign of life for 1 seconds") as failure:
        runtime.generate("the", 2, 0)
    single_line(failure)
    assert not psutil.pid_exists(child)


class SilentChild(Child):
    """Stands for a child that is busy with a long answer, and alive: it answers each probe."""

    def __init__(self) -> None:
        self.last_sign_of_life = time.monotonic()
        self.probes = 0
        self.answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def mailbox(self, request_id: int) -> queue.SimpleQueue[dict[str, Any] | None]:
        return self.answers

    def send(self, message: dict[str, Any]) -> None:
        assert message["path"] == "/slots"
        self.last_sign_of_life = time.monotonic()
        self.probes += 1
        if self.probes == 3:
            self.answers.put({"id": 1, "done": True})


def test_a_long_silence_of_a_healthy_engine_is_no_failure() -> None:
    child = SilentChild()
    runtime = LlamaCppRuntime(timeout_seconds=0.4)
    assert runtime._wait(child, 1, "answering") == {"id": 1, "done": True}


def test_having_been_idle_for_long_is_no_silence(engine: LlamaCppRuntime) -> None:
    engine._running().last_sign_of_life -= 3600
    assert engine.generate("the", 4, 0).generated_tokens == 4


def test_a_busy_engine_answers_the_probe(engine: LlamaCppRuntime) -> None:
    slots: list[Any] = []

    def probe(text: str) -> None:
        if not slots:
            slots.extend(engine.request("/slots", None))

    engine.generate("the", 64, 0, on_text=probe)
    assert len(slots) == 2


@posix_only
def test_closing_ends_even_a_stopped_child(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_process, "ENDING_SECONDS", 0.3)
    runtime = start(tiny_model)
    child = runtime.process_id
    os.kill(child, signal.SIGSTOP)
    runtime.close()
    assert not psutil.pid_exists(child)


@posix_only
def test_the_child_follows_a_parent_that_was_killed_and_tidies_up(tiny_model: Path) -> None:
    folder = Path(tempfile.mkdtemp())  # short enough for a socket, unlike tmp_path
    code = (
        "import sys, tempfile, time\n"
        "from snugfit.core import Configuration\n"
        "from snugfit.runtimes import create_runtime\n"
        "tempfile.tempdir = sys.argv[2]\n"
        "runtime = create_runtime(threads=1).start(sys.argv[1], Configuration(ctx=512))\n"
        "print(runtime.process_id, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_model), str(folder)],
        stdout=subprocess.PIPE,
        env=child_environment(uses_gpus=False),
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        assert list(folder.glob("snugfit-*/engine.sock"))
        parent.kill()
    wait_until(lambda: not is_running(child))
    folder.rmdir()  # empty


def test_what_is_printed_in_the_child_does_not_mix_with_its_messages() -> None:
    code = (
        "import os\n"
        "from snugfit.runtimes.llama_cpp_child import take_standard_streams\n"
        "inbox, outbox = take_standard_streams()\n"
        "os.write(1, b'noise')\n"
        "outbox.send({'read': inbox.readline().decode()})\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        input=b"in\n",
        capture_output=True,
        env=child_environment(uses_gpus=False),
    )
    assert child.stderr == b"noise"
    assert json.loads(child.stdout) == {"read": "in\n"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a closed pipe")
def test_the_child_ends_with_its_input_even_while_loading(tmp_path: Path) -> None:
    endless = tmp_path / "endless.gguf"
    os.mkfifo(endless)  # opening it blocks until somebody writes, which nobody does
    settings = child_settings(endless, Configuration(ctx=512), 1) | {"socket": ""}
    with subprocess.Popen(
        [sys.executable, "-m", CHILD_MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=child_environment(uses_gpus=False),
    ) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        child.stdin.flush()
        while b"loading model" not in child.stderr.readline():
            pass
        child.stdin.close()
        try:
            assert child.wait(10) == -signal.SIGIO
        finally:
            child.kill()


def test_the_engine_does_not_inherit_how_torch_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads meet hundreds of times a token: asleep in between, they are many times slower."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert "OMP_WAIT_POLICY" not in child_environment(uses_gpus=False)
