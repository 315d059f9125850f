# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import functools
import http.server
import io
import json
import re
import threading
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_codec, tiny_dac, tiny_model, tiny_processor, tiny_tokenizer
from transformers import AutoProcessor, DacModel, EncodecFeatureExtractor

from processing import VitaAudioProcessor, spoken_conversation


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def tone(seconds, rate=16000, frequency=220.0, level=0.3):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def token_text(processor, ids):
    return "".join(processor.tokenizer.convert_ids_to_tokens(ids)).replace("Ġ", " ").replace("Ċ", "\n")


def speech_text(codes):
    return "<|begin_of_audio|>" + "".join(f"<|audio_{code}|>" for code in codes) + "<|end_of_audio|>"


# Conversations


def test_conversation_of_parts(processor):
    audio = tone(0.5)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Listen: "}, {"type": "audio", "audio": audio}]},
    ]
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nListen: "
        + speech_text(processor.encode_audio([audio])[0])
        + "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert token_text(processor, batch["input_ids"][0]) == expected
    assert batch["attention_mask"].tolist() == [[1] * batch["input_ids"].shape[1]]
    assert len(processor.encode_audio([audio])[0]) == 7  # ceil(8000 / 1280)


def test_marks_and_parts_are_the_same(processor):
    audio = tone(0.5)
    marked = [{"role": "user", "content": "What? <|audio|> And why?"}]
    parts = [
        {"type": "text", "text": "What? "},
        {"type": "audio", "audio": audio},
        {"type": "text", "text": " And why?"},
    ]
    kwargs = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    from_marks = processor.apply_chat_template(marked, audios=[audio], **kwargs)
    from_parts = processor.apply_chat_template([{"role": "user", "content": parts}], **kwargs)
    assert torch.equal(from_marks["input_ids"], from_parts["input_ids"])


def test_rendered_text(processor):
    messages = [{"role": "user", "content": "Hi <|audio|>"}]
    text = processor.apply_chat_template(messages, audios=[tone(0.5)], add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi <|audio|><|im_end|>\n<|im_start|>assistant\n"


def test_batch_is_padded_on_the_left(processor):
    conversations = [
        [{"role": "user", "content": [{"type": "audio", "audio": tone(0.5)}]}],
        [{"role": "user", "content": "Two plus two?"}],
    ]
    kwargs = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    batch = processor.apply_chat_template(conversations, **kwargs)
    for row, conversation in enumerate(conversations):
        single = processor.apply_chat_template(conversation, **kwargs)["input_ids"][0]
        padding = batch["input_ids"].shape[1] - len(single)
        assert batch["attention_mask"][row].tolist() == [0] * padding + [1] * len(single)
        assert torch.equal(batch["input_ids"][row, padding:], single)


def test_call_with_rendered_text(processor):
    audio = tone(0.5)
    messages = [{"role": "user", "content": [{"type": "audio", "audio": audio}]}]
    expected = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert torch.equal(processor(text, audio)["input_ids"], expected["input_ids"])
    with pytest.raises(ValueError, match="1 marks .* 2 audios"):
        processor(text, [audio, audio])


def test_codes_do_not_depend_on_the_batch(processor):
    short, long = tone(0.3), tone(0.9, frequency=333)
    assert processor.encode_audio([short, long]) == processor.encode_audio([short]) + processor.encode_audio([long])


@pytest.mark.parametrize("mark", ["<|audio_5|>", "<|im_end|>", "<|begin_of_audio|>", "<|endoftext|>"])
def test_control_marks_in_text_are_named(processor, mark):
    for content in (f"Say {mark} now", [{"type": "text", "text": f"Say {mark} now"}]):
        messages = [{"role": "user", "content": content}]
        for call in (processor.build_training_example, processor.apply_chat_template):
            with pytest.raises(ValueError) as error:
                call(messages)
            assert mark in str(error.value)


def test_speech_marks_in_rendered_text_are_named(processor):
    with pytest.raises(ValueError, match=r"<\|audio_5\|>"):
        processor("<|im_start|>user\n<|audio_5|><|im_end|>\n")


def test_audio_mark_in_a_text_part_is_refused(processor):
    messages = [{"role": "user", "content": [{"type": "text", "text": "a <|audio|>"}]}]
    with pytest.raises(ValueError, match=r"control mark <\|audio\|>"):
        processor.apply_chat_template(messages, tokenize=True)


@pytest.mark.parametrize("pieces", [("say <|audio", "_5|> now"), ("<|im", "_end|>"), ("<|aud", "io|>")])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_mark_in_two_text_parts_is_refused(processor, pieces, role):
    texts = [{"type": "text", "text": text} for text in pieces]
    for content in (texts, [*texts, {"type": "audio", "audio": tone(0.5)}]):
        with pytest.raises(ValueError, match=r"control mark <\|"):
            processor.apply_chat_template([{"role": role, "content": content}], tokenize=True)


def test_audio_parts_name_their_audio_in_every_way(processor, tmp_path):
    audio = tone(0.5)
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(audio, 16000, "FLOAT"))
    url = "data:audio/wav;base64," + b64encode(path.read_bytes()).decode()
    parts = [
        {"path": str(path)},
        {"url": path.as_uri(), "path": None},
        {"bytes": path.read_bytes()},
        {"base64": b64encode(path.read_bytes()).decode()},
        {"array": audio, "sampling_rate": 16000},
        {"raw": audio.tolist(), "sampling_rate": 16000, "audio_url": None},
        {"audio": audio},
        {"audio": audio, "sampling_rate": 16000},
        {"audio": (16000, audio)},
        {"audio": {"audio": audio, "sampling_rate": 16000, "text": "An answer."}},
        {"audio": io.BytesIO(path.read_bytes()), "sampling_rate": None},
        {"audio_url": url},
        {"audio_url": {"url": url}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "audio_url", "audio_url": str(path)},
        {"type": "input_audio", "input_audio": {"data": url.partition(",")[2], "format": "wav"}},
    ]
    ids = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "audio", **part}]}], tokenize=True
        ).tolist()
        for part in parts
    ]
    assert ids == ids[:1] * len(parts)
    with pytest.raises(ValueError, match='"array" or "raw" together with "sampling_rate"'):
        messages = [{"role": "user", "content": [{"type": "audio", "array": audio}]}]
        processor.apply_chat_template(messages, tokenize=True)


