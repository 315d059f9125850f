# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import random

import pytest
import torch
from modeling_fixtures import left_pad, random_config, random_model, random_prompt
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from modeling_vita_audio import MCTP_MODES, VitaAudioCache
from modeling_vita_audio.cache_vita_audio import ColumnBuffer
from modeling_vita_audio.compatibility_vita_audio import CACHE
from modeling_vita_audio.growing_cache_vita_audio import GrowingCache, GrowingLayer, GrowingTensor


def states(batch_size, num_columns, dtype=torch.float32):
    return torch.randn(batch_size, 2, num_columns, 3, dtype=dtype)


def held_bytes(layer):
    return sum(tensor.buffer.untyped_storage().nbytes() for tensor in (layer._keys, layer._values))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_random_operations_give_what_a_dynamic_layer_holds(seed, mode):
    choose = random.Random(seed)
    torch.manual_seed(seed)
    ours, reference = GrowingLayer(), DynamicLayer()
    batch_size, returned = 2, []
    with mode():
        for _ in range(120):
            operation = choose.choice(["update"] * 6 + ["crop", "repeat", "select", "reorder", "reset", "copy"])
            length = reference.get_seq_length()
            if operation == "update":
                num_columns = choose.randint(1, 9)
                new = states(batch_size, num_columns), states(batch_size, num_columns)
                for result, expected in zip(ours.update(*new), reference.update(*new)):
                    assert torch.equal(result, expected)
                    returned.append((result, expected))
            elif operation == "crop" and length > 0:
                num_tokens = choose.randint(0, length)
                # What was returned before may be written over, as the docstring says
                returned = [pair for pair in returned if num_tokens == 0]
                ours.crop(-num_tokens)
                reference.crop(-num_tokens)
            elif operation == "repeat" and batch_size < 4:
                ours.batch_repeat_interleave(2)
                reference.batch_repeat_interleave(2)
                batch_size *= 2 if length > 0 else 1
            elif operation in ("select", "reorder") and length > 0:
                indices = torch.randint(batch_size, (choose.randint(1, 3),))
                for layer in (ours, reference):
                    layer.batch_select_indices(indices) if operation == "select" else layer.reorder_cache(indices)
                batch_size = len(indices)
            elif operation == "reset" and choose.random() < 0.3:
                ours.reset()
                reference.reset()
            elif operation == "copy":
                before = ours
                ours = copy.deepcopy(ours)
                before.reset()
            assert ours.get_seq_length() == reference.get_seq_length()
            assert ours.is_initialized == reference.is_initialized
            if reference.get_seq_length() > 0:
                assert torch.equal(ours.keys, reference.keys) and torch.equal(ours.values, reference.values)
                assert ours.get_mask_sizes(3) == reference.get_mask_sizes(3)
            for result, expected in returned:
                assert torch.equal(result, expected)


@torch.no_grad()
def test_nothing_is_copied_but_when_the_buffer_is_full_and_memory_is_at_most_twice_what_is_held():
    layer, addresses = GrowingLayer(), set()
    layer.update(states(1, 33), states(1, 33))
    for _ in range(1000):
        layer.update(states(1, 1), states(1, 1))
        addresses.add(layer.keys.data_ptr())
        assert held_bytes(layer) < 2 * (layer.keys.nbytes + layer.values.nbytes)
    # 64, 128, 256, 512, 1024 and 2048 columns; the allocator may give the same memory again
    assert len(addresses) <= 6
    layer.crop(-30)
    address = layer.keys.data_ptr()
    layer.update(states(1, 30), states(1, 30))
    assert layer.keys.data_ptr() == address


@torch.no_grad()
def test_tensors_of_others_are_never_written_to():
    shared = states(1, 8)
    first, second = GrowingLayer(), GrowingLayer()
    for layer in (first, second):
        layer.lazy_initialization(shared, shared)
        layer.keys, layer.values = shared, shared
    expected = shared.clone()
    first.crop(-3)
    first.update(states(1, 3), states(1, 3))
    second.batch_select_indices(slice(0, 1))
    second.crop(-2)
    second.update(states(1, 2), states(1, 2))
    assert torch.equal(shared, expected)


def test_gradients_flow_through_keys_and_values():
    layer, reference = GrowingLayer(), DynamicLayer()
    inputs = [states(1, 5).requires_grad_() for _ in range(4)]
    for cache in (layer, reference):
        cache.update(inputs[0], inputs[1])
        keys, values = cache.update(inputs[2], inputs[3])
        gradients = torch.autograd.grad((keys.sin() * values.cos()).sum(), inputs)
        if cache is layer:
            expected = gradients
    assert all(torch.equal(a, b) for a, b in zip(expected, gradients))


def test_a_backward_pass_is_right_though_the_cache_goes_on():
    """Queries alone need gradients, as with an adapter of theirs: keys that attention has kept must not change."""
    layer, query = GrowingLayer(), states(1, 1).requires_grad_()
    with torch.no_grad():
        layer.update(states(1, 5), states(1, 5))
    keys, values = layer.update(states(1, 1), states(1, 1))
    loss = torch.nn.functional.scaled_dot_product_attention(query, keys, values).sum()
    with torch.no_grad():
        layer.crop(-1)
        layer.update(states(1, 1), states(1, 1))
    loss.backward()
    assert query.grad.abs().sum() > 0


