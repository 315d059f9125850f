# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The assistant against the pipeline of the same folder."""

import asyncio
import gc
import weakref
from argparse import Namespace

import numpy as np
import pytest
from places import MINI
from tiny_models import tiny_model, tiny_plus_processor, tiny_processor

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioPipeline, VitaAudioProcessor
from processing.conversation_vita_audio import TTS_PROMPT, recognition_conversation, synthesis_conversation
from serving.assistant import AnswerOptions
from serving.engine import PromptTooLong
from serving.loading import load_assistant


@pytest.fixture(scope="module")
def pipe():
    return VitaAudioPipeline(
        VitaAudioForConditionalGeneration.from_pretrained(MINI), processor=VitaAudioProcessor.from_pretrained(MINI)
    )


def load(folder, **options):
    return load_assistant(Namespace(model=str(folder), revision=None, device="cpu", dtype=None, threads=1, **options))


@pytest.fixture(scope="module")
def question(pipe):
    return pipe.processor.load_audio(str(MINI / "sample_question.wav"))


def spoken(audio):
    return [{"role": "user", "content": [{"type": "audio", "audio": audio}]}]


async def collect(answer):
    """The text and the samples of an answer."""
    pieces = [piece async for piece in answer]
    samples = [piece.audio for piece in pieces if piece.audio is not None]
    return "".join(piece.text for piece in pieces if piece.text is not None), np.concatenate([np.zeros(0), *samples])


