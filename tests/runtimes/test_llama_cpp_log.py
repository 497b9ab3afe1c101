"""Reading llama.cpp's log, with lines as it prints them on machines that tests do not have."""

from __future__ import annotations

from snugfit.runtimes.llama_cpp_log import EngineLog, one_line
from snugfit.units import MIB

TWO_GPUS = """\
0.00.005.682 I llama_model_loader: - kv  19: tokenizer.chat_template str = {% for message
0.01.000.001 I load_tensors:   CPU_Mapped model buffer size =   500.25 MiB
0.01.000.002 I load_tensors:   CPU_Mapped model buffer size =   100.25 MiB
0.01.000.003 I load_tensors:        CUDA0 model buffer size =  4000.00 MiB
0.01.000.004 I llama_context:  CUDA_Host  output buffer size =     0.58 MiB
0.01.000.005 I llama_kv_cache:      CUDA0 KV buffer size =   448.00 MiB
0.01.000.006 I llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB
0.01.000.007 I llama_kv_cache:      CUDA1 KV buffer size =   448.00 MiB
0.01.000.008 I llama_memory_recurrent:      CUDA0 RS buffer size =    12.50 MiB
0.01.000.009 I sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
0.01.000.010 I sched_reserve:      CUDA0 compute buffer size =   310.00 MiB
0.01.000.011 I srv          init: model loaded
"""


def read(text: str) -> EngineLog:
    log = EngineLog()
    for line in text.splitlines():
        log.add(line)
    return log


def test_buffers_add_up_by_device_and_a_graph_reserved_again_counts_once() -> None:
    log = read(TWO_GPUS)
    assert log.by_device() == {
        "CPU_Mapped": {"weights": round(600.5 * MIB)},
        "CUDA0": {
            "weights": 4000 * MIB,
            "kv_cache": 512 * MIB,
            "recurrent_state": round(12.5 * MIB),
            "compute": 310 * MIB,
        },
        "CUDA_Host": {"output": round(0.58 * MIB)},
        "CUDA1": {"kv_cache": 448 * MIB},
    }
    assert log.has_chat_template
    assert log.loaded.is_set()


def test_the_last_telling_error_is_the_reason() -> None:
    log = read(
        "0.00.1 E gguf_init: invalid magic characters\n"
        "0.00.2 E llama_model_load_from_file_impl: failed to load model\n"
        "0.00.3 I srv  init: cleaning up before exit...\n"
        "0.00.4 E srv  init: exiting due to model loading error\n"
    )
    assert log.last_error() == "invalid magic characters"
    assert log.last_line() == "exiting due to model loading error"


def test_what_is_printed_while_aborting_is_an_error_without_build_paths() -> None:
    log = read("0.00.1 I srv: busy\n/build/llama.cpp/src/model.cpp:18: GGML_ASSERT(x) failed\n")
    assert log.last_error() == "model.cpp:18: GGML_ASSERT(x) failed"
    assert read("0.00.1 I slot update: id 0 | busy").last_error() == ""


def test_one_line_is_printable_and_short() -> None:
    text = one_line("bad\nmagic \x00\x1b" + "x" * 1000)
    assert text.isprintable()
    assert len(text) == 300
