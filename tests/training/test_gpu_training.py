# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of `training.train` on a GPU: `.ci/gpu` runs these."""

import json

import pytest
import torch
from gpu import DEVICE, needs_gpu
from places import ROOT
from safetensors.torch import load_file
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus
from tiny_models import tiny_codec
from training_runs import finish, settings_of, start


FSDP = ROOT / "training" / "configs" / "accelerate" / "fsdp.yaml"
IS_GPU = DEVICE == "cuda"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    write_corpus(folder / "corpus")
    tiny_codec().save_pretrained(folder / "codec")
    return folder


def run(folder, name, *command, **settings):
    """Trains stage 4, and returns the losses and the weights."""
    here = {"stage": 4, "text_config": TINY_TEXT_CONFIG, "use_cpu": not IS_GPU, "max_steps": 3, "save_strategy": "no"}
    settings = settings_of(folder, folder / name, **(here | settings))
    finish(start(write_config(folder / f"{name}.yaml", **settings), *command))
    history = json.loads((folder / name / "trainer_state.json").read_text())["log_history"][:-1]
    return [entry["loss"] for entry in history], load_file(folder / name / "model.safetensors")


@pytest.fixture(scope="module")
def plain(folder):
    """A run in single precision."""
    return run(folder, "plain")


@needs_gpu
@pytest.mark.skipif(not IS_GPU, reason="it is the CPU's run itself")
def test_a_run_on_the_gpu_agrees_with_one_on_the_cpu(folder, plain):
    losses, _ = run(folder, "cpu", use_cpu=True)
    assert plain[0] == pytest.approx(losses, rel=1e-4)


@needs_gpu
def test_bfloat16_and_checkpointed_activations_have_nearly_the_same_losses(folder, plain):
    losses, weights = run(folder, "mixed", bf16=True, gradient_checkpointing=True)
    assert plain[0] == pytest.approx(losses, rel=0.01)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@needs_gpu
def test_fsdp_on_one_gpu_agrees_with_no_sharding(folder, plain):
    script = ["-m", "training.train"] if IS_GPU else [str(ROOT / "tests" / "helpers" / "fsdp_on_cpu.py")]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(FSDP), "--num_processes", "1"]
    losses, weights = run(folder, "fsdp", *launcher, "--main_process_port", "0", *script)
    assert plain[0] == pytest.approx(losses, rel=1e-4)
    for name, tensor in plain[1].items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)
