# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`mctp_verify`: what is kept, against the formulas; and batches whose rows keep different numbers of drafts."""

import itertools
import json

import pytest
import torch
from modeling_fixtures import left_pad, random_model, random_prompt, reference_logits, schedules
from places import MINI
from transformers import AutoTokenizer, DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.generation import BaseStreamer

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.cache_vita_audio import VitaAudioCache
from modeling_vita_audio.generation_vita_audio import modules_in_turn
from modeling_vita_audio.verification_vita_audio import Tolerances, resolve_mctp_verify, verify_drafts


# Seconds for each few, which the quick check has not
pytestmark = pytest.mark.slow


# Few tokens to choose from, of text and of speech, so that modules often guess what the language model would write
ALLOWED = [1, 2, 98, 100, 101]
FEW_TOKENS = {"suppress_tokens": [token for token in range(120) if token not in ALLOWED], "pad_token_id": 0}
PROMPTS = [random_prompt(length, seed=length) for length in (3, 12, 7, 1)]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


class CountForwards:
    """Counts the forwards of the language model inside a `with` block."""

    def __init__(self, model):
        self.model, self.number = model, 0

    def __enter__(self):
        self.handle = self.model.model.language_model.register_forward_hook(self.count)
        return self

    def count(self, *_):
        self.number += 1

    def __exit__(self, *_):
        self.handle.remove()


def generate(model, inputs, **kwargs):
    inputs = inputs if isinstance(inputs, dict) else left_pad([inputs])
    kwargs = {"max_new_tokens": 40, "do_sample": False, "return_dict_in_generate": True, **FEW_TOKENS, **kwargs}
    return model.generate(**inputs, **kwargs)


def new_tokens(model, inputs, **kwargs):
    length = inputs["input_ids"].shape[1] if isinstance(inputs, dict) else inputs.shape[1]
    return generate(model, inputs, **kwargs).sequences[:, length:].tolist()


def assert_equals_single_runs(model, **kwargs):
    """
    Each row of a batch has the tokens, the counts and the scores of its prompt alone, which is decoded by other code,
    and the batch takes as many forwards as the row that takes most. Where decoding is lossless, rows draft whenever
    one of them does, and it may take fewer. Returns how many drafts the rows kept.
    """
    is_lossless = kwargs["mctp_verify"] == 1
    kwargs |= {"output_scores": True, "output_logits": True}
    singles, forwards = [], []
    for prompt in PROMPTS:
        with CountForwards(model) as count:
            singles.append(generate(model, prompt, **kwargs))
        forwards.append(count.number)
    inputs = left_pad(PROMPTS)
    with CountForwards(model) as count:
        plain = generate(model, inputs, **kwargs | {"return_dict_in_generate": False})
    assert count.number <= max(forwards) if is_lossless else count.number == max(forwards)
    batch = generate(model, inputs, **kwargs)
    assert batch.sequences.tolist() == plain.tolist()
    new_ids = batch.sequences[:, inputs["input_ids"].shape[1] :]
    assert new_ids.shape[1] == len(batch.scores) == len(batch.logits)
    for row, (prompt, single) in enumerate(zip(PROMPTS, singles)):
        expected = single.sequences[0, prompt.shape[1] :].tolist()
        assert new_ids[row].tolist() == expected + [0] * (new_ids.shape[1] - len(expected)), (row, kwargs)
        for name in ("scores", "logits"):
            records = torch.stack(batch[name])[: len(expected), row]
            torch.testing.assert_close(records, torch.cat(single[name]), rtol=1e-4, atol=1e-4)
        for name in ("num_drafted_tokens", "num_accepted_tokens"):
            assert batch[name][row] >= single[name][0] if is_lossless else batch[name][row] == single[name][0]
    return batch.num_accepted_tokens.tolist()


# --- which drafts are kept ---


def test_what_the_argument_may_be():
    for given, expected in (
        *((True, (1, 1, 1)), (False, (0, 0, 0)), (0.3, (0.3, 0.3, 0.3)), (1, (1, 1, 1))),
        *(([0, 0.5], (0, 0.5, 0.5)), ((0.5, 0.2, 0), (0.5, 0.2, 0))),
    ):
        assert resolve_mctp_verify(given) == expected


