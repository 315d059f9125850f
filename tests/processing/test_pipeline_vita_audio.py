# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import gc
import io
import os
import queue
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import soundfile
import torch
from places import HELPERS, ROOT
from tiny_models import tiny_model, tiny_processor
from transformers import GenerationConfig, StoppingCriteriaList, pipeline
from waiting import wait_until

from processing import audio_vita_audio
from processing.conversation_vita_audio import SPOKEN_CHAT_SYSTEM_PROMPT, spoken_conversation
from processing.pipeline_vita_audio import AnswerWarning, VitaAudioPipeline
from processing.streaming_vita_audio import StreamClosed, VitaAudioSpeechStream, VitaAudioStreamer
from processing.voice_vita_audio import read_voice


MODES = ["vanilla", "balance", "boost", "turbo"]


@pytest.fixture(scope="module")
def pipe():
    processor = tiny_processor()
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


def question(seconds=0.5, frequency=150.0):
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * 16000)) / 16000)).astype(np.float32)


def assert_same(first, second):
    assert first["text"] == second["text"] and first["sampling_rate"] == second["sampling_rate"]
    np.testing.assert_array_equal(first["audio"], second["audio"])


def joined_text(chunks):
    return "".join(chunk.get("text", "") for chunk in chunks)


def joined(chunks):
    audio = [chunk["audio"] for chunk in chunks if "audio" in chunk]
    return joined_text(chunks), np.concatenate(audio)


# Whole answers


def test_answer_is_what_model_and_processor_make(pipe):
    audio = question()
    text = f"<|im_start|>system\n{SPOKEN_CHAT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n<|audio|><|im_end|>\n"
    inputs = pipe.processor(text + "<|im_start|>assistant\n", audio)
    ids = pipe.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    codes = [i - pipe.processor.speech_vocabulary.speech_token_offset for i in ids.tolist()]
    codes = [code for code in codes if 0 <= code < 16]
    assert len(codes) > 5
    answer = pipe(audio)
    assert answer.keys() == {"audio", "sampling_rate", "text", "audio_codes"}
    assert answer["audio_codes"] == codes
    assert answer["sampling_rate"] == 16000
    decoded = pipe.processor.audio_tokenizer.decode(torch.tensor([[codes]])).audio_values
    np.testing.assert_array_equal(answer["audio"], decoded[0, 0].numpy())
    assert answer["text"] == pipe.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.slow
def test_every_kind_of_input(pipe, tmp_path):
    file = io.BytesIO()
    soundfile.write(file, question(), 16000, format="WAV", subtype="FLOAT")
    path = tmp_path / "question.wav"
    path.write_bytes(file.getvalue())
    expected = pipe(question())
    for inputs in (
        str(path),
        file.getvalue(),
        torch.from_numpy(question()),
        {"array": question(), "sampling_rate": 16000},
        {"raw": question(), "sampling_rate": 16000},
        spoken_conversation(question()),
        spoken_conversation(str(path)),
    ):
        assert_same(pipe(inputs), expected)


@pytest.mark.parametrize("as_conversation", [False, True])
def test_audio_is_checked_once(pipe, monkeypatch, as_conversation):
    checked = []
    for name in ("check_rate", "check_length"):
        monkeypatch.setattr(audio_vita_audio, name, lambda name, *args: checked.append(name))
    audio = question()
    answer = pipe(spoken_conversation(audio) if as_conversation else audio, return_transcript=True)
    assert "transcript" in answer and len(checked) == 2


@pytest.mark.slow
def test_lists_and_generators(pipe):
    inputs = [question(), spoken_conversation(question(0.9, 330)), question(0.3)]
    expected = [pipe(one) for one in inputs]
    audios = [inputs[0], inputs[2]]
    for answers in (pipe(audios), list(pipe(audio for audio in audios))):
        assert_same(answers[0], expected[0])
        assert_same(answers[1], expected[2])
    conversations = [spoken_conversation(question()), inputs[1]]
    for answer, one in zip(pipe(conversations), expected):
        assert_same(answer, one)


