# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of `vita-audio train` with adapters, on the shipped model and from a language model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT
from tiny_corpus import write_config, write_corpus
from tiny_models import TEXTS, tiny_codec
from transformers import BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM
from waiting import wait_until

from hub_cards.command_line import run_command
from modeling_vita_audio import VitaAudioForConditionalGeneration
from training.tokenizer import train_tokenizer
from training.train import PROG, main


MINI = ROOT / "pretrained" / "vita-audio-mini"
ADAPTER = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus")
    return folder


def settings_of(folder, output_dir, **settings):
    return {
        "dataset_name": str(folder / "corpus"),
        "code_cache_dir": str(folder / "codes"),
        "model_name_or_path": str(MINI),
        "output_dir": str(output_dir),
        "stage": 4,
        "max_steps": 2,
        "save_strategy": "no",
    } | settings


def train(folder, output_dir, **settings):
    config = write_config(Path(f"{output_dir}.yaml"), **settings_of(folder, output_dir, **settings))
    assert main(["--config", str(config)]) is None
    return output_dir


def losses_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_adapter(folder, tmp_path):
    settings = ADAPTER | {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = train(folder, tmp_path / "whole", **settings)
    config = write_config(tmp_path / "killed.yaml", **settings_of(folder, tmp_path / "killed", **settings))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "training.train", "--config", str(config)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "killed" / "checkpoint-2" / "complete"
    wait_until(lambda: checkpoint.exists() or process.poll() is not None, 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adapter_model.safetensors").exists()
    main(["--config", str(config)])
    assert losses_of(tmp_path / "killed") == losses_of(whole)
    weights = [(place / "adapter_model.safetensors").read_bytes() for place in (whole, tmp_path / "killed")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, others, message",
    [
        (ADAPTER, {}, "use_peft True, not False"),
        ({}, ADAPTER, "use_peft False, not True"),
        (ADAPTER, ADAPTER | {"lora_alpha": 64}, "lora_alpha 32, not 64"),
    ],
)
def test_a_run_does_not_go_on_with_adapters_that_it_did_not_begin_with(folder, tmp_path, settings, others, message):
    steps = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    run = train(folder, tmp_path / "run", **settings, **steps)
    with pytest.raises(ValueError, match=f"whose model has {message}. Start"):
        train(folder, run, **others, **steps | {"max_steps": 2})


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_beside_quantised_weights(folder, tmp_path, bits):
    """On CPUs, too, bitsandbytes has what it needs; with 8 bits it computes in float16 there."""
    run = train(folder, tmp_path / "run", **ADAPTER, **{f"load_in_{bits}bit": True}, max_steps=8, learning_rate=3e-3)
    losses = [loss for _, loss in losses_of(run)]
    assert min(losses[4:]) < losses[0]
    record = json.loads((run / "training_args.json").read_text())
    assert record["settings"][f"load_in_{bits}bit"] is True
    # the adapter also fits the weights that are not quantised, and no loading quantises unasked
    assert "quantization_config" not in json.loads((run / "config.json").read_text())
    model = VitaAudioForConditionalGeneration.from_pretrained(run)
    assert model.model.mctp_modules[0].proj.weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("number, stage", [(0, 2), (1, 3)])
def test_new_modules_beside_a_quantised_language_model(folder, tmp_path, number, stage):
    """They are copies of the first one, which is not quantised then; the first one cannot be a copy."""
    model = VitaAudioForConditionalGeneration.from_pretrained(MINI)
    model.model.mctp_modules, model.config.num_mctp_modules = model.model.mctp_modules[:number], number
    shutil.copytree(MINI, tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    settings = ADAPTER | {"model_name_or_path": str(tmp_path / "model"), "stage": stage, "load_in_4bit": True}
    if number == 0:
        with pytest.raises(ValueError, match="quantised layers cannot be copied"):
            train(folder, tmp_path / "run", **settings)
        return
    train(folder, tmp_path / "run", **settings, num_mctp_modules=3, train_new_modules_whole=False)
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert loaded.config.num_mctp_modules == 3
    of_base = [model.model.mctp_modules[0].proj.weight] * 3
    weights = [module.proj.weight for module in loaded.model.mctp_modules]
    # each has an adapter of its own in its weights
    assert not any(weight.equal(other) for weight, other in zip(weights, of_base, strict=True))
    assert not weights[0].equal(weights[1])


@pytest.mark.slow
@pytest.mark.parametrize("is_whole", [True, False])
def test_an_adapter_with_modules_of_its_own_beside_quantised_weights(folder, tmp_path, is_whole):
    """What it brings whole needs no copy; what is an adapter of copies cannot be had there."""
    model = VitaAudioForConditionalGeneration.from_pretrained(MINI)
    model.model.mctp_modules, model.config.num_mctp_modules = model.model.mctp_modules[:1], 1
    shutil.copytree(MINI, tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    settings = ADAPTER | {"model_name_or_path": str(tmp_path / "model"), "stage": 3, "num_mctp_modules": 3}
    train(folder, tmp_path / "run", **settings, train_new_modules_whole=is_whole)
    arguments = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if not is_whole:
        with pytest.raises(ValueError, match="would be quantised and cannot be copied"):
            VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "run", **arguments)
        return
    quantized = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "run", **arguments)
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert quantized.config.num_mctp_modules == 3
    for ours, theirs in zip(quantized.model.mctp_modules[1:], loaded.model.mctp_modules[1:], strict=True):
        weight = dict(ours.named_parameters())
        expected = theirs.proj.weight.to(quantized.dtype)
        assert any(value.shape == expected.shape and value.equal(expected) for value in weight.values())


@pytest.mark.slow
def test_adapters_for_a_language_model_that_learns_to_speak(folder, tmp_path):
    """They are for what was built of it, which the run writes beside them."""
    tokenizer = train_tokenizer(2 * TEXTS, 300, 16)
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    tiny_codec().save_pretrained(tmp_path / "codec")
    settings = ADAPTER | {
        "model_name_or_path": str(tmp_path / "qwen"),
        "codec_name_or_path": str(tmp_path / "codec"),
        "stage": 1,
        "lora_modules_to_save": ["embed_tokens", "lm_head"],
        "save_strategy": "steps",
        "save_steps": 2,
    }
    run = train(folder, tmp_path / "run", max_steps=2, **settings)
    base = json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(run / "base")
    before = VitaAudioForConditionalGeneration.from_pretrained(base)
    after = VitaAudioForConditionalGeneration.from_pretrained(run)
    assert not after.lm_head.weight.equal(before.lm_head.weight)
    assert after.model.language_model.norm.weight.equal(before.model.language_model.norm.weight)
    # a run that goes on keeps this model, whose new embeddings were random
    weights = (run / "base" / "model.safetensors").stat().st_mtime_ns
    train(folder, run, max_steps=4, **settings)
    assert (run / "base" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lora_r": 8}, "`lora_r=8` has no effect without `use_peft`"),
        ({"load_in_4bit": True}, "`load_in_4bit=True` has no effect without `use_peft`"),
        (ADAPTER | {"bnb_4bit_quant_type": "fp4"}, "has no effect without `load_in_4bit`"),
        (ADAPTER | {"lora_task_type": "SEQ_CLS"}, "`lora_task_type` must be 'CAUSAL_LM'"),
        (ADAPTER | {"lora_r": 0}, "`lora_r` must be at least 1"),
        (ADAPTER | {"lora_dropout": 1.5}, "`lora_dropout` must be at least 0"),
        (ADAPTER | {"load_in_4bit": True, "load_in_8bit": True}, "at the same time"),
        (ADAPTER | {"model_name_or_path": None}, "needs a `model_name_or_path`"),
        (ADAPTER | {"lora_target_parameters": ["experts"]}, "adapters are those of linear layers"),
    ],
)
def test_settings_without_effect_are_one_line(folder, tmp_path, settings, message, capsys):
    config = write_config(tmp_path / "run.yaml", **settings_of(folder, tmp_path / "run", **settings))
    assert run_command(main, PROG, ["--config", str(config)]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.slow
def test_layers_that_are_none_are_said_before_speech_is_encoded(folder, tmp_path, capsys):
    settings = ADAPTER | {"lora_target_modules": ["qkv"], "code_cache_dir": str(tmp_path / "codes")}
    config = write_config(tmp_path / "run.yaml", **settings_of(folder, tmp_path / "run", **settings))
    assert run_command(main, PROG, ["--config", str(config)]) == 1
    assert "`target_modules` {'qkv'} are no linear layers of what stage" in capsys.readouterr().err
    assert not list((tmp_path / "codes").rglob("*.safetensors"))
