# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Each file of `training/configs/accelerate`, with two processes on the CPU, against one process."""

import json
from importlib.util import find_spec

import pytest
import torch
from places import ROOT
from safetensors.torch import load_file
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus
from tiny_models import tiny_codec
from training_runs import finish, settings_of, start
from transformers import AutoModel


ACCELERATE = ROOT / "training" / "configs" / "accelerate"
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")


def configured(folder, name, gradient_accumulation_steps, max_steps):
    settings = settings_of(
        folder,
        folder / name,
        stage=4,
        # dropout would draw other numbers in each process
        text_config=TINY_TEXT_CONFIG,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_steps=max_steps,
        save_steps=2,
        # a schedule does not depend on the length of the run, so that one can end early and go on
        lr_scheduler_type="constant",
        # groups of parameters that differ
        mctp_learning_rate_multiplier=3.0,
        weight_decay=0.1,
        # a norm that is clipped has to be that of all processes
        max_grad_norm=1.0,
    )
    return write_config(folder / f"{name}.yaml", **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, a codec, and a run of one process."""
    folder = tmp_path_factory.mktemp("distributed")
    write_corpus(folder / "corpus")
    tiny_codec().save_pretrained(folder / "codec")
    # within an epoch: at its end two processes repeat rows where one has a smaller batch
    finish(start(configured(folder, "one", gradient_accumulation_steps=4, max_steps=3)))
    return folder


def launch(folder, name, max_steps, script):
    # the same rows make a step: the processes take them in turn
    config = configured(folder, name, gradient_accumulation_steps=2, max_steps=max_steps)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / f"{name}.yaml")]
    # each file says how many GPUs its machine has; a free port, because other tests run at the same time
    overrides = ["--num_processes", "2", "--main_process_port", "0"]
    return finish(start(config, *launcher, *overrides, *script, DS_ACCELERATOR="cpu"))


def assert_equal_weights(ours, theirs):
    ours, theirs = (load_file(path / "model.safetensors") for path in (ours, theirs))
    # what shards the weights saves those that are tied, too
    if (head := ours.pop("lm_head.weight", None)) is not None:
        assert head.equal(ours["model.language_model.embed_tokens.weight"])
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0)


def losses_of(run):
    # the last entry is about the run as a whole
    return json.loads((run / "trainer_state.json").read_text())["log_history"][:-1]


MODULE = ["-m", "training.train"]
# for each file: what the launcher starts, and a file of a checkpoint that only this way of training writes
WAYS = {
    "cpu": (MODULE, "optimizer.pt"),
    "multi_gpu": (MODULE, "optimizer.pt"),
    "fsdp": ([str(ROOT / "tests" / "helpers" / "fsdp_on_cpu.py")], "pytorch_model_fsdp.bin"),
    "deepspeed_zero2": (MODULE, "global_step2/*zero_pp_rank_1_mp_rank_00_optim_states.pt"),
    "deepspeed_zero3": (MODULE, "global_step2/zero_pp_rank_1_mp_rank_00_model_states.pt"),
}


def test_every_file_is_run():
    assert sorted(WAYS) == sorted(path.stem for path in ACCELERATE.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs_deepspeed] * name.startswith("deepspeed")) for name in WAYS]
)
def test_two_processes_agree_with_one(folder, name):
    script, own_file = WAYS[name]
    # the run ends before and goes on from its checkpoint; on the CPU the first two files are the same
    for max_steps in (3,) if name == "cpu" else (2, 3):
        output = launch(folder, name, max_steps, script)
    assert (f"Going on from {folder / name / 'checkpoint-2'}, after step 2 of 3." in output) == (name != "cpu")
    one, two = folder / "one", folder / name
    if name != "cpu":
        # as after a kill between the last checkpoint and the end
        (two / "model.safetensors").unlink()
        assert "is over since step 3: nothing is trained." in launch(folder, name, 3, script)
    assert list((two / "checkpoint-2").glob(own_file))
    assert json.loads((two / "training_args.json").read_text())["hardware"]["processes"] == 2

    assert_equal_weights(two / "checkpoint-2", one / "checkpoint-2")
    assert_equal_weights(two, one)
    for ours, theirs in zip(losses_of(two), losses_of(one), strict=True):
        for loss in ("loss", "lm_loss", *(f"mctp_loss_{k}" for k in range(1, 6)), "grad_norm"):
            assert ours[loss] == pytest.approx(theirs[loss], rel=1e-4), loss

    tokens = torch.arange(1, 20)[None]
    ours, theirs = (AutoModel.from_pretrained(path)(tokens).logits for path in (two, one))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