@pytest.mark.slow
def test_batches_give_what_single_inputs_give(pipe):
    # in float64, as float32 rounds a batch otherwise, and this model's scores are close to one another
    pipe = VitaAudioPipeline(copy.deepcopy(pipe.model).double(), processor=pipe.processor, device="cpu")
    inputs = [question(), question(0.9, 330), question(0.3)]
    for answer, expected in zip(pipe(inputs, batch_size=3), [pipe(one) for one in inputs]):
        assert answer["text"] == expected["text"]
        np.testing.assert_allclose(answer["audio"], expected["audio"], atol=1e-5)


@pytest.mark.slow
def test_generation_parameters_reach_the_model(pipe):
    def num_tokens(**kwargs):
        model_inputs = pipe.preprocess(question())
        return pipe.forward(model_inputs, **kwargs)["generated_ids"].shape[1]

    assert num_tokens() == 40
    assert num_tokens(max_new_tokens=7) == 7
    default = pipe(question())["text"]
    assert pipe(question(), mctp_mode="boost")["text"] == default
    assert pipe(question(), mctp_mode="vanilla")["text"] != default
    assert pipe(question(), system_prompt=None)["text"] != default
    set_at_init = VitaAudioPipeline(
        pipe.model, processor=pipe.processor, device="cpu", mctp_mode="vanilla", max_new_tokens=20, system_prompt=None
    )
    expected = pipe(question(), mctp_mode="vanilla", max_new_tokens=20, system_prompt=None)
    assert_same(set_at_init(question()), expected)
    # What a configuration of the caller leaves open is the model's, as in `generate`
    assert num_tokens(generation_config=GenerationConfig(do_sample=False)) == 40


def test_no_limit_of_its_own_is_the_default(pipe):
    assert_same(pipe(question(), max_new_tokens=None, max_length=None), pipe(question()))


def test_what_ends_an_answer_by_itself_does_not_cut_it_off(pipe):
    every_id = list(range(len(pipe.tokenizer)))
    with pytest.warns(AnswerWarning, match="was cut off"):
        pipe(question(), max_time=1e-9)
    with pytest.warns(AnswerWarning, match="was cut off"):
        pipe(question(), max_new_tokens=3, stop_strings=["no such text"], tokenizer=pipe.tokenizer)
    ends = [
        {"eos_token_id": every_id},
        {"eos_token_id": torch.tensor(every_id)},
        {"eos_token_id": every_id, "max_new_tokens": 1},
        {"stopping_criteria": StoppingCriteriaList([lambda ids, scores: torch.ones(len(ids), dtype=torch.bool)])},
    ]
    for end in ends:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AnswerWarning)
            pipe(question(), **end)
        assert not any("was cut off" in str(warning.message) for warning in caught)


def test_the_rate_of_the_pipeline_is_that_of_voices_too(pipe):
    at_8_khz = VitaAudioPipeline(pipe.model, processor=pipe.processor, device="cpu", sampling_rate=8000)
    expected = read_voice(pipe.processor, question(1.0), 8000).audio
    params, _, _ = at_8_khz._sanitize_parameters(voice=question(1.0))
    assert params["voice"].audio == expected != read_voice(pipe.processor, question(1.0)).audio


def test_an_answer_with_a_control_mark_in_its_text_is_not_spoken(pipe):
    # The letters of a mark, in tokens that are not the mark
    text_ids = [i for piece in ("Two<|im_e", "nd|>") for i in pipe.tokenizer(piece)["input_ids"]]
    forced = [*text_ids, pipe.tokenizer.eos_token_id]

    def next_ids(row, ids):
        num_written = max(n for n in range(len(forced)) if ids.tolist()[len(ids) - n :] == forced[:n])
        return [forced[num_written]]

    # The tiny model does not write such tokens by default
    options = {"prefix_allowed_tokens_fn": next_ids, "mctp_mode": "vanilla", "suppress_tokens": [0]}
    for answer_of in (pipe, lambda text, **kwargs: {"text": joined_text(pipe.stream(text, **kwargs)), "audio": ()}):
        with pytest.warns(AnswerWarning, match="'Two<.im_end.>' has no speech"):
            answer = answer_of("What is two plus two?", **options)
        assert answer["text"] == "Two<|im_end|>" and len(answer["audio"]) == 0