@pytest.mark.parametrize(
    "part, message",
    [
        ({"type": "audio", "url": "a.wav", "path": "a.wav"}, "under one key, not under path and url"),
        ({"type": "audio", "path": "a.wav", "start": 1.0}, "'audio' has the unknown keys start"),
        ({"type": "text", "text": "Two.", "url": "a.wav"}, "'text' has the unknown keys url"),
        (
            {"type": "audio_url", "audio_url": {"uri": "a.wav"}},
            '"audio_url" of a content part must be {"url": ...}, got',
        ),
        ({"type": "audio_url", "audio_url": {"url": "a.wav", "start": 1}}, '"audio_url" of a content part must be'),
        (
            {"type": "input_audio", "input_audio": {"data": None}},
            '"input_audio" of a content part must be {"data": ...}',
        ),
        ({"type": "input_audio", "input_audio": "UklGRg=="}, "'audio' has the unknown keys input_audio"),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "A content part must be"),
    ],
)
def test_audio_parts_that_are_not_quite_right_are_named(processor, part, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        processor.apply_chat_template([{"role": "user", "content": [part]}], tokenize=True)


def test_a_list_of_samples_is_one_audio(processor):
    audio = tone(0.5)
    expected = processor("<|audio|>", audio=audio)["input_ids"].tolist()
    for one in (audio.tolist(), (16000, audio), (audio, 16000), [audio.tolist()], ((16000, audio),)):
        assert processor("<|audio|>", audio=one)["input_ids"].tolist() == expected
    two = processor("<|audio|><|audio|>", audio=[audio.tolist(), (16000, audio)])["input_ids"].tolist()
    assert two == [expected[0] * 2]
    marked = [{"role": "user", "content": "<|audio|>"}]
    expected = processor.apply_chat_template(marked, audios=[audio], tokenize=True).tolist()
    for one in (audio, torch.from_numpy(audio), audio.tolist(), (16000, audio), [audio.tolist()]):
        assert processor.apply_chat_template(marked, audios=one, tokenize=True).tolist() == expected
        assert processor.apply_chat_template([marked], audios=[one], tokenize=True).tolist() == expected


@pytest.mark.parametrize("audios", [None, [], ["a.wav", "b.wav"]])
def test_marks_must_be_as_many_as_audios(processor, audios):
    with pytest.raises(ValueError, match="1 marks"):
        processor.apply_chat_template([{"role": "user", "content": "<|audio|>"}], audios=audios, tokenize=True)


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"content": "x"}, {"role": "user", "content": [{"type": "image"}]}]
)
def test_malformed_messages_are_refused(processor, message):
    with pytest.raises(ValueError, match="A message needs|A content part must be"):
        processor.apply_chat_template([message], tokenize=True)