def test_text_and_speech_have_their_own_tolerance():
    config = random_model(1).config
    drafts = torch.tensor([[0, 97, 98], [99, 100, 119]])
    expected = torch.tensor([[0.25, 0.25, 0.75], [0.75, 0.75, 0.75]])
    torch.testing.assert_close(Tolerances((0.25, 0.75), [1, 3], config)(drafts, 2), expected)
    # the third one is for speech at the places of the first forward, here 0 to 3
    with_first = Tolerances((0.25, 0.75, 0.5), [1, 3, 4, 10], config)
    torch.testing.assert_close(with_first(drafts, 4), expected)
    places = torch.tensor([[0, 3, 3], [4, 3, 5]])
    torch.testing.assert_close(with_first(drafts, places), torch.tensor([[0.25, 0.25, 0.5], [0.75, 0.5, 0.75]]))


def test_greedy_keeps_by_the_share_of_the_likeliest():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05]).expand(4, -1)
    for tolerance, expected in ((1.0, [1, 0, 0, 0]), (0.5, [1, 1, 0, 0]), (0.29, [1, 1, 1, 0]), (0.0, [1, 1, 1, 1])):
        is_kept, tokens = verify_drafts(torch.arange(4), None, probs.log(), torch.full((4,), tolerance))
        assert is_kept.long().tolist() == expected and tokens.tolist() == [0, 0, 0, 0]
    # a token that scores alike is not the one that greedy search takes; one that is forbidden has no share
    scores = torch.tensor([[1.0, 1.0, -torch.inf]]).expand(3, -1)
    for tolerance, expected in ((1.0, [1, 0, 0]), (0.99, [1, 1, 0]), (1e-30, [1, 1, 0]), (0.0, [1, 1, 1])):
        is_kept, _ = verify_drafts(torch.arange(3), None, scores, torch.full((3,), tolerance))
        assert is_kept.long().tolist() == expected


@pytest.mark.parametrize("tolerance", [1.0, 0.7, 0.3, 0.0])
def test_sampling_has_the_distribution_of_the_formula(tolerance):
    generator = torch.Generator().manual_seed(1)
    p, q = (torch.randn(6, generator=generator).mul(1.5).softmax(0) for _ in range(2))
    # the formula, token by token
    limits = [min(q[z].item(), p[z].item() / tolerance if tolerance else float("inf")) for z in range(6)]
    rests = [max(0.0, p[z].item() - tolerance * q[z].item()) for z in range(6)]
    expected = [limit + (1 - sum(limits)) * rest / sum(rests) for limit, rest in zip(limits, rests)]
    assert sum(expected) == pytest.approx(1)
    if tolerance in (0, 1):
        assert expected == pytest.approx((p if tolerance else q).tolist(), abs=1e-6)
    number = 200_000
    torch.manual_seed(0)
    drafts = torch.multinomial(q, number, replacement=True)
    is_kept, tokens = verify_drafts(
        drafts, q.expand(number, -1), p.log().expand(number, -1), torch.full((number,), tolerance)
    )
    counts = torch.bincount(torch.where(is_kept, drafts, tokens), minlength=6)
    # Pearson's test, five degrees of freedom: above 20.5 in one of a thousand runs
    assert sum((count - number * e) ** 2 / (number * e) for count, e in zip(counts.tolist(), expected)) < 20.5
    if tolerance == 0:
        assert is_kept.all()
    # without a draft, the token is the language model's own
    _, own = verify_drafts(drafts, torch.zeros(number, 6), p.log().expand(number, -1), torch.ones(number))
    counts = torch.bincount(own, minlength=6)
    assert sum((count - number * e) ** 2 / (number * e) for count, e in zip(counts.tolist(), p.tolist())) < 20.5