@pytest.mark.slow
def test_quantized_weights(pipe, tmp_path):
    pytest.importorskip("torchao")
    pipe.save_pretrained(tmp_path / "model")
    options = {"device": "cpu", "trust_remote_code": True}
    quantized = pipeline(
        "audio-to-audio", model=str(tmp_path / "model"), model_kwargs={"quantization_config": "int8"}, **options
    )
    assert type(quantized.model.lm_head).__name__ == "Int8Linear"
    quantized.save_pretrained(tmp_path / "quantized")
    loaded = pipeline("audio-to-audio", model=str(tmp_path / "quantized"), **options)
    assert type(loaded.model.lm_head).__name__ == "Int8Linear"
    assert_same(loaded(question()), quantized(question()))


def test_without_speech_the_audio_is_empty(pipe):
    vocabulary = pipe.processor.speech_vocabulary
    speech = range(vocabulary.speech_token_offset, vocabulary.speech_token_offset + vocabulary.num_speech_tokens)
    answer = pipe(question(), suppress_tokens=list(speech))
    assert answer["audio"].shape == (0,) and answer["text"]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([], "list is empty"),
        (np.zeros(0, dtype=np.float32), "empty"),
        (question(0.01), "shorter than"),
        ([{"role": "user", "content": "Say <|audio_3|>"}], r"<\|audio_3\|>"),
    ],
)
def test_bad_input_is_named(pipe, inputs, message):
    with pytest.raises(ValueError, match=message):
        pipe(inputs)


def test_a_processor_of_another_model_is_refused(pipe):
    model = tiny_model(pipe.processor)
    model.config.speech_token_offset -= 1
    with pytest.raises(ValueError, match="processor is of another model: its tokenizer has speech_token_offset"):
        VitaAudioPipeline(model, processor=pipe.processor, device="cpu")


def test_several_answers_are_refused(pipe):
    with pytest.raises(ValueError, match="num_return_sequences"):
        pipe(question(), num_return_sequences=2, do_sample=True)


def test_a_streamer_is_refused(pipe):
    for ask in (pipe, pipe.stream):
        with pytest.raises(ValueError, match="`streamer` is refused: `stream` gives"):
            ask(question(), streamer=VitaAudioStreamer(pipe.processor))