# Training examples


def test_training_example_interleaves_text_with_audio(processor):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<|audio|>"},
        {"role": "assistant", "content": "Two plus two is four.<|audio|>"},
    ]
    answer_codes = [code % 16 for code in range(20)]
    example = processor.build_training_example(messages, [[1, 2, 3], answer_codes])
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n" + speech_text([1, 2, 3])
    prompt += "<|im_end|>\n<|im_start|>assistant\n"
    words = [word.replace("Ġ", " ") for word in processor.tokenizer.tokenize("Two plus two is four.")]
    assert len(words) == 6
    answer = words[0] + speech_text(answer_codes[:8]) + "".join(words[1:5]) + speech_text(answer_codes[8:16])
    answer += words[5] + speech_text(answer_codes[16:]) + "<|im_end|>"
    assert token_text(processor, example["input_ids"]) == prompt + answer + "\n"
    learned = [i for i in example["labels"] if i != -100]
    assert token_text(processor, learned) == answer
    assert len(example["labels"]) == len(example["input_ids"])
    assert example["labels"][-1] == -100 and example["labels"][-1 - len(learned) : -1] == learned


def test_training_example_with_text_or_audio_alone(processor):
    asr = [{"role": "user", "content": "Convert.\n<|audio|>"}, {"role": "assistant", "content": "Two plus two"}]
    tts = [{"role": "user", "content": "Two plus two"}, {"role": "assistant", "content": "<|audio|>"}]
    for messages, answer in ((asr, "Two plus two<|im_end|>"), (tts, speech_text([5, 6]) + "<|im_end|>")):
        example = processor.build_training_example(messages, [[5, 6]])
        assert token_text(processor, [i for i in example["labels"] if i != -100]) == answer


def test_training_prompt_is_the_prompt_of_generation(processor):
    audio = tone(0.5)
    question = [{"role": "user", "content": "What? <|audio|>"}]
    prompt = processor.apply_chat_template(question, audios=[audio], tokenize=True, add_generation_prompt=True)[0]
    answer = {"role": "assistant", "content": "\n\nTwo"}
    example = processor.build_training_example([*question, answer], processor.encode_audio([audio]))
    assert example["input_ids"][: len(prompt)] == prompt.tolist()
    assert set(example["labels"][: len(prompt)]) == {-100} and example["labels"][len(prompt)] != -100


def test_every_assistant_turn_is_learned_and_history_is_interleaved_alike(processor):
    audio = tone(1.0)
    codes = processor.encode_audio([audio])[0]
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two plus two is four.<|audio|>"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Four."},
    ]
    example = processor.build_training_example(messages, [codes])
    assert [i for i in example["labels"] if i != -100].count(processor.tokenizer.eos_token_id) == 2
    prompt = processor.apply_chat_template(messages[:3], audios=[audio], tokenize=True, add_generation_prompt=True)[0]
    assert example["input_ids"][: len(prompt)] == prompt.tolist()


def test_interleave_pattern_is_the_processors(processor):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Two plus<|audio|>"}]
    other = tiny_processor(interleave_pattern=[1, 3])
    ids = other.build_training_example(messages, [[1, 2, 3]])["labels"]
    words = [word.replace("Ġ", " ") for word in other.tokenizer.tokenize("Two plus")]
    expected = words[0] + speech_text([1]) + words[1] + speech_text([2, 3]) + "<|im_end|>"
    assert token_text(other, [i for i in ids if i != -100]) == expected


def test_nothing_to_learn_is_an_error(processor):
    with pytest.raises(ValueError, match="Nothing to learn"):
        processor.build_training_example([{"role": "user", "content": "a"}])


