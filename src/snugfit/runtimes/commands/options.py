"""How each program calls what a plan sets: the one place where their flags are written.

The tests hold llama.cpp's rows against its own argument parser, and the others against lists read
out of the packages (tests/data/flags.json).
"""

from __future__ import annotations

from dataclasses import dataclass

# Program -> the version whose options these are.
CHECKED = {
    "llama.cpp": "b11549",
    "Ollama": "0.30",  # the first that runs llama-server; llm/llama_server.go
    "LM Studio": "0.4.25",
    "vLLM": "0.33.0",
    "SGLang": "0.5.23",
    "KTransformers": "0.7.2",  # kt-kernel, and its fork of SGLang
    "mlx-lm": "0.32.2",
    "Ray": "2.60.0",
}


@dataclass(frozen=True)
class Option:
    """An option of llama.cpp: on its command line, and in the environment of its server."""

    flag: str
    env: str = ""
    off: str = ""  # the flag that switches it off


LLAMA_CPP = {
    "model": Option("--model", "LLAMA_ARG_MODEL"),
    "repository": Option("--hf-repo", "LLAMA_ARG_HF_REPO"),
    "file": Option("--hf-file", "LLAMA_ARG_HF_FILE"),
    "fit": Option("--fit", "LLAMA_ARG_FIT"),
    "device": Option("--device", "LLAMA_ARG_DEVICE"),
    "ctx": Option("-c", "LLAMA_ARG_CTX_SIZE"),
    "kv_type": Option("-ctk", "LLAMA_ARG_CACHE_TYPE_K"),
    "value_type": Option("-ctv", "LLAMA_ARG_CACHE_TYPE_V"),
    "slots": Option("-np", "LLAMA_ARG_N_PARALLEL"),
    "batch": Option("-b", "LLAMA_ARG_BATCH"),
    "ubatch": Option("-ub", "LLAMA_ARG_UBATCH"),
    "flash_attention": Option("-fa", "LLAMA_ARG_FLASH_ATTN"),
    "gpu_layers": Option("-ngl", "LLAMA_ARG_N_GPU_LAYERS"),
    "cpu_expert_layers": Option("-ncmoe", "LLAMA_ARG_N_CPU_MOE"),
    "kv_unified": Option("--kv-unified", "LLAMA_ARG_KV_UNIFIED", off="--no-kv-unified"),
    "swa_full": Option("--swa-full", "LLAMA_ARG_SWA_FULL"),
    "gpu_split": Option("-ts", "LLAMA_ARG_TENSOR_SPLIT"),
    "expert_cache": Option("--moe-cache-mib", "LLAMA_ARG_MOE_CACHE_MIB"),
    "prompt_cache": Option("--cache-ram", "LLAMA_ARG_CACHE_RAM"),
    "checkpoints": Option("--ctx-checkpoints", "LLAMA_ARG_CTX_CHECKPOINTS"),
    "draft": Option("--spec-draft-n-max", "LLAMA_ARG_SPEC_DRAFT_N_MAX"),
    "rpc": Option("--rpc", "LLAMA_ARG_RPC"),
}
# Of a binary that ships beside llama-server; builds before the middle of 2026 call it rpc-server.
RPC_SERVER = {"program": "ggml-rpc-server", "host": "-H", "port": "-p", "cache": "-c"}

# PARAMETER of a Modelfile, api/types.go. Context is that of one request.
OLLAMA_PARAMETERS = {"ctx": "num_ctx", "gpu_layers": "num_gpu", "ubatch": "num_batch"}
# Of its server, envconfig/config.go. What is not here reaches its llama-server as LLAMA_ARG_*,
# as long as Ollama itself does not pass the same option.
OLLAMA_ENVIRONMENT = {
    "slots": "OLLAMA_NUM_PARALLEL",
    "flash_attention": "OLLAMA_FLASH_ATTENTION",
    "kv_type": "OLLAMA_KV_CACHE_TYPE",
    "spread": "OLLAMA_SCHED_SPREAD",
}
OLLAMA_CACHE_TYPES = ("F16", "Q8_0", "Q4_0")  # that OLLAMA_KV_CACHE_TYPE takes

# Of `lms`, and the keys of LM Studio's settings of one model: lmstudio-js, lms-kv-config/schema.ts,
# and files that LM Studio 0.4 has written.
LMS = {"gpu": "--gpu", "ctx": "--context-length", "exact": "--exact"}
LMS_IMPORT = {"link": "--symbolic-link", "home": "--user-repo"}
LM_STUDIO_KEYS = {
    "ctx": "llm.load.contextLength",
    "fit": "llm.load.llama.autoFit",
    "gpu_layers": "llm.load.llama.acceleration.offloadRatio",
    "cpu_expert_layers": "llm.load.numCpuExpertLayersRatio",
    "flash_attention": "llm.load.llama.flashAttention",
    "kv_type": "llm.load.llama.kCacheQuantizationType",
    "value_type": "llm.load.llama.vCacheQuantizationType",
    "slots": "llm.load.numParallelSessions",
    "kv_unified": "llm.load.useUnifiedKvCache",
    "kv_on_gpu": "llm.load.offloadKVCacheToGpu",
    "batch": "llm.load.llama.evalBatchSize",
    "ubatch": "llm.load.llama.physicalBatchSize",
}
LM_STUDIO_CACHE_TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1")

VLLM = {
    "ctx": "--max-model-len",
    "slots": "--max-num-seqs",
    "share": "--gpu-memory-utilization",
    "tensor_parallel": "--tensor-parallel-size",
    "pipeline_parallel": "--pipeline-parallel-size",
    "executor": "--distributed-executor-backend",
    "quantization": "--quantization",
    "kv_type": "--kv-cache-dtype",
    "offload": "--cpu-offload-gb",
}
# 16-bit weights as FP8 while they are loaded: vLLM's own `fp8` is for weights that are stored so.
VLLM_FP8, SGLANG_FP8 = "fp8_per_tensor", "fp8"
# The caches in place of a plan's cache of 8 bits or fewer.
VLLM_FP8_CACHE, SGLANG_FP8_CACHE = "fp8", "fp8_e4m3"
SGLANG = {
    "model": "--model-path",
    "ctx": "--context-length",
    "slots": "--max-running-requests",
    "share": "--mem-fraction-static",
    "tensor_parallel": "--tp-size",
    "quantization": "--quantization",
    "kv_type": "--kv-cache-dtype",
}
KTRANSFORMERS = {
    "model": "--model-path",
    "ctx": "--context-length",
    "slots": "--max-running-requests",
    "share": "--mem-fraction-static",
    "method": "--kt-method",
    "experts": "--kt-weight-path",
    "threads": "--kt-cpuinfer",
    "pools": "--kt-threadpool-count",
    "gpu_experts": "--kt-num-gpu-experts",
}
MLX_SERVER = {"model": "--model", "kv_bits": "--kv-bits", "slots": "--decode-concurrency"}
MLX_CONVERT = {
    "model": "--hf-path",
    "out": "--mlx-path",
    "quantize": "--quantize",
    "bits": "--q-bits",
    "group": "--q-group-size",
}
RAY_START = {"head": "--head", "port": "--port", "address": "--address"}