def reference_verified(model, prompt, schedule, tolerances, max_new_tokens):
    """Greedy decoding with a tolerance: no caches, one token at a time."""

    def scores_of(tokens, module_idx):
        scores = torch.full((120,), -torch.inf)
        scores[ALLOWED] = reference_logits(model, tokens, module_idx)[ALLOWED]
        return scores

    turns = list(itertools.islice(modules_in_turn(schedule), max_new_tokens + 1))
    tokens, end = list(prompt), len(prompt) + max_new_tokens
    tokens.append(int(scores_of(tokens, 0).argmax()))
    while len(tokens) < end:
        drafts = []
        # the language model writes the token after the drafts
        while turns[len(tokens) + len(drafts) - len(prompt)] > 0 and len(tokens) + len(drafts) + 1 < end:
            drafts.append(int(scores_of(tokens + drafts, len(drafts) + 1).argmax()))
        for draft in drafts:
            probs = scores_of(tokens, 0).softmax(0)
            text, speech, first_speech = *tolerances, *tolerances[1:] * (len(tolerances) == 2)
            if len(tokens) - len(prompt) < sum(schedule[:2]):
                speech = first_speech
            tolerance = speech if draft in (98, 99) or draft >= 100 else text
            tokens.append(draft)
            if probs[draft] < tolerance * probs.max():
                tokens[-1] = int(probs.argmax())
                break
        else:
            tokens.append(int(scores_of(tokens, 0).argmax()))
    return tokens[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
@pytest.mark.parametrize("tolerances", [(1.0, 1.0), (0.5, 0.5), (0.05, 0.8), (0.9, 0.0), (0.5, 0.4, 0.0)])
def test_greedy_tokens_are_those_of_the_definition(num_mctp_modules, tolerances):
    model = random_model(num_mctp_modules)
    for schedule in schedules(num_mctp_modules)[1:]:
        batch = new_tokens(model, left_pad(PROMPTS), mctp_mode=schedule, mctp_verify=tolerances, max_new_tokens=25)
        for prompt, row in zip(PROMPTS, batch):
            expected = reference_verified(model, prompt[0].tolist(), schedule, tolerances, 25)
            assert row == expected
            assert new_tokens(model, prompt, mctp_mode=schedule, mctp_verify=tolerances, max_new_tokens=25) == [row]


@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
def test_at_0_all_is_as_without_verification(num_mctp_modules):
    model = random_model(num_mctp_modules, interleave_pattern=[1, 10])
    for schedule in schedules(num_mctp_modules):
        for kwargs in ({}, {"do_sample": True}, {"mctp_speech_only_head": True}, {"max_new_tokens": 7}):
            for inputs in (PROMPTS[0], left_pad(PROMPTS)):
                outputs = []
                for mctp_verify in (False, 0, 0.0, (0.0, False)):
                    torch.manual_seed(0)
                    kwargs |= {"mctp_mode": schedule, "mctp_verify": mctp_verify, "eos_token_id": 2}
                    outputs.append(new_tokens(model, inputs, **kwargs))
                assert all(output == outputs[0] for output in outputs)


def test_a_tolerance_too_small_for_any_draft_to_fail_keeps_all_of_them():
    """The limit of 0.0, but by the code that verifies; only the end of the length is the language model's."""
    model = random_model(10)
    for mode in ("balance", "boost", "turbo"):
        kwargs = {"mctp_mode": mode, "max_new_tokens": 45}
        expected = new_tokens(model, left_pad(PROMPTS), mctp_verify=0.0, **kwargs)
        output = generate(model, left_pad(PROMPTS), mctp_verify=1e-30, **kwargs)
        assert [row[:44] for row in output.sequences[:, 12:].tolist()] == [row[:44] for row in expected]
        assert output.num_accepted_tokens.equal(output.num_drafted_tokens)


def test_a_pair_is_saved_with_the_generation_config(tmp_path):
    model = random_model(4)
    model.generation_config.mctp_mode, model.generation_config.mctp_verify = [1, 4], (0.9, 0.25)
    inputs, kwargs = left_pad(PROMPTS), {"no_repeat_ngram_size": 4}
    expected = new_tokens(model, inputs, **kwargs)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["mctp_verify"] == [0.9, 0.25]
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert new_tokens(loaded, inputs, **kwargs) == expected
    runs = [new_tokens(loaded, inputs, mctp_verify=verify, **kwargs) for verify in ([0.9, 0.25], True, False)]
    assert runs[0] == expected and runs[1] != expected and runs[2] != expected


class ForwardsAtTokens(BaseStreamer):
    """How many forwards of the language model there had been at each token."""

    def __init__(self, count):
        self.count, self.forwards, self.has_prompt = count, [], False

    def put(self, value):
        self.forwards += [self.count.number] * value.numel() if self.has_prompt else []
        self.has_prompt = True

    def end(self): ...


@pytest.mark.parametrize("tolerance", [(0.5, 0.0), 0.0, 0.5, (0.5, 0.5, 0.0)])
def test_speech_that_is_not_checked_does_not_wait(tolerance):
    model, prompt = random_model(10, interleave_pattern=[1, 10]), random_prompt(7)
    kwargs = {"mctp_mode": "turbo", "mctp_speech_only_head": True, "mctp_verify": tolerance, "max_new_tokens": 30}
    with CountForwards(model) as count:
        streamer = ForwardsAtTokens(count)
        tokens = new_tokens(model, prompt, streamer=streamer, **kwargs)
    assert len(streamer.forwards) == 30
    if tolerance == 0.5:
        # the first token is the language model's, and the others wait for its second forward
        assert streamer.forwards[0] == 1 and 1 not in streamer.forwards[1:]
    else:
        assert streamer.forwards[:11] == [1] * 11
        unverified = new_tokens(model, prompt, **kwargs | {"mctp_verify": 0.0})
        if tolerance == (0.5, 0.5, 0.0):
            # after the first chunk there is a check
            assert tokens[0][:11] == unverified[0][:11] and tokens != unverified
        else:
            assert tokens == unverified


# --- rows that keep different numbers ---


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
@pytest.mark.parametrize("tolerance", [1.0, 0.4, (0.8, 0.1), (0.8, 0.4, 0.05)])
def test_rows_of_a_batch_equal_their_single_runs(num_mctp_modules, tolerance):
    model = random_model(num_mctp_modules)
    for schedule in schedules(num_mctp_modules)[1:]:
        # tokens at which rows end, each at its own time, also in the middle of what modules write
        for kwargs in ({}, {"eos_token_id": 2}):
            kwargs |= {"mctp_mode": schedule, "mctp_verify": tolerance, "no_repeat_ngram_size": 4}
            accepted = assert_equals_single_runs(model, **kwargs)
            assert kwargs.get("eos_token_id") or len(set(accepted)) > 1
            if tolerance == 1.0:
                vanilla = new_tokens(model, left_pad(PROMPTS), **kwargs | {"mctp_mode": "vanilla"})
                assert new_tokens(model, left_pad(PROMPTS), **kwargs) == vanilla


@pytest.mark.slow
def test_prompts_without_padding_part_as_well():
    """`generate` drops a mask that hides nothing, and rows that fall behind need one."""
    model, prompts = random_model(4), random_prompt(6, batch_size=4, seed=3)
    kwargs = {"mctp_mode": [1, 4], "mctp_verify": True, "no_repeat_ngram_size": 4, "max_new_tokens": 40}
    for inputs in ({"input_ids": prompts}, {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}):
        output = generate(model, inputs, **kwargs)
        assert len(set(output.num_accepted_tokens.tolist())) > 1
        assert output.sequences.equal(generate(model, inputs, **kwargs | {"mctp_mode": "vanilla"}).sequences)
    # and with what a cache holds already
    conversation = torch.cat([output.sequences, random_prompt(5, batch_size=4, seed=4)], dim=1)
    runs = [
        generate(model, {"input_ids": conversation}, cache=cache, **kwargs).sequences for cache in (None, output.cache)
    ]
    assert runs[0].equal(runs[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 17, "eos_token_id": [2, 100]},
        {"bad_words_ids": [[1, 2], [100]]},
        {"exponential_decay_length_penalty": (5, 1.5), "eos_token_id": 2},
        {"max_new_tokens": 1},
        {"max_new_tokens": 11},
        {"mctp_speech_only_head": True},
        {"forced_eos_token_id": 2, "eos_token_id": 2},
    ],
    ids=str,
)
def test_processors_see_each_row_as_it_is(options):
    model = random_model(10, interleave_pattern=[1, 10, 4, 10])
    for mode in ("boost", "turbo"):
        assert_equals_single_runs(model, mctp_mode=mode, mctp_verify=0.3, **options)


