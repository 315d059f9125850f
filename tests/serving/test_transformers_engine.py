# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine on transformers, against `generate` of the same model for one request alone."""

import asyncio
import copy
import random
import threading

import pytest
import torch
from modeling_fixtures import random_model, random_prompt
from plus_fixture import plus_expected, plus_features, plus_model

from modeling_vita_audio import MCTP_MODES
from serving.engine import EngineOverloaded, GenerationRequest
from serving.transformers_engine import TransformersEngine


EOS = 5


def alone(model, ids, **options):
    """What `generate` writes for one prompt."""
    options = {"max_new_tokens": 40, "eos_token_id": EOS, "pad_token_id": 0, "do_sample": False, **options}
    ids = torch.tensor([ids])
    # Without a mask, `generate` takes tokens that are the padding's for padding
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()


def engine_of(model, **options):
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, 0
    return TransformersEngine(model, **options)


def request_of(ids, **options):
    return GenerationRequest(input_ids=list(ids), **{"max_new_tokens": 40, **options})


async def collect(stream):
    return [token async for tokens in stream for token in tokens]


def run(model, function, **options):
    """Runs an asynchronous function of an engine, and ends the engine."""

    async def with_engine():
        engine = engine_of(model, **options)
        try:
            return await asyncio.wait_for(function(engine), timeout=60)
        finally:
            await engine.close()
            assert engine._rows == []

    return asyncio.run(with_engine())


def prompts(number):
    return [random_prompt(3 + 5 * index % 37, seed=index)[0].tolist() for index in range(number)]


