"""A layer after the last, which only drafts tokens (MTP), as the Hub's checkpoints have it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def add_draft_layer(folder: Path) -> None:
    """Add one to a saved model: the last layer once more, and what drafting needs besides."""
    config = json.loads((folder / "config.json").read_text())
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    tensors = load_file(folder / "model.safetensors")
    last, new = f"model.layers.{layers - 1}.", f"model.layers.{layers}."
    found = {
        name.replace(last, new): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(last)
    }
    found |= {
        f"{new}eh_proj.weight": torch.zeros(width, 2 * width),
        f"{new}enorm.weight": torch.ones(width),
        f"{new}hnorm.weight": torch.ones(width),
        f"{new}shared_head.norm.weight": torch.ones(width),
        f"{new}embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
        f"{new}shared_head.head.weight": tensors["lm_head.weight"].clone(),
    }
    save_file(found, folder / "model-drafts.safetensors", {"format": "pt"})
    config["num_nextn_predict_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
