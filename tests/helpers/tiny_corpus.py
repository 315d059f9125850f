# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A corpus folder of synthetic sounds, and what a tiny training run on it needs."""

import json
import random
from pathlib import Path

import numpy as np
import soundfile
import yaml


WORDS = ["one", "two", "three", "four", "red", "blue", "green", "dog", "cat", "house"]

TINY_TEXT_CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def write_corpus(folder: Path, num_clips: int = 24) -> Path:
    """
    Writes `num_clips` clips, each in an ASR, a TTS, a spoken and a text conversation; the last quarter is for testing.
    """
    numbers, choices = np.random.default_rng(0), random.Random(0)
    (folder / "audio").mkdir(parents=True)
    rows = []
    for index in range(num_clips):
        path = f"audio/{index}.wav"
        time = np.arange(int(16000 * numbers.uniform(0.4, 1.2))) / 16000
        samples = 0.3 * np.sin(2 * np.pi * numbers.uniform(100, 400) * time) + 0.05 * numbers.standard_normal(
            len(time)
        )
        soundfile.write(folder / path, samples, 16000)
        text = " ".join(choices.choices(WORDS, k=4)).capitalize() + "."
        split = "test" if index >= num_clips * 3 // 4 else "train"
        for task, question, answer, audios in (
            ("asr", "Convert the speech to text.\n<|audio|>", text, [path]),
            ("tts", "Convert the text to speech.\n" + text, "<|audio|>", [path]),
            ("sqa", "<|audio|>", text + "<|audio|>", [path, path]),
            ("tqa", text, text, []),
        ):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            rows.append(
                {"id": f"{task}-{index}", "task": task, "split": split, "messages": messages, "audios": audios}
            )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "conversations.jsonl").write_text(lines, encoding="utf-8")
    return folder


def write_config(path: Path, **settings) -> Path:
    """Writes the YAML of a tiny run on the CPU, for `training.train`."""
    defaults = {
        "max_length": 128,
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "adam_beta2": 0.95,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "logging_steps": 1,
        "num_threads": 1,
    }
    path.write_text(yaml.safe_dump(defaults | settings), encoding="utf-8")
    return path
