# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The YAML files of `training/configs`, each read by the parser of its command."""

from math import prod
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from places import ROOT
from transformers import TrainingArguments

from processing.configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from training.codec import whisper
from training.codec.decoder import DecoderArguments
from training.codec.tokenizer import TokenizerArguments
from training.preference import VitaAudioGRPOConfig, VitaAudioPreferenceArguments
from training.settings import parse_settings
from training.train import VitaAudioScriptArguments
from training.trainer import VitaAudioSFTConfig


CONFIGS = ROOT / "training" / "configs"
STAGE = (VitaAudioScriptArguments, VitaAudioSFTConfig)
SIZES = ("mini", "smollm2_135m", "paper_7b", "paper_7b_plus", "lora_7b/24gb", "lora_7b/80gb")
CODEC_RUNS = {"tokenizer": TokenizerArguments, "decoder": DecoderArguments}


def read(path: Path, *arguments: str):
    kinds = (CODEC_RUNS[path.stem], TrainingArguments) if path.stem in CODEC_RUNS else STAGE
    return parse_settings(kinds, "recipe", ["--config", str(path), "--use_cpu", "true", *arguments])


def test_every_recipe_is_here():
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    stages = {f"{size}/stage{stage}" for size in SIZES for stage in (1, 2, 3, 4)}
    expected = stages | {f"mini/{name}" for name in (*CODEC_RUNS, "finetune", "preference")}
    assert {name for name in names if not name.startswith("accelerate/")} == expected


@pytest.mark.parametrize(
    "stage, learning_rate, steps, length, weight_decay",
    [(1, 6e-5, 8000, 8192, 0), (2, 1e-3, 4000, 8192, 0), (3, 1e-3, 8000, 8192, 0), (4, 5e-5, 4000, 2048, 0.1)],
)
@pytest.mark.parametrize("size", ["paper_7b", "paper_7b_plus"])
def test_the_settings_of_the_paper(size, stage, learning_rate, steps, length, weight_decay):
    """Those of arXiv 2505.03739, and of the original's scripts for VITA-Audio-Plus, which are the same."""
    script, training = read(CONFIGS / size / f"stage{stage}.yaml")
    settings = vars(script) | vars(training)
    expected = {"stage": stage, "learning_rate": learning_rate, "max_steps": steps, "max_length": length}
    expected |= {"weight_decay": weight_decay, "adam_beta1": 0.9, "adam_beta2": 0.95, "bf16": True}
    expected |= {"lr_scheduler_type": "cosine", "warmup_steps": 0.03, "gradient_accumulation_steps": 16}
    if stage > 1:
        expected |= {"num_mctp_modules": 10, "interleave_pattern": [1, 10, 4, 10]}
    if stage == 4:
        expected["mctp_learning_rate_multiplier"] = 10
    assert {name: settings[name] for name in expected} == expected
    assert ("sqa" in script.tasks) == (stage == 4)
    is_plus = size == "paper_7b_plus"
    assert script.interleave_tts == is_plus
    assert (script.sensevoice_name_or_path is not None) == (is_plus and stage == 1)


@pytest.mark.parametrize("size", SIZES)
def test_each_stage_starts_where_the_one_before_ended(size):
    before = None
    for stage in (1, 2, 3, 4):
        script, training = read(CONFIGS / size / f"stage{stage}.yaml")
        assert training.stage == stage
        if before is not None:
            # an adapter has to be merged before its model is quantised
            assert script.model_name_or_path.removesuffix("-merged") == before
        before = training.output_dir


def test_each_run_of_the_codec_starts_where_the_one_before_ended():
    tokenizer, of_tokenizer = read(CONFIGS / "mini" / "tokenizer.yaml")
    decoder, of_decoder = read(CONFIGS / "mini" / "decoder.yaml")
    stage1, _ = read(CONFIGS / "mini" / "stage1.yaml")
    assert tokenizer.corpus_dir == decoder.corpus_dir == stage1.dataset_name
    assert decoder.codec_name_or_path == f"{of_tokenizer.output_dir}/codec"
    assert stage1.codec_name_or_path == f"{of_decoder.output_dir}/codec"


def test_the_tokenizer_has_the_codes_that_the_language_model_can_learn():
    tokenizer, training = read(CONFIGS / "mini" / "tokenizer.yaml")
    assert prod(tokenizer.levels) == 3**7 and training.max_steps > tokenizer.quantize_after
    assert training.bf16 and training.save_steps <= 250


def test_the_run_of_the_decoder():
    decoder, training = read(CONFIGS / "mini" / "decoder.yaml")
    assert decoder.default_voice == "joe"
    assert 0 < decoder.adversarial_after < training.max_steps


def test_a_codec_is_by_default_as_the_two_runs_make_it():
    tokenizer, _ = read(CONFIGS / "mini" / "tokenizer.yaml")
    decoder, _ = read(CONFIGS / "mini" / "decoder.yaml")
    config = VitaAudioCodecConfig()
    assert config.to_json_string() == VitaAudioCodecConfig(**decoder.decoder_config).to_json_string()
    sizes = whisper.SIZES | {"codebook_size": prod(tokenizer.levels), "latent_dim": len(tokenizer.levels)}
    assert Glm4VoiceTokenizerConfig(**sizes).to_dict() == config.tokenizer_config.to_dict()


def test_fine_tuning_starts_from_the_shipped_model():
    script, training = read(CONFIGS / "mini" / "finetune.yaml", "--dataset_name", "mine")
    assert training.stage == 4 and (ROOT / script.model_name_or_path / "config.json").is_file()
    assert script.dataset_name == "mine"


def test_preference_tuning_starts_from_the_shipped_model():
    path = CONFIGS / "mini" / "preference.yaml"
    script, training = parse_settings(
        (VitaAudioPreferenceArguments, VitaAudioGRPOConfig), "recipe", ["--config", str(path)]
    )
    assert (ROOT / script.model_name_or_path / "config.json").is_file()
    # whole groups of answers in each batch
    assert training.per_device_train_batch_size % training.num_generations == 0


@pytest.mark.parametrize(
    "name, processes, kind",
    [
        ("cpu", 2, "MULTI_GPU"),
        ("multi_gpu", 8, "MULTI_GPU"),
        ("fsdp", 8, "FSDP"),
        ("deepspeed_zero2", 8, "DEEPSPEED"),
        ("deepspeed_zero3", 8, "DEEPSPEED"),
    ],
)
def test_settings_of_accelerate(name, processes, kind):
    config = load_config_from_file(str(CONFIGS / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == processes and config.num_machines == 1
    assert config.distributed_type == kind


def test_a_misspelt_setting_is_refused(tmp_path):
    text = (CONFIGS / "mini" / "decoder.yaml").read_text()
    (tmp_path / "decoder.yaml").write_text(text.replace("default_voice", "default_vioce"))
    with pytest.raises(ValueError, match="default_vioce"):
        read(tmp_path / "decoder.yaml")
