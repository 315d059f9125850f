# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import soundfile
import soxr
import torch
from places import FIXTURES, MINI
from tiny_models import tiny_model, tiny_plus_processor, tiny_processor, tiny_tokenizer

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor, VoicePrompt, read_voice
from processing.conversation_vita_audio import (
    SPOKEN_CHAT_SYSTEM_PROMPT,
    recognition_conversation,
    spoken_conversation,
    synthesis_conversation,
)
from processing.convert_glm4_voice_to_hf import convert
from processing.modeling_glm4_voice_codec import Glm4VoiceCodec
from processing.modeling_glm4_voice_vocoder import log_mel_spectrogram
from processing.pipeline_vita_audio import VitaAudioPipeline


def tone(seconds=0.5, frequency=250.0, sampling_rate=16000):
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (0.3 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def user(text):
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def pipe_of(processor):
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


@pytest.fixture(scope="module")
def pipe():
    return pipe_of(tiny_processor())


@pytest.fixture(scope="module")
def plus_pipe():
    return pipe_of(tiny_plus_processor())


VOICE = tone(0.8, 150.0)
TTS = "<|im_start|>user\nConvert the text to speech.\nTwo plus two.<|im_end|>\n<|im_start|>assistant\n"
SPOKEN = "<|im_start|>user\n<|audio|><|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("kind", ["codes", "features"])
@pytest.mark.parametrize(
    "conversation, prompt, audios",
    [
        (
            synthesis_conversation("Two plus two."),
            "<|im_start|>system\nYour Voice: <|audio|>\n<|im_end|>\n" + TTS,
            [VOICE],
        ),
        (
            spoken_conversation(tone()),
            f"<|im_start|>system\nYour Voice: <|audio|>\n{SPOKEN_CHAT_SYSTEM_PROMPT}<|im_end|>\n" + SPOKEN,
            [VOICE, tone()],
        ),
        (
            spoken_conversation(tone(), system_prompt="Be brief."),
            "<|im_start|>system\nYour Voice: <|audio|>\nBe brief.<|im_end|>\n" + SPOKEN,
            [VOICE, tone()],
        ),
        (
            [{"role": "user", "content": "Two."}, {"role": "assistant", "content": "Four."}]
            + synthesis_conversation("Two plus two."),
            "<|im_start|>system\nYour Voice: <|audio|>\n<|im_end|>\n<|im_start|>user\nTwo.<|im_end|>\n"
            "<|im_start|>assistant\nFour.<|im_end|>\n" + TTS,
            [VOICE],
        ),
    ],
    ids=["speech of a text", "spoken question", "own system turn", "earlier turns"],
)
def test_the_prompt_of_a_voice(kind, conversation, prompt, audios, pipe, plus_pipe):
    pipe = pipe if kind == "codes" else plus_pipe
    seen = []
    handle = pipe.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    pipe(conversation, voice=VOICE, max_new_tokens=1)
    handle.remove()
    expected = pipe.processor(prompt, audios)
    assert seen[0]["input_ids"].equal(expected["input_ids"])
    if kind == "features":
        assert seen[0]["input_features"].equal(expected["input_features"])


def test_all_ways_to_speak_do_so_in_the_voice(pipe, tmp_path):
    soundfile.write(tmp_path / "voice.wav", soxr.resample(VOICE, 16000, 32000), 32000, subtype="FLOAT")
    conversation = synthesis_conversation("Two plus two.")
    plain, expected = pipe(conversation), pipe(conversation, voice=VOICE)
    assert expected["audio_codes"] and expected["audio_codes"] != plain["audio_codes"]
    read = read_voice(pipe.processor, VOICE)
    # A voice that was read is not read again
    assert isinstance(read, VoicePrompt) and read_voice(pipe.processor, read) is read
    for voice in (read, {"array": VOICE, "sampling_rate": 16000}):
        np.testing.assert_array_equal(pipe(conversation, voice=voice)["audio"], expected["audio"])
    assert pipe(conversation, voice=str(tmp_path / "voice.wav"))["audio_codes"] != plain["audio_codes"]
    chunks = [chunk["audio"] for chunk in pipe.stream(conversation, voice=VOICE) if "audio" in chunk]
    np.testing.assert_array_equal(np.concatenate(chunks), expected["audio"])
    at_init = VitaAudioPipeline(pipe.model, processor=pipe.processor, device="cpu", voice=VOICE)
    np.testing.assert_array_equal(at_init(conversation)["audio"], expected["audio"])
    chunks = [chunk["audio"] for chunk in at_init.stream(conversation) if "audio" in chunk]
    np.testing.assert_array_equal(np.concatenate(chunks), expected["audio"])


@pytest.mark.slow
def test_a_written_question_is_answered_as_ever_and_read_aloud_in_the_voice():
    """The small model was not trained with voices, and may not speak at all in one."""
    model = VitaAudioForConditionalGeneration.from_pretrained(MINI)
    pipe = VitaAudioPipeline(model, device="cpu")
    plain, prompts = pipe("What is two plus three?"), []
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: prompts.append(kwargs), with_kwargs=True)
    answer = pipe("What is two plus three?", voice=str(MINI / "sample_question.wav"))
    handle.remove()
    assert answer["text"] == plain["text"] == "The sum of two and three is five."
    # Prompts are read in one forward each, of more tokens than any other
    asked, aloud = (kwargs["input_ids"] for kwargs in prompts if kwargs["input_ids"].shape[1] > 15)
    assert asked.equal(pipe.processor.build_prompt(user("What is two plus three?"))["input_ids"])
    expected = "<|im_start|>system\nYour Voice: <|audio|>\n<|im_end|>\n" + TTS.replace("Two plus two.", plain["text"])
    assert aloud.equal(pipe.processor(expected, str(MINI / "sample_question.wav"))["input_ids"])
    assert len(answer["audio_codes"]) * 1280 == len(answer["audio"])


