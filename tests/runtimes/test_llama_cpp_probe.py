"""Asking the embedded llama.cpp what it would allocate, and what happens when it cannot say."""

import json
import sys

import numpy as np
import pytest
from shapes import metadata_of, tensors_of
from tiny_gguf import write_tiny_gguf

from snugfit.core import Configuration
from snugfit.errors import FormatError, UsageError
from snugfit.runtimes import llama_cpp_probe
from snugfit.runtimes.llama_cpp import LlamaCppRuntime
from snugfit.runtimes.llama_cpp_probe import (
    ProbeError,
    probe,
    probe_all,
    probe_header,
    write_sparse,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="see refuse_other_releases")


@pytest.fixture
def header(tmp_path):
    path = tmp_path / "header.gguf"
    write_sparse(path, metadata_of("qwen3"), tensors_of("qwen3"))
    return path


def test_a_run_allocates_what_the_probe_said(tmp_path):
    path, configuration = write_tiny_gguf(tmp_path / "tiny.gguf"), Configuration(700, "Q8_0", 2)
    measured = probe(path, configuration)
    with LlamaCppRuntime(threads=1).start(path, configuration) as runtime:
        allocated = runtime.allocated()
    hundredth = 0.01 * 2**20  # the log's precision
    assert allocated["kv_cache"] == pytest.approx(measured.kv_cache_bytes, abs=hundredth)
    assert allocated["recurrent_state"] == measured.recurrent_state_bytes == 0
    assert allocated["compute"] == pytest.approx(measured.compute_bytes, rel=0.01)
    assert measured.context == {"CPU": measured.kv_cache_bytes}


def test_a_file_that_ends_with_its_header_is_enough(header):
    whole = probe(header, Configuration(512))
    assert header.stat().st_size > header.stat().st_blocks * 512  # sparse where there is data
    data = header.read_bytes()
    cut = len(data) - sum(tensor.size_bytes for tensor in tensors_of("qwen3"))
    header.write_bytes(data[:cut])
    assert probe(header, Configuration(512)) == whole


def test_several_configurations_are_answered_in_order(header):
    contexts = (256, 1024, 512)
    answers = probe_all(header, [Configuration(ctx) for ctx in contexts])
    assert [answer.kv_cache_bytes // 1024 for answer in answers] == [256, 1024, 512]


def failure(*arguments):
    with pytest.raises(ProbeError) as caught:
        probe(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_what_the_engine_refuses_is_one_line(tmp_path, header):
    assert "quantized" in failure(header, Configuration(256, "Q8_0", flash_attention=False))
    with pytest.raises(UsageError, match="not a cache type"):
        probe(header, Configuration(256, "Q4_K"))
    metadata = metadata_of("qwen3") | {"general.architecture": "qwen9"}
    with pytest.raises(ProbeError, match=r"^model: .*unknown model architecture"):
        probe_header("model", metadata, tensors_of("qwen3"), Configuration(256))
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(FormatError):
        probe(tmp_path / "text.gguf", Configuration(256))


def test_an_abort_of_the_engine_ends_only_its_process():
    metadata = metadata_of("qwen3") | {"qwen3.rope.dimension_count": np.uint32(4000)}
    with pytest.raises(ProbeError, match="GGML_ASSERT"):
        probe_header("odd", metadata, tensors_of("qwen3"), Configuration(256))
    fewer = [tensor for tensor in tensors_of("phi3") if "attn_qkv" not in tensor.name]
    with pytest.raises(ProbeError, match="SIGSEGV"):
        probe_header("odd", metadata_of("phi3"), fewer, Configuration(256))


def test_another_release_is_not_asked(monkeypatch, header):
    monkeypatch.setattr(llama_cpp_probe, "KNOWN_RELEASE", "2026.1.1")
    assert "2026.1.1" in failure(header, Configuration(256))


def test_another_system_is_not_asked(monkeypatch, header):
    monkeypatch.setattr(llama_cpp_probe.sys, "platform", "darwin")
    assert "on Linux only" in failure(header, Configuration(256))


def test_an_engine_that_hangs_is_given_up(header):
    with pytest.raises(ProbeError, match="did not say within"):
        probe_all(header, [Configuration(256)], timeout_seconds=0.01)


def test_requests_are_json(header):
    settings = llama_cpp_probe.child_settings(header, Configuration(256), None)
    assert json.loads(json.dumps(settings)) == settings