def test_a_cache_of_inference_mode_goes_on_outside_of_it():
    layer, reference = GrowingLayer(), DynamicLayer()
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode, torch.enable_grad, torch.no_grad):
        with mode():
            new = states(1, 3), states(1, 3)
            for result, expected in zip(layer.update(*new), reference.update(*new)):
                assert torch.equal(result, expected)


@torch.no_grad()
def test_types_are_joined_and_batches_of_another_size_refused_as_by_a_dynamic_layer():
    for dtypes in [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]:
        layer, reference = GrowingLayer(), DynamicLayer()
        for dtype in dtypes:
            new = states(1, 3, dtype), states(1, 3, dtype)
            for result, expected in zip(layer.update(*new), reference.update(*new)):
                assert result.dtype == expected.dtype and torch.equal(result, expected)
    for held, new in ((1, 4), (4, 1)):
        layer = GrowingLayer()
        layer.update(states(held, 3), states(held, 3))
        for num_columns in (1, 9):
            with pytest.raises(RuntimeError, match="[Ss]ize"):
                layer.update(states(new, num_columns), states(new, num_columns))


@torch.no_grad()
def test_offloaded_keys_come_back():
    layer = GrowingLayer()
    new = states(1, 3), states(1, 3)
    layer.update(*new)
    layer.offload()
    layer.prefetch()
    keys, _ = layer.update(*new)
    assert torch.equal(keys, torch.cat([new[0], new[0]], dim=2))


@torch.no_grad()
def test_a_buffer_of_columns_forgets():
    buffer, columns = ColumnBuffer(), torch.randn(2, 500, 4)
    for end in range(10, 500, 10):
        buffer.append(columns[:, end - 10 : end])
        buffer.keep(end - 30, end)
        start = max(end - 30, 0)
        assert (buffer.start, buffer.end) == (start, end)
        assert torch.equal(buffer.read(start, end), columns[:, start:end])
        assert buffer.columns.length <= 60 and buffer.columns.buffer.shape[1] <= 128
    buffer.keep(0, 475)
    buffer.append(columns[:, :3])
    assert torch.equal(buffer.read(470, 478), torch.cat([columns[:, 470:475], columns[:, :3]], dim=1))


def test_an_empty_tensor_is_none():
    tensor = GrowingTensor(dim=0)
    assert tensor.read() is None
    tensor.append(torch.ones(2))
    tensor.set(None)
    assert tensor.read() is None and tensor.length == 0


def test_sliding_layers_are_those_of_transformers():
    text_config = {"use_sliding_window": True, "sliding_window": 8, "layer_types": None, "max_window_layers": 1}
    config = random_config(2, text_config=text_config).text_config
    assert [type(layer) for layer in GrowingCache(config).layers] == [GrowingLayer, DynamicSlidingWindowLayer]


@pytest.mark.parametrize("mode", MCTP_MODES)
@pytest.mark.parametrize("is_verified", [False, True])
def test_generate_writes_what_it_writes_with_transformers_cache(mode, is_verified):
    model = random_model()
    inputs = {**left_pad([random_prompt(9), random_prompt(14, seed=1)]), "pad_token_id": 0, "max_new_tokens": 70}
    inputs |= {"mctp_mode": mode, "mctp_verify": is_verified, "do_sample": False, "return_dict_in_generate": True}
    inputs |= {"output_logits": True}
    ours = model.generate(**inputs)
    given = DynamicCache(config=model.config.text_config)
    reference = model.generate(**inputs, cache=given)
    assert torch.equal(ours.sequences, reference.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(reference.logits))
    cache, kept = ours[CACHE], reference[CACHE]
    assert isinstance(cache, GrowingCache if mode == "vanilla" else VitaAudioCache)
    # One that the caller passes is left as it is
    assert kept is given or kept.layers is given.layers
    caches = [cache, *getattr(cache, "mctp_caches", [])]
    assert all(type(layer) is GrowingLayer for part in caches for layer in part.layers)
    caches = [kept, *getattr(kept, "mctp_caches", [])]
    assert all(type(layer) is DynamicLayer for part in caches for layer in part.layers)
    for layer, expected in zip(cache.layers, kept.layers):
        torch.testing.assert_close(layer.keys, expected.keys)


def test_a_cache_without_use_of_it_is_none():
    output = random_model(0).generate(
        random_prompt(5), use_cache=False, max_new_tokens=3, return_dict_in_generate=True, pad_token_id=0
    )
    assert output.get(CACHE) is None


@torch.no_grad()
@pytest.mark.slow
def test_compiled_code_takes_a_growing_cache():
    model, tokens = random_model(0), random_prompt(12)
    compiled = torch.compile(model, backend="eager", dynamic=True)
    cache = GrowingCache(model.config.text_config)
    compiled(tokens[:, :6], cache=cache)
    for column in range(6, 12):
        logits = compiled(tokens[:, column : column + 1], cache=cache).logits
    torch.testing.assert_close(logits[:, -1], model(tokens).logits[:, -1])