@pytest.mark.parametrize(
    "model_type", ["qwen2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "llama"))]
)
def test_rows_of_a_batch_are_what_generate_writes_for_each(model_type):
    model = random_model(10, model_type)
    cases = [(ids, mode) for ids in prompts(4) for mode in (*MCTP_MODES, [2, 1, 1, 0, 3, 7, 1, 1])]
    expected = [alone(model, ids, mctp_mode=mode) for ids, mode in cases]

    async def all_at_once(engine):
        async def one(index, ids, mode):
            # they join while others are in the middle of their schedules
            await asyncio.sleep(0.004 * index)
            return await collect(engine.generate(request_of(ids, mctp_mode=mode)))

        return await asyncio.gather(*(one(index, *case) for index, case in enumerate(cases)))

    assert run(model, all_at_once) == expected
    assert len({tuple(tokens) for tokens in expected}) > 10


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_tolerance_is_that_of_generate_for_each_request(penalty):
    model = random_model(10)
    # Few tokens to choose from, so that some drafts are kept
    model.generation_config.suppress_tokens = list(range(6, 120))
    model.generation_config.repetition_penalty = penalty
    modes = ("balance", "boost", "turbo", [2, 1, 1, 0, 3, 7, 1, 1])
    cases = [
        (ids, mode, verify)
        for ids, mode in zip(prompts(8), 2 * modes)
        for verify in (True, 0.4, [0.9, 0.1], [0.5, 0.0], [0.0, 0.5], [0.9, 0.4, 0.0], 0.05, False)
    ]
    expected = [alone(model, ids, mctp_mode=mode, mctp_verify=verify) for ids, mode, verify in cases]

    async def all_at_once(engine):
        async def one(index, ids, mode, verify):
            await asyncio.sleep(0.004 * index)
            return await collect(engine.generate(request_of(ids, mctp_mode=mode, mctp_verify=verify)))

        return await asyncio.gather(*(one(index, *case) for index, case in enumerate(cases)))

    assert run(model, all_at_once) == expected
    assert len({tuple(tokens) for tokens in expected}) > 5
    # The model's own tolerance is for requests that give none
    model.generation_config.mctp_mode, model.generation_config.mctp_verify = "turbo", 0.4

    async def several(engine):
        conversations = []
        for ids in prompts(3):
            first = await collect(engine.generate(request_of(ids, conversation_id="a")))
            again = [*ids, *first, 7, 8, 9]
            second = await collect(engine.generate(request_of(again, conversation_id="a")))
            conversations.append((ids, first, again, second))
        sampled = [
            await collect(engine.generate(request_of(prompts(1)[0], do_sample=True, temperature=1.5, seed=seed)))
            for seed in (1, 1, 2)
        ]
        with pytest.raises(ValueError, match="`mctp_verify` must be True, False"):
            engine.check(request_of([1], mctp_verify=1.5))
        return conversations, sampled

    conversations, sampled = run(model, several)
    for ids, first, again, second in conversations:
        assert first == alone(model, ids) and second == alone(model, again)
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize("verify", [[0.5, 0.0], [0.5, 0.5, 0.0]], ids=str)
def test_speech_that_is_not_checked_does_not_wait(verify):
    model = random_model(10, interleave_pattern=[1, 10])
    model.generation_config.mctp_speech_only_head = True
    (ids,) = prompts(1)
    options = {"mctp_mode": "turbo", "mctp_verify": verify, "max_new_tokens": 30}
    has_first_burst = threading.Event()

    def wait_for_reader(module, args, kwargs):
        if kwargs["position_ids"][0, 0] > 0:
            assert has_first_burst.wait(timeout=20)

    async def read(engine):
        engine.model.model.language_model.register_forward_pre_hook(wait_for_reader, with_kwargs=True)
        tokens = []
        async for new in engine.generate(request_of(ids, **options)):
            tokens += new
            if len(tokens) == 11:
                has_first_burst.set()
        return tokens

    assert run(model, read) == alone(model, ids, **options)


@pytest.mark.parametrize("verify", [False, [0.5, 0.0]], ids=str)
def test_the_length_ends_an_answer_as_in_generate(verify):
    model = random_model(10)
    (ids,) = prompts(1)
    options = {"mctp_mode": "boost", "mctp_verify": verify}
    expected = [alone(model, ids, max_new_tokens=n, **options) for n in range(1, 16)]

    async def all_lengths(engine):
        requests = [request_of(ids, max_new_tokens=n, **options) for n in range(1, 16)]
        return await asyncio.gather(*(collect(engine.generate(request)) for request in requests))

    assert run(model, all_lengths) == expected


@pytest.mark.parametrize("mode", [*MCTP_MODES, [2, 3, 1, 7]], ids=str)
def test_a_conversation_that_goes_on_is_what_a_new_one_writes(mode):
    model, source = random_model(10), random.Random(0)
    first = random_prompt(30, seed=1)[0].tolist()
    conversation, cases = first, []
    for turn in range(6):
        answer = alone(model, conversation, mctp_mode=mode)
        cases.append((conversation, answer))
        # the next turn keeps all, or the answer's beginning, or changes something earlier
        kept = conversation + answer[: [99, 7, 0][turn % 3]]
        cut = len(kept) if turn % 2 else source.randrange(1, len(kept))
        conversation = kept[:cut] + random_prompt(5, seed=10 + turn)[0].tolist()

    async def turn_by_turn(engine):
        answers = []
        for ids, _ in cases:
            answers.append(await collect(engine.generate(request_of(ids, mctp_mode=mode, conversation_id="a"))))
        return answers

    assert run(model, turn_by_turn) == [answer for _, answer in cases]


def test_a_prompt_that_is_read_ahead_is_not_read_again():
    model = random_model(10)
    ids = random_prompt(60, seed=3)[0].tolist()
    expected = alone(model, ids, mctp_mode="boost")
    read = []

    async def ahead(engine):
        original = engine._read
        engine._read = lambda reading: read.append(sum(n for _, n in reading)) or original(reading)
        for end in (20, 21, 45):
            await engine.prefill(request_of(ids[:end], mctp_mode="boost", conversation_id="a"))
        # something else was heard at first
        await engine.prefill(request_of(ids[:50] + [7, 7, 7], mctp_mode="boost", conversation_id="a"))
        return await collect(
            engine.generate(request_of(ids, mctp_mode="boost", conversation_id="a", max_new_tokens=11))
        )

    assert run(model, ahead) == expected[:11]
    # 10 tokens before the first difference are read once more, because modules have combined them with what follows
    assert read[:5] == [20, 1, 24, 8, 20]


def test_what_prompts_have_in_common_is_read_once():
    model = random_model(10)
    first = random_prompt(80, seed=3)[0].tolist()
    cases = [first, first[:50] + [7] * 20, first[:20] + [7] * 20, first[:79]]
    expected = [alone(model, ids, mctp_mode="boost", max_new_tokens=11) for ids in cases]
    read = []

    async def one_by_one(engine):
        original = engine._read
        engine._read = lambda reading: read.append(sum(n for _, n in reading)) or original(reading)
        return [await collect(engine.generate(request_of(ids, mctp_mode="boost", max_new_tokens=11))) for ids in cases]

    assert run(model, one_by_one) == expected
    # the second has 50 in common with the first, and the fourth 20 with the third, too few to be copied for
    assert read == [80, 30, 40, 79]


def test_a_copy_has_only_what_is_in_common():
    model = random_model(10)
    first = random_prompt(200, seed=3)[0].tolist()

    async def one_by_one(engine):
        for ids in (first, first[:50] + [7] * 20):
            await collect(engine.generate(request_of(ids, mctp_mode="boost", max_new_tokens=11)))
        ((keys, cache),) = engine._kept.values()
        return len(keys), [layer._keys.buffer.shape[-2] for layer in cache.layers + cache.mctp_caches[0].layers]

    # of a power of two
    assert run(model, one_by_one) == (72, [128, 128, 128])


def test_what_is_kept_is_freed():
    model = random_model(2)

    async def many(engine):
        for index in range(5):
            await collect(engine.generate(request_of(prompts(1)[0], conversation_id=str(index), mctp_mode=[1, 2])))
        await collect(engine.generate(request_of([1, 2])))
        kept = list(engine._kept)
        await engine.forget("4")
        await collect(engine.generate(request_of([1, 2])))
        return kept, list(engine._kept)

    assert run(model, many, max_kept_conversations=3) == (["3", "4", None], ["3", None])


def test_modes_may_change_within_a_conversation():
    model = random_model(10)
    ids = random_prompt(30, seed=4)[0].tolist()
    modes = ["boost", "vanilla", "turbo", "vanilla", "balance"]
    expected = [alone(model, ids, mctp_mode=mode) for mode in modes]

    async def changing(engine):
        return [await collect(engine.generate(request_of(ids, mctp_mode=mode, conversation_id="a"))) for mode in modes]

    assert run(model, changing) == expected


def test_sampling_has_a_seed_of_its_own_in_each_row():
    model = random_model(10)
    ids = prompts(1)[0]
    options = {"do_sample": True, "temperature": 0.8, "mctp_mode": "boost"}

    async def sampled(engine):
        seeds = [1, 2, 1, 3, None, None]
        return await asyncio.gather(*(collect(engine.generate(request_of(ids, seed=s, **options))) for s in seeds))

    one, two, again, three, *unseeded = run(model, sampled)
    assert one == again
    assert len({tuple(tokens) for tokens in (one, two, three, *unseeded)}) == 5


@pytest.mark.slow
def test_sampling_has_the_distribution_of_the_scores():
    model = random_model(0)
    ids = prompts(1)[0]
    logits = model(torch.tensor([ids])).logits[0, -1] / 0.5
    # the default of `generate`
    logits[logits < logits.topk(50).values[-1]] = -torch.inf

    async def sampled(engine):
        options = {"do_sample": True, "temperature": 0.5, "mctp_mode": "vanilla", "max_new_tokens": 1}
        requests = [request_of(ids, seed=seed, **options) for seed in range(1500)]
        return [(await collect(engine.generate(request)))[0] for request in requests]

    counts = torch.bincount(torch.tensor(run(model, sampled, max_queue_length=2000)), minlength=len(logits))
    probs = logits.softmax(-1)
    # standard deviations of a share of 1500 draws
    assert ((counts / 1500 - probs).abs() <= 4.5 * (probs * (1 - probs) / 1500).sqrt() + 1e-3).all()


def test_speech_only_head_is_that_of_generate():
    model = random_model(10, interleave_pattern=[1, 10, 4, 10])
    cases = [(ids, mode) for ids in prompts(4) for mode in ("balance", "boost", "turbo")]
    expected = [alone(model, ids, mctp_mode=mode, mctp_speech_only_head=True) for ids, mode in cases]
    assert expected != [alone(model, ids, mctp_mode=mode) for ids, mode in cases]
    model.generation_config.mctp_speech_only_head = True

    async def all_at_once(engine):
        return await asyncio.gather(
            *(collect(engine.generate(request_of(ids, mctp_mode=mode))) for ids, mode in cases)
        )

    assert run(model, all_at_once) == expected


@pytest.mark.slow
def test_a_model_that_hears_features():
    model = plus_model()
    cases = plus_expected()["generate"]

    def request(sequence, **options):
        features = plus_features(sequence["audios"])
        rows = [
            values[mask.bool()].numpy()
            for values, mask in zip(features.get("input_features", ()), features.get("feature_attention_mask", ()))
        ]
        mode = sequence["pattern"] if sequence["mode"] != "vanilla" else "vanilla"
        return GenerationRequest(
            input_ids=sequence["input_ids"],
            input_features=rows,
            mctp_mode=mode,
            max_new_tokens=len(sequence["tokens"]),
            **options,
        )

    async def heard(engine):
        together = await asyncio.gather(*(collect(engine.generate(request(sequence))) for sequence in cases))
        in_one_conversation = [
            await collect(engine.generate(request(sequence, conversation_id="a"))) for sequence in cases
        ]
        return together, in_one_conversation

    together, in_one_conversation = run(model, heard)
    assert together == [sequence["tokens"] for sequence in cases]
    assert in_one_conversation == together


def test_whoever_stops_reading_stops_the_generation():
    model = random_model(10)
    model.generation_config.eos_token_id = None
    ids = prompts(1)[0]

    async def stopped(engine):
        stream = engine.generate(request_of(ids, max_new_tokens=400, mctp_mode="boost"))
        await anext(stream)
        await stream.aclose()
        dropped = engine.generate(request_of(ids, max_new_tokens=400, mctp_mode="boost"))
        await anext(dropped)
        del dropped
        task = asyncio.ensure_future(collect(engine.generate(request_of(ids, max_new_tokens=400))))
        await asyncio.sleep(0.02)
        task.cancel()
        # what comes later is answered, and nothing else runs
        tokens = await collect(engine.generate(request_of(ids, max_new_tokens=3)))
        await asyncio.sleep(0.1)
        return len(tokens), engine.num_running, engine.num_waiting

    assert run(model, stopped) == (3, 0, 0)


@pytest.mark.slow
def test_the_queue_has_an_end():
    model = random_model(2)

    async def crowded(engine):
        streams = [engine.generate(request_of([1, 2, 3], mctp_mode="vanilla")) for _ in range(40)]
        with pytest.raises(EngineOverloaded, match="are waiting"):
            for _ in range(40):
                streams.append(engine.generate(request_of([1, 2, 3], mctp_mode="vanilla")))
        return await asyncio.gather(*map(collect, streams))

    answers = run(model, crowded, max_batch_size=2, max_queue_length=45)
    assert len(answers) >= 45 and all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_ids": []}, "no tokens"),
        ({"input_ids": [1] * 512}, "positions for 512"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"mctp_mode": "fast"}, "vanilla, balance, boost, turbo"),
        ({"mctp_mode": [1, 11]}, "11 MCTP steps"),
        ({"temperature": -1.0, "do_sample": True}, "temperature"),
    ],
)
def test_bad_requests(options, message):
    async def refused(engine):
        with pytest.raises(ValueError, match=message):
            engine.check(
                request_of(
                    **{"ids": [1, 2], **options} if "input_ids" not in options else {"ids": options["input_ids"]}
                )
            )

    run(random_model(10), refused)


