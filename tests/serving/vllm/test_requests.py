# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What else a request may ask vLLM for, and what is refused by name."""

import itertools
from collections import Counter

import pytest
import torch
from modeling_fixtures import reference_logits
from vllm import EngineArgs, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams
from vllm_models import generated, prompts, save_random_model

from serving.vllm import engine_arguments


pytestmark = pytest.mark.slow

TURBO = [1, 4]


def outputs_of(engine, requests):
    """The outputs of requests (prompt, options), submitted at once."""
    options = [{"temperature": 0, "max_tokens": 30, "detokenize": False, "ignore_eos": True, **o} for _, o in requests]
    options = [{**o, "extra_args": {"mctp_mode": TURBO} | o.get("extra_args", {})} for o in options]
    return engine.generate(
        [{"prompt_token_ids": ids} for ids, _ in requests], [SamplingParams(**o) for o in options], use_tqdm=False
    )


def tokens_of(engine, requests):
    return [list(output.outputs[0].token_ids) for output in outputs_of(engine, requests)]


@torch.inference_mode()
def distribution(model, ids, is_verified, top_k, temperature):
    """The probability of each three tokens, from the formulas of the model."""
    probabilities = {(): 1.0}
    for index in range(3):
        longer = {}
        for tokens, probability in probabilities.items():
            logits = reference_logits(model, [*ids, *tokens], 0 if is_verified else index) / temperature
            best = logits.topk(top_k)
            for token, share in zip(best.indices.tolist(), best.values.softmax(-1).tolist()):
                longer[(*tokens, token)] = probability * share
        probabilities = longer
    return probabilities


@pytest.mark.parametrize("is_verified", [False, True])
def test_sampling_has_the_distribution_of_generate(is_verified, model_of, engine_of):
    model, number = model_of("qwen2"), 3000
    (ids,) = prompts(1, 12, 12, 100)
    expected = distribution(model, ids, is_verified, top_k=3, temperature=1.5)
    engine = engine_of("qwen2", mctp_verify=is_verified, max_num_seqs=64)
    request = (ids, {"max_tokens": 3, "temperature": 1.5, "top_k": 3})
    counts = Counter(map(tuple, tokens_of(engine, [request] * number)))
    assert counts.keys() <= expected.keys()
    for tokens, probability in expected.items():
        # standard deviations of a share
        deviation = (probability * (1 - probability) / number) ** 0.5
        assert abs(counts[tokens] / number - probability) < 4.5 * deviation + 1e-3, tokens


@pytest.mark.parametrize("is_verified", [False, True])
def test_a_seed_gives_the_same_tokens_in_any_company(is_verified, engine_of):
    engine = engine_of("qwen2", mctp_verify=is_verified)
    cases = prompts(10, 10, 60, 100)
    options = {"temperature": 1.0, "seed": 7}
    alone = [tokens_of(engine, [(ids, options)])[0] for ids in cases]
    others = [(ids, {"temperature": 1.0}) for ids in prompts(10, 10, 60, 100, seed=1)]
    together = tokens_of(engine, [*[(ids, options) for ids in cases], *others])[:10]
    assert together == alone
    assert tokens_of(engine, [(cases[0], {"temperature": 1.0, "seed": 8})])[0] != alone[0]


@pytest.mark.parametrize("is_verified", [False, True])
def test_a_seed_goes_with_a_prompt_that_is_read_in_parts(is_verified, engine_of):
    engine = engine_of("qwen2", mctp_verify=is_verified, enable_prefix_caching=False)
    request = (prompts(1, 200, 200, 100)[0], {"temperature": 1.0, "seed": 7})
    assert tokens_of(engine, [request]) == tokens_of(engine, [request])


