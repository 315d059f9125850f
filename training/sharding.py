# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Models that are whole in each process until the trainer shares out their weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config


@contextmanager
def loading_whole_weights(args: TrainingArguments) -> Iterator[None]:
    """
    In a run under DeepSpeed's ZeRO 3, transformers shares out the weights of all that it loads, whatever
    `zero3_init_flag` says. It must not do so here: codecs run without DeepSpeed, and new MCTP modules are copies of
    weights. Inside this, each process has all weights.
    """
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if (plugin := args.deepspeed_plugin) is not None:
            # the configuration of accelerate's file, or the one that the setting `deepspeed` names
            set_hf_deepspeed_config(plugin.dschf or plugin.hf_ds_config)
