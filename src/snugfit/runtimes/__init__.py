"""Engines that run a model, a file each behind one `Runtime`; importing this loads none of them."""

from snugfit.runtimes.base import PARTS, RUNTIMES, Message, Prompt, Runtime, create_runtime

__all__ = ["PARTS", "RUNTIMES", "Message", "Prompt", "Runtime", "create_runtime"]
