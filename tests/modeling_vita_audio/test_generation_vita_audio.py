# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from tempfile import mkdtemp

import peft
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from modeling_fixtures import (
    RELEASED_FIXTURE,
    left_pad,
    random_model,
    random_prompt,
    reference_generate,
    released_model,
    schedules,
)
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from modeling_vita_audio import MCTP_MODES, VitaAudioCache, VitaAudioForConditionalGeneration
from modeling_vita_audio.generation_vita_audio import modules_in_turn


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model():
    return random_model(10)


def new_tokens(model, prompt, **kwargs):
    """Greedy by default; the new tokens of each row."""
    kwargs = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0, **kwargs}
    # Without an attention mask, tokens that are `pad_token_id` would be taken for padding
    inputs = prompt if isinstance(prompt, dict) else {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    return model.generate(**inputs, **kwargs)[:, inputs["input_ids"].shape[1] :].tolist()


class CountForwards:
    """Counts the forwards of the language model and of the MCTP modules inside a `with` block."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.language_model, self.modules = 0, 0
        modules = self.model.model.mctp_modules
        self.handles = [self.model.model.language_model.register_forward_hook(self.count_language_model)]
        self.handles += [module.register_forward_hook(self.count_module) for module in modules]
        return self

    def count_language_model(self, *_):
        self.language_model += 1

    def count_module(self, *_):
        self.modules += 1

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


# --- against the original implementation, transformers' Qwen2 and the formulas ---


@pytest.mark.slow
def test_released_fixture_token_for_token():
    model = released_model()
    for expected in json.loads((RELEASED_FIXTURE / "expected.json").read_text())["generate"]:
        prompt = torch.tensor([expected["prompt"]])
        for mctp_mode in (expected["mode"], expected["pattern"]):
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                mctp_mode=mctp_mode,
                max_new_tokens=len(expected["tokens"]),
                return_dict_in_generate=True,
                output_logits=True,
            )
            assert output.sequences[0, prompt.shape[1] :].tolist() == expected["tokens"]
            logits_sum = [logits.logsumexp(-1).item() for logits in output.logits]
            assert logits_sum == pytest.approx(expected["logits_sum"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"do_sample": True}, {"repetition_penalty": 1.3}], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_vanilla_is_transformers_qwen2(model, kwargs, padded):
    qwen2 = Qwen2ForCausalLM(model.config.text_config).eval()
    qwen2.model.load_state_dict(model.model.language_model.state_dict())
    qwen2.lm_head.load_state_dict(model.lm_head.state_dict())
    lengths = (5, 11, 8) if padded else (9,)
    inputs = left_pad([random_prompt(length, seed=length) for length in lengths])
    tokens = []
    for each in (model, qwen2):
        torch.manual_seed(7)
        tokens.append(new_tokens(each, inputs, eos_token_id=[3, 50], **kwargs))
    assert tokens[0] == tokens[1]
    assert new_tokens(model, inputs, eos_token_id=[3, 50], num_beams=1, mctp_mode=[3, 0]) == new_tokens(
        qwen2, inputs, eos_token_id=[3, 50]
    )


@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
def test_generation_is_what_the_formulas_say(num_mctp_modules):
    model = random_model(num_mctp_modules)
    prompt = random_prompt(6)
    for schedule in schedules(num_mctp_modules):
        expected = reference_generate(model, prompt[0].tolist(), schedule, max_new_tokens=30)
        assert new_tokens(model, prompt, mctp_mode=schedule, max_new_tokens=30) == [expected], schedule


@pytest.mark.parametrize(
    "model_type, attn_implementation, text_config",
    [
        ("qwen3", "sdpa", {"head_dim": 8}),
        ("llama", "sdpa", {}),
        ("llama", "eager", {}),
        ("qwen2", "sdpa", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("qwen2", "sdpa", {"tie_word_embeddings": True}),
    ],
)
def test_generation_agrees_with_the_training_forward(model_type, attn_implementation, text_config):
    model = random_model(4, model_type, text_config=text_config)
    model.set_attn_implementation(attn_implementation)
    prompt = random_prompt(7)
    schedule = [2, 1, 1, 4, 3, 2, 1, 4]
    output = model.generate(
        prompt,
        mctp_mode=schedule,
        max_new_tokens=30,
        return_dict_in_generate=True,
        output_logits=True,
    )
    whole = model(output.sequences, output_mctp_logits=True)
    writers = [0, 0, 1, 0, 1, 2, 3, 4, 0, 0, 0, 1, 2] + 4 * [0, 1, 2, 3, 4]
    for index, (logits, writer) in enumerate(zip(output.logits, writers)):
        expected = whole.mctp_logits[writer - 1] if writer > 0 else whole.logits
        column = prompt.shape[1] + index - 1 - writer
        torch.testing.assert_close(logits, expected[:, column], rtol=1e-4, atol=1e-4)


# --- the schedule ---


@pytest.mark.parametrize("mctp_mode", ["boost", "turbo"])
def test_first_chunk_after_one_forward_of_the_language_model(model, mctp_mode):
    with CountForwards(model) as count:
        new_tokens(model, random_prompt(32), mctp_mode=mctp_mode, max_new_tokens=11)
    assert (count.language_model, count.modules) == (1, 10)


@pytest.mark.parametrize(
    "mctp_mode, language_model, modules",
    [("vanilla", 53, 0), ("balance", 16, 37), ("boost", 13, 40), ("turbo", 5, 48), ([2, 3], 22, 31)],
)
def test_number_of_forwards(model, mctp_mode, language_model, modules):
    with CountForwards(model) as count:
        new_tokens(model, random_prompt(4), mctp_mode=mctp_mode, max_new_tokens=53)
    assert (count.language_model, count.modules) == (language_model, modules)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"mctp_mode": "fast"}, "Unknown `mctp_mode` 'fast'. It is one of vanilla, balance, boost, turbo"),
        ({"mctp_mode": [1, 10, 4]}, "pairs"),
        ({"mctp_mode": []}, "pairs"),
        ({"mctp_mode": 10}, "Unknown `mctp_mode` 10"),
        ({"mctp_mode": [1, -1]}, "not negative"),
        ({"mctp_mode": [1, 2.5]}, "integers"),
        ({"mctp_mode": [0, 10]}, "1 or more tokens of the language model"),
        ({"mctp_mode": [1, 11]}, "takes 11 MCTP steps, but the model has 10 modules"),
        ({"mctp_verify": "x"}, "`mctp_verify` must be True, False, a number from 0 to 1 or two or three .*, got 'x'"),
        ({"mctp_verify": 1.1}, "a number from 0 to 1 .*, got 1.1"),
        ({"mctp_verify": float("nan")}, "a number from 0 to 1 .*, got nan"),
        (
            {"mctp_verify": [0.5]},
            "two or three such numbers, for text, for speech and for the first speech, got \\[0.5\\]",
        ),
        ({"mctp_verify": (0.5, -1)}, "two or three such numbers"),
        ({"mctp_verify": [0, 0, 0, 0]}, "two or three such numbers"),
        ({"mctp_mode": "boost", "mctp_speech_only_head": 2}, "`mctp_speech_only_head` must be True or False, got 2"),
        ({"max_length": "many"}, "`max_length` must be a whole number, got 'many'"),
        ({"min_new_tokens": 2.5}, "`min_new_tokens` must be a whole number, got 2.5"),
        (
            {"eos_token_id": 10**9},
            "`eos_token_id` must be an id, or several, of the model's .* tokens, got 1000000000",
        ),
        ({"eos_token_id": []}, "`eos_token_id` must be an id"),
        ({"pad_token_id": -5}, "`pad_token_id` must be an id"),
        ({"mctp_mode": "boost", "use_cache": False}, "use_cache=True"),
        ({"num_beams": 2}, "beam search"),
        ({"num_beams": 2, "do_sample": True}, "beam sample"),
        ({"use_mtp": True}, "assisted generation"),
        ({"prompt_lookup_num_tokens": 3}, "assisted generation"),
        ({"assistant_model": "itself"}, "assisted generation"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"dola_layers": "low"}, "dola generation"),
        ({"mctp_mode": "boost", "cache": "filled"}, "filled without them"),
    ],
    ids=str,
)
def test_refused_before_any_work(model, kwargs, message):
    if "assistant_model" in kwargs:
        kwargs = {"assistant_model": model}
    if "cache" in kwargs:
        cache = DynamicCache(config=model.config.text_config)
        model(random_prompt(4), cache=cache)
        kwargs = {**kwargs, "cache": cache}
    with CountForwards(model) as count, pytest.raises(ValueError, match=message):
        model.generate(random_prompt(5), max_new_tokens=5, **kwargs)
    assert count.language_model == 0


@pytest.mark.slow
def test_default_mode_is_saved_with_the_generation_config(tmp_path):
    model, prompt = random_model(4), random_prompt(5)
    assert new_tokens(model, prompt) == new_tokens(model, prompt, mctp_mode="vanilla")
    model.generation_config.mctp_mode = [1, 4]
    expected = new_tokens(model, prompt)
    assert expected == new_tokens(model, prompt, mctp_mode=[1, 4]) != new_tokens(model, prompt, mctp_mode="vanilla")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["mctp_mode"] == [1, 4]
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert new_tokens(loaded, prompt) == expected
    generation_config = GenerationConfig(max_new_tokens=40, mctp_mode=[2, 1])
    assert loaded.generate(prompt, generation_config)[:, 5:].tolist() == new_tokens(loaded, prompt, mctp_mode=[2, 1])
    assert loaded.generation_config.mctp_mode == [1, 4]


# --- what transformers promises of every `generate` ---


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
def test_rows_of_a_batch_equal_their_single_runs(num_mctp_modules):
    model = random_model(num_mctp_modules)
    prompts = [random_prompt(length, seed=length) for length in (3, 12, 7, 1)]
    for schedule in schedules(num_mctp_modules):
        kwargs = {"mctp_mode": schedule, "max_new_tokens": 30}
        free_run = [new_tokens(model, prompt, **kwargs)[0] for prompt in prompts]
        # Tokens that end the rows at different times, in the middle of what modules write too
        kwargs["eos_token_id"] = [free_run[0][5], free_run[1][9], free_run[2][12]]
        singles = [new_tokens(model, prompt, **kwargs)[0] for prompt in prompts]
        batch = new_tokens(model, left_pad(prompts), **kwargs)
        assert len({len(single) for single in singles}) > 1
        for single, row in zip(singles, batch):
            assert row == single + [0] * (len(row) - len(single))


@pytest.mark.slow
def test_sampling_is_reproducible_and_uses_its_parameters(model):
    runs = {}
    for name, kwargs in {"a": {}, "b": {}, "cold": {"temperature": 1e-4}, "top": {"top_k": 1}}.items():
        torch.manual_seed(3)
        runs[name] = new_tokens(
            model, random_prompt(5), mctp_mode="boost", do_sample=True, num_return_sequences=3, **kwargs
        )
    assert runs["a"] == runs["b"]
    assert len({tuple(row) for row in runs["a"]}) == 3
    greedy = new_tokens(model, random_prompt(5), mctp_mode="boost")
    assert runs["cold"] == runs["top"] == 3 * greedy


class RecordLengths(LogitsProcessor):
    """Forbids the token 7 and notes the length of what it is shown."""

    def __init__(self):
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        scores = scores.clone()
        scores[:, 7] = -torch.inf
        return scores


class StopAfter(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_processors_criteria_and_records_see_every_token(model):
    processor, prompt = RecordLengths(), random_prompt(6)
    output = model.generate(
        prompt,
        mctp_mode="boost",
        max_new_tokens=60,
        logits_processor=LogitsProcessorList([processor]),
        stopping_criteria=StoppingCriteriaList([StopAfter(6 + 29)]),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
    )
    tokens = output.sequences[0, 6:]
    assert processor.lengths == list(range(6, 6 + 29))
    assert len(tokens) == len(output.scores) == len(output.logits) == 29
    for token, scores, logits in zip(tokens, output.scores, output.logits):
        assert scores.argmax() == token and scores[0, 7] == -torch.inf
        assert torch.isfinite(logits).all() and logits.shape == (1, 120)
    # 1 + 10 + 4 + 10 + 4 tokens: nine forwards of the language model, the first of the prompt
    assert [states[-1].shape[1] for states in output.hidden_states] == [6, 11, 1, 1, 1, 11, 1, 1, 1]
    assert isinstance(output.cache, VitaAudioCache)


class RecordStream(BaseStreamer):
    def __init__(self, model):
        self.model, self.chunks, self.forwards, self.ended = model, [], [], False
        self.num_forwards = 0
        model.model.language_model.register_forward_hook(self.count)

    def count(self, *_):
        self.num_forwards += 1

    def put(self, value):
        self.chunks.append(value.tolist())
        self.forwards.append(self.num_forwards)

    def end(self):
        self.ended = True


def test_streamer_gets_tokens_as_they_come():
    model = random_model(10)
    streamer, prompt = RecordStream(model), random_prompt(6)
    output = model.generate(prompt, mctp_mode="turbo", max_new_tokens=25, streamer=streamer)
    assert streamer.ended
    assert streamer.chunks == [prompt.tolist(), *([token] for token in output[0, 6:].tolist())]
    assert streamer.forwards == [0] + 11 * [1] + 11 * [2] + 3 * [3]


def test_generation_ends_at_eos_in_the_middle_of_a_chunk(model):
    free_run = new_tokens(model, random_prompt(6), mctp_mode="turbo")[0]
    for end in (1, 4, 11, 14):
        eos_token_id = free_run[end]
        expected = free_run[: free_run.index(eos_token_id) + 1]
        kwargs = {"mctp_mode": "turbo", "eos_token_id": eos_token_id}
        assert new_tokens(model, random_prompt(6), **kwargs) == [expected]


@pytest.mark.slow
def test_prompt_as_embeddings_or_in_pieces(model):
    prompt = random_prompt(9)
    for mctp_mode in MCTP_MODES:
        expected = new_tokens(model, prompt, mctp_mode=mctp_mode)
        assert new_tokens(model, prompt, mctp_mode=mctp_mode, prefill_chunk_size=4) == expected
        embeds = model.get_input_embeddings()(prompt)
        generated = model.generate(inputs_embeds=embeds, mctp_mode=mctp_mode, max_new_tokens=40)
        assert generated.tolist() == expected


@pytest.mark.slow
def test_static_cache(model):
    inputs = left_pad([random_prompt(length, seed=length) for length in (4, 9)])
    for mctp_mode in MCTP_MODES:
        expected = new_tokens(model, inputs, mctp_mode=mctp_mode)
        assert new_tokens(model, inputs, mctp_mode=mctp_mode, cache_implementation="static") == expected


@pytest.mark.slow
def test_compiled_without_a_graph_break(model):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compile_config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    compile_config._compile_all_devices = True
    prompt, num_graphs = random_prompt(7), {}
    for mctp_mode, mctp_verify in (("vanilla", False), ("boost", False), ("boost", True)):
        kwargs = {"mctp_mode": mctp_mode, "mctp_verify": mctp_verify, "max_new_tokens": 30}
        expected = new_tokens(model, prompt, **kwargs)
        kwargs |= {"cache_implementation": "static", "compile_config": compile_config}
        assert new_tokens(model, prompt, **kwargs) == expected
        num_graphs[mctp_mode] = len(graphs)
    # the language model's steps, then the modules', too
    assert 0 < num_graphs["vanilla"] < num_graphs["boost"]


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
@pytest.mark.parametrize("num_new_tokens", [1, 7, 13, 20])
def test_a_returned_cache_continues_the_conversation(num_mctp_modules, num_new_tokens):
    model = random_model(num_mctp_modules)
    for mctp_mode in schedules(num_mctp_modules)[1:]:
        first = left_pad([random_prompt(length, seed=length) for length in (4, 9)])
        output = model.generate(
            **first, mctp_mode=mctp_mode, max_new_tokens=num_new_tokens, return_dict_in_generate=True
        )
        second_turn = random_prompt(5, batch_size=2, seed=1)
        conversation = torch.cat([output.sequences, second_turn], dim=1)
        attention_mask = torch.ones_like(conversation)
        attention_mask[:, : first["attention_mask"].shape[1]] = first["attention_mask"]
        inputs = {"input_ids": conversation, "attention_mask": attention_mask}
        expected = new_tokens(model, inputs, mctp_mode=mctp_mode)
        with CountForwards(model) as count:
            cache = output.cache
            assert new_tokens(model, inputs, mctp_mode=mctp_mode, cache=cache) == expected
        assert count.language_model < 45


@pytest.mark.slow
def test_a_vita_audio_cache_keeps_what_modules_need_in_any_mode(model):
    prompt, cache = random_prompt(6), VitaAudioCache(model.config)
    first = model.generate(prompt, mctp_mode="vanilla", max_new_tokens=9, cache=cache)
    expected = new_tokens(model, first, mctp_mode="boost")
    assert new_tokens(model, first, mctp_mode="boost", cache=cache) == expected
    # So does the cache of a plain forward, of which copies serve several continuations
    cache = model(prompt).cache
    for seed in (1, 2):
        inputs = torch.cat([prompt, random_prompt(4, seed=seed)], dim=1)
        expected = new_tokens(model, inputs, mctp_mode="turbo")
        assert new_tokens(model, inputs, mctp_mode="turbo", cache=copy.deepcopy(cache)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
@pytest.mark.parametrize("num_removed", [1, 3, 10])
def test_cropped_cache_goes_on_as_if_the_tokens_had_never_been(num_mctp_modules, num_removed):
    model, prompt = random_model(num_mctp_modules), random_prompt(6)
    for schedule in ([1, num_mctp_modules], [3, 1, 2, num_mctp_modules]):
        num_removed = min(num_removed, num_mctp_modules)
        output = model.generate(prompt, mctp_mode=schedule, max_new_tokens=70, return_dict_in_generate=True)
        cache = output.cache
        num_read = cache.get_seq_length()
        cache.crop(-num_removed)
        assert cache.get_seq_length() == num_read - num_removed
        inputs = torch.cat([output.sequences[:, : num_read - num_removed], random_prompt(3, seed=2)], dim=1)
        expected = new_tokens(model, inputs, mctp_mode=schedule)
        assert new_tokens(model, inputs, mctp_mode=schedule, cache=cache) == expected
        with pytest.raises(ValueError, match="forgotten"):
            cache.crop(-65)


def test_a_cache_can_be_cropped_to_nothing(model):
    tokens = random_prompt(6)
    cache = model(tokens).cache
    cache.crop(-100)
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(model(tokens, cache=cache).logits, model(tokens).logits)


@pytest.mark.slow
def test_a_copy_of_a_compiled_model_runs_its_own_weights():
    model, prompt = random_model(4), random_prompt(6)
    compile_config = CompileConfig(backend="eager", mode=None, fullgraph=False)
    compile_config._compile_all_devices = True
    compiled = {"mctp_mode": [1, 4], "cache_implementation": "static", "compile_config": compile_config}
    expected = new_tokens(model, prompt, **compiled)
    other = copy.deepcopy(model)
    other.model.language_model.norm.weight.data *= -1
    assert new_tokens(other, prompt, **compiled) == new_tokens(other, prompt, mctp_mode=[1, 4]) != expected
    assert new_tokens(model, prompt, **compiled) == expected


def test_rows_of_a_cache_can_be_selected_repeated_and_reset(model):
    prompts = random_prompt(6, batch_size=3)
    cache = model(prompts).cache
    model.forward_mctp(prompts[:, :1], cache)
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    rows = [2, 2, 0, 0]
    inputs = torch.cat([prompts[rows], prompts[rows, :1], random_prompt(3, batch_size=4)], dim=1)
    expected = new_tokens(model, inputs, mctp_mode="boost")
    assert new_tokens(model, inputs, mctp_mode="boost", cache=cache) == expected
    cache.reset()
    assert new_tokens(model, inputs, mctp_mode="boost", cache=cache) == expected


# --- lossless mode ---


# Few tokens to choose from, so that modules often guess what the language model would write
FOUR_TOKENS = {"suppress_tokens": list(range(4, 120)), "no_repeat_ngram_size": 3}


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
def test_verified_tokens_are_those_of_vanilla(num_mctp_modules):
    model = random_model(num_mctp_modules)
    prompts = [random_prompt(length, seed=length) for length in (3, 12, 7, 1)]
    accepted = 0
    for schedule in schedules(num_mctp_modules)[1:]:
        for inputs in (prompts[0], left_pad(prompts)):
            for eos_token_id in (None, 3):
                kwargs = {"max_new_tokens": 37, "eos_token_id": eos_token_id, "pad_token_id": 0, **FOUR_TOKENS}
                inputs = inputs if isinstance(inputs, dict) else left_pad([inputs])
                kwargs |= {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
                expected = model.generate(**inputs, mctp_mode="vanilla", **kwargs)
                output = model.generate(**inputs, mctp_mode=schedule, mctp_verify=True, **kwargs)
                assert output.sequences.tolist() == expected.sequences.tolist(), schedule
                for name in ("logits", "scores"):
                    torch.testing.assert_close(output[name], expected[name], rtol=1e-4, atol=1e-4)
                assert (output.num_accepted_tokens <= output.num_drafted_tokens).all()
                accepted += output.num_accepted_tokens.sum()
    assert accepted > 30


@pytest.mark.slow
def test_drafts_save_forwards_and_are_counted(model):
    prompt, streamer = random_prompt(6), RecordStream(model)
    kwargs = {"max_new_tokens": 60, "mctp_mode": "turbo", "return_dict_in_generate": True, **FOUR_TOKENS}
    with CountForwards(model) as count:
        output = model.generate(prompt, mctp_verify=True, streamer=streamer, output_hidden_states=True, **kwargs)
    assert streamer.ended
    assert streamer.chunks == [prompt.tolist(), *([token] for token in output.sequences[0, 6:].tolist())]
    # Each forward writes one token of its own
    assert count.language_model == 60 - output.num_accepted_tokens == len(output.hidden_states) < 55
    assert count.modules == output.num_drafted_tokens
    assert model.generate(prompt, **kwargs).num_drafted_tokens is None


@pytest.mark.parametrize(
    "kwargs",
    [
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 9},
    ],
    ids=str,
)
def test_verified_generation_takes_what_vanilla_takes(model, kwargs):
    inputs = left_pad([random_prompt(length, seed=length) for length in (4, 9)])
    kwargs |= {"eos_token_id": 2, **FOUR_TOKENS}
    expected = new_tokens(model, inputs, mctp_mode="vanilla", **kwargs)
    for mctp_mode in ("balance", "boost", "turbo"):
        assert new_tokens(model, inputs, mctp_mode=mctp_mode, mctp_verify=True, **kwargs) == expected


@pytest.mark.slow
def test_verified_generation_with_a_sliding_window():
    text_config = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    model = random_model(4, text_config=text_config)
    prompt, schedule = random_prompt(7), [1, 4]
    expected = new_tokens(model, prompt, **FOUR_TOKENS)
    assert new_tokens(model, prompt, mctp_mode=schedule, mctp_verify=True, **FOUR_TOKENS) == expected
    with pytest.raises(ValueError, match="cannot be taken back from a StaticSlidingWindowLayer"):
        new_tokens(model, prompt, mctp_mode=schedule, mctp_verify=True, cache_implementation="static")


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
@pytest.mark.parametrize("num_new_tokens", [1, 13, 20])
def test_a_verified_conversation_continues(num_mctp_modules, num_new_tokens):
    model = random_model(num_mctp_modules)
    *_, turbo, _ = schedules(num_mctp_modules)
    first = left_pad([random_prompt(length, seed=length) for length in (4, 9)])
    kwargs = {"mctp_mode": [2, num_mctp_modules], "mctp_verify": True}
    output = model.generate(**first, max_new_tokens=num_new_tokens, return_dict_in_generate=True, **kwargs)
    assert output.cache.get_seq_length() == output.sequences.shape[1] - 1
    conversation = torch.cat([output.sequences, random_prompt(5, batch_size=2, seed=1)], dim=1)
    attention_mask = torch.ones_like(conversation)
    attention_mask[:, : first["attention_mask"].shape[1]] = first["attention_mask"]
    inputs = {"input_ids": conversation, "attention_mask": attention_mask}
    expected = new_tokens(model, inputs, mctp_mode=turbo)
    assert new_tokens(model, inputs, mctp_mode=turbo, cache=output.cache) == expected
    embeds = model.get_input_embeddings()(conversation)
    expected = new_tokens(model, inputs)
    mask = {"attention_mask": attention_mask}
    assert model.generate(inputs_embeds=embeds, max_new_tokens=40, **mask, **kwargs).tolist() == expected


@pytest.mark.slow
def test_verified_samples_have_the_distribution_of_vanilla():
    model, prompt = random_model(3), random_prompt(6)
    # The exact probability of each of the 4^4 continuations, from the language model alone
    sequences = torch.cartesian_prod(*4 * [torch.arange(4)])
    logits = model(torch.cat([prompt.expand(len(sequences), -1), sequences], dim=1)).logits[:, 5:-1, :4]
    expected = logits.log_softmax(-1).gather(2, sequences[..., None]).sum((1, 2)).exp()
    kwargs = {"do_sample": True, "top_k": None, "max_new_tokens": 4, "mctp_mode": [1, 3], "num_return_sequences": 4}
    kwargs |= {"mctp_verify": True, "return_dict_in_generate": True, "suppress_tokens": list(range(4, 120))}
    torch.manual_seed(0)
    counts, accepted = torch.zeros(256), 0
    for _ in range(500):
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **kwargs)
        codes = output.sequences[:, 6:] @ torch.tensor([64, 16, 4, 1])
        counts += torch.bincount(codes, minlength=256)
        accepted += output.num_accepted_tokens.sum()
    assert 0.2 < accepted / 6000 < 0.8
    # Pearson's test: 255 degrees of freedom, so 255 +- 23 where the distributions are the same
    statistic = ((counts - 2000 * expected) ** 2 / (2000 * expected)).sum()
    assert statistic < 255 + 4 * 23
    unverified = {"mctp_verify": False, "num_return_sequences": 40}
    sequences = torch.cat(
        [
            model.generate(prompt, attention_mask=torch.ones_like(prompt), **kwargs | unverified).sequences
            for _ in range(50)
        ]
    )
    counts = torch.bincount(sequences[:, 6:] @ torch.tensor([64, 16, 4, 1]), minlength=256)
    assert ((counts - 2000 * expected) ** 2 / (2000 * expected)).sum() > 255 + 10 * 23


# --- the speech-only head ---


def test_speech_only_head_scores_speech_where_the_layout_has_speech():
    model, prompt = random_model(10, interleave_pattern=[1, 10, 4, 10]), random_prompt(6)
    kwargs = {"max_new_tokens": 33, "return_dict_in_generate": True, "output_logits": True, "eos_token_id": 50}
    speech_ids = [50, 98, 99, *range(100, 120)]
    others = sorted(set(range(120)) - set(speech_ids))
    for mctp_mode, verify in itertools.product(("balance", "boost", "turbo"), (False, True)):
        output = model.generate(prompt, mctp_mode=mctp_mode, mctp_speech_only_head=True, mctp_verify=verify, **kwargs)
        if verify:
            assert (
                output.sequences.tolist() == model.generate(prompt, mctp_mode="vanilla", **kwargs).sequences.tolist()
            )
            continue
        whole = model(output.sequences, output_mctp_logits=True).mctp_logits
        turns = zip(modules_in_turn(MCTP_MODES[mctp_mode]), modules_in_turn([1, 10, 4, 10]))
        for position, (logits, (module_idx, speech)) in enumerate(zip(output.logits, turns)):
            if module_idx == 0 or speech == 0:
                assert torch.isfinite(logits).all()
                continue
            assert torch.isneginf(logits[0, others]).all()
            expected = whole[module_idx - 1][0, prompt.shape[1] + position - 1 - module_idx]
            torch.testing.assert_close(logits[0, speech_ids], expected[speech_ids], rtol=1e-4, atol=1e-4)


def test_the_default_mode_changes_nothing_about_which_positions_are_for_speech():
    """It did while the layout of training was read from `generation_config.mctp_mode`."""
    model, prompt = random_model(10), random_prompt(6)
    kwargs = {"mctp_mode": "boost", "mctp_speech_only_head": True, "max_new_tokens": 33, "output_logits": True}

    def limited():
        logits = model.generate(prompt, return_dict_in_generate=True, **kwargs).logits
        return [bool(torch.isneginf(row).any()) for row in logits]

    model.config.interleave_pattern = [1, 10, 4, 10]
    expected = [module_idx > 0 for module_idx in itertools.islice(modules_in_turn([1, 10, 4, 10]), 33)]
    assert limited() == expected
    for mode in ("vanilla", "turbo", [3, 2]):
        model.generation_config.mctp_mode = mode
        assert limited() == expected, mode


@pytest.mark.slow
def test_an_old_folder_has_its_default_mode_for_a_layout(tmp_path):
    model, prompt = random_model(10), random_prompt(6)
    model.generation_config.mctp_mode = "balance"
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content.pop("interleave_pattern")
    (tmp_path / "config.json").write_text(json.dumps(content))
    old = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert old.config.interleave_pattern is None and old.interleave_pattern == MCTP_MODES["balance"]
    model.config.interleave_pattern = MCTP_MODES["balance"]
    for mode in ("balance", "turbo"):
        kwargs = {"mctp_mode": mode, "mctp_speech_only_head": True, "max_new_tokens": 40}
        assert old.generate(prompt, **kwargs).equal(model.generate(prompt, **kwargs))
    old.generation_config.mctp_mode = "vanilla"
    assert old.interleave_pattern is None


def offload(model):
    cpu_offload(model.lm_head, execution_device="cpu")


def offload_to_disk(model):
    # one hook for the head alone, as `device_map` has it where the GPU is too small for it
    dispatch_model(
        model, {"model": "cpu", "lm_head": "disk"}, main_device="cpu", offload_dir=mkdtemp(), force_hooks=True
    )


def replace_head(model):
    class Doubled(torch.nn.Linear):
        def forward(self, hidden_states):
            return super().forward(hidden_states) / 2

    head = Doubled(32, 120, bias=False)
    head.weight = torch.nn.Parameter(2 * model.lm_head.weight)
    model.lm_head = head


def adapt(model):
    config = peft.LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config)


def reparametrize(model):
    torch.nn.utils.parametrizations.weight_norm(model.lm_head)


def hook(model):
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.flip(0).flip(0) + 0.5)


def quantize(model):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())


HEADS = [lambda model: None, offload, offload_to_disk, replace_head, adapt, reparametrize, hook, quantize]


@pytest.mark.slow
@pytest.mark.parametrize("change", HEADS, ids=lambda change: change.__name__)
def test_speech_only_head_is_right_whatever_the_head_is(change):
    model = random_model(10, interleave_pattern=MCTP_MODES["boost"])
    change(model)
    prompt = random_prompt(5)
    kwargs = {"mctp_mode": "boost", "max_new_tokens": 30, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(prompt, mctp_speech_only_head=True, **kwargs)
    # the whole head, asked for what was written
    speech = [*range(100, 120), 98, 99]
    num_limited = 0
    for position, (logits, module_idx) in enumerate(zip(output.logits, modules_in_turn(MCTP_MODES["boost"]))):
        if torch.isneginf(logits).any():
            num_limited += 1
            cache = VitaAudioCache(model.config)
            tokens = output.sequences[:, : prompt.shape[1] + position]
            model(tokens[:, :-module_idx], cache=cache)
            for k in range(1, module_idx + 1):
                expected = model.forward_mctp(tokens[:, tokens.shape[1] - module_idx :][:, :k], cache)[:, -1]
            torch.testing.assert_close(logits[0, speech], expected[0, speech].float(), rtol=1e-4, atol=1e-4)
    assert num_limited > 15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_speech_only_head_under_autocast(dtype):
    model, prompt = random_model(10, interleave_pattern=MCTP_MODES["boost"]), random_prompt(5)
    with torch.autocast("cpu", dtype=dtype):
        tokens = model.generate(prompt, mctp_mode="boost", mctp_speech_only_head=True, max_new_tokens=30)
    assert tokens.shape == (1, 35)


# --- several calls at once ---


def test_modules_run_in_turn(model):
    cache = model(random_prompt(6)).cache
    with pytest.raises(ValueError, match="turn of MCTP module 2"):
        model.forward_mctp(random_prompt(2), cache)
    model.forward_mctp(random_prompt(1), cache)
    with pytest.raises(ValueError, match="turn of MCTP module 1"):
        model.forward_mctp(random_prompt(1), cache)
    with pytest.raises(ValueError, match="there are 10"):
        model.forward_mctp(random_prompt(11), cache)


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
def test_parallel_calls_do_not_disturb_each_other(num_mctp_modules):
    model = random_model(num_mctp_modules)
    jobs = [
        (random_prompt(3 + seed, seed=seed), {"mctp_mode": mode, "mctp_verify": verify})
        for seed in range(3)
        for mode in schedules(num_mctp_modules)
        for verify in (False, True)
    ]
    expected = [new_tokens(model, prompt, **kwargs) for prompt, kwargs in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda job: new_tokens(model, job[0], **job[1]), jobs)) == expected


def generate_in_step(rank, folder):
    """
    One of two processes that must run equally many forwards, as sharded weights make them; they end 20 tokens apart.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, kwargs = random_model(4), {"mctp_mode": [1, 4, 2, 4], "max_new_tokens": 10 + 20 * rank}
    prompt = random_prompt(5, seed=rank)
    with torch.no_grad(), CountForwards(model) as count:
        tokens = new_tokens(model, prompt, synced_gpus=True, **kwargs)
        forwards = [count.language_model, count.modules]
        result = {"tokens": tokens, "expected": new_tokens(model, prompt, **kwargs), "forwards": forwards}
    (folder / f"{rank}.json").write_text(json.dumps(result))


@pytest.mark.slow
def test_processes_with_sharded_weights_stay_in_step(tmp_path):
    torch.multiprocessing.spawn(generate_in_step, args=(tmp_path,), nprocs=2)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert result["tokens"] == result["expected"]
    assert results[0]["forwards"] == results[1]["forwards"]