def test_batches_with_a_voice(pipe):
    inputs = [synthesis_conversation(text) for text in ("Two plus two.", "Four.")]
    encoded = []
    original = pipe.processor.audio_tokenizer.encode
    pipe.processor.audio_tokenizer.encode = lambda values: (encoded.append(values), original(values))[1]
    try:
        answers = pipe(inputs, voice=VOICE, batch_size=2)
    finally:
        del pipe.processor.audio_tokenizer.encode
    # The voice is encoded once for all inputs
    assert len(encoded) == 1
    for answer, one in zip(answers, inputs):
        assert answer["audio_codes"] == pipe(one, voice=VOICE)["audio_codes"]


@pytest.mark.parametrize(
    "voice, error, message",
    [
        ("/nowhere/voice.wav", OSError, "`voice` must be a recording.*/nowhere/voice.wav"),
        (np.zeros(16000, np.float32), ValueError, "`voice` must be a recording.*silent"),
        (tone(0.01), ValueError, "`voice` must be a recording"),
        (tone(61.0), ValueError, "`voice` must be a recording"),
        (5, TypeError, "`voice` must be a recording"),
    ],
)
def test_a_bad_voice_is_named_before_anything_is_answered(pipe, voice, error, message):
    handle = pipe.model.register_forward_pre_hook(lambda *_: pytest.fail("The model ran."))
    try:
        for inputs in (tone(), [tone(), tone()]):
            with pytest.raises(error, match=message):
                pipe(inputs, voice=voice)
        with pytest.raises(error, match=message):
            pipe.stream(tone(), voice=voice)
        with pytest.raises(ValueError, match="`voice` has no effect where speech is written down"):
            pipe(recognition_conversation(tone()), voice=VOICE)
    finally:
        handle.remove()


