# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Stores weights in half precision and loads them in single precision, for checkpoints that have to be small."""

import torch
from transformers import PreTrainedModel


def round_to_half(model: PreTrainedModel) -> PreTrainedModel:
    """
    Rounds all weights, in place, to values that float16 stores without loss. In memory they stay float32;
    `save_pretrained` writes them as float16.
    """
    model.config.storage_dtype = str(torch.float16).removeprefix("torch.")
    return model.half().float()