def test_stop_tokens_end_an_answer_within_a_burst(model_of, engine_of):
    model, engine = model_of("qwen2"), engine_of("qwen2")
    cases = prompts(20, 5, 60, 100)
    expected = generated(model, [(ids, TURBO) for ids in cases], 30)
    # the third token of each, a module's
    stops = [tokens[2] for tokens in expected]
    got = tokens_of(engine, [(ids, {"stop_token_ids": [stop]}) for ids, stop in zip(cases, stops)])
    assert got == [tokens[: tokens.index(stop) + 1] for tokens, stop in zip(expected, stops)]


def test_the_tokens_that_end_an_answer_are_the_models(model_of, engine_of):
    model, engine = model_of("mini"), engine_of("mini")
    (ids,) = prompts(1, 30, 30, 1000)
    request = (ids, {"ignore_eos": False, "max_tokens": 200, "extra_args": {"mctp_mode": "boost"}})
    tensor = torch.tensor([ids])
    options = {"mctp_mode": "boost", "max_new_tokens": 200, "do_sample": False}
    expected = model.generate(tensor, attention_mask=torch.ones_like(tensor), **options)[0, len(ids) :].tolist()
    assert tokens_of(engine, [request]) == [expected]


def test_log_probabilities_are_those_of_the_writers(model_of, engine_of):
    model, engine = model_of("qwen2"), engine_of("qwen2")
    requests = [(ids, {"logprobs": 2, "max_tokens": 5}) for ids in prompts(6, 5, 40, 100)]
    # one that asks for none is in the same batch
    outputs = outputs_of(engine, [*requests, (requests[0][0], {"max_tokens": 5})])
    assert outputs[-1].outputs[0].logprobs is None
    for (ids, _), output in zip(requests, outputs):
        answer = output.outputs[0]
        assert len(answer.logprobs) == len(answer.token_ids) == 5
        for index, (token, scores) in enumerate(zip(answer.token_ids, answer.logprobs)):
            with torch.inference_mode():
                expected = reference_logits(model, [*ids, *answer.token_ids[:index]], index).log_softmax(-1)
            assert scores[token].logprob == pytest.approx(float(expected[token]), abs=1e-4)
            assert scores[token].rank == 1


def test_penalties_see_tokens_as_they_are_written(model_of, engine_of):
    model, engine = model_of("qwen2"), engine_of("qwen2")
    cases = prompts(10, 5, 40, 100)
    got = tokens_of(engine, [(ids, {"presence_penalty": 2.0}) for ids in cases])
    for ids, tokens in zip(cases, got):
        for index, token in enumerate(tokens[:10]):
            with torch.inference_mode():
                logits = reference_logits(model, [*ids, *tokens[:index]], index % 5)
                logits[list(set(tokens[:index]))] -= 2.0
            assert token == int(logits.argmax())
    assert got != tokens_of(engine, [(ids, {}) for ids in cases])


def test_a_shortest_length_counts_within_a_burst(model_of, engine_of):
    model, engine = model_of("qwen2"), engine_of("qwen2")
    cases = prompts(10, 5, 40, 100)
    plain = tokens_of(engine, [(ids, {}) for ids in cases])
    # the fourth token may not be written before the seventh place
    stops = [tokens[3] for tokens in plain]
    got = tokens_of(engine, [(i, {"stop_token_ids": [s], "min_tokens": 7}) for i, s in zip(cases, stops)])
    for ids, stop, tokens in zip(cases, stops, got):
        assert stop not in tokens[:7]
        for index in range(7, min(len(tokens), 10)):
            with torch.inference_mode():
                logits = reference_logits(model, [*ids, *tokens[:index]], index % 5)
            assert tokens[index] == int(logits.argmax())


def test_only_speech_where_the_layout_has_nothing_else(tmp_path, model_of, engine_of, folders):
    folder = save_random_model(tmp_path / "speech", 4, interleave_pattern=[1, 4])
    from modeling_vita_audio import VitaAudioForConditionalGeneration

    model = VitaAudioForConditionalGeneration.from_pretrained(folder)
    model.generation_config.mctp_speech_only_head = True
    model.generation_config.mctp_mode = TURBO
    model.save_pretrained(folder)
    folders["speech"] = folder
    cases = [(ids, TURBO) for ids in prompts(10, 5, 60, 100)]
    expected = generated(model, cases, 30)
    assert tokens_of(engine_of("speech"), [(ids, {}) for ids, _ in cases]) == expected
    assert all(100 <= token < 120 or token in (98, 99) for tokens in expected for token in tokens[1:5])


