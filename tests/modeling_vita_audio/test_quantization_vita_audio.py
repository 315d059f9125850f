# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import pytest
import torch
from clean_process import BLOCK_OUR_PACKAGES
from modeling_fixtures import random_model, random_prompt
from tiny_models import tiny_model, tiny_plus_processor
from torch import nn
from transformers import TorchAoConfig

from modeling_vita_audio import MCTP_MODES, VitaAudioCache, VitaAudioForConditionalGeneration
from modeling_vita_audio.quantization_vita_audio import (
    MAX_KERNEL_ROWS,
    QUANTIZATIONS,
    QuantizedLinear,
    as_quantization_config,
    quantize,
)


# Seconds for each few, which the quick check has not
pytestmark = pytest.mark.slow


torchao = pytest.importorskip("torchao.quantization")

WEIGHT_CLASSES = {"int8": "Int8Tensor", "int4": "Int4Tensor"}


def quantized_linear(quantization, in_features=64, out_features=40, bias=True, dtype=torch.bfloat16):
    torch.manual_seed(0)
    layer = nn.Linear(in_features, out_features, bias=bias).to(dtype)
    quantize(nn.ModuleList([layer]), as_quantization_config(quantization))
    assert isinstance(layer, QuantizedLinear)
    return layer


def reference_weight(weight, quantization):
    """Rounds in float64: each row to 256 values around 0, or each 32 columns to 16 values from least to most."""
    weight = weight.double()
    if quantization == "int8":
        step = weight.abs().amax(1, keepdim=True) / 127.5
        return (weight / step).round().clamp(-128, 127) * step
    groups = weight.unflatten(1, (-1, 32))
    least, most = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    step = (most - least) / 15
    return (((groups - least) / step).round() * step + least).flatten(1)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("num_rows", [1, 3, "as many as the kernel takes", "one more"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_those_of_rounded_weights(quantization, num_rows, dtype):
    # 40 rows are no multiple of 16, which the 4-bit kernel asks for
    torch.manual_seed(0)
    weight = nn.Linear(64, 40).weight.detach().bfloat16()
    layer = quantized_linear(quantization).to(dtype)
    if not isinstance(num_rows, int):
        num_rows = MAX_KERNEL_ROWS[WEIGHT_CLASSES[quantization]] + (num_rows == "one more")
    inputs = torch.randn(2, num_rows, 64) if num_rows == 3 else torch.randn(num_rows, 64)
    inputs = inputs.to(dtype)
    with torch.no_grad():
        products = layer(inputs)
    expected = inputs.double() @ reference_weight(weight, quantization).t() + layer.bias.double()
    assert products.dtype == dtype and products.shape == expected.shape
    # Scales are in bfloat16, which has 8 bits
    torch.testing.assert_close(products.double(), expected, rtol=0.02, atol=0.04)
    # and the rounding is not lost in that: the weight before it is further away
    exact = inputs.double() @ weight.double().t() + layer.bias.double()
    if quantization == "int4":
        assert (products - expected).abs().mean() < (products - exact).abs().mean() / 2


def test_eight_bits_are_nearer_than_four():
    torch.manual_seed(0)
    weight, inputs = nn.Linear(64, 40, bias=False).weight.detach(), torch.randn(5, 64).bfloat16()
    exact = inputs.float() @ weight.t()
    errors = [
        (quantized_linear(name, bias=False)(inputs).detach().float() - exact).abs().mean() for name in QUANTIZATIONS
    ]
    assert errors[0] < errors[1] / 4 and errors[1] < 0.1


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_parts_of_a_weight(quantization):
    layer = quantized_linear(quantization, out_features=5000, bias=False)
    inputs = torch.randn(3, 64).bfloat16()
    with torch.no_grad():
        whole = layer(inputs)
        assert layer.part(300, 4900)(inputs).equal(whole[:, 300:4900])
        assert layer.part(300, 4900) is layer.part(300, 4900)
        assert layer.part(1, 3)(inputs).equal(whole[:, 1:3])
    # Of all rows, also where they are made some at a time
    ids = torch.tensor([0, 4999, 17])
    torch.testing.assert_close(
        nn.functional.linear(inputs, layer.weight_rows(ids, torch.bfloat16)), whole[:, ids], rtol=0.02, atol=0.02
    )
    with torch.no_grad():
        many = layer(inputs.repeat(100, 1))
    torch.testing.assert_close(many[:3], whole, rtol=0.02, atol=0.02)
    assert not [name for name in layer.state_dict() if name != "weight"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_gradients_pass_through(quantization):
    """As adapters need them, whose inputs come from other layers."""
    layer = quantized_linear(quantization)
    inputs = torch.randn(3, 64).bfloat16().requires_grad_()
    layer(inputs).float().sum().backward()
    expected = layer.weight_rows(slice(0, None), torch.float32).sum(0)
    torch.testing.assert_close(inputs.grad[0].float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("change", ["granularity", "activations"])
def test_weights_without_a_kernel_are_left_to_torchao(change):
    config = {
        "granularity": torchao.Int8WeightOnlyConfig(granularity=torchao.PerGroup(32), set_inductor_config=False),
        "activations": torchao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
    }[change]
    layer = nn.ModuleList([nn.Linear(64, 32).bfloat16()])
    quantize(layer, TorchAoConfig(config))
    assert type(layer[0]) is nn.Linear and type(layer[0].weight).__name__ == "Int8Tensor"


def unaligned(values):
    """A copy that begins one element behind where tensors of torch begin."""
    room = torch.empty(values.numel() + 1, dtype=values.dtype)
    room[1:] = values.flatten()
    return room[1:].view_as(values)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_it_does_not_matter_where_tensors_begin(quantization, when):
    """As of weights that are read from a file; the kernel of 8 bits would crash."""
    inputs = torch.randn(3, 64).bfloat16()
    layer = quantized_linear(quantization)
    layer.weight.qdata = unaligned(layer.weight.qdata)
    if when == "before":
        layer.prepare()
    with torch.no_grad():
        expected = quantized_linear(quantization)(inputs)
        assert layer(unaligned(inputs)).equal(expected) and layer(inputs).equal(expected)


def test_rows_that_the_kernel_reads_wrong_are_left_to_torchao():
    layer = nn.ModuleList([nn.Linear(40, 32, bias=False).bfloat16()])
    inputs = torch.randn(1, 40).bfloat16()
    with torch.no_grad():
        exact = layer[0](inputs)
        quantize(layer, as_quantization_config("int8"))
        assert type(layer[0]) is nn.Linear
        torch.testing.assert_close(layer[0](inputs), exact, rtol=0.05, atol=0.02)


# --- whole models ---


def saved_model(folder, **kwargs):
    # `text_config`'s sizes are multiples of 32, which 4 bits ask for
    model = random_model(10, text_config={"intermediate_size": 64, **kwargs}, interleave_pattern=MCTP_MODES["boost"])
    model.save_pretrained(folder)
    return model


def tokens_of(model, **kwargs):
    return model.generate(random_prompt(7), max_new_tokens=40, **kwargs).tolist()


CLEAN = """
import json, sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
prompt = torch.tensor(json.loads(sys.argv[2]))
print(json.dumps([
    type(model.lm_head).__name__, model.generate(prompt, mctp_mode="boost", max_new_tokens=40).tolist()
]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_model_is_quantized_saved_and_loaded(quantization, tied, tmp_path):
    model = saved_model(tmp_path / "model", tie_word_embeddings=tied)
    quantized = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "model", quantization_config=quantization)
    layers = {name: layer for name, layer in quantized.named_modules() if isinstance(layer, nn.Linear)}
    # Of the language model, 10 modules and the head
    assert len(layers) == 2 * 7 + 10 * 8 + 1 and "lm_head" in layers
    assert {type(layer.weight).__name__ for layer in layers.values()} == {WEIGHT_CLASSES[quantization]}
    assert all(isinstance(layer, QuantizedLinear) for layer in layers.values())
    assert quantized.dtype == torch.bfloat16 == quantized.model.language_model.embed_tokens.weight.dtype
    # Near to what it was
    prompt = random_prompt(7)
    with torch.no_grad():
        expected, logits = model(prompt).logits, quantized(prompt).logits.float()
    assert torch.nn.functional.cosine_similarity(expected, logits, dim=2).min() > 0.9

    quantized.save_pretrained(tmp_path / "quantized")
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao" and config["tie_word_embeddings"] is False
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "quantized")
    assert loaded.dtype == torch.bfloat16 and type(loaded.lm_head) is type(quantized.lm_head)
    tokens = tokens_of(quantized, mctp_mode="boost")
    assert tokens_of(loaded, mctp_mode="boost") == tokens
    # and once more, from what was loaded
    loaded.save_pretrained(tmp_path / "again")
    again = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert tokens_of(again, mctp_mode="boost") == tokens
    # Somebody who has the folder alone
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_OUR_PACKAGES + CLEAN, tmp_path / "again", json.dumps(prompt.tolist())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [type(quantized.lm_head).__name__, tokens]


def test_a_quantized_folder_is_small(tmp_path):
    saved_model(tmp_path / "model", hidden_size=64, intermediate_size=256)
    sizes = {}
    for quantization in QUANTIZATIONS:
        model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "model", quantization_config=quantization)
        model.save_pretrained(tmp_path / quantization)
        weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
        stored = sum(getattr(weight, name).nbytes for weight in weights for name in weight.tensor_data_names)
        sizes[quantization] = stored / sum(weight.numel() for weight in weights)
    # Bytes a weight: int8 has 4 bytes of scale a row of 64 or more, int4 4 bytes a group of 32
    assert 1 < sizes["int8"] < 1.07
    assert sizes["int4"] == 0.5 + 4 / 32
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("model", *QUANTIZATIONS)}
    assert size["int4"] < size["int8"] < size["model"] / 2


def test_a_configuration_of_transformers_is_taken_and_leaves_the_head(tmp_path):
    saved_model(tmp_path, tie_word_embeddings=False)
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    model = VitaAudioForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float32
    )
    assert type(model.lm_head) is nn.Linear and model.dtype == torch.float32
    assert isinstance(model.model.mctp_modules[9].proj, QuantizedLinear)
    assert len(tokens_of(model, mctp_mode="turbo")[0]) == 47


def test_torchao_is_left_as_it_was(tmp_path):
    saved_model(tmp_path)
    handlers = dict(sys.modules["torchao.quantization.transform_module"]._QUANTIZE_CONFIG_HANDLER)
    VitaAudioForConditionalGeneration.from_pretrained(tmp_path, quantization_config="int4")
    assert handlers == sys.modules["torchao.quantization.transform_module"]._QUANTIZE_CONFIG_HANDLER


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_all_else_has_the_type_that_was_asked_for(name, tmp_path):
    random_model(2).save_pretrained(tmp_path)
    kwargs = {"quantization_config": "int8", name: torch.float16}
    assert VitaAudioForConditionalGeneration.from_pretrained(tmp_path, **kwargs).dtype == torch.float16


def test_an_unknown_name_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="must be 'int8' or 'int4' or a configuration.*got 'int2'"):
        VitaAudioForConditionalGeneration.from_pretrained("/nowhere", quantization_config="int2")


def test_what_hears_is_not_quantized(tmp_path):
    tiny_model(tiny_plus_processor()).save_pretrained(tmp_path)
    model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path, quantization_config="int4")
    hearing = [*model.model.audio_tower.modules(), *model.model.multi_modal_projector.modules()]
    assert {type(layer) for layer in hearing if isinstance(layer, nn.Linear)} == {nn.Linear}
    assert isinstance(model.model.language_model.layers[0].mlp.up_proj, QuantizedLinear)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_speech_only_head_scores_as_the_whole_one(quantization, tmp_path):
    saved_model(tmp_path)
    model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantization)
    prompt, special = random_prompt(5), torch.tensor([98, 99, 3])
    logits = []
    for special_token_ids in (None, special):
        with torch.no_grad():
            cache = VitaAudioCache(model.config)
            model(prompt, cache=cache)
            logits.append(model.forward_mctp(random_prompt(1), cache, special_token_ids=special_token_ids)[0, 0])
    scored = [*range(100, 120), *special.tolist()]
    torch.testing.assert_close(logits[0][scored], logits[1][scored], rtol=0.02, atol=0.02)
    assert logits[1].isneginf().sum() == 120 - len(scored)
    # with a hook, the head is called as it is
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + 1)
    with torch.no_grad():
        cache = VitaAudioCache(model.config)
        model(prompt, cache=cache)
        hooked = model.forward_mctp(random_prompt(1), cache, special_token_ids=special)[0, 0]
    torch.testing.assert_close(hooked[scored], logits[0][scored] + 1, rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_mode_and_verification(quantization, tmp_path):
    saved_model(tmp_path)
    model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantization)
    for mode in MCTP_MODES:
        for options in ({}, {"mctp_speech_only_head": True}):
            assert len(tokens_of(model, mctp_mode=mode, **options)[0]) == 47
    # The language model alone scores what verification writes: of each token, no other scores higher by more than
    # rounding
    sequence = torch.tensor(tokens_of(model, mctp_mode="boost", mctp_verify=True))
    with torch.no_grad():
        logits = model(sequence).logits[0, 6:-1].float()
    chosen = logits.gather(1, sequence[0, 7:, None])[:, 0]
    assert (logits.amax(1) - chosen).max() < 0.1