def test_a_prompt_takes_codes_that_are_there_already(processor):
    question, answer = tone(0.5), tone(0.7, frequency=150.0)
    before, after = (
        processor.build_prompt(
            [
                *spoken_conversation(heard),
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "Four."}, {"type": "audio", "audio": said}],
                },
                *spoken_conversation(heard),
            ]
        )
        for heard, said in ((question, answer), processor.encode_audio([question, answer]))
    )
    assert before["input_ids"].equal(after["input_ids"])


@pytest.mark.parametrize(
    "audio, message",
    [
        ([1, 16], r"in \[0, 16\), got 16"),
        ([-1], "got -1"),
        ([0.5], "got 0.5"),
        (["1"], "got '1'"),
        ([True], "got True"),
        ([], "has no codes"),
        (np.zeros((3, 560), np.float32), "hears the user by codes, but got an audio of the user as features"),
    ],
)
def test_a_prompt_refuses_what_are_no_codes(processor, audio, message):
    with pytest.raises(ValueError, match=message):
        processor.build_prompt(spoken_conversation(audio))


def test_training_codes_out_of_range_are_named(processor):
    with pytest.raises(ValueError, match="code 16 is out of range"):
        processor.build_training_example(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<|audio|>"}], [[16]]
        )


# Audio


def wav_bytes(samples, rate, subtype="PCM_16", format="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format=format)
    return file.getvalue()


def test_every_way_to_pass_audio(processor, tmp_path):
    samples = soundfile.read(io.BytesIO(wav_bytes(tone(0.5), 16000)), dtype="float32")[0]
    content = wav_bytes(samples, 16000)
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    integers = (samples * 32768).round().astype(np.int16)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    sources = [str(path), path, content, samples, torch.from_numpy(samples), integers, samples[None], samples[:, None]]
    sources += [{"array": samples, "sampling_rate": 16000}, {"raw": samples, "sampling_rate": 16000}]
    sources += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, f"{url}/a.wav"]
    for source in sources:
        np.testing.assert_array_equal(processor.load_audio(source), samples)
    with pytest.raises(OSError, match="Cannot fetch audio from http://.*404"):
        processor.load_audio(f"{url}/missing.wav")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "format, subtype, tolerance", [("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.1), ("MP3", "MPEG_LAYER_III", 0.1)]
)
def test_file_formats(processor, format, subtype, tolerance):
    samples = tone(1.0)
    loaded = processor.load_audio(wav_bytes(samples, 16000, subtype, format))
    assert np.corrcoef(loaded[2000:12000], samples[2000:12000])[0, 1] > 1 - tolerance


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
def test_any_rate_is_resampled(processor, rate):
    loaded = processor.load_audio({"array": tone(1.0, rate), "sampling_rate": rate})
    assert loaded.dtype == np.float32 and abs(len(loaded) - 16000) <= 1
    np.testing.assert_allclose(loaded[1000:15000], tone(1.0)[1000:15000], atol=2e-3)


def test_channels_are_averaged(processor):
    left, right = tone(0.5), tone(0.5, frequency=500)
    for samples in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(processor.load_audio(samples), (left + right) / 2, atol=1e-7)
    np.testing.assert_allclose(
        processor.load_audio(wav_bytes(np.stack([left, right], axis=1), 16000)), (left + right) / 2, atol=1e-4
    )


def test_8_bit_audio(processor):
    np.testing.assert_allclose(processor.load_audio(wav_bytes(tone(0.5), 16000, "PCM_U8")), tone(0.5), atol=0.01)
    unsigned = (tone(0.5) * 128 + 128).round().astype(np.uint8)
    np.testing.assert_allclose(processor.load_audio(unsigned), tone(0.5), atol=0.01)


BAD_AUDIO = [
    (np.zeros(0, dtype=np.float32), "empty"),
    (np.zeros((2, 0), dtype=np.float32), "empty"),
    (b"", "empty"),
    (wav_bytes(np.zeros(0), 16000), "empty"),
    (b"RIFF this is not audio", "corrupt or not a wav"),
    (wav_bytes(tone(0.5), 16000, "PCM_16", "FLAC")[:2000], "corrupt"),
    (np.full(8000, np.nan, dtype=np.float32), "NaN or infinite"),
    (wav_bytes(np.full(8000, np.inf), 16000, "FLOAT"), "NaN or infinite"),
    (tone(0.01), r"lasts 0.010 s, shorter than the 0.1 s"),
    (np.zeros(16000 * 600, dtype=np.float32), "lasts 600.0 s, longer than the limit of max_audio_seconds = 60"),
    (wav_bytes(np.zeros(8000 * 600), 8000, "PCM_U8"), "lasts 600.0 s, longer than the limit"),
    (tone(0.5) * 32768, "up to .*floating point audio is in"),
    (np.zeros((2, 3, 4)), "shape"),
    (np.zeros(8000, dtype=bool), "array of bool"),
    ({"array": tone(0.5), "sampling_rate": 0}, "must be a number of Hz from 1000 to 768000, got 0"),
    ({"array": tone(0.5), "sampling_rate": "16000"}, "must be a number of Hz from 1000 to 768000, got '16000'"),
    ({"array": tone(0.5), "sampling_rate": float("nan")}, "must be a number of Hz from 1000 to 768000, got nan"),
    ({"array": tone(0.5)}, 'needs "array" or "raw" together with "sampling_rate"'),
    (np.zeros(16000, dtype=np.float32), "the audio array .float32. is silent"),
    (wav_bytes(np.zeros(8000), 8000, "PCM_U8"), "the audio in memory is silent"),
    ({"sampling_rate": 16000}, "An audio dictionary needs"),
]


@pytest.mark.parametrize("source, message", BAD_AUDIO)
def test_bad_audio_is_named(processor, source, message):
    with pytest.raises(ValueError, match=message):
        processor.load_audio(source)


def test_bad_audio_that_is_no_audio(processor):
    with pytest.raises(FileNotFoundError, match="no audio file /nowhere/a.wav"):
        processor.load_audio("/nowhere/a.wav")
    with pytest.raises(TypeError, match="got int"):
        processor.load_audio(5)


def test_bad_audio_is_refused_before_the_codec_runs(processor):
    calls = []
    handle = processor.audio_tokenizer.tokenizer.register_forward_hook(lambda *_: calls.append(1))
    messages = [{"role": "user", "content": "<|audio|><|audio|>"}]
    with pytest.raises(ValueError, match="NaN"):
        processor.apply_chat_template(messages, audios=[tone(0.5), np.full(8000, np.nan)], tokenize=True)
    handle.remove()
    assert not calls


# From ids


def test_post_process_generation(processor):
    tokenizer, vocabulary = processor.tokenizer, processor.speech_vocabulary
    text_ids = tokenizer("Two plus two")["input_ids"]
    row = [*text_ids[:1], *vocabulary.wrap([3, 4]), *text_ids[1:], vocabulary.begin_audio_token_id]
    interrupted = row + [vocabulary.speech_token_offset + 7]
    ended = row + [tokenizer.eos_token_id]
    assert processor.post_process_generation(torch.tensor([interrupted, ended])) == [
        {"text": "Two plus two", "audio_codes": [3, 4, 7]},
        {"text": "Two plus two", "audio_codes": [3, 4]},
    ]
    for rows in ([torch.tensor(ended)], np.array([ended]), [np.array(ended)], [tuple(ended)]):
        (result,) = processor.post_process_generation(rows)
        assert result["audio_codes"] == [3, 4] and {type(code) for code in result["audio_codes"]} == {int}
    for flat in (ended, torch.tensor(ended), np.array(ended)):
        with pytest.raises(ValueError, match="must be rows of ids"):
            processor.post_process_generation(flat)


def test_decode_audio(processor):
    codes = [[1, 2, 3, 4], [], [5]]
    audio = processor.decode_audio(codes)
    assert [(len(a), a.dtype) for a in audio] == [(4 * 1280, np.float32), (0, np.float32), (1280, np.float32)]
    expected = processor.audio_tokenizer.decode(torch.tensor([[codes[0]]])).audio_values[0, 0]
    np.testing.assert_array_equal(audio[0], expected.numpy())
    for rows in (torch.tensor(codes[:1]), np.array(codes[:1]), [torch.tensor(codes[0])], [np.array(codes[0])]):
        np.testing.assert_array_equal(processor.decode_audio(rows)[0], expected.numpy())
    for flat in (codes[0], torch.tensor(codes[0]), [[codes[0]]]):
        with pytest.raises(ValueError, match="codes of an utterance must be a list of whole numbers, got"):
            processor.decode_audio(flat)


def test_code_beyond_the_codec_is_named():
    processor = VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(20), tiny_codec())
    row = processor.speech_vocabulary.wrap([3, 17])
    (result,) = processor.post_process_generation([row])
    with pytest.raises(ValueError, match="code 17 is out of range: the codec has 16 codes"):
        processor.decode_audio([result["audio_codes"]])
    with pytest.raises(ValueError, match="code 1.5 is out of range"):
        processor.decode_audio([[1.5, 2]])


