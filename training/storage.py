# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights stored in half precision that load in single precision, for checkpoints that have to be small."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel


def round_to_half(model: PreTrainedModel) -> PreTrainedModel:
    """Rounds all weights, in place, to values that float16 stores without loss; they stay float32."""
    return model.half().float()


def store_in_half(folder: str | Path) -> None:
    """Rewrites `model.safetensors` of a saved model in float16; `config.json` still says float32, so it loads as that."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    temporary = folder / "model.safetensors.tmp"
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(halved, temporary, metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")
    config["dtype"] = str(torch.float32).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_in_half(model: PreTrainedModel, folder: str | Path) -> None:
    """Rounds `model` in place and saves it to `folder` in float16, so that what loads is what was rounded."""
    round_to_half(model).save_pretrained(folder)
    store_in_half(folder)
