# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What tests of the trainers start from."""

from pathlib import Path

from datasets import Dataset
from tiny_corpus import TINY_TEXT_CONFIG, write_corpus
from tiny_models import tiny_codec
from transformers import set_seed

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from training.conversations import conversation_texts, load_conversations
from training.initialize import build_from_nothing


# Of a run of seconds on a CPU, that writes nothing
TINY_SETTINGS = {
    "max_steps": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
}


def build_tiny_start(folder: Path) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor, Dataset]:
    """A random model without MCTP modules, its processor, and conversations of a corpus in `folder` to train on."""
    conversations = load_conversations(write_corpus(folder / "corpus"), "train", cache_dir=folder)
    set_seed(0)
    model, processor = build_from_nothing(TINY_TEXT_CONFIG, conversation_texts(conversations), 320, tiny_codec())
    return model, processor, conversations
