# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Models for tests on vLLM, what `generate` writes with them, and how the two are compared."""

import random
from pathlib import Path

import torch
from modeling_fixtures import random_model

from modeling_vita_audio import VitaAudioForConditionalGeneration


# vLLM's attention on CPUs has no smaller heads than 32
TEXT_CONFIG = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": None}

# Two scores that are closer than this may change places by rounding
CLOSE = 1e-4


def save_random_model(folder: Path, num_modules: int, model_type: str = "qwen2", **options) -> Path:
    """A model as `random_model` makes it, with heads of 32; its tokens end no answer."""
    text_config = {**TEXT_CONFIG, **options.pop("text_config", {})}
    model = random_model(num_modules, model_type, text_config=text_config, **options)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return folder


def prompts(number: int, shortest: int, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Prompts of lengths that are all over the range; every third begins as an earlier one does."""
    source = random.Random(seed)
    made = []
    for index in range(number):
        length = shortest + (longest - shortest) * index // max(number - 1, 1)
        ids = [source.randrange(1, vocab_size) for _ in range(length)]
        if index % 3 == 2:
            other = made[source.randrange(len(made))]
            kept = source.randrange(1, len(other) + 1)
            ids = (other[:kept] + ids)[:length]
        made.append(ids)
    source.shuffle(made)
    return made


@torch.inference_mode()
def generated(model: VitaAudioForConditionalGeneration, cases: list[tuple], max_new_tokens: int) -> list[list[int]]:
    """What `generate` writes greedily for cases (prompt, mode), each alone."""
    written = []
    for ids, mode in cases:
        ids = torch.tensor([ids])
        tokens = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            mctp_mode=mode,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=None,
        )
        written.append(tokens[0, ids.shape[1] :].tolist())
    return written


@torch.inference_mode()
def is_close_call(model: VitaAudioForConditionalGeneration, case: tuple, expected: list[int], got: list[int]) -> bool:
    """Whether the first token that differs scores almost as the expected one does."""
    if len(expected) != len(got):
        return False
    index = next(i for i, (one, other) in enumerate(zip(expected, got)) if one != other)
    ids = torch.tensor([case[0]])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        mctp_mode=case[1],
        max_new_tokens=index + 1,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    best = output.scores[index][0].topk(2).values
    return float(best[0] - best[1]) < CLOSE


def differences(model, cases: list[tuple], expected: list[list[int]], got: list[list[int]]) -> list[int]:
    """The cases whose tokens differ by more than rounding."""
    return [
        index
        for index, case in enumerate(cases)
        if got[index] != expected[index] and not is_close_call(model, case, expected[index], got[index])
    ]