def test_an_error_in_a_step_is_raised_to_its_readers_alone():
    model = random_model(2)

    async def broken(engine):
        original = engine._read
        engine._read = lambda reading: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await collect(engine.generate(request_of([1, 2, 3], mctp_mode="vanilla")))
        engine._read = original
        return await collect(engine.generate(request_of([1, 2, 3], mctp_mode="vanilla")))

    assert run(model, broken) == alone(model, [1, 2, 3], mctp_mode="vanilla")


@pytest.mark.parametrize("part", ["_step", "_begin"])
def test_what_is_kept_makes_room_after_an_error(part):
    model = random_model(2)

    async def full(engine):
        original = getattr(engine, part)

        def in_full_memory(*args):
            if engine._kept:
                raise MemoryError
            return original(*args)

        setattr(engine, part, in_full_memory)
        await collect(engine.generate(request_of([1, 2, 3], mctp_mode="vanilla", conversation_id="a")))
        with pytest.raises(MemoryError):
            await collect(engine.generate(request_of([4, 5], mctp_mode="vanilla")))
        return await collect(engine.generate(request_of([1, 2, 3], mctp_mode="vanilla")))

    assert run(model, full) == alone(model, [1, 2, 3], mctp_mode="vanilla")


def test_a_token_that_cannot_be_chosen_is_an_error_of_its_request_alone():
    model, options = random_model(2), {"mctp_mode": [1, 2], "max_new_tokens": 200}

    async def ask(engine):
        stream = engine.generate(request_of([1, 2, 3], **options))
        tokens = await anext(stream)
        # scores over this are infinite, and no distribution
        with pytest.raises(RuntimeError):
            await collect(engine.generate(request_of([4, 5], do_sample=True, temperature=1e-40)))
        return tokens + await collect(stream)

    assert run(model, ask) == alone(model, [1, 2, 3], **options)


def test_sliding_attention_is_refused():
    model = random_model(2, text_config={"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1})
    with pytest.raises(ValueError, match="sliding_attention"):
        TransformersEngine(model)