def conversation(kind, question):
    return {
        "spoken": spoken(question),
        "written": [{"role": "user", "content": "What is two plus nine?"}],
        "tts": synthesis_conversation("The sum of seven and six is thirteen."),
        "asr": recognition_conversation(question),
        "several turns": [
            *spoken(question),
            {"role": "assistant", "content": "The sum of seven and six is thirteen."},
            *spoken(question),
        ],
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_weights_answer_several_at_once(quantization, question):
    pytest.importorskip("torchao")
    assistant = load(MINI, quantization=quantization)

    async def ask():
        asked = [spoken(question), conversation("written", question), spoken(question)]
        answers = await asyncio.gather(*(collect(assistant.answer(messages)) for messages in asked))
        await assistant.close()
        return answers

    answers = asyncio.run(ask())
    expected = ["The sum of seven and six is thirteen.", "The sum of two and nine is eleven."]
    assert [text.strip() for text, _ in answers] == [*expected, expected[0]]
    assert all(len(samples) > 8000 for _, samples in answers)


@pytest.mark.parametrize("mode", ["vanilla", "boost"])
@pytest.mark.parametrize("kind", ["spoken", "written", "tts", "asr", "several turns"])
def test_answers_are_those_of_the_pipeline(assistant, pipe, question, kind, mode):
    expected = pipe(conversation(kind, question), mctp_mode=mode)

    async def ask():
        answer = assistant.answer(conversation(kind, question), AnswerOptions(mctp_mode=mode))
        return *await collect(answer), answer

    text, samples, answer = asyncio.run(ask())
    assert text == answer.text == expected["text"]
    assert len(samples) == len(expected["audio"])
    if kind != "asr":
        # other cuts into chunks, and other neighbours in a call, change the last bits
        np.testing.assert_allclose(samples, expected["audio"], rtol=0, atol=1e-3)
    if kind in ("spoken", "written", "tts"):
        assert np.abs(samples).max() > 0.1
    assert answer.num_prompt_tokens > 20 and answer.num_new_tokens > 5 and not answer.is_cut_off


def test_speech_that_is_heard_as_it_comes_is_answered_as_the_whole(assistant, pipe, question):
    # longer than the 4 s that are encoded at a time
    question = np.tile(question, 3)
    expected = pipe(question)["text"]
    read = []
    original = assistant.engine._read

    async def ask(conversation_id, history):
        hearing = assistant.hear(history, conversation_id)
        for start in range(0, len(question), 640):
            hearing.put(question[start : start + 640])
            # the model and the codec have time to keep up, as in real time
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert hearing.num_samples == len(question)
        audio = await hearing.finish()
        read.clear()
        answer = assistant.answer([*history, *spoken(audio)], conversation_id=conversation_id)
        text, _ = await collect(answer)
        return text, read[0], answer.num_prompt_tokens

    async def session():
        assistant.engine._read = lambda reading: read.append(reading[0][1]) or original(reading)
        try:
            history, turns = [], []
            for _ in range(2):
                turns.append(await ask("a", history))
                history += [*spoken(question), {"role": "assistant", "content": turns[-1][0]}]
                await assistant.prepare(history, "a")
            return turns
        finally:
            assistant.engine._read = original
            await assistant.forget("a")

    first, second = asyncio.run(session())
    assert first[0] == expected
    # what the encoder could not be sure of before the end, and the tokens that begin the answer
    assert first[1] < first[2] / 2
    assert second[1] <= first[1] + 10 < second[2]


def test_a_pause_is_read_as_the_end(assistant, question):
    read = []
    original = assistant.engine._read

    async def ask(with_pause):
        hearing = assistant.hear([], "pause")
        # The silence that comes after a pause changes none of its first 19 codes; those of the question itself it does
        samples = np.concatenate([0.7 * question, np.zeros(8000, np.float32)]).astype(np.float32)
        for start in range(0, len(samples) - 3840, 320):
            hearing.put(samples[start : start + 320])
        if with_pause:
            hearing.pause()
        await asyncio.sleep(1.0)
        hearing.put(np.zeros(3840, np.float32))
        audio = await hearing.finish()
        read.clear()
        text, _ = await collect(assistant.answer(spoken(audio), conversation_id="pause"))
        await assistant.forget("pause")
        return text, read[0]

    async def both():
        assistant.engine._read = lambda reading: read.append(reading[0][1]) or original(reading)
        try:
            return await ask(False), await ask(True)
        finally:
            assistant.engine._read = original

    (text, without), (same_text, with_pause) = asyncio.run(both())
    assert text == same_text and with_pause < without - 4


def test_room_for_another_turn(assistant):
    history = [*spoken([1] * 100), {"role": "assistant", "content": "Yes."}]
    assert assistant.has_room(history, [1] * 140) and not assistant.has_room(history, [1] * 260)


def test_texts_are_spoken_sentence_by_sentence(assistant, pipe):
    sentences = ["The sum of seven and six is thirteen.", "The capital of France is Paris."]

    async def ask():
        return await collect(assistant.speak(" ".join(sentences)))

    _, samples = asyncio.run(ask())
    expected = [len(pipe(synthesis_conversation(sentence))["audio"]) for sentence in sentences]
    assert len(samples) == sum(expected)
    # of what stands between them, nothing can be said
    sentences.insert(1, "\n***\n...")
    _, again = asyncio.run(ask())
    assert len(again) == len(samples)


@pytest.mark.slow
def test_a_model_that_hears_by_features(tmp_path):
    processor = tiny_plus_processor()
    # With this seed no two tokens score almost the same
    VitaAudioPipeline(tiny_model(processor, seed=1), processor=processor, device="cpu").save_pretrained(tmp_path)
    pipe = VitaAudioPipeline(
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path),
        processor=VitaAudioProcessor.from_pretrained(tmp_path),
        max_new_tokens=40,
    )
    time = np.arange(16000) / 16000
    speech = (0.3 * np.sin(2 * np.pi * 220 * time) * (1 + np.sin(9 * time))).astype(np.float32)
    history = [*spoken(speech), {"role": "assistant", "content": "yes"}]
    expected = [pipe(messages)["text"] for messages in (spoken(speech), [*history, *spoken(speech)])]
    assistant = load(tmp_path)

    async def session():
        hearing = assistant.hear([], "a")
        for start in range(0, len(speech), 1600):
            hearing.put(speech[start : start + 1600])
            await asyncio.sleep(0.02)
        audio = await hearing.finish()
        assert audio.ndim == 2 and audio.shape[1] == 560
        options = AnswerOptions(max_new_tokens=40)
        first, _ = await collect(assistant.answer(spoken(audio), options, conversation_id="a"))
        later = [*spoken(audio), history[1], *spoken(speech)]
        second, _ = await collect(assistant.answer(later, options, conversation_id="a"))
        await assistant.close()
        return [first, second]

    assert asyncio.run(session()) == expected