@pytest.mark.slow
def test_stopping_strings_end_each_row():
    model, tokenizer = random_model(10), AutoTokenizer.from_pretrained(MINI)
    kwargs = {"mctp_mode": "boost", "mctp_verify": 0.3, "eos_token_id": 119, "repetition_penalty": 1.2}
    # Others are single bytes of this tokenizer, of which strings cannot be made
    kwargs["suppress_tokens"] = [token for token in range(120) if token not in (1, 2, 5, 6, 7, 40)]
    free_run = new_tokens(model, left_pad(PROMPTS), **kwargs)
    stop_strings = [tokenizer.decode(row[9:12]) for row in free_run[:2]]
    kwargs |= {"stop_strings": stop_strings, "tokenizer": tokenizer}
    assert_equals_single_runs(model, **kwargs)
    lengths = {len(row) - row.count(0) for row in new_tokens(model, left_pad(PROMPTS), **kwargs)}
    assert len(lengths) > 1


@pytest.mark.slow
def test_modules_that_are_far_behind_do_not_hold_rows_together():
    """In this schedule the last modules have no turn after the first, so their unread columns grow and grow."""
    model = random_model(10)
    kwargs = {"mctp_mode": [1, 10, 1, 4], "max_new_tokens": 150, "no_repeat_ngram_size": 6}
    accepted = assert_equals_single_runs(model, mctp_verify=0.5, **kwargs)
    assert len(set(accepted)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("num_mctp_modules", [1, 4, 10])
@pytest.mark.parametrize("options", [{}, {"eos_token_id": 2}, {"max_new_tokens": 90}], ids=str)
def test_the_cache_of_rows_apart_continues_the_conversation(num_mctp_modules, options):
    model, inputs = random_model(num_mctp_modules), left_pad(PROMPTS)
    kwargs = {"mctp_mode": [1, num_mctp_modules, 2, num_mctp_modules], "no_repeat_ngram_size": 5}
    output = generate(model, inputs, mctp_verify=0.5, **kwargs | options)
    assert output.cache.get_seq_length() == output.sequences.shape[1] - 1
    conversation = torch.cat([output.sequences, random_prompt(5, batch_size=4, seed=1)], dim=1)
    mask = torch.ones_like(conversation)
    mask[:, :12] = inputs["attention_mask"]
    inputs = {"input_ids": conversation, "attention_mask": mask}
    for mctp_verify in (False, 0.5, True):
        expected = new_tokens(model, inputs, mctp_verify=mctp_verify, **kwargs)
        cache = generate(model, left_pad(PROMPTS), mctp_verify=0.5, **kwargs | options).cache
        assert new_tokens(model, inputs, mctp_verify=mctp_verify, cache=cache, **kwargs) == expected
    # and it can be taken back, as any
    cache = output.cache
    cache.crop(-num_mctp_modules)
    length = cache.get_seq_length()
    inputs = {
        "input_ids": torch.cat([output.sequences[:, :length], random_prompt(3, batch_size=4, seed=2)], dim=1),
        "attention_mask": torch.nn.functional.pad(mask[:, :length], (0, 3), value=1),
    }
    expected = new_tokens(model, inputs, **kwargs)
    assert new_tokens(model, inputs, cache=cache, **kwargs) == expected


class FirstRowsDiffer(LogitsProcessor):
    """Counts rows, as only a processor of the whole batch can: row r may not write token r + 1."""

    def __call__(self, input_ids, scores):
        assert len(scores) == len(PROMPTS)
        scores = scores.clone()
        scores[torch.arange(2), torch.arange(2) + 1] = -torch.inf
        return scores


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"logits_processor": LogitsProcessorList([FirstRowsDiffer()])},
        {"prefix_allowed_tokens_fn": lambda row, ids: [1, 2, 100] if row == 1 else [2, 101]},
        {"cache_implementation": "static"},
        {"eos_token_id": None, "max_time": 600.0},
        {"inputs_embeds": True},
    ],
    ids=["own processor", "prefix", "static", "time", "embeddings"],
)
def test_verified_batches_are_lossless_with_all_that_wants_whole_batches(options):
    model, inputs = random_model(4), left_pad(PROMPTS)
    if options.get("inputs_embeds"):
        ids = inputs.pop("input_ids")
        options = {"inputs_embeds": model.get_input_embeddings()(ids)}
    options |= {"max_new_tokens": 30, "do_sample": False, **FEW_TOKENS, **inputs}
    expected = model.generate(mctp_mode="vanilla", **options)
    for schedule in ([1, 4], [2, 3, 1, 4]):
        assert model.generate(mctp_mode=schedule, mctp_verify=True, **options).tolist() == expected.tolist()