def test_nothing_to_read_is_named(processor):
    with pytest.raises(ValueError, match="`text` is an empty list"):
        processor([])
    with pytest.raises(ValueError, match="A conversation must be a list"):
        processor.apply_chat_template({"role": "user", "content": "Hello"})


# Saving and loading


def assert_same_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_saved_and_loaded_whole(tmp_path):
    template = "{% for message in messages %}{% generation %}{{ message['content'] }}{% endgeneration %}{% endfor %}"
    processor = tiny_processor(chat_template=template, interleave_pattern=[2, 6], max_audio_seconds=5)
    processor.save_pretrained(tmp_path)
    assert sorted(path.name for path in (tmp_path / "audio_tokenizer").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for loaded in (VitaAudioProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is VitaAudioProcessor
        assert loaded.chat_template == template
        assert loaded.interleave_pattern == [2, 6] and loaded.max_audio_seconds == 5
        assert loaded.to_dict() == processor.to_dict()
        assert_same_weights(loaded.audio_tokenizer, processor.audio_tokenizer)
        assert loaded.encode_audio([tone(0.5)]) == processor.encode_audio([tone(0.5)])


def test_a_processor_beside_a_model_has_the_layout_of_its_config(tmp_path):
    processor = tiny_processor(interleave_pattern=[2, 6])
    processor.save_pretrained(tmp_path)
    model = tiny_model(processor)
    model.config.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).interleave_pattern == [2, 6]  # an old config does not say
    model.config.interleave_pattern = [3, 7]
    for subfolder in ("", "sub"):
        model.config.save_pretrained(tmp_path / subfolder)
        processor.save_pretrained(tmp_path / subfolder)
        assert VitaAudioProcessor.from_pretrained(tmp_path, subfolder=subfolder).interleave_pattern == [3, 7]
    assert AutoProcessor.from_pretrained(tmp_path).interleave_pattern == [3, 7]
    assert AutoProcessor.from_pretrained(tmp_path, interleave_pattern=[1, 4]).interleave_pattern == [1, 4]

    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "interleave_pattern": [1, 2]}))
    with pytest.raises(ValueError, match="`interleave_pattern` must have at least 1 text token and 3 speech tokens"):
        VitaAudioProcessor.from_pretrained(tmp_path)


