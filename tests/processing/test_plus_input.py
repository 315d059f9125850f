# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Users that are heard by features (VITA-Audio-Plus): features, prompts, the pipeline, the command line."""

import json

import numpy as np
import pytest
import soundfile
import torch
from plus_fixture import plus_tensors
from tiny_models import tiny_model, tiny_plus_processor, tiny_processor
from transformers import AutoFeatureExtractor

from processing import VitaAudioFeatureExtractor, VitaAudioPipeline, VitaAudioProcessor, spoken_conversation
from serving.cli import main


TENSORS = plus_tensors()
EXTRACTOR = VitaAudioFeatureExtractor(
    cmvn_shift=TENSORS["cmvn.shift"].tolist(), cmvn_scale=TENSORS["cmvn.scale"].tolist()
)


def speech(seconds=0.6, f0=220.0):
    time = np.arange(int(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * f0 * time) * (1 + np.sin(9 * time))).astype(np.float32)


@pytest.fixture(scope="module")
def processor():
    return tiny_plus_processor()


@pytest.fixture(scope="module")
def pipe(processor):
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu", max_new_tokens=24)


@pytest.mark.parametrize("audio", ["short", "mid", "long", "tiny"])
def test_features_are_the_originals(audio):
    waveform = TENSORS[f"wave.{audio}"].numpy()
    np.testing.assert_allclose(EXTRACTOR.fbank(waveform), TENSORS[f"fbank.{audio}"], atol=1e-3)
    features = EXTRACTOR(waveform)["input_features"][0]
    np.testing.assert_allclose(features, TENSORS[f"features.{audio}"], atol=1e-3)
    assert len(features) == EXTRACTOR.num_rows(len(waveform))
    stacked = VitaAudioFeatureExtractor()(waveform)["input_features"][0]
    np.testing.assert_allclose(stacked, TENSORS[f"features_without_cmvn.{audio}"], atol=1e-3)


def test_other_rates_and_channels_are_the_originals():
    features = EXTRACTOR(TENSORS["wave_stereo_24000"].numpy(), sampling_rate=24000)["input_features"][0]
    np.testing.assert_allclose(features, TENSORS["features_stereo_24000"], atol=1e-3)


def test_the_processor_resamples_as_the_original(processor):
    processor = VitaAudioProcessor(EXTRACTOR, processor.tokenizer, processor.audio_tokenizer)
    stereo = TENSORS["wave_stereo_24000"].numpy().T
    audio = {"type": "audio", "array": stereo, "sampling_rate": 24000}
    conversation = [{"role": "user", "content": [audio]}]
    batch = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
    np.testing.assert_allclose(batch["input_features"][0], TENSORS["features_stereo_24000"], atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000, 44099, 22050.5])
def test_a_tone_is_the_same_at_every_rate(rate):
    seconds = 0.5
    tone, expected = (
        np.sin(2 * np.pi * 440 * np.arange(int(seconds * r)) / r).astype(np.float32) for r in (rate, 16000)
    )
    resampled = EXTRACTOR.resample(tone, rate)
    assert abs(len(resampled) - len(expected)) <= 1
    # but for the ends, where the filter sees the silence around
    np.testing.assert_allclose(resampled[200:7700], expected[200:7700], atol=0.01)


def test_a_batch_of_features_is_padded_on_the_right():
    audios = [TENSORS[f"wave.{name}"].numpy() for name in ("short", "long")]
    batch = EXTRACTOR(audios, return_tensors="pt")
    assert batch["input_features"].shape == (2, 53, 560) and batch["feature_attention_mask"].sum(1).tolist() == [8, 53]
    assert not batch["input_features"][0, 8:].any()
    for row, mask, audio in zip(batch["input_features"], batch["feature_attention_mask"], audios):
        np.testing.assert_array_equal(row[mask.bool()], EXTRACTOR(audio)["input_features"][0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"feature_size": 0}, "`feature_size` must be"),
        ({"stacking_stride": "6"}, "`stacking_stride` must be"),
        ({"cmvn_shift": [0.0] * 80}, "each of the 560 stacked features, got 80"),
        ({"cmvn_scale": [float("nan")] * 560}, "finite"),
    ],
)
def test_settings_of_features_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        VitaAudioFeatureExtractor(**arguments)


@pytest.mark.parametrize("audio", [np.zeros(0), np.full(100, np.inf), np.zeros((1, 1, 2, 300)), []])
def test_audio_without_features(audio):
    with pytest.raises(ValueError):
        EXTRACTOR(audio)