def test_aborted_requests_leave_nothing(model_of, engine_of, blocks):
    model, engine = model_of("qwen2"), engine_of("qwen2")
    core, cases = engine.llm_engine, prompts(8, 20, 120, 100)
    params = SamplingParams(
        temperature=0, max_tokens=60, detokenize=False, ignore_eos=True, extra_args={"mctp_mode": TURBO}
    )
    for index, ids in enumerate(cases):
        core.add_request(str(index), {"prompt_token_ids": ids}, params)
    written = {}
    for step in itertools.count():
        if step in (3, 6, 9):
            core.abort_request([str(step - 3)])
        for output in core.step():
            written[output.request_id] = list(output.outputs[0].token_ids)
        if not core.has_unfinished_requests():
            break
    expected = generated(model, [(ids, TURBO) for ids in cases], 60)
    for index, tokens in enumerate(expected):
        got = written.get(str(index), [])
        # what was aborted is a beginning of it
        assert got == tokens if index not in (0, 3, 6) else got == tokens[: len(got)] and len(got) < 60
    total, free = blocks(engine)
    assert free == total
    decoder = core.model_executor.driver_worker.worker.decoder
    tokens_of(engine, [(cases[0], {"max_tokens": 1})])
    assert len(decoder._states) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_args": {"mctp_mode": "fast"}}, "vanilla, balance, boost, turbo"),
        ({"extra_args": {"mctp_mode": [1, 5]}}, "5 MCTP steps, but the model has 4"),
        ({"extra_args": {"mctp_verify": True}}, "does not verify"),
        ({"extra_args": {"mctp_verify": 0.5}}, "vLLM knows no tolerance"),
        ({"logprobs": -1}, "all tokens"),
    ],
    ids=str,
)
def test_requests_that_are_refused(options, message, engine_of):
    engine = engine_of("qwen2", max_logprobs=-1)
    with pytest.raises(VLLMValidationError, match=message):
        engine.generate([{"prompt_token_ids": [1, 2, 3]}], SamplingParams(**options), use_tqdm=False)
    # others are served
    assert len(tokens_of(engine, [([1, 2, 3], {})])[0]) == 30


def test_structured_outputs_are_refused(engine_of):
    engine = engine_of("mini")
    params = SamplingParams(structured_outputs=StructuredOutputsParams(regex="a+"))
    with pytest.raises(VLLMValidationError, match="Structured outputs need an engine that verifies"):
        engine.generate([{"prompt_token_ids": [1, 2, 3]}], params, use_tqdm=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"enable_lora": True}, "LoRA|lora"),
        ({"quantization": "fp8"}, "quantization"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "kv_cache_dtype"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "'ngram'"),
        ({"worker_cls": "vllm.v1.worker.cpu_worker.CPUWorker"}, "worker_cls"),
    ],
    ids=str,
)
def test_engines_that_are_refused(options, message, folders):
    options = {"skip_tokenizer_init": True, "dtype": "float32", "max_model_len": 128, **options}
    with pytest.raises(ValueError, match=message):
        EngineArgs(**engine_arguments(folders["qwen2"], **options)).create_engine_config()


def test_models_that_are_refused(tmp_path):
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    folder = save_random_model(tmp_path / "sliding", 2, text_config=sliding)
    with pytest.raises(ValueError, match="sliding_attention"):
        EngineArgs(**engine_arguments(folder, skip_tokenizer_init=True)).create_engine_config()
    folder = save_random_model(tmp_path / "gemma", 2, "mistral")
    with pytest.raises(ValueError, match="'mistral'"):
        EngineArgs(**engine_arguments(folder, skip_tokenizer_init=True)).create_engine_config()