def test_missing_and_wrong_weights_of_the_codec_are_named_in_its_folder(tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    path = tmp_path / "audio_tokenizer" / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name].to(torch.int32)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{path.parent}' are no floating point numbers, but I32, in {name}"):
        VitaAudioProcessor.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(OSError, match=f"no weights of the codec in {path.parent}"):
        VitaAudioProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "template, message",
    [
        ("{% if %}", "malformed: Expected an expression"),
        ("{{ raise_exception('only text') }}", "TemplateError: only text"),
        ("{{ messages[0].nope.deep }}", "no attribute 'nope'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(10**9) %}x{% endfor %}", "OverflowError: Range too big"),
    ],
)
def test_a_template_that_fails_is_a_clear_error(template, message):
    with pytest.raises(ValueError, match=f"The chat template .*{message}"):
        tiny_processor(chat_template=template).apply_chat_template([{"role": "user", "content": "Hello"}])


def test_templates_by_name():
    one = tiny_processor(chat_template={"chat": "{{ messages[0].content }}!"})
    hello = [{"role": "user", "content": "Hello"}]
    assert one.apply_chat_template(hello) == one.apply_chat_template(hello, chat_template="chat") == "Hello!"
    two = tiny_processor(chat_template={"chat": "{{ messages[0].content }}!", "other": "{{ messages }}"})
    for name in (None, "chatt"):
        with pytest.raises(ValueError, match="There is no chat template .*, the processor has chat, other"):
            two.apply_chat_template(hello, chat_template=name)


