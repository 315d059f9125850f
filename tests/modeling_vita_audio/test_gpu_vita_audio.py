# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The model on a GPU, against the CPU: `.ci/gpu` runs these."""

import copy

import pytest
import torch
from gpu import DEVICE, needs_gpu
from modeling_fixtures import random_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CompileConfig
from transformers.modeling_flash_attention_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)


# the flash kernels that this machine has
FLASH = {
    "flash_attention_2": is_flash_attn_2_available,
    "flash_attention_3": is_flash_attn_3_available,
    "flash_attention_4": is_flash_attn_4_available,
}
# lengths of the samples that share a row
LENGTHS = (17, 9, 22)


@pytest.fixture(scope="module")
def model():
    # heads of 64, the smallest size that all flash kernels take
    return random_model(5, text_config={"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2})


def on_device(model, dtype=torch.float32):
    return copy.deepcopy(model).to(DEVICE, dtype)


def packed_row():
    """Three samples in one row, with the positions that say where each begins."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 97, (1, sum(LENGTHS)), generator=generator)
    position_ids = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": input_ids}


def losses_of(model, batch, **kwargs):
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    outputs = model(**batch, use_cache=False, **kwargs)
    return torch.cat([outputs.lm_loss[None], outputs.mctp_losses]).float().cpu()


def answer(model, **settings):
    """New tokens for two prompts, of which the second is padded on the left."""
    input_ids = torch.randint(1, 97, (2, 15), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :4] = 0
    inputs = {"input_ids": input_ids.to(model.device), "attention_mask": attention_mask.to(model.device)}
    settings = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | settings
    return model.generate(**inputs, **settings)[:, 15:].cpu()


@needs_gpu
def test_losses_and_gradients_are_those_of_the_cpu(model):
    ours, theirs = on_device(model), copy.deepcopy(model)
    for each in (ours, theirs):
        loss = losses_of(each, packed_row())
        loss.mean().backward()
    torch.testing.assert_close(losses_of(ours, packed_row()), losses_of(theirs, packed_row()), atol=1e-4, rtol=1e-4)
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            one.grad.cpu(), two.grad, atol=1e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )


MODES = {
    "vanilla": {"mctp_mode": "vanilla"},
    "modules": {"mctp_mode": [1, 5]},
    "verified": {"mctp_mode": [1, 5], "mctp_verify": True},
}


@needs_gpu
@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_those_of_the_cpu(model, mode):
    # in double precision, because a greedy choice may be a close call
    answers = [answer(each.double(), **MODES[mode]) for each in (on_device(model), copy.deepcopy(model))]
    assert answers[0].equal(answers[1])


@needs_gpu
@pytest.mark.parametrize("mode", MODES)
def test_graphs_write_the_same_tokens(model, mode):
    on_gpu = on_device(model, torch.float64)
    expected = answer(on_gpu, **MODES[mode])
    # on a GPU transformers compiles a static cache's steps to graphs; compiling for the CPU would take minutes
    compile_config = CompileConfig(**({} if DEVICE == "cuda" else {"backend": "eager", "mode": None}))
    compile_config._compile_all_devices = True
    # the second answer replays what the first has recorded
    for _ in range(2):
        compiled = answer(on_gpu, cache_implementation="static", compile_config=compile_config, **MODES[mode])
        assert compiled.equal(expected)


@needs_gpu
def test_bfloat16_and_autocast_have_nearly_the_same_losses(model):
    expected = losses_of(model, packed_row())
    half = on_device(model, torch.bfloat16)
    torch.testing.assert_close(losses_of(half, packed_row()), expected, atol=0, rtol=0.02)
    assert answer(half, mctp_mode=[1, 5]).shape == (2, 40)

    mixed = on_device(model).train()
    with torch.autocast(DEVICE, torch.bfloat16):
        losses = losses_of(mixed, packed_row())
        assert answer(mixed.eval(), mctp_mode=[1, 5], mctp_verify=True).shape == (2, 40)
    torch.testing.assert_close(losses, expected, atol=0, rtol=0.02)
    losses.mean().backward()
    for name, parameter in mixed.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


@needs_gpu
@pytest.mark.parametrize("attn_implementation", FLASH)
def test_flash_attention_keeps_packed_samples_apart(model, attn_implementation):
    if not FLASH[attn_implementation]():
        pytest.skip(f"{attn_implementation} is not installed")
    expected = losses_of(on_device(model, torch.bfloat16), packed_row())
    flash = on_device(model, torch.bfloat16)
    flash.set_attn_implementation(attn_implementation)
    torch.testing.assert_close(losses_of(flash, packed_row()), expected, atol=0, rtol=0.01)
    # a row whose samples attend to one another has other losses by far more than that
    mixed = packed_row() | {"position_ids": torch.arange(sum(LENGTHS))[None]}
    assert (losses_of(flash, mixed) - expected).abs().max() > 0.02 * expected.max()
    assert answer(flash, mctp_mode=[1, 5], mctp_verify=True).shape == (2, 40)


@needs_gpu
def test_the_flash_kernel_of_torch_takes_a_prompt(model):
    half = on_device(model, torch.bfloat16)
    tokens = packed_row()["input_ids"].to(DEVICE)
    with torch.no_grad():
        expected = half(tokens, use_cache=False).logits
        # no other kernel may step in: without padding no mask must be made
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            logits = half(tokens, use_cache=False).logits
    assert (logits - expected).float().norm() < 0.02 * expected.float().norm()
