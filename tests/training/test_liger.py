# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses that never have all logits in memory: ours with gradient checkpointing, and Liger's kernel."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from gpu import DEVICE, needs_gpu
from peft import LoraConfig, get_peft_model
from places import ROOT
from tiny_models import tiny_model, tiny_processor

from modeling_vita_audio import loss_vita_audio
from training.liger import check_liger, use_liger


needs_liger = pytest.mark.skipif(
    not (find_spec("triton") and find_spec("liger_kernel")), reason="triton or liger_kernel is not installed"
)


def losses_and_gradients(model, device="cpu"):
    ids = torch.randint(20, 300, (3, 40), generator=torch.Generator().manual_seed(0)).to(device)
    model.zero_grad()
    outputs = model.train()(input_ids=ids, labels=ids, use_cache=False)
    outputs.loss.backward()
    gradients = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    return torch.stack([outputs.lm_loss, *outputs.mctp_losses]).detach(), gradients


def assert_equal(ours, others, tolerance=1e-4):
    torch.testing.assert_close(ours[0], others[0])
    assert ours[1].keys() == others[1].keys()
    for name, gradient in ours[1].items():
        # beside the largest ones, as the gradients of random weights are of all sizes
        limit = tolerance * gradient.abs().max().item()
        torch.testing.assert_close(gradient, others[1][name], atol=limit, rtol=0, msg=name)


def test_the_logits_of_few_columns_are_in_memory_at_once(monkeypatch):
    monkeypatch.setattr(loss_vita_audio, "LOSS_COLUMNS", 16)
    model, rows = tiny_model(tiny_processor(), seed=4), []
    at_once = losses_and_gradients(model)
    model.lm_head.register_forward_hook(lambda head, args, output: rows.append(len(output)))
    model.gradient_checkpointing_enable()
    assert_equal(at_once, losses_and_gradients(model))
    # once in the forward and once in the backward pass; 3 rows of 40 have 117 targets, or fewer in the modules
    assert max(rows) == 16 and sum(rows) == 2 * sum(3 * (39 - k) for k in range(11))
    # without gradients, as in an evaluation during training, whether or not they are computed again in training
    rows.clear()
    model.gradient_checkpointing_disable()
    with torch.no_grad():
        input_ids = torch.arange(40).repeat(3, 1)
        model.eval()(input_ids, labels=input_ids, skip_logits=True)
    assert max(rows) == 16


@pytest.mark.parametrize(
    "config, message",
    [
        (None, "`use_liger_kernel` needs a GPU"),
        ({"fused_linear_cross_entropy": True}, "`use_liger_kernel` needs a GPU"),
        ({"rope": True}, "`liger_kernel_config={'rope': True}` is refused"),
    ],
)
def test_what_liger_cannot_do_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        check_liger(torch.device("cpu"), config)


def test_liger_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ImportError, match="needs liger_kernel.*, which is not installed"):
        check_liger(torch.device("cuda"), None)


def compare(device):
    """Ours and Liger's, with all weights trained and beside adapters with a head that is trained whole."""
    whole = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    for config in (None, LoraConfig(target_modules=["q_proj"]), whole):
        model = tiny_model(tiny_processor()).to(device)
        adapted = model if config is None else get_peft_model(model, config)
        ours = losses_and_gradients(adapted, device)
        check_liger(torch.device(device), None)
        use_liger(model)
        # other kernels round otherwise
        assert_equal(ours, losses_and_gradients(adapted, device), tolerance=1e-3)
        # no column may have a target
        ids = torch.full((1, 20), 50, device=device)
        assert adapted(input_ids=ids, labels=torch.full_like(ids, -100), use_cache=False).loss == 0


@pytest.mark.slow
@needs_liger
def test_ligers_losses_and_gradients_are_ours_on_a_cpu():
    """triton's interpreter runs the kernels, which it has to be told before it is imported."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    command = [sys.executable, __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@needs_gpu
@needs_liger
@pytest.mark.skipif(DEVICE == "cpu", reason="triton compiles for a GPU alone")
def test_ligers_losses_and_gradients_are_ours_on_a_gpu():
    compare(DEVICE)


if __name__ == "__main__":
    compare("cpu")