@pytest.mark.slow
def test_saved_folder_loads_where_our_packages_are(pipe, tmp_path):
    pipe.model.save_pretrained(tmp_path)
    pipe.processor.save_pretrained(tmp_path)
    loaded = pipeline("audio-to-audio", model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert loaded(question())["text"] == pipe(question())["text"]


# Streams


@pytest.mark.parametrize("mode, codes_per_chunk", list(zip(MODES, [1, 3, 8, 5])))
def test_stream_adds_up_to_the_whole_answer(pipe, mode, codes_per_chunk):
    expected = pipe(question(), mctp_mode=mode)
    assert len(expected["audio"]) > 1280 and len(expected["text"]) > 5
    chunks = list(pipe.stream(question(), mctp_mode=mode, codes_per_chunk=codes_per_chunk))
    assert sum("audio" in chunk for chunk in chunks) >= 1 and sum("text" in chunk for chunk in chunks) > 2
    text, audio = joined(chunks)
    assert text == expected["text"]
    np.testing.assert_array_equal(audio, expected["audio"])
    codes = [code for chunk in chunks for code in chunk.get("audio_codes", ())]
    assert codes == expected["audio_codes"] and len(codes) > 3


def test_stream_of_a_conversation(pipe):
    expected = pipe(question())
    text, audio = joined(list(pipe.stream(spoken_conversation(question()))))
    assert text == expected["text"]
    np.testing.assert_array_equal(audio, expected["audio"])


def test_first_chunks_come_while_the_generation_runs(pipe):
    processor = pipe.processor
    codes = [5, 3, 8, 1, 2, 2, 9, 4, 7, 6]
    text_ids = processor.tokenizer("Two plus")["input_ids"]
    streamer = VitaAudioStreamer(processor, timeout=0.1)
    streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
    chunks = iter(streamer)
    streamer.put(torch.tensor(text_ids[:1]))
    assert next(chunks) == {"text": "Two"}
    for token_id in processor.speech_vocabulary.wrap(codes[:8]):
        streamer.put(torch.tensor([token_id]))
    first = next(chunks)
    # two codes of look-ahead are held back
    assert first["sampling_rate"] == 16000 and len(first["audio"]) == 6 * 1280
    # a run that ends early is spoken at its delimiter, and the rest at the end
    streamer.put(torch.tensor([*text_ids[1:], *processor.speech_vocabulary.wrap(codes[8:])]))
    assert next(chunks) == {"text": " plus"}
    second = next(chunks)
    assert len(second["audio"]) == 2 * 1280
    with pytest.raises(queue.Empty):
        next(chunks)


def test_a_reader_goes_on_after_a_timeout(pipe):
    codes, vocabulary = [5, 3, 8, 1, 2, 2, 9, 4, 7, 6], pipe.processor.speech_vocabulary
    streamer = VitaAudioStreamer(pipe.processor, codes_per_chunk=4, timeout=0.05)
    streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
    chunks, ids = [], vocabulary.wrap(codes)
    for part in (ids[:6], ids[6:]):
        streamer.put(torch.tensor(part))
        with pytest.raises(queue.Empty):
            for chunk in streamer:
                chunks.append(chunk)
    streamer.end()
    chunks += streamer
    assert [code for chunk in chunks for code in chunk["audio_codes"]] == codes
    np.testing.assert_array_equal(joined(chunks)[1], pipe.processor.decode_audio([codes])[0])


def test_characters_of_several_tokens_come_whole(pipe):
    token_ids = pipe.tokenizer("a€é")["input_ids"]
    assert len(token_ids) == 6
    streamer = VitaAudioStreamer(pipe.processor)
    for value in ([[1]], *([token_id] for token_id in token_ids)):
        streamer.put(torch.tensor(value))
    streamer.end()
    assert list(streamer) == [{"text": "a"}, {"text": "€"}, {"text": "é"}]


def test_a_part_of_a_character_comes_at_the_end(pipe):
    streamer = VitaAudioStreamer(pipe.processor)
    for value in ([[1]], pipe.tokenizer("a€")["input_ids"][:-1]):
        streamer.put(torch.tensor(value))
    streamer.end()
    assert list(streamer) == [{"text": "a"}, {"text": "\ufffd"}]
    assert streamer.text == "a\ufffd"


def test_text_does_not_wait_for_the_codec(pipe, monkeypatch):
    expected = pipe(question())
    decode, may_speak = pipe.processor.decode_audio_chunk, threading.Event()

    def decode_when_told(*args, **kwargs):
        assert may_speak.wait(60)
        return decode(*args, **kwargs)

    monkeypatch.setattr(pipe.processor, "decode_audio_chunk", decode_when_told)
    stream, text = pipe.stream(question(), codes_per_chunk=1), ""
    while len(text) < len(expected["text"].rstrip("\ufffd")):
        text += next(stream)["text"]
    may_speak.set()
    rest, audio = joined(list(stream))
    assert text + rest == expected["text"]
    np.testing.assert_array_equal(audio, expected["audio"])


def test_first_chunk_of_boost_needs_one_forward_of_the_language_model(pipe):
    forwards, seen = [], []
    handle = pipe.model.model.language_model.register_forward_hook(lambda *_: forwards.append(1))

    class Recorder(VitaAudioStreamer):
        def put(self, value):
            super().put(value)
            seen.append(len(forwards))

    model_inputs = pipe.preprocess(question())
    pipe.forward(model_inputs, streamer=Recorder(pipe.processor), max_new_tokens=11, mctp_mode="boost")
    handle.remove()
    assert seen == [0] + [1] * 11


def test_chunks_have_the_number_of_codes_asked_for(pipe, monkeypatch):
    decode, sizes = pipe.processor.decode_audio_chunk, []

    def counted(codes, *args, **kwargs):
        sizes.append(len(codes))
        return decode(codes, *args, **kwargs)

    monkeypatch.setattr(pipe.processor, "decode_audio_chunk", counted)
    streamer, vocabulary = VitaAudioStreamer(pipe.processor, codes_per_chunk=3), pipe.processor.speech_vocabulary
    for ids in ([[1]], vocabulary.wrap(range(7)), vocabulary.wrap(range(4))):
        streamer.put(torch.tensor(ids))
    streamer.end()
    audio = joined(list(streamer))[1]
    # each run ends a chunk, and the last one is for what the codec holds back
    assert sizes == [3, 3, 1, 3, 1, 0]
    np.testing.assert_array_equal(audio, pipe.processor.decode_audio([[*range(7), *range(4)]])[0])


def test_closing_a_stream_stops_the_generation(pipe):
    tokens = []
    handle = pipe.model.lm_head.register_forward_hook(lambda *_: tokens.append(1))
    threads = set(threading.enumerate())
    stream = pipe.stream(question(), max_new_tokens=200, min_new_tokens=200, codes_per_chunk=1)
    next(stream)
    stream.close()
    handle.remove()
    assert set(threading.enumerate()) <= threads
    assert len(tokens) < 200


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cancel", "drop"])
def test_cancelling_from_another_thread_ends_both_within_a_chunk(pipe, way):
    threads, tokens, decoded = set(threading.enumerate()), [], []
    handles = [
        pipe.model.lm_head.register_forward_hook(lambda *_: tokens.append(1)),
        pipe.processor.audio_tokenizer.decoder.register_forward_hook(lambda *_: decoded.append(1)),
    ]
    stream = pipe.stream(question(), max_new_tokens=400, min_new_tokens=400, codes_per_chunk=1)
    received = []
    if way == "cancel":

        def read():
            received.extend(stream)

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: len(received) > 2)
        stream.cancel()
        num_decoded, num_tokens = len(decoded), len(tokens)
        reader.join(10)
        assert not reader.is_alive() and list(stream) == []
    else:
        next(stream)
        num_decoded, num_tokens = len(decoded), len(tokens)
        del stream
        gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= threads)
    for handle in handles:
        handle.remove()
    assert len(tokens) < 400
    if way == "cancel":
        assert len(decoded) <= num_decoded + 1 and len(tokens) <= num_tokens + 2