@pytest.mark.slow
def test_sliding_layers_and_several_sequences_of_a_prompt():
    text_config = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    for model in (random_model(4, text_config=text_config), random_model(4)):
        kwargs = {"mctp_mode": [1, 4], "mctp_verify": 0.4, "num_return_sequences": 2, "do_sample": True, "top_k": 1}
        repeated = new_tokens(model, left_pad(PROMPTS), **kwargs)
        kwargs["mctp_mode"] = "vanilla"
        lossless = new_tokens(model, left_pad(PROMPTS), **kwargs)
        assert repeated[::2] == repeated[1::2] and lossless[::2] == lossless[1::2]
        kwargs |= {"mctp_mode": [1, 4], "mctp_verify": 1.0}
        assert new_tokens(model, left_pad(PROMPTS), **kwargs) == lossless


@pytest.mark.slow
def test_sampled_rows_have_the_distribution_of_the_formula():
    """All continuations of two tokens, in a batch of two prompts: one of the language model, one draft."""
    model = random_model(2)
    prompts = [random_prompt(6, seed=1), random_prompt(4, seed=2)]
    inputs, tolerance, number = left_pad(prompts), 0.4, 3000
    kwargs = {"do_sample": True, "top_k": None, "mctp_mode": [1, 2], "mctp_verify": tolerance, "max_new_tokens": 3}
    torch.manual_seed(0)
    tokens = torch.cat(
        [
            generate(model, inputs, num_return_sequences=100, **kwargs).sequences[:, 6:].unflatten(0, (2, 100))
            for _ in range(number // 100)
        ],
        dim=1,
    )
    for prompt, row in zip(prompts, tokens):
        ids = prompt[0].tolist()
        statistic, cells = 0.0, 0
        first = reference_logits(model, ids, 0)[ALLOWED].softmax(0)
        for index, token in enumerate(ALLOWED):
            p = reference_logits(model, [*ids, token], 0)[ALLOWED].softmax(0)
            q = reference_logits(model, [*ids, token], 1)[ALLOWED].softmax(0)
            limits, rests = torch.minimum(q, p / tolerance), (p - tolerance * q).clamp(min=0)
            second = limits + (1 - limits.sum()) * rests / rests.sum()
            for other, probability in zip(ALLOWED, second):
                expected = number * (first[index] * probability).item()
                count = ((row[:, 0] == token) & (row[:, 1] == other)).sum().item()
                if expected > 5:
                    statistic, cells = statistic + (count - expected) ** 2 / expected, cells + 1
        # the mean of Pearson's statistic and four of its standard deviations
        assert cells > 5 and statistic < cells + 4 * (2 * cells) ** 0.5


@pytest.mark.parametrize("mctp_verify", [True, 0.5])
@pytest.mark.parametrize("make_cache", [VitaAudioCache, lambda config: DynamicCache(config=config.text_config)])
def test_a_cache_that_is_handed_in_keeps_all_rows(make_cache, mctp_verify):
    """As with transformers' own loop, whoever has handed it in goes on with it, without an output that has it."""
    model = random_model(4)
    # Some rows end before others, and some in the same forward
    options = {"eos_token_id": 1, "mctp_mode": [1, 4], "mctp_verify": mctp_verify, "return_dict_in_generate": False}
    for seed in range(4):
        inputs = left_pad([random_prompt(length, seed=seed + length) for length in (3, 12, 7)])
        cache = make_cache(model.config)
        first = generate(model, inputs, cache=cache, **options)
        assert cache.get_seq_length() == first.shape[1] - 1
        assert all(layer.keys.shape[0] == 3 for layer in cache.layers)
        # Padding behind an end is hidden, as from a prompt that is padded there
        mask = torch.cat([inputs["attention_mask"], first[:, inputs["input_ids"].shape[1] :].ne(0)], dim=1)
        # Beside it comes the last token, which the model has not read yet
        step = torch.full((3, 1), 2)
        mask = torch.cat([mask, torch.ones(3, 1)], dim=1).long()
        ids = torch.cat([first, step], dim=1)
        position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
        expected = model(ids, attention_mask=mask, position_ids=position_ids).logits[:, -1]
        unread = {"input_ids": ids[:, -2:], "attention_mask": mask, "position_ids": position_ids[:, -2:]}
        logits = model(**unread, cache=cache).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_prompts_of_int32_are_fine():
    model, inputs = random_model(4), left_pad([random_prompt(3), random_prompt(5)])
    options = {"mctp_mode": [1, 4], "mctp_verify": True}
    expected = new_tokens(model, inputs, **options)
    assert new_tokens(model, inputs | {"input_ids": inputs["input_ids"].int()}, **options) == expected


def test_a_quantised_cache_is_refused():
    cache = VitaAudioCache(random_model(4).config)
    # What makes these layers what they are, whatever package quantises
    cache.layers[0]._quantize = None
    with pytest.raises(ValueError, match="Tokens cannot be taken back from a cache of .*`mctp_verify=False`"):
        generate(random_model(4), random_prompt(3), cache=cache, mctp_verify=True, mctp_mode=[1, 4])
