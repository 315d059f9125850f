# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The steps from nothing to a checkpoint: of the small one of this repository, and of one on SmolLM2-135M."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hub_cards.model_card import CODEC_RESULTS_FILE, SAMPLE_QUESTION


CONFIGS = Path(__file__).parent / "configs"


@dataclass
class Step:
    """
    One step of a recipe.

    name: of it, and of the file in `configs/RECIPE` with its settings where it is a training.
    hours: what it took, to tell how much is left; None where nobody knows.
    command: module and arguments, of which `{run}` is the folder of the whole run, and `{model}` that of its result.
    smoke: arguments in the place of, or beside these, for `--smoke`.
    is_training: whether it takes `--seed`, and is run by `accelerate launch` if it is to have several processes.
    num_processes: how many work in it. Each has one thread if there are several.
    """

    name: str
    hours: float | None
    command: list[str]
    smoke: list[str] = field(default_factory=list)
    is_training: bool = False
    num_processes: int = 1


@dataclass
class Recipe:
    """Its steps, and the name of the folder in which the checkpoint comes to lie."""

    steps: list[Step]
    model_name: str


def training_step(
    recipe: str,
    name: str,
    hours: float | None,
    module: str,
    arguments: list[str],
    smoke: list[str],
    on_gpu: bool = False,
) -> Step:
    config = ["--config", str(CONFIGS / recipe / f"{name}.yaml"), "--output_dir", f"{{run}}/{name}"]
    command = [module, *config, *arguments]
    return Step(name, hours, command, smoke, is_training=True, num_processes=1 if on_gpu else 2)


def short(max_steps: int) -> list[str]:
    """Arguments of a training that only shows that it runs."""
    settings = {
        **{"max_steps": max_steps, "save_steps": max_steps, "logging_steps": 1, "per_device_train_batch_size": 2},
        **{"warmup_steps": 1, "dataloader_num_workers": 0, "dataloader_persistent_workers": False},
        "dataloader_prefetch_factor": "null",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


SHORT_TRAINING = [*short(4), "--eval_strategy", "no"]
SMALL_LANGUAGE_MODEL = {
    **{"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 2048},
}


def stage_step(
    recipe: str, stage: int, hours: float | None, source: list[str], smoke: list[str], on_gpu: bool = False
) -> Step:
    """A stage of the language model; `source` says what it starts from."""
    arguments = ["--dataset_name", "{run}/corpus", "--code_cache_dir", "{run}/codes", *source]
    return training_step(recipe, f"stage{stage}", hours, "training.train", arguments, smoke, on_gpu)


def after(stage: int) -> list[str]:
    return ["--model_name_or_path", f"{{run}}/stage{stage}"]


CORPUS = Step(
    *("corpus", 1.5, ["training.corpus.render", "--output_dir", "{run}/corpus"], ["--limit", "60"]),
    num_processes=2,
)
ASSEMBLING = Step(
    *("assembling", 0.01),
    [
        *("training.assemble", "--model", "{run}/stage4", "--output_dir", "{model}"),
        # Modules often miss a word that is none of a sentence, such as "May" alone: text is checked, speech is not
        *("--sample_question", f"{{run}}/{SAMPLE_QUESTION}", "--mctp_verify", "0.5,0"),
    ],
)
CODEC_EVALUATION = Step(
    *("codec_evaluation", 0.7),
    [
        *("training.evaluation.evaluate_codec", "--codec", "{model}/audio_tokenizer", "--corpus_dir", "{run}/corpus"),
        *("--num_clips", "200", "--output", f"{{model}}/{CODEC_RESULTS_FILE}"),
    ],
    ["--num_clips", "2"],
)
EVALUATION = [
    *("training.evaluation.evaluate_held_out", "--model", "{model}", "--corpus_dir", "{run}/corpus"),
    *("--limit", "500", "--mctp_mode", "vanilla", "boost", "--log_dir", "{run}/evaluation"),
    *("--second_recognizer", "whisper-tiny.en"),
]
SHORT_EVALUATION = ["--limit", "1", "--max_new_tokens", "8"]


# Hours on two cores of an AMD EPYC with AVX512-BF16
MINI = Recipe(
    [
        CORPUS,
        training_step(
            *("mini", "tokenizer", 1.9, "training.codec.tokenizer", ["--corpus_dir", "{run}/corpus"]),
            [*SHORT_TRAINING, "--quantize_after", "2"],
        ),
        training_step(
            *("mini", "decoder", 3.9, "training.codec.decoder"),
            ["--corpus_dir", "{run}/corpus", "--codec_name_or_path", "{run}/tokenizer/codec"],
            short(4),
        ),
        stage_step(
            *("mini", 1, 1.1, ["--codec_name_or_path", "{run}/decoder/codec"]),
            [*SHORT_TRAINING, "--text_config", json.dumps(SMALL_LANGUAGE_MODEL), "--text_vocab_size", "600"],
        ),
        stage_step("mini", 2, 0.2, after(1), SHORT_TRAINING),
        stage_step("mini", 3, 0.6, after(2), SHORT_TRAINING),
        stage_step("mini", 4, 3.2, after(3), SHORT_TRAINING),
        ASSEMBLING,
        CODEC_EVALUATION,
        Step("evaluation", 1.7, EVALUATION, SHORT_EVALUATION),
    ],
    "vita-audio-mini",
)

# Its codec is that of `pretrained/vita-audio-mini`. Nobody has run all of it on a GPU yet, so its hours are not known.
SHORT_STAGE_OF_SMOLLM2 = [*SHORT_TRAINING, "--use_cpu", "--bf16", "False"]
SMOLLM2_135M = Recipe(
    [
        CORPUS,
        Step("backbone", 0.02, ["training.backbone", "--output_dir", "{run}/backbone"]),
        stage_step(
            "smollm2_135m", 1, None, ["--model_name_or_path", "{run}/backbone"], SHORT_STAGE_OF_SMOLLM2, on_gpu=True
        ),
        *(
            stage_step("smollm2_135m", stage, None, after(stage - 1), SHORT_STAGE_OF_SMOLLM2, on_gpu=True)
            for stage in (2, 3, 4)
        ),
        ASSEMBLING,
        CODEC_EVALUATION,
        Step("evaluation", None, [*EVALUATION, "--device", "cuda"], [*SHORT_EVALUATION, "--device", "cpu"]),
    ],
    "vita-audio-smollm2-135m",
)

RECIPES = {"mini": MINI, "smollm2_135m": SMOLLM2_135M}