LEAVE_A_STREAM = """
import sys
import numpy as np
import torch
from tiny_models import tiny_model, tiny_processor
from processing.pipeline_vita_audio import VitaAudioPipeline

processor = tiny_processor()
pipe = VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")
stream = pipe.stream(np.sin(np.arange(8000) / 9), max_new_tokens=100, min_new_tokens=100, codes_per_chunk=1)
if sys.argv[1] == "drop":
    next(stream)
# steps that take so long that the process ends in the midst of one
def work(*_):
    torch.ones(1500, 1500) @ torch.ones(1500, 1500)

for module in (pipe.model.lm_head, processor.audio_tokenizer.decoder):
    module.register_forward_hook(work)
if sys.argv[1] == "drop":
    del stream
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["unread", "drop"])
def test_a_process_that_leaves_a_stream_ends_well(way):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}"}
    done = subprocess.run(
        [sys.executable, "-c", LEAVE_A_STREAM, way], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_closing_lets_a_writer_that_waits_for_room_go(pipe):
    for _ in range(20):
        streamer = VitaAudioStreamer(pipe.processor, max_queued_tokens=1)
        streamer.put(torch.tensor([[1]]))

        def write(streamer=streamer):
            with pytest.raises(StreamClosed):
                while True:
                    streamer.put(torch.tensor([5]))

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        wait_until(lambda streamer=streamer: streamer._queue.full())
        streamer.close()
        writer.join(20)
        assert not writer.is_alive()


@pytest.mark.slow
def test_a_slow_reader_holds_up_the_codec_and_the_model(pipe):
    tokens = []
    options = {"max_new_tokens": 150, "min_new_tokens": 150}
    expected = pipe(question(), **options)
    handle = pipe.model.lm_head.register_forward_hook(lambda *_: tokens.append(1))
    model_inputs = pipe.preprocess(question())
    streamer = VitaAudioStreamer(pipe.processor, codes_per_chunk=1, max_queued_tokens=8)
    stream = VitaAudioSpeechStream(
        lambda streamer: pipe.forward(model_inputs, streamer=streamer, **options), streamer, max_queued_chunks=2
    )
    # then both wait for room: the codec for the reader, the model for the codec
    wait_until(streamer._queue.full)
    assert len(tokens) < 100
    # two chunks of audio can be read, and the third waits for room, which text does not need
    wait_until(lambda: sum("audio" in chunk for chunk in list(stream._chunks.queue)) == 2)
    text, audio = joined(list(stream))
    handle.remove()
    assert text == expected["text"]
    np.testing.assert_array_equal(audio, expected["audio"])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        VitaAudioSpeechStream(None, streamer, max_queued_chunks=0)


def test_an_error_of_the_codec_reaches_the_reader(pipe, monkeypatch):
    def decode(*args, **kwargs):
        raise RuntimeError("the codec fell over")

    monkeypatch.setattr(pipe.processor, "decode_audio_chunk", decode)
    with pytest.raises(RuntimeError, match="fell over"):
        list(pipe.stream(question(), max_new_tokens=40))


def test_closed_streamer_refuses_tokens(pipe):
    streamer = VitaAudioStreamer(pipe.processor)
    streamer.put(torch.tensor([[1]]))
    streamer.close()
    with pytest.raises(StreamClosed):
        streamer.put(torch.tensor([1]))


def test_error_in_the_generation_reaches_the_reader(pipe):
    with pytest.raises(ValueError, match="nonsense"):
        list(pipe.stream(question(), mctp_mode="nonsense"))


def test_bad_input_is_named_before_the_stream_starts(pipe):
    with pytest.raises(ValueError, match="empty"):
        pipe.stream(np.zeros(0, dtype=np.float32))
    with pytest.raises(ValueError, match="one input"):
        pipe.stream([question(), question()])


def test_streamer_takes_one_prompt(pipe):
    with pytest.raises(ValueError, match="batch of 2"):
        VitaAudioStreamer(pipe.processor).put(torch.tensor([[1], [2]]))


@pytest.mark.slow
@pytest.mark.parametrize("num_readers", [2, 4, 9])
@pytest.mark.parametrize("end", ["end", "cancel", "error"])
def test_readers_of_one_stream_share_it_and_all_end(pipe, num_readers, end, monkeypatch):
    expected = pipe(question())
    if end == "error":
        monkeypatch.setattr(pipe.processor, "decode_audio_chunk", lambda *args, **kwargs: 1 / 0)
    stream = pipe.stream(question(), codes_per_chunk=1)
    chunks, errors = [], []

    def read():
        try:
            chunks.extend(stream)
        except ZeroDivisionError as error:
            errors.append(error)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(num_readers)]
    for reader in readers:
        reader.start()
    if end == "cancel":
        stream.cancel()
    for reader in readers:
        reader.join(timeout=20)
    assert not any(reader.is_alive() for reader in readers)
    assert len(errors) == (end == "error")
    if end == "end":
        assert sum(len(chunk.get("audio", "")) for chunk in chunks) == len(expected["audio"])
        assert sum(len(chunk.get("text", "")) for chunk in chunks) == len(expected["text"])


def test_iterators_of_one_streamer_all_end(pipe):
    streamer = VitaAudioStreamer(pipe.processor)
    readers = [threading.Thread(target=list, args=(streamer,), daemon=True) for _ in range(4)]
    for reader in readers:
        reader.start()
    streamer.put(torch.zeros(1, 3, dtype=torch.long))
    streamer.put(torch.tensor([5]))
    streamer.end()
    for reader in readers:
        reader.join(timeout=20)
    assert not any(reader.is_alive() for reader in readers)


def test_samples_are_within_bounds(pipe, monkeypatch):
    decode = type(pipe.processor.audio_tokenizer).decode

    def loud(self, *args, **kwargs):
        output = decode(self, *args, **kwargs)
        output.audio_values = output.audio_values * 100
        return output

    monkeypatch.setattr(type(pipe.processor.audio_tokenizer), "decode", loud)
    chunks = [chunk["audio"] for chunk in pipe.stream(question()) if "audio" in chunk]
    for audio in (pipe(question())["audio"], np.concatenate(chunks)):
        assert np.abs(audio).max() == 1
    heard = pipe.processor.load_audio(np.sign(np.sin(np.arange(16000) / 5)).astype(np.float32), 12000)
    assert np.abs(heard).max() == 1


@pytest.mark.slow
def test_two_streams_at_once(pipe):
    expected = [pipe(question()), pipe(question(0.9, 330))]
    streams = [pipe.stream(question()), pipe.stream(question(0.9, 330))]
    chunks = [[], []]
    for first, second in zip(*streams):
        chunks[0].append(first)
        chunks[1].append(second)
    for stream, pieces in zip(streams, chunks):
        pieces += list(stream)
    # zip drops the first stream's next chunk where the second has ended, so only the other is sure to be whole
    text, audio = joined(chunks[1])
    assert text == expected[1]["text"]
    np.testing.assert_array_equal(audio, expected[1]["audio"])