def test_from_a_subfolder(tmp_path):
    processor = tiny_processor()
    processor.save_pretrained(tmp_path / "checkpoint")
    loaded = VitaAudioProcessor.from_pretrained(tmp_path, subfolder="checkpoint")
    assert loaded.encode_audio([tone(0.5)]) == processor.encode_audio([tone(0.5)])


def test_from_a_hub_repository_at_a_revision(tmp_path):
    """A repository's files as the Hub's cache keeps them, at two commits with different codecs."""
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    processors = {}
    for seed, revision in enumerate(["main", "v1"]):
        commit = str(seed) * 40
        processors[revision] = VitaAudioProcessor(
            EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(), tiny_codec(seed)
        )
        processors[revision].save_pretrained(repository / "snapshots" / commit)
        tiny_model(processors[revision]).config.save_pretrained(repository / "snapshots" / commit)
        (repository / "refs" / revision).write_text(commit)
    for revision, saved in processors.items():
        loaded = VitaAudioProcessor.from_pretrained(
            "someone/tiny", revision=revision, cache_dir=tmp_path, local_files_only=True
        )
        assert_same_weights(loaded.audio_tokenizer, saved.audio_tokenizer)
    with pytest.raises(AssertionError):
        assert_same_weights(processors["main"].audio_tokenizer, processors["v1"].audio_tokenizer)


def test_without_a_codec(tmp_path):
    VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer()).save_pretrained(tmp_path)
    loaded = VitaAudioProcessor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=True).shape[0] == 1
    with pytest.raises(ValueError, match="no speech codec"):
        loaded.encode_audio([tone(0.5)])


def test_a_codec_of_transformers(tmp_path):
    processor = VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(), tiny_dac())
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["audio_tokenizer_type"] == "dac"
    loaded = VitaAudioProcessor.from_pretrained(tmp_path)
    assert type(loaded.audio_tokenizer) is DacModel
    codes = processor.encode_audio([tone(0.5)])
    assert len(codes[0]) > 20 and loaded.encode_audio([tone(0.5)]) == codes
    np.testing.assert_allclose(loaded.decode_audio(codes)[0], processor.decode_audio(codes)[0], atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ("missing", "missing: "),
        ("surplus", "unexpected: other.weight"),
        ("misshaped", r"misshaped: quantizer.codebook.weight"),
    ],
)
def test_codec_weights_that_do_not_fit_are_named(tmp_path, change, message):
    tiny_processor().save_pretrained(tmp_path)
    path = tmp_path / "audio_tokenizer" / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors[next(iter(tensors))]
    elif change == "misshaped":
        tensors["quantizer.codebook.weight"] = torch.zeros(2, 2)
    else:
        tensors["other.weight"] = torch.zeros(2)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        VitaAudioProcessor.from_pretrained(tmp_path)


def test_codec_weights_that_are_cut_off_are_named(tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    path = tmp_path / "audio_tokenizer" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="audio_tokenizer cannot be read, they may be cut off"):
        VitaAudioProcessor.from_pretrained(tmp_path)


def test_parts_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="16000 Hz.*24000 Hz"):
        VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=24000), tiny_tokenizer(), tiny_codec())
    with pytest.raises(ValueError, match="16 codes.* 8 speech tokens"):
        VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(8), tiny_codec())
    with pytest.raises(TypeError, match="must be a speech codec, got a Linear without encode"):
        VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(), torch.nn.Linear(1, 1))


# Somebody's data is not for a log

LONG = "qz" * 50_000
TURN = {"role": "user", "content": [{"type": "text", "text": "Two."}]}


def named(file, name):
    file.name = name
    return file


def in_a_part(**part):
    return [{"role": "user", "content": [part]}]


