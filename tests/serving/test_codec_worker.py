# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The codec's thread, with the shipped codec."""

import asyncio
import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from places import FIXTURES, MINI, ROOT
from tiny_models import tiny_dac, tiny_plus_processor, tiny_tokenizer
from waiting import wait_until

from processing import Glm4VoiceCodec, VitaAudioProcessor
from processing.convert_glm4_voice_to_hf import convert
from serving.codec_worker import CodecWorker


QUESTION = soundfile.read(MINI / "sample_question.wav", dtype="float32")[0]
# What one code is spoken as, and the rounding of batches, which adds up in the phase
SAMPLES, TOLERANCE = 1280, 0.005


@pytest.fixture(scope="module")
def processor():
    return VitaAudioProcessor.from_pretrained(MINI)


@pytest.fixture(scope="module")
def codes(processor):
    """Of 5.5 s."""
    return processor.encode_audio([np.tile(QUESTION, 3)])[0]


@pytest.fixture
def worker(processor):
    worker = CodecWorker(processor)
    yield worker
    worker.close()


async def read_all(speaking):
    return np.concatenate([np.zeros(0, np.float32)] + [samples async for samples in speaking])


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.mark.slow
def test_sixteen_answers_at_once_are_those_of_single_runs(worker, processor, codes):
    answers = [codes[row : 45 - row] for row in range(16)]
    generator = np.random.default_rng(0)

    async def answer(row):
        speaking, start = worker.speak(), 0

        async def write():
            nonlocal start
            await asyncio.sleep(0.02 * row)
            while start < len(answers[row]):
                length = int(generator.integers(1, 12))
                speaking.put(answers[row][start : start + length])
                start += length
                await asyncio.sleep(0.003)
            speaking.end()

        audio, _ = await asyncio.gather(read_all(speaking), write())
        return audio

    async def main():
        return await asyncio.gather(*map(answer, range(16)))

    for audio, expected in zip(run(main()), processor.decode_audio(answers)):
        np.testing.assert_allclose(audio, expected, atol=TOLERANCE)
    assert worker.seconds_spoken == pytest.approx(sum(map(len, answers)) * SAMPLES / 16000)
    assert 0 < worker.seconds_speaking


