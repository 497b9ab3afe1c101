"""llama.cpp over several machines: a server on each lends its GPUs, layers are split over all.

llama.cpp lists the GPUs of RPC servers before its own (src/llama.cpp), so the first layers are
remote, and the last ones and the output here: what crosses the network for a token is one hidden
state to each machine and one back. Capacity grows, speed does not: machines wait for each other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from snugfit.core import DeviceUse
from snugfit.hardware.nodes import Node
from snugfit.runtimes.commands.base import Commands, Request, refused
from snugfit.runtimes.commands.llama_cpp import model_words, notes_of, options_of, words
from snugfit.runtimes.commands.options import LLAMA_CPP, RPC_SERVER
from snugfit.runtimes.commands.shell import command
from snugfit.units import format_size

TARGET = "rpc"
FLOAT_BYTES = 4
# Of a network: seconds there and back, bytes a second. Round trips are those of the kernel's TCP.
NETWORKS = {"1 Gbit/s": (0.0002, 125_000_000), "Wi-Fi": (0.003, 40_000_000)}
# Reported for a token and a machine: 2.6 ms of two DGX Sparks on a fast cable, 12.83 against 12.42
# tokens/s (LLMKube#1423); 4 to 10 ms of an RTX 4090 and an RX 7900 XTX on 1 Gbit/s.
REPORTED = "2.6 to 10 ms a token are reported for one other machine"


def commands(request: Request) -> Commands:
    configuration = request.configuration
    if configuration.cpu_expert_layers:
        return refused(
            TARGET,
            "cannot keep experts in RAM: llama.cpp takes the first layers' experts, whose "
            "attention is on another machine. Use --cpu-experts 0.",
        )
    if not configuration.gpu_layers:
        return refused(TARGET, "has nothing to share out: the plan puts no layer on a GPU.")
    lines = [line for node in request.nodes for line in _server_lines(node)]
    servers = [LLAMA_CPP["rpc"].flag, ",".join(node.address for node in request.nodes)]
    model = model_words(request.weights)
    lines += ["# here", command("llama-server", *model, *servers, *words(options_of(request)))]
    return Commands(TARGET, tuple(lines), notes=(*_notes(request), *notes_of(request)))


def _server_lines(node: Node) -> tuple[str, str]:
    run = command(
        *(RPC_SERVER["program"], RPC_SERVER["host"], _interface(node.host)),
        *(RPC_SERVER["port"], node.port, RPC_SERVER["cache"]),
    )
    return f"# on {node.host}", run


def _interface(host: str) -> str:
    """Return the address to listen on: the node's own where it is one, since names are not read."""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return "0.0.0.0"


def _notes(request: Request) -> list[str]:
    uses = request.plan.memory.devices
    remote = sum(len(node.gpus) for node in request.nodes)
    sent = format_size(sum(use.weights_bytes for use in uses[:remote]))
    split = request.configuration.gpu_split
    places, first = [], 0
    for node in request.nodes:
        places.append(_place(node.host, uses[first : first + len(node.gpus)], split, first))
        first += len(node.gpus)
    local = uses[first:-1]
    if local:
        places.append(_place("here", local, split, first))
    in_ram = max(0, request.spec.layers + 1 - request.configuration.gpu_layers)
    layers = f"{in_ram} layers, " if in_ram else ""
    places.append(f"RAM here: {layers}{format_size(uses[-1].total_bytes)}")
    return [
        f"{'; '.join(places)}. The output counts as a layer.",
        *_hops(request, has_local_gpu=bool(local)),
        f"The first start sends {sent} of weights to the others; {RPC_SERVER['cache']} keeps them "
        "there for the next.",
        "RPC has no password: use it on a network of your own. Every machine needs the same "
        "release of llama.cpp, with RPC (releases have it; builds: -DGGML_RPC=ON).",
        f"Leave {LLAMA_CPP['device'].flag} and the order of the servers as they are: the split "
        "counts GPUs in that order.",
    ]


def _place(host: str, uses: Sequence[DeviceUse], split: Sequence[int], first: int) -> str:
    size = format_size(sum(use.total_bytes for use in uses))
    layers = sum(split[first : first + len(uses)])
    return f"{host}: {layers} layers, {size}" if split else f"{host}: {size}"


def _hops(request: Request, *, has_local_gpu: bool) -> list[str]:
    """Return what the network costs: P - 1 round trips, and a hidden state each way."""
    spec, hops = request.spec, len(request.nodes)
    sent = 2 * spec.hidden_size * FLOAT_BYTES
    result = 0 if has_local_gpu else spec.vocabulary * FLOAT_BYTES
    costs = [
        f"{1000 * (hops * (trip + sent / rate) + result / rate):.1f} ms on {name}"
        for name, (trip, rate) in NETWORKS.items()
    ]
    notes = [
        f"A token crosses the network {hops} times there and back, {format_size(sent)} each: at "
        f"least {' or '.join(costs)}; {REPORTED}. Reading the prompt slows down more."
    ]
    if not has_local_gpu:
        notes.append(
            f"Without a GPU here every token also brings {format_size(result)} of logits; run "
            "llama-server on one of the nodes, and name the others, if you can."
        )
    return notes