LONG_AUDIOS = [
    LONG,
    f"{LONG}.wav",
    f"/{LONG}/" + "a/" * 50_000,
    f"http://127.0.0.1:1/{LONG}",
    f"http://127.0.0.1:{LONG}/",
    f"http://{LONG}/ a\n",
    f"http://[{LONG}]/",
    f"https://é{LONG}\u2100/",
    f"file://{LONG}/a.wav",
    f"file:///{LONG}",
    f"data:{LONG}",
    f"data:{LONG};base64,é",
    f"data:audio/wav,{LONG}",
    LONG.encode(),
    Path(LONG),
    io.StringIO(LONG),
    named(io.BytesIO(LONG.encode()), LONG),
    [LONG],
    [LONG] * 1000,
    [0.1, LONG],
    [[0.1], [LONG]],
    (16000, LONG),
    (16000, [LONG]),
    {LONG: LONG},
    {f"{i}{LONG[:150]}": 1 for i in range(1000)},
    {"array": [0.1] * 2000, "sampling_rate": LONG},
    {"array": [0.1] * 2000, "sampling_rate": 10**4000},
    ([0.1] * 2000, 10**4000),
    {"array": {LONG: LONG}, "sampling_rate": 16000},
    {"base64": LONG + "!"},
    {"base64": {LONG: LONG}},
    {"text": LONG},
    np.array([LONG[:20_000]]),
    np.zeros(100, dtype=[(LONG, "f4")]),
    np.zeros((1,) * 60, dtype=np.float32),
    type(LONG, (), {})(),
]
LONG_CONVERSATIONS = [
    [LONG],
    [{LONG: LONG}],
    [{"role": LONG, "content": None}],
    [{"role": "user", "content": {LONG: LONG}}],
    [{"role": "user", "content": [LONG]}],
    [{"role": "user", "content": f"{LONG}<|audio|>"}],
    [{"role": "user", "content": f"<|im_end|>{LONG}"}],
    [{"role": f"{LONG}<|im_end|>", "content": "Two."}],
    in_a_part(type=LONG),
    in_a_part(type=[LONG]),
    in_a_part(type="text", text=[LONG]),
    in_a_part(type="text", text="Two.", **{LONG: 1}),
    in_a_part(type="audio", audio="a.wav", **{LONG: 1}),
    in_a_part(type="audio", audio="a.wav", **{f"{i}{LONG[:150]}": 1 for i in range(1000)}),
    in_a_part(type="audio_url", audio_url={LONG: LONG}),
    in_a_part(type="audio_url", audio_url={"url": LONG}),
    in_a_part(type="input_audio", input_audio={"data": LONG + "!", "format": LONG}),
    in_a_part(type="input_audio", input_audio=LONG),
]


def assert_is_short(error):
    message = str(error)
    assert 10 < len(message) < 700
    assert LONG[:202] not in message


@pytest.mark.parametrize("number", range(len(LONG_AUDIOS)))
def test_a_message_does_not_hold_much_of_an_audio(processor, number):
    source = LONG_AUDIOS[number]
    for read in (
        processor.load_audio,
        lambda audio: processor("<|audio|>", audio=audio),
        lambda audio: processor("<|audio|>", audio=[audio]),
        lambda audio: processor.apply_chat_template(in_a_part(type="audio", audio=audio), tokenize=True),
    ):
        with pytest.raises((ValueError, TypeError, OSError)) as caught:
            read(source)
        assert_is_short(caught.value)


@pytest.mark.parametrize("number", range(len(LONG_CONVERSATIONS)))
def test_a_message_does_not_hold_much_of_a_conversation(processor, number):
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        processor.apply_chat_template(LONG_CONVERSATIONS[number], tokenize=True)
    assert_is_short(caught.value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {LONG: 1},
        {"truncation": LONG},
        {"padding": LONG},
        {"padding_side": LONG},
        {"max_length": LONG, "padding": "max_length"},
        {"return_tensors": LONG},
        {"pad_to_multiple_of": LONG},
        {"sampling_rate": LONG, "audio_kwargs": {"sampling_rate": f"{LONG}!"}},
        {"audio_kwargs": [LONG]},
        {"text_kwargs": {"common_kwargs": LONG}},
        {"text_kwargs": LONG},
        {"chat_template": LONG + "{{"},
        {"audios": LONG},
        {"audios": [LONG]},
    ],
    ids=lambda kwargs: "-".join(kwargs)[:40],
)
def test_a_message_does_not_hold_much_of_a_keyword(processor, kwargs):
    with pytest.raises(Exception) as caught:
        processor.apply_chat_template([TURN], tokenize=True, **kwargs)
    assert_is_short(caught.value)