@pytest.mark.slow
def test_the_codec_of_glm4_voice_speaks_in_the_voice(tmp_path):
    convert(FIXTURES / "glm4_voice" / "tokenizer", FIXTURES / "glm4_voice" / "decoder", tmp_path)
    codec = Glm4VoiceCodec.from_pretrained(tmp_path).eval()
    processor = VitaAudioProcessor.from_codec(tiny_tokenizer(codec.config.codebook_size), codec)
    pipe = pipe_of(processor)
    conversation = synthesis_conversation("Two plus two.")
    answer = pipe(conversation, voice=VOICE)
    codes = torch.tensor([[answer["audio_codes"]]])
    assert codes.shape[2] > 3
    # The mel of the recording at the rate of the codec's speech, and its codes
    mel = log_mel_spectrogram(torch.from_numpy(soxr.resample(VOICE, 16000, 22050))[None], codec.config.vocoder_config)
    prompt = codec.encode(torch.from_numpy(VOICE)[None, None]).audio_codes
    expected = codec.decode(codes, prompt_codes=prompt, prompt_mel=mel).audio_values[0, 0].numpy()
    np.testing.assert_allclose(answer["audio"], expected, atol=1e-4)
    plain = codec.decode(codes).audio_values[0, 0].numpy()
    # Frames are cut off at whole codes of both together, so there may be one more
    assert 0 <= len(expected) - len(plain) <= 256
    assert np.abs(expected[: len(plain)] - plain).max() > 1e-3
    # Streaming decodes block by block, so it is as long, and sounds like that, but is not equal
    chunks = np.concatenate([chunk["audio"] for chunk in pipe.stream(conversation, voice=VOICE) if "audio" in chunk])
    assert chunks.shape == answer["audio"].shape


# --- speech of earlier turns ---


def test_an_answer_with_its_codes_is_a_later_turn_without_encoding_it_again(pipe):
    first = spoken_conversation(tone())
    answer = pipe(first)
    assert len(answer["audio_codes"]) > 5
    content = [{"type": "text", "text": answer["text"]}, {"type": "audio", "codes": answer["audio_codes"]}]
    turn = {"role": "assistant", "content": content}
    conversation = [*first, turn, {"role": "user", "content": [{"type": "audio", "audio": tone(0.9, 330.0)}]}]
    encoded, seen = [], []
    original = pipe.processor.audio_tokenizer.encode
    pipe.processor.audio_tokenizer.encode = lambda values: (encoded.append(values), original(values))[1]
    handle = pipe.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    try:
        pipe(conversation, max_new_tokens=1)
    finally:
        handle.remove()
        del pipe.processor.audio_tokenizer.encode
    assert len(encoded) == 2
    # As training has such a turn, of codes that it is given
    codes = pipe.processor.encode_audio([tone(), tone(0.9, 330.0)])
    messages = [
        first[0],
        {"role": "user", "content": "<|audio|>"},
        {"role": "assistant", "content": answer["text"] + "<|audio|>"},
        {"role": "user", "content": "<|audio|>"},
    ]
    example = pipe.processor.build_training_example(messages, [codes[0], answer["audio_codes"], codes[1]])
    prompt = seen[0]["input_ids"][0].tolist()
    assert prompt[: len(example["input_ids"])] == example["input_ids"]
    templated = pipe.processor.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True)
    assert templated[0].tolist() == prompt


def test_codes_that_are_none_are_refused(pipe, plus_pipe):
    def ask(pipe, codes, **others):
        part = {"type": "audio", "codes": codes, **others}
        return pipe([{"role": "user", "content": [part]}])

    for codes, message in (([16], r"whole numbers in \[0, 16\)"), ([], "has no codes"), ("12", "must be a list")):
        with pytest.raises(ValueError, match=message):
            ask(pipe, codes)
    with pytest.raises(ValueError, match="all that it has"):
        ask(pipe, [1, 2], sampling_rate=16000)
    with pytest.raises(ValueError, match="hears the user by features"):
        ask(plus_pipe, [1, 2])
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 16\)"):
        part = {"type": "audio", "codes": [99]}
        pipe.processor.apply_chat_template([{"role": "user", "content": [part]}], tokenize=True)