def test_rows_go_through_one_call(worker, processor, codes, monkeypatch):
    sizes, decode = [], processor.decode_audio_chunks

    def count(chunks, *args):
        sizes.append(len(chunks))
        return decode(chunks, *args)

    monkeypatch.setattr(processor, "decode_audio_chunks", count)

    async def main():
        speakings = [worker.speak() for _ in range(8)]
        for speaking in speakings:
            speaking.put(codes)
            speaking.end()
        await asyncio.gather(*map(read_all, speakings))

    run(main())
    # But for the first, which may begin before all are there
    assert sorted(sizes)[len(sizes) // 2] >= 7


def test_three_codes_give_the_first_audio(worker, codes):
    async def main():
        speaking = worker.speak()
        speaking.put(codes[:2])
        first = asyncio.ensure_future(anext(speaking))
        await asyncio.sleep(0.1)
        assert not first.done()
        speaking.put(codes[2:3])
        assert len(await first) == SAMPLES
        speaking.cancel()
        # Also where more are there at once
        speaking = worker.speak()
        speaking.put(codes[:20])
        assert len(await anext(speaking)) == SAMPLES
        assert len(await anext(speaking)) == 8 * SAMPLES
        speaking.cancel()

    run(main())


def test_an_answer_that_begins_is_not_behind_long_ones(worker, codes):
    async def main():
        others = [worker.speak() for _ in range(8)]
        for other in others:
            other.put(codes * 3)
        await anext(others[0])
        before = worker.seconds_spoken
        speaking = worker.speak()
        speaking.put(codes[:3])
        await anext(speaking)
        # Two calls of the others at most: the one that ran, and one that came first to the lock
        assert worker.seconds_spoken - before <= 3 * 8 * 8 * 0.08
        for handle in [*others, speaking]:
            handle.cancel()

    run(main())


def test_cancelled_in_the_middle(worker, processor, codes):
    async def main():
        speakings = [worker.speak() for _ in range(3)]
        for speaking in speakings:
            speaking.put(codes)
            speaking.end()
        await anext(speakings[1])
        speakings[1].cancel()
        assert [samples async for samples in speakings[1]] == []
        # One that somebody waits for
        waiting = worker.speak()
        reader = asyncio.ensure_future(read_all(waiting))
        await asyncio.sleep(0.01)
        waiting.cancel()
        assert len(await reader) == 0
        return await asyncio.gather(read_all(speakings[0]), read_all(speakings[2]))

    for audio in run(main()):
        np.testing.assert_allclose(audio, processor.decode_audio([codes])[0], atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [10**5, -1, "x"])
def test_a_bad_code_ends_its_answer_alone(worker, processor, codes, bad):
    async def main():
        speakings = [worker.speak() for _ in range(4)]
        for index, speaking in enumerate(speakings):
            speaking.put([*codes[:20], bad, *codes[20:]] if index == 2 else codes)
            speaking.end()
        return await asyncio.gather(*map(read_all, speakings), return_exceptions=True)

    results = run(main())
    assert isinstance(results[2], ValueError)
    for index in (0, 1, 3):
        np.testing.assert_allclose(results[index], processor.decode_audio([codes])[0], atol=TOLERANCE)


def test_what_nobody_takes_is_not_decoded(processor, codes):
    worker = CodecWorker(processor, max_unread_seconds=1.0)

    async def main():
        slow, fast = worker.speak(), worker.speak()
        for speaking in (slow, fast):
            speaking.put(codes)
            speaking.end()
        await read_all(fast)
        await asyncio.sleep(0.2)
        # A second and a call, besides what the fast one has read
        assert worker.seconds_spoken - len(codes) * 0.08 <= 1.0 + 8 * 0.08
        return await read_all(slow)

    np.testing.assert_allclose(run(main()), processor.decode_audio([codes])[0], atol=TOLERANCE)
    worker.close()


def test_an_answer_without_codes(worker):
    async def main():
        speaking = worker.speak()
        speaking.end()
        return await read_all(speaking)

    # The look-ahead of no code
    assert len(run(main())) == 0


@pytest.fixture(scope="module")
def glm4_voice_processor(tmp_path_factory):
    released = FIXTURES / "glm4_voice"
    folder = convert(released / "tokenizer", released / "decoder", tmp_path_factory.mktemp("converted") / "codec")
    return VitaAudioProcessor.from_codec(tiny_tokenizer(128), Glm4VoiceCodec.from_pretrained(folder).eval())


@pytest.mark.slow
def test_a_codec_whose_states_cannot_be_joined(glm4_voice_processor):
    worker, codes = CodecWorker(glm4_voice_processor), list(range(30))

    async def main():
        speakings = [worker.speak() for _ in range(2)]
        for speaking in speakings:
            speaking.put(codes)
            speaking.end()
        return await asyncio.gather(*map(read_all, speakings))

    first, second = run(main())
    worker.close()
    # The utterance as a whole is as long, and not equal: the codec speaks by blocks
    assert len(first) == len(glm4_voice_processor.decode_audio([codes])[0])
    np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def dac_processor():
    return VitaAudioProcessor.from_codec(tiny_tokenizer(), tiny_dac())


def test_a_codec_that_does_not_stream_speaks_and_hears_at_the_end(dac_processor):
    worker, codes = CodecWorker(dac_processor), list(range(16)) * 3

    async def main():
        speaking, listening = worker.speak(), worker.hear()
        for code in codes:
            speaking.put([code])
        listening.put(QUESTION)
        await asyncio.sleep(0.05)
        assert worker.seconds_spoken == 0 and listening.settled() == []
        speaking.end()
        return await read_all(speaking), await listening.finish()

    audio, heard = run(main())
    worker.close()
    np.testing.assert_array_equal(audio, dac_processor.decode_audio([codes])[0])
    assert heard == dac_processor.encode_audio([QUESTION])[0]


async def listen(worker, recording, num_settled):
    """What is heard of a recording, which does not end before `num_settled` codes or rows of it are settled."""
    listening = worker.hear()
    for start in range(0, len(recording), 320):
        listening.put(recording[start : start + 320])
        await asyncio.sleep(0.001)
    while len(listening.settled()) < num_settled:
        await asyncio.sleep(0.001)
    return await listening.finish()


@pytest.mark.slow
def test_many_are_heard_while_others_are_spoken_to(worker, processor, codes):
    # a block of 4 s, and the 0.64 s that a stream waits for, have come before their ends
    recordings = [np.tile(QUESTION, 4)[1000 * row :] for row in range(8)]

    async def main():
        speakings = [worker.speak() for _ in range(4)]
        for speaking in speakings:
            speaking.put(codes)
            speaking.end()
        # the codes of a block
        heard = await asyncio.gather(*(listen(worker, recording, 50) for recording in recordings))
        return heard, await asyncio.gather(*map(read_all, speakings))

    heard, spoken = run(main())
    assert heard == processor.encode_audio(recordings)
    for audio in spoken:
        np.testing.assert_allclose(audio, processor.decode_audio([codes])[0], atol=TOLERANCE)
    assert worker.seconds_heard == pytest.approx(sum(map(len, recordings)) / 16000)
    assert worker.seconds_hearing > 0


def test_hearing_comes_before_speaking(worker, codes):
    async def main():
        speakings = [worker.speak() for _ in range(4)]
        for speaking in speakings:
            speaking.put(codes * 3)
        await anext(speakings[0])
        listening, before = worker.hear(), worker.seconds_spoken
        listening.put(QUESTION)
        await listening.finish()
        # The calls that ran when the samples and the end came
        assert worker.seconds_spoken - before <= 2 * 4 * 8 * 0.08
        for speaking in speakings:
            speaking.cancel()

    run(main())


def test_a_whole_recording_does_not_hold_up_others(worker, processor, codes):
    recording = np.tile(QUESTION, 16)

    async def main():
        whole, spoken, heard = worker.hear(), worker.speak(), worker.hear()
        whole.put(recording)
        spoken.put(codes[:8])
        heard.put(QUESTION)
        done = []
        tasks = [asyncio.ensure_future(step) for step in (whole.finish(), anext(spoken), heard.finish())]
        for task in tasks:
            task.add_done_callback(done.append)
        encoded, *_ = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        spoken.cancel()
        return done[-1] is tasks[0], encoded

    is_last, encoded = run(main())
    assert is_last
    assert encoded == processor.encode_audio([recording])[0]


def test_features_are_heard():
    processor = tiny_plus_processor()
    worker = CodecWorker(processor)
    features = run(listen(worker, QUESTION, 10))
    worker.close()
    np.testing.assert_allclose(features, processor.feature_extractor(QUESTION)["input_features"][0], atol=1e-5)


@pytest.mark.parametrize(
    "chunks, message",
    [
        ([np.zeros(800, np.float32)], "shorter than the 0.1 s"),
        ([np.zeros(8000, np.float32)], "silent"),
        ([], "empty"),
        ([np.full(8000, np.nan, np.float32)], "NaN"),
        ([np.zeros(8000, np.float32), [0.0] * 100], "float32"),
        ([QUESTION] * 40, "longer than the limit of max_audio_seconds = 60"),
    ],
)
def test_bad_audio_is_told_its_own_reader_alone(worker, processor, chunks, message):
    async def main():
        bad, good = worker.hear(), worker.hear()
        for chunk in chunks:
            bad.put(chunk)
        good.put(QUESTION)
        results = await asyncio.gather(bad.finish(), good.finish(), return_exceptions=True)
        with pytest.raises(ValueError, match=message):
            bad.put(QUESTION)
        return results

    bad, good = run(main())
    with pytest.raises(ValueError, match=message):
        raise bad
    assert good == processor.encode_audio([QUESTION])[0]


def test_too_long_an_audio_is_told_while_it_comes(worker):
    async def main():
        listening = worker.hear()
        with pytest.raises(ValueError, match="longer than the limit"):
            for _ in range(2000):
                listening.put(QUESTION)
                await asyncio.sleep(0.005)
        listening.cancel()

    run(main())


def test_cancelled_while_heard(worker, processor):
    async def main():
        listening, other = worker.hear(), worker.hear()
        for handle in (listening, other):
            handle.put(QUESTION)
        finished = asyncio.ensure_future(listening.finish())
        await asyncio.sleep(0)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await finished
        return await other.finish()

    assert run(main()) == processor.encode_audio([QUESTION])[0]


def test_closed_event_loops_do_not_end_the_thread(worker, processor, codes):
    async def vanish():
        speaking, listening = worker.speak(), worker.hear()
        speaking.put(codes)
        listening.put(QUESTION)
        with worker.lock:
            listening.has_ended = True

    for _ in range(3):
        asyncio.run(vanish())

    async def main():
        speaking = worker.speak()
        speaking.put(codes)
        speaking.end()
        return await read_all(speaking)

    np.testing.assert_allclose(run(main()), processor.decode_audio([codes])[0], atol=TOLERANCE)
    # and nothing of theirs is kept
    assert worker._speaking == [] and worker._listening == []


def test_two_event_loops(worker, processor, codes):
    results = {}

    async def main():
        speaking = worker.speak()
        speaking.put(codes)
        speaking.end()
        return await asyncio.gather(read_all(speaking), listen(worker, QUESTION, 0))

    def run_and_keep(name):
        results[name] = run(main())

    threads = [threading.Thread(target=run_and_keep, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for audio, heard in results.values():
        np.testing.assert_allclose(audio, processor.decode_audio([codes])[0], atol=TOLERANCE)
        assert heard == processor.encode_audio([QUESTION])[0]


def test_closed(processor, codes):
    worker = CodecWorker(processor, max_unread_seconds=0.5)

    async def main():
        speaking, listening = worker.speak(), worker.hear()
        speaking.put(codes)
        with pytest.raises(RuntimeError, match="was closed"):
            async for _ in speaking:
                worker.close()
        with pytest.raises(RuntimeError, match="was closed"):
            await listening.finish()
        with pytest.raises(RuntimeError, match="is closed"):
            worker.speak()
        with pytest.raises(RuntimeError, match="is closed"):
            worker.hear()

    run(main())
    worker.close()
    assert not worker._thread.is_alive()


def test_handles_leave_nothing_behind(worker, codes):
    async def main():
        for index in range(20):
            speaking, listening = worker.speak(), worker.hear()
            speaking.put(codes[:10])
            listening.put(QUESTION)
            if index % 2:
                speaking.cancel()
                listening.cancel()
            else:
                speaking.end()
                await asyncio.gather(read_all(speaking), listening.finish())

    run(main())
    assert worker._speaking == [] and worker._listening == []

    def no_handle_is_left():
        gc.collect()
        return not [handle for handle in gc.get_objects() if type(handle).__name__ in ("Speaking", "Listening")]

    # the thread lets go of the last ones when it returns from its call, after their readers have got all
    wait_until(no_handle_is_left)


@pytest.mark.slow
def test_python_ends_while_the_codec_runs():
    code = f"""
import asyncio
from processing import VitaAudioProcessor
from serving.codec_worker import CodecWorker

worker = CodecWorker(VitaAudioProcessor.from_pretrained({str(MINI)!r}))

async def main():
    speaking = worker.speak()
    speaking.put([1] * 2000)
    await anext(speaking)

asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_a_guess_that_fails_is_logged_and_the_turn_goes_on(worker, monkeypatch, caplog):
    async def main():
        listening = worker.hear()
        monkeypatch.setattr(listening.stream, "guess", lambda: 1 / 0)
        listening.put(QUESTION)
        settled = await listening.pause()
        return settled, listening.settled(), await listening.finish()

    guess, settled, codes = run(main())
    assert guess == settled and codes == worker.processor.encode_audio([QUESTION])[0]
    assert "could not be guessed" in caplog.text and "ZeroDivisionError" in caplog.text