def test_an_answer_is_cut_to_what_was_heard(assistant, question):
    async def ask():
        answer = assistant.answer(spoken(question))
        _, samples = await collect(answer)
        seconds = len(samples) / assistant.output_sampling_rate
        return answer, [answer.text_at(share * seconds) for share in (0, 0.3, 0.6, 1, 2)]

    answer, texts = asyncio.run(ask())
    assert texts[0] == "" and texts[-2:] == [answer.text, answer.text]
    assert 0 < len(texts[1]) < len(texts[2]) < len(answer.text)
    for text in texts[1:]:
        assert answer.text.startswith(text) and answer.text[len(text) :][:1] in ("", " ")


def test_texts_without_spaces_are_cut_to_what_was_heard(assistant, question):
    async def cut(text):
        answer = assistant.answer(spoken(question))
        await answer.cancel()
        answer.text, answer._is_written, answer.audio_codes = text, True, [0] * 25
        return [answer.text_at(seconds) for seconds in (0, 1.0, 1.6)]

    assert asyncio.run(cut("七加六等于十三。对吗？")) == ["", "七加六等于十", "七加六等于十三。对"]
    assert asyncio.run(cut("他说 hello there 你好")) == ["", "他说", "他说 hello"]


def test_what_was_written_is_read_later_also_where_it_was_not_heard(assistant, question):
    async def ask():
        silent = assistant.answer(spoken(question), with_audio=False)
        text, samples = await collect(silent)
        loud = assistant.answer(spoken(question))
        await collect(loud)
        return text, samples, silent.message(), loud

    text, samples, message, loud = asyncio.run(ask())
    assert text and not len(samples)
    assert message == loud.message() and message["content"][1]["codes"]
    # an answer that was interrupted before its first word is none
    assert loud.message(0.1) is None and loud.message(1.0)["content"][1]["codes"] == loud.audio_codes[:12]
    for number in range(len(loud.audio_codes)):
        assert len(loud.codes_at(number * 1280 / 16000)) == number


def test_too_many_codes_of_earlier_answers_are_not_read(assistant):
    answer = {"role": "assistant", "content": [{"type": "audio", "codes": [1] * 1500}]}

    async def ask():
        with pytest.raises(PromptTooLong, match="3000 codes of earlier answers, and the model has positions for 2048"):
            assistant.answer([*spoken([1]), answer, *spoken([1]), answer, *spoken([1])])

    asyncio.run(ask())


def test_an_answer_that_is_cancelled_stops_the_model(assistant, question):
    async def interrupt():
        for num_pieces in (0, 1, 4):
            answer = assistant.answer(spoken(question), AnswerOptions(max_new_tokens=1000))
            reader = asyncio.ensure_future(collect(answer))
            for _ in range(num_pieces):
                await asyncio.sleep(0.02)
            await answer.cancel()
            # whoever waits for the next piece learns of it
            await asyncio.wait_for(reader, timeout=5)
        for _ in range(100):
            if assistant.engine.num_running == assistant.engine.num_waiting == 0:
                return await collect(assistant.answer(spoken(question)))
            await asyncio.sleep(0.02)
        raise AssertionError("the model goes on")

    text, samples = asyncio.run(interrupt())
    assert text and len(samples)


def test_answers_that_are_over_do_not_keep_the_codecs_state(assistant, question):
    async def ask():
        states = []
        for is_interrupted in (False, True):
            answer = assistant.answer(spoken(question))
            states.append(weakref.ref(answer._speaking))
            async for piece in answer:
                if is_interrupted and piece.audio is not None:
                    break
            await answer.cancel()
            assert answer.text_at(100) == answer.text != ""
        # the codec's thread may be in the middle of a call
        await asyncio.sleep(0.5)
        gc.collect()
        return [state() for state in states]

    assert asyncio.run(ask()) == [None, None]


def test_answers_that_are_refused_leave_nothing_with_the_codec(assistant, question):
    async def ask():
        with pytest.raises(ValueError, match="shorter than"):
            await collect(assistant.answer(spoken(question[:100])))
        return list(assistant.codec_worker._speaking)

    assert asyncio.run(ask()) == []


def test_a_question_whose_answer_is_cancelled_is_not_encoded_on(assistant, question):
    async def ask():
        answer = assistant.answer(spoken(np.tile(question, 12)))
        await asyncio.sleep(0.05)
        being_encoded = len(assistant.codec_worker._listening)
        await answer.cancel()
        return being_encoded, len(assistant.codec_worker._listening)

    assert asyncio.run(ask()) == (1, 0)


