"""Other machines whose GPUs take part in a plan, as `--nodes` names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from snugfit.core import Device, Machine
from snugfit.errors import UsageError
from snugfit.units import parse_size

RPC_PORT = 50052  # the engine's own choice, tools/rpc/rpc-server.cpp
MOST_NODES, MOST_GPUS = 64, 64
# A node begins where a new `host=` does, so that names of GPUs may have spaces.
BETWEEN_NODES = re.compile(r"[;\s]+(?=[^\s;=]+=)")
NODE = re.compile(r"(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:(?P<port>\d{1,5}))?")
SIZES = re.compile(
    r"(?:(?P<count>\d{1,4})\s*x\s*)?(?P<size>\d[\d.]*\s*(?:[kmgt]i?b?|b)?)", re.IGNORECASE
)


@dataclass(frozen=True)
class Node:
    """A machine on the network: where it listens, and the memories of its GPUs."""

    host: str
    port: int
    gpus: tuple[Device, ...]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the nodes of `a=24GiB; 10.0.0.2:50053=2x24GiB,16GiB; c=2x RTX 3090`.

    A node without GPUs gives the RAM it lends. Raises UsageError with what cannot be read.
    """
    nodes = tuple(_node(part) for part in BETWEEN_NODES.split(text.strip("; \t")) if part)
    addresses = [node.address for node in nodes]
    twice = next((one for one in addresses if addresses.count(one) > 1), None)
    if twice:
        raise UsageError(f"--nodes: {twice} is named twice. Give one node all its GPUs: a=2x24GiB.")
    if not 0 < len(nodes) <= MOST_NODES:
        raise UsageError(f"--nodes: names {len(nodes)} nodes; give 1 to {MOST_NODES}.")
    return nodes


def over_nodes(machine: Machine, nodes: Sequence[Node]) -> Machine:
    """Return `machine` with the GPUs of `nodes` before its own, as llama.cpp lists RPC devices.

    RAM stays this machine's: the rest of the model is loaded here.
    """
    remote = [
        replace(gpu, name=f"{node.host}: {gpu.name}", note=f"on {node.address}")
        for node in nodes
        for gpu in node.gpus
    ]
    return replace(machine, devices=(*remote, *machine.gpus, machine.ram))


def _node(part: str) -> Node:
    place, equals, gpus = part.partition("=")
    match = NODE.fullmatch(place.strip())
    port = int(match["port"] or RPC_PORT) if match else 0
    if match is None or not equals or not 0 < port < 2**16:
        raise UsageError(
            f"--nodes: '{part}' is no node. Write host[:port]=SIZE[,SIZE..] or host=NAME, "
            "as '10.0.0.2=24GiB; box:50053=2x RTX 3090'."
        )
    return Node(match["host"], port, _gpus(gpus.strip()))


def _gpus(text: str) -> tuple[Device, ...]:
    """Return the GPUs of `2x24GiB,16GiB`, or of a name in the table of machines."""
    found = [SIZES.fullmatch(part.strip()) for part in text.split(",")]
    sizes: list[int] = []
    for match in found:
        if match is None:
            return _named_gpus(text)
        sizes += [parse_size(match["size"])] * int(match["count"] or 1)
    if not 0 < len(sizes) <= MOST_GPUS or not all(sizes):
        raise UsageError(f"--nodes: '{text}': a node has 1 to {MOST_GPUS} GPUs, none of 0 bytes.")
    return tuple(
        Device(f"GPU {number}" if len(sizes) > 1 else "GPU", "gpu", size, size, "as described")
        for number, size in enumerate(sizes)
    )


def _named_gpus(name: str) -> tuple[Device, ...]:
    from snugfit.hardware.named import machine_named

    nowhere = Machine("", "", 0, (Device("RAM", "ram", 0, 0),))
    gpus = machine_named(name, lambda: nowhere).gpus
    if not gpus:
        raise UsageError(f"--nodes: '{name}' has no GPU. Give the memory it lends, as 64GiB.")
    return gpus