def test_users_are_heard_by_features_and_the_assistant_by_codes(processor):
    vocabulary, question, answer = processor.speech_vocabulary, speech(0.5), speech(0.8, 180.0)
    parts = {"type": "audio", "audio": answer, "sampling_rate": 16000}
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": "Your Voice: "}, parts]},
        *spoken_conversation(question),
        {"role": "assistant", "content": [parts]},
        *spoken_conversation(speech(1.0)),
    ]
    batch = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, add_generation_prompt=True)
    ids = batch["input_ids"][0].tolist()
    rows = [processor.feature_extractor.num_rows(len(audio)) for audio in (answer, question, speech(1.0))]
    assert batch["feature_attention_mask"].sum(1).tolist() == rows
    assert ids.count(vocabulary.context_audio_token_id) == sum(rows) + 3 * 4
    codes = processor.encode_audio([answer])[0]
    assert [i - vocabulary.speech_token_offset for i in ids if vocabulary.is_code(i)] == codes
    expected = processor.feature_extractor(answer)["input_features"][0]
    np.testing.assert_array_equal(batch["input_features"][0, : rows[0]], expected)

    messages = [{"role": "user", "content": "<|audio|>"}, {"role": "assistant", "content": "Four.<|audio|>"}]
    example = processor.build_training_example(messages, [rows[1], codes])
    prompt = processor.apply_chat_template(messages[:1], audios=[question], tokenize=True, return_dict=True)
    length = prompt["input_ids"].shape[1]
    assert example["input_ids"][:length] == prompt["input_ids"][0].tolist()
    assert set(example["labels"][:length]) == {-100}


def test_a_prompt_takes_features_and_codes_that_are_there_already(processor):
    question, answer = speech(0.5), speech(0.8, 180.0)
    features, codes = processor.feature_extractor(question)["input_features"][0], processor.encode_audio([answer])[0]
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
        for heard, said in ((question, answer), (features, codes))
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "audio, message",
    [
        ([1, 2, 3], "hears the user by features, but got an audio of the user as codes"),
        (np.zeros((3, 80), np.float32), r"\(num_rows, 560\), got float32 of \(3, 80\)"),
        (np.zeros((3, 560)), "float64"),
        (np.zeros((0, 560), np.float32), r"\(0, 560\)"),
        (np.full((3, 560), np.nan, np.float32), "NaN"),
    ],
)
def test_a_prompt_refuses_what_are_no_features(processor, audio, message):
    with pytest.raises(ValueError, match=message):
        processor.build_prompt(spoken_conversation(audio))


def test_the_assistant_is_not_heard_by_features(processor):
    part = {"type": "audio", "audio": np.zeros((3, 560), np.float32)}
    with pytest.raises(ValueError, match="hears the assistant by codes"):
        processor.build_prompt([{"role": "assistant", "content": [part]}])


def test_a_user_cannot_write_context_tokens(processor):
    with pytest.raises(ValueError, match=r"control mark <\|context_of_audio\|>"):
        processor.apply_chat_template([{"role": "user", "content": "<|context_of_audio|>"}], tokenize=True)


def test_a_processor_of_features_needs_their_token(processor):
    with pytest.raises(ValueError, match=r"no <\|context_of_audio\|>"):
        VitaAudioProcessor(EXTRACTOR, tiny_processor().tokenizer, processor.audio_tokenizer)


def test_more_marks_than_audios_are_named(processor):
    message = {"role": "user", "content": "<|audio|><|audio|>"}
    with pytest.raises(ValueError, match="2 marks"):
        processor.apply_chat_template([message], audios=[speech()], tokenize=True)
    with pytest.raises(ValueError, match="2 marks"):
        processor("<|audio|><|audio|>", audio=[speech()])


@pytest.mark.parametrize("audio, message", [(np.zeros(16000), "silen"), (speech(0.01), "short")])
def test_audio_that_nobody_hears_is_refused(processor, audio, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(spoken_conversation(audio), tokenize=True)


def test_saved_and_loaded(tmp_path, processor):
    processor = VitaAudioProcessor(EXTRACTOR, processor.tokenizer, processor.audio_tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = VitaAudioProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded.feature_extractor, VitaAudioFeatureExtractor) and loaded.hears_features
    before, after = (
        p.apply_chat_template(spoken_conversation(speech()), tokenize=True, return_dict=True)
        for p in (processor, loaded)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "feature_extraction_vita_audio.py" in {path.name for path in tmp_path.iterdir()}
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=True)
    np.testing.assert_array_equal(extractor(speech())["input_features"], EXTRACTOR(speech())["input_features"])


@pytest.mark.slow
def test_the_pipeline_answers_batches_as_single_questions(pipe):
    inputs = [speech(), "Two plus two", spoken_conversation(speech(0.9, 330.0)), speech(0.3)]
    expected = [pipe(one) for one in inputs]
    for answer, one in zip(pipe(inputs, batch_size=4), expected):
        assert answer["text"] == one["text"]
        np.testing.assert_allclose(answer["audio"], one["audio"], atol=0.02)
    assert expected[0]["text"] != expected[2]["text"]
    streamed = list(pipe.stream(inputs[0]))
    assert "".join(chunk.get("text", "") for chunk in streamed) == expected[0]["text"]
    audio = np.concatenate([chunk["audio"] for chunk in streamed if "audio" in chunk] or [np.zeros(0)])
    np.testing.assert_allclose(audio, expected[0]["audio"], atol=0.02)


@pytest.mark.slow
def test_the_command_line_answers(pipe, tmp_path, monkeypatch, capsys):
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    soundfile.write("question.wav", speech(), 16000)
    assert main(["answer", "question.wav", "--model", "model", "--max_new_tokens", "24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == pipe("question.wav")["text"]
