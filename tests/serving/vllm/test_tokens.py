# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens of vLLM against `generate` of the same folder, for one request alone, in float32."""

import pytest
from modeling_fixtures import schedules
from vllm_models import differences, generated, prompts


pytestmark = pytest.mark.slow


def cases_of(model, number, longest=300):
    modes = schedules(model.config.num_mctp_modules)
    vocab_size = model.config.text_config.vocab_size
    return [(ids, modes[index % len(modes)]) for index, ids in enumerate(prompts(number, 5, longest, vocab_size))]


@pytest.mark.parametrize("name", ["mini", "qwen2", "qwen3", "llama"])
def test_greedy_tokens_are_those_of_generate(name, model_of, engine_of, write, blocks):
    model = model_of(name)
    vocab_size = model.config.text_config.vocab_size
    cases = [
        (ids, mode) for ids in prompts(100, 5, 300, vocab_size) for mode in schedules(model.config.num_mctp_modules)
    ]
    expected = generated(model, cases, 40)
    engine = engine_of(name)
    for _ in range(2):
        # the second time with prefixes of the first one in the cache
        assert differences(model, cases, expected, write(engine, cases)) == []
    total, free = blocks(engine)
    assert free == total
    assert len({tuple(tokens) for tokens in expected}) > 50


@pytest.mark.parametrize("name", ["mini", "llama"])
def test_verified_tokens_are_those_of_vanilla(name, model_of, engine_of, write, blocks):
    model = model_of(name)
    cases = cases_of(model, 50)
    of_vanilla = [(ids, "vanilla") for ids, _ in cases]
    expected = generated(model, of_vanilla, 40)
    engine = engine_of(name, mctp_verify=True)
    for _ in range(2):
        assert differences(model, of_vanilla, expected, write(engine, cases)) == []
    total, free = blocks(engine)
    assert free == total


@pytest.mark.parametrize("is_verified", [False, True])
def test_requests_that_are_preempted_write_the_same(is_verified, model_of, engine_of, write, blocks):
    model = model_of("qwen2")
    cases = cases_of(model, 30, longest=150)
    reference = [(ids, "vanilla" if is_verified else mode) for ids, mode in cases]
    expected = generated(model, reference, 60)
    # Blocks for two or three of the eight that run at once
    engine = engine_of("qwen2", mctp_verify=is_verified, num_gpu_blocks_override=18, max_model_len=256)
    scheduler = engine.llm_engine.engine_core.engine_core.scheduler
    preempted, original = [], scheduler._preempt_request
    scheduler._preempt_request = lambda request, *args, **kwargs: (
        preempted.append(request.request_id) or original(request, *args, **kwargs)
    )
    for _ in range(2):
        assert differences(model, reference, expected, write(engine, cases, max_tokens=60)) == []
    assert len(preempted) > 5
    total, free = blocks(engine)
    assert free == total


@pytest.mark.parametrize("is_verified", [False, True])
def test_answers_up_to_the_last_position(is_verified, model_of, engine_of, write):
    model = model_of("qwen2")
    cases = [(ids, [1, 4]) for ids in prompts(8, 40, 62, 100)]
    engine = engine_of("qwen2", mctp_verify=is_verified, max_model_len=64)
    got = write(engine, cases, max_tokens=64)
    assert [len(tokens) for tokens in got] == [64 - len(ids) for ids, _ in cases]
    for (ids, mode), tokens in zip(cases, got):
        assert generated(model, [(ids, "vanilla" if is_verified else mode)], len(tokens)) == [tokens]


def test_conversations_that_go_on_use_what_was_read(model_of, engine_of, write):
    model = model_of("mini")
    engine = engine_of("mini")
    conversation, mode = prompts(1, 90, 90, 1000)[0], "boost"
    for turn in range(4):
        expected = generated(model, [(conversation, mode)], 40)
        assert write(engine, [(conversation, mode)]) == expected
        conversation = conversation + expected[0][:25] + prompts(1, 9, 9, 1000, seed=turn)[0]


def test_prompts_that_several_modes_share(model_of, engine_of, write):
    """Modes one after the other: what one has left in the cache is not all that another needs."""
    model = model_of("llama")
    engine, questions = engine_of("llama"), prompts(6, 100, 200, 100)
    for mode in ["vanilla", [1, 4], "vanilla", [3, 2], [1, 4]]:
        cases = [(ids, mode) for ids in questions]
        assert differences(model, cases, generated(model, cases, 40), write(engine, cases)) == []


def test_no_module_runs_for_vanilla(engine_of, write):
    engine = engine_of("qwen2")
    decoder = engine.llm_engine.model_executor.driver_worker.worker.decoder
    ran, run_module = [], decoder.model.run_module
    decoder.model.run_module = lambda module_idx, *args: ran.append(module_idx) or run_module(module_idx, *args)
    cases = prompts(4, 100, 200, 100)
    write(engine, [(ids, "vanilla") for ids in cases])
    assert ran == []
    write(engine, [(ids, [1, 4]) for ids in cases])
    assert set(ran) == {1, 2, 3, 4}


@pytest.mark.parametrize("options", [{"enable_prefix_caching": False}, {"block_size": 64}], ids=str)
def test_other_caches(options, model_of, engine_of, write):
    model = model_of("qwen3")
    cases = cases_of(model, 25)
    expected = generated(model, cases, 40)
    engine = engine_of("qwen3", **options)
    for _ in range(2):
        assert differences(model, cases, expected, write(engine, cases)) == []