def test_the_limit_of_the_length_is_reported(assistant, question):
    async def ask():
        answer = assistant.answer(spoken(question), AnswerOptions(max_new_tokens=12))
        await collect(answer)
        return answer

    answer = asyncio.run(ask())
    assert answer.is_cut_off and answer.num_new_tokens == 12


@pytest.mark.parametrize("max_new_tokens", [5, 9, 20])
def test_the_limit_is_of_the_text_and_its_speech_together(assistant, max_new_tokens):
    async def ask():
        messages = [{"role": "user", "content": "What is two plus five?"}]
        answer = assistant.answer(messages, AnswerOptions(max_new_tokens=max_new_tokens))
        await collect(answer)
        return answer

    answer = asyncio.run(ask())
    assert answer.is_cut_off and answer.num_new_tokens == max_new_tokens


def test_the_end_of_the_positions_is_reported(assistant):
    async def ask():
        answer = assistant.answer([{"role": "user", "content": "seven " * 2010}], with_audio=False)
        await collect(answer)
        return answer

    answer = asyncio.run(ask())
    assert answer.is_cut_off and answer.num_prompt_tokens + answer.num_new_tokens == 2048


@pytest.mark.parametrize("parts", [(TTS_PROMPT, "The sum is two."), (f"{TTS_PROMPT.strip()} The sum is two.",)])
def test_a_text_to_be_spoken_in_other_forms(assistant, parts):
    async def ask():
        content = [{"type": "text", "text": part} for part in parts]
        answers = [assistant.answer([{"role": "user", "content": content}]), assistant.speak("The sum is two.")]
        return [await collect(answer) for answer in answers]

    (_, samples), (_, expected) = asyncio.run(ask())
    assert len(samples) == len(expected) > 0


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "nothing to answer|empty"),
        ([{"role": "assistant", "content": "Yes."}], {}, "must be the user's"),
        ([{"role": "user", "content": "<|audio_3|> yes"}], {}, "control mark"),
        (spoken("/etc/passwd"), {}, "got a str"),
        ([{"role": "user", "content": [{"type": "audio", "url": "http://127.0.0.1/"}]}], {}, "got a str"),
        (spoken([5000]), {}, "Speech codes must be"),
        ([{"role": "user", "content": "Yes?"}], {"mctp_mode": "fast"}, "vanilla, balance"),
        ([{"role": "user", "content": "Yes?"}], {"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(assistant, messages, options, message):
    async def ask():
        with pytest.raises(ValueError, match=message):
            assistant.answer(messages, AnswerOptions(**options))

    asyncio.run(ask())


def test_too_long_conversations(assistant, monkeypatch):
    async def ask():
        # its tokens are not counted, which would take a minute
        with monkeypatch.context() as context, pytest.raises(PromptTooLong, match="20000000 characters"):
            context.setattr(assistant.processor, "build_prompt", None)
            assistant.answer([{"role": "user", "content": "seven plus" * 2 * 10**6}])
        with monkeypatch.context() as context:
            context.setattr(assistant.processor, "build_prompt", None)
            await assistant.prepare([{"role": "user", "content": "seven plus" * 2 * 10**6}], "a")
        with pytest.raises(PromptTooLong, match="positions for 2048"):
            assistant.answer(spoken([1] * 2040))
        long_session = [*spoken([1] * 300), {"role": "assistant", "content": "Yes."}, *spoken([1] * 200)]
        with pytest.raises(PromptTooLong, match="more than the 512"):
            assistant.answer(long_session, conversation_id="a")
        # what stands alone has no older turns that could be left out
        await assistant.answer(spoken([1] * 600), AnswerOptions(max_new_tokens=1), conversation_id="b").cancel()

    asyncio.run(ask())


def test_bad_samples_are_an_error_of_their_answer(assistant, question):
    async def ask():
        with pytest.raises(ValueError, match="shorter than"):
            await collect(assistant.answer(spoken(question[:100])))
        return (await collect(assistant.transcribe(question)))[0]

    assert asyncio.run(ask())


def test_a_folder_without_a_codec(tmp_path):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path)
    processor.audio_tokenizer = None
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no speech codec"):
        load(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="no speech codec"):
        load(tmp_path)
