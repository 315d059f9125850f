# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Liger's fused linear cross-entropy (https://github.com/linkedin/Liger-Kernel) for the losses of the language model and
of the MCTP modules, which all read the largest matrix of the model.
"""

import os
from functools import partial

import torch
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from modeling_vita_audio import VitaAudioForConditionalGeneration


# What `liger_kernel_config` may be: Liger's other kernels would change the layers of the language model alone
ACCEPTED_CONFIGS = (None, {}, {"fused_linear_cross_entropy": True})


def check_liger(device: torch.device, kernel_config: dict | None) -> None:
    """
    Raises:
        ValueError: Liger has no effect with this configuration, or cannot run on this device.
        ImportError: it is not installed, or triton, which it needs, is not.
    """
    if kernel_config not in ACCEPTED_CONFIGS:
        raise ValueError(
            f"`liger_kernel_config={kernel_config!r}` is refused: of Liger's kernels, the fused linear cross-entropy "
            "is used here, and no other."
        )
    # triton can run its kernels on a CPU, too, one number after the other; tests do that
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "`use_liger_kernel` needs a GPU. With `gradient_checkpointing`, the losses need little memory without it, "
            "too."
        )
    try:
        import liger_kernel.transformers.functional  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"`use_liger_kernel` needs {error.name}, which is not installed; `pip install liger-kernel triton` "
            "installs both."
        ) from error


def use_liger(model: VitaAudioForConditionalGeneration) -> None:
    """Lets a model compute its losses by Liger's kernel, which never has all logits at once."""
    model._summed_cross_entropy = partial(fused_cross_entropy, model.lm_head)


def fused_cross_entropy(lm_head: nn.Module, hidden_states: torch.Tensor, targets: torch.LongTensor) -> torch.Tensor:
    """As `VitaAudioForConditionalGeneration._summed_cross_entropy`, with the head as the first argument."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    # The kernel divides by the number of targets, and of none there is no loss
    if len(targets) == 0:
        return hidden_states.sum() * 0.0
    if isinstance(lm_head, AuxiliaryTrainingWrapper):
        # the copy of the head that is trained beside an adapter
        lm_head = lm_head.modules_to_save[lm_head.active_adapter]
    # The gradients of many parts add up in float32
    return liger_fused_linear_cross_entropy(
        hidden_states, lm_head.weight, targets, reduction="sum", accum_dtype=torch.float32
    )
