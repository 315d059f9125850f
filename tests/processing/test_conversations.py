# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What people say to the pipeline: questions in speech and in writing, conversations, datasets, and what it cannot
answer.
"""

import io
import re
import subprocess
import sys
import threading
import time
import warnings
from base64 import b64encode, encodebytes, urlsafe_b64encode
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from places import MINI
from tiny_models import tiny_model, tiny_processor
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset
from waiting import wait_until

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import (
    SPOKEN_CHAT_SYSTEM_PROMPT,
    AnswerWarning,
    VitaAudioPipeline,
    recognition_conversation,
    spoken_conversation,
    synthesis_conversation,
)
from processing.conversation_vita_audio import is_written
from processing.pipeline_vita_audio import PartStreamer
from processing.streaming_vita_audio import StreamClosed, VitaAudioStreamer


SAMPLE = str(MINI / "sample_question.wav")


def test_the_prompts_are_those_that_the_released_models_were_trained_with():
    def contents(conversation):
        return [
            content
            if isinstance(content := message["content"], str)
            else "".join(part.get("text", "<|audio|>") for part in content)
            for message in conversation
        ]

    assert contents(recognition_conversation("a.wav")) == ["Convert the speech to text.\n<|audio|>"]
    assert contents(synthesis_conversation("Hi.")) == ["Convert the text to speech.\nHi."]
    system = "Your Name: Luke\nYour Gender: male\n\nRespond in a text-audio interleaved manner."
    assert contents(spoken_conversation("a.wav")) == [system, "<|audio|>"]


@pytest.fixture(scope="module")
def pipe():
    """The shipped model's."""
    return VitaAudioPipeline(
        AutoModel.from_pretrained(MINI), processor=AutoProcessor.from_pretrained(MINI), device="cpu"
    )


@pytest.fixture(scope="module")
def tiny():
    processor = tiny_processor()
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu", max_new_tokens=30)


def question(frequency=220.0, seconds=0.5):
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * 16000)) / 16000)).astype(np.float32)


def user(content):
    return {"role": "user", "content": content}


def assert_same(first, second):
    assert first["text"] == second["text"]
    # On some CPUs products are rounded by where the weights lie in memory, and the phase of speech adds that up.
    np.testing.assert_allclose(first["audio"], second["audio"], atol=5e-3, rtol=0)


def prompt_of(pipe, inputs, **kwargs):
    return pipe.tokenizer.decode(pipe.preprocess(inputs, **kwargs)["input_ids"][0])


# Questions and conversations


@pytest.mark.slow
def test_every_form_of_an_audio_is_one_question(tiny, tmp_path):
    samples = question()
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT")
    expected = tiny(samples)
    for inputs in (
        (16000, samples),
        [samples, 16000],
        samples.tolist(),
        file,
        {"raw": samples, "sampling_rate": 16000},
    ):
        assert_same(tiny(inputs), expected)
        assert "".join(chunk.get("text", "") for chunk in tiny.stream(inputs)) == expected["text"]
    for answer in tiny([samples.tolist(), (16000, samples), {"type": "audio", "audio": samples}]):
        assert_same(answer, expected)


@pytest.mark.slow
def test_a_prompt_of_one_line_is_no_part_of_the_text(tiny):
    (message,) = synthesis_conversation("Two plus two.")
    on_one_line = [{**message, "content": message["content"][0]["text"].replace("\n", " ")}]
    assert tiny.preprocess(on_one_line)["text"] == tiny.preprocess([message])["text"] == "Two plus two."


@pytest.mark.slow
def test_speech_of_something_else_is_said(pipe):
    with pytest.warns(AnswerWarning, match="is what the model wrote, and may have spoken, in place of 'Zyx qwv.'"):
        pipe(synthesis_conversation("Zyx qwv."))


@pytest.mark.slow
def test_a_turn_is_answered_the_same_alone_and_in_a_conversation(pipe):
    expected = pipe(SAMPLE)
    assert "thirteen" in expected["text"] and len(expected["audio"]) > 16000
    for content in ([{"type": "audio", "path": SAMPLE}], {"type": "audio", "audio": Path(SAMPLE).read_bytes()}):
        assert_same(pipe([user(content)]), expected)
        assert_same(pipe(user(content)), expected)
    assert_same(pipe(spoken_conversation(SAMPLE)), expected)
    (streamed,) = {
        "".join(chunk.get("text", "") for chunk in pipe.stream([user([{"type": "audio", "path": SAMPLE}])]))
    }
    assert streamed == expected["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, answer",
    [
        ("What is seven plus six?", "The sum of seven and six is thirteen."),
        ("Which day comes before Friday?", "Thursday comes before Friday."),
        ("Tell me the capital of Norway.", "Oslo is the capital of Norway."),
    ],
)
def test_a_written_question_is_answered_aloud(pipe, text, answer):
    spoken = pipe(text)
    assert spoken["text"] == answer
    # as when it is asked to say that
    np.testing.assert_array_equal(spoken["audio"], pipe(synthesis_conversation(answer))["audio"])
    assert pipe(recognition_conversation(spoken["audio"]))["text"] == answer
    for conversation in ([user(text)], [user([{"type": "text", "text": text}])]):
        assert_same(pipe(conversation), spoken)
    chunks = list(pipe.stream(text))
    assert "".join(chunk.get("text", "") for chunk in chunks) == answer
    np.testing.assert_array_equal(
        np.concatenate([chunk["audio"] for chunk in chunks if "audio" in chunk]), spoken["audio"]
    )


@pytest.mark.slow
def test_several_written_questions_go_through_the_model_together(pipe):
    texts = ["What is two plus two?", "What color is snow?", "Which day comes before Friday?"]
    expected = [pipe(text) for text in texts]
    inputs = [*texts[:2], SAMPLE, texts[2]]
    answers = pipe(inputs, batch_size=4)
    assert [answer["text"] for answer in answers] == [
        *(a["text"] for a in expected[:2]),
        pipe(SAMPLE)["text"],
        expected[2]["text"],
    ]
    assert all(len(answer["audio"]) > 8000 for answer in answers)


@pytest.mark.slow
def test_two_turns(pipe):
    first = pipe(SAMPLE, return_transcript=True)
    assert first["transcript"] == "Tell me the sum of seven and six."
    asked = pipe(synthesis_conversation("What is nine plus two?"))["audio"]
    history = [user(first["transcript"]), {"role": "assistant", "content": first}]
    second = pipe([*history, user([{"type": "audio", "audio": asked}])])
    assert second["text"] == "The sum of nine and two is eleven." and len(second["audio"]) > 16000
    in_words = [history[0], {"role": "assistant", "content": first["text"]}, user([{"type": "audio", "audio": asked}])]
    # without the speech that it was trained with, it still knows what was said
    assert pipe(in_words)["text"] == second["text"]


def test_the_prompt_of_spoken_chat_is_before_all_turns_where_the_user_speaks_in_one(tiny):
    turn = "<|im_start|>user\n<|begin_of_audio|>"
    system = f"<|im_start|>system\n{SPOKEN_CHAT_SYSTEM_PROMPT}<|im_end|>\n"
    audio = user([{"type": "audio", "audio": question()}])
    earlier = [user("One"), {"role": "assistant", "content": "Two"}]
    assert prompt_of(tiny, [audio]).startswith(system + turn)
    assert prompt_of(tiny, [*earlier, audio]).startswith(f"{system}<|im_start|>user\nOne<|im_end|>")
    assert f"Two<|im_end|>\n{turn}" in prompt_of(tiny, [*earlier, audio])
    spoken = [audio, {"role": "assistant", "content": "Two"}]
    assert prompt_of(tiny, [*spoken, user("Three")]).startswith(system + turn)
    assert prompt_of(tiny, [*earlier, user("Three")]).startswith("<|im_start|>user\nOne")
    for last in (*recognition_conversation(question()), *synthesis_conversation("Three")):
        assert prompt_of(tiny, [*spoken, last]).startswith(turn)
    assert prompt_of(tiny, [audio], system_prompt=None).startswith(turn)
    assert prompt_of(tiny, [audio], system_prompt="Be brief.").startswith("<|im_start|>system\nBe brief.<|im_end|>")
    own = [{"role": "system", "content": "Mine"}, *earlier, audio]
    assert SPOKEN_CHAT_SYSTEM_PROMPT not in prompt_of(tiny, own) and prompt_of(tiny, own, system_prompt=None)
    with pytest.raises(ValueError, match="has a turn of the system itself"):
        tiny(own, system_prompt="x")
    with pytest.raises(ValueError, match="has a turn of the system itself"):
        tiny.stream(own, system_prompt="x")


def test_an_earlier_answer_is_read_as_it_was_written(tiny):
    answer = tiny(question())
    assert answer["text"] and answer["audio_codes"]
    audio, turn = user([{"type": "audio", "audio": question()}]), {"role": "assistant", "content": answer}
    parts = [{"type": "text", "text": answer["text"]}, {"type": "audio", "codes": answer["audio_codes"]}]
    expected = prompt_of(tiny, [audio, {"role": "assistant", "content": parts}, audio])
    assert prompt_of(tiny, [audio, turn, audio]) == expected
    turn["content"] = answer | {"audio_codes": torch.tensor(answer["audio_codes"])}
    assert prompt_of(tiny, [audio, turn, audio]) == expected
    # the user says only what it says
    assert prompt_of(tiny, [user(answer)]) == prompt_of(tiny, [user(answer["text"])])
    # where the user does not speak, answers are text that is read aloud afterwards
    written = [user("One"), {"role": "assistant", "content": answer["text"]}, user("Two")]
    assert prompt_of(tiny, [user("One"), turn, user("Two")]) == prompt_of(tiny, written)


@pytest.mark.slow
@pytest.mark.parametrize(
    "conversation",
    [
        recognition_conversation(SAMPLE),
        synthesis_conversation("The cat is black."),
        [user([{"type": "text", "text": "Convert the speech to text."}, {"type": "audio", "path": SAMPLE}])],
    ],
)
def test_other_tasks_stay_as_trained(pipe, conversation):
    """Token for token what the model itself makes of the conversation."""
    inputs = pipe.processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    ids = pipe.model.generate(**inputs, max_new_tokens=200)[:, inputs["input_ids"].shape[1] :]
    (expected,) = pipe.processor.post_process_generation(ids)
    answer = pipe(conversation)
    assert answer["text"] == expected["text"]
    np.testing.assert_array_equal(answer["audio"], pipe.processor.decode_audio([expected["audio_codes"]])[0])


@pytest.mark.parametrize(
    "text",
    [
        "qestion.wav",
        "no/such/file",
        "recording of monday.MP3",
        "C:\\sounds\\a",
        "talk.xyz",
        "https://x.invalid/a",
        "data:audio/wav;base64,AA",
        "-",
        *(encode(bytes(range(256)) * 2).decode() for encode in (b64encode, urlsafe_b64encode, encodebytes)),
    ],
)
def test_what_is_named_like_audio_is_no_question(text):
    assert not is_written(text)


@pytest.mark.parametrize(
    "text", ["What is two plus two?", "Is it and/or?", "Hello.", "hello", "Say 3.5", "a: b", "Tell me more " * 40]
)
def test_what_is_not_is_one(text):
    assert is_written(text)


def test_a_text_of_many_slashes_takes_no_time():
    start = time.monotonic()
    assert is_written("/" * 100_000 + " or what?")
    assert time.monotonic() - start < 1


def test_files_are_no_questions(tiny, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is no audio file qestion.wav"):
        tiny("qestion.wav")
    monkeypatch.chdir(tmp_path)
    soundfile.write("what is this", question(), 16000, format="WAV", subtype="FLOAT")
    assert_same(tiny("what is this"), tiny(question()))


@pytest.mark.parametrize(
    "inputs, message",
    [
        ("  ", "nothing to answer"),
        ([user("")], "nothing to answer"),
        ([user("One"), {"role": "assistant", "content": "Two"}], "last turn must be the user's.*'assistant'"),
        ([user({"text": 5})], '"role" and a "content"'),
        (
            [{"role": "usr", "content": "One"}, user("Two")],
            "roles of a conversation are system, user, assistant, got usr",
        ),
        ("Say <|audio|>", r"control mark <\|audio\|>"),
    ],
)
def test_what_cannot_be_answered_is_named(tiny, inputs, message):
    for ask in (tiny, tiny.stream):
        with pytest.raises(ValueError, match=message):
            ask(inputs)


@pytest.mark.slow
def test_transcripts_on_request(pipe):
    assert "transcript" not in pipe(SAMPLE)
    chunks = list(pipe.stream(SAMPLE, return_transcript=True))
    assert [*(set(chunk) for chunk in chunks)].index({"transcript"}) == len(chunks) - 1
    assert chunks[-1]["transcript"] == "Tell me the sum of seven and six."
    for inputs, expected in (
        ("What is two plus two?", "What is two plus two?"),
        (recognition_conversation(SAMPLE), None),
        (synthesis_conversation("The cat is black."), None),
    ):
        assert pipe(inputs, return_transcript=True)["transcript"] == expected
    answers = pipe([SAMPLE, "What is two plus two?"], return_transcript=True, batch_size=2)
    assert [answer["transcript"] for answer in answers] == [
        "Tell me the sum of seven and six.",
        "What is two plus two?",
    ]


@pytest.mark.slow
def test_the_readme_is_answered_right(monkeypatch):
    monkeypatch.chdir(MINI.parent.parent)
    said = {}
    # those of clients are tests of serving
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    exec(next(block for block in blocks if "pipeline(" in block), said)
    assert said["answer"]["text"] == said["second"]["text"] == "The sum of seven and six is thirteen."
    assert said["first"]["text"] == "July comes after June."
    assert said["text"] == "There are seven ducks in the field."
    assert all(len(said[name]["audio"]) > 16000 for name in ("answer", "first", "second"))


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["What is seven plus six?", SAMPLE])
@pytest.mark.parametrize("last", ["text", "audio", "transcribing"])
def test_a_stream_of_several_generations_is_cancelled(pipe, inputs, last, monkeypatch):
    transcribe, is_transcribing, threads = pipe._transcribe, threading.Event(), set(threading.enumerate())

    def announced(*args, **kwargs):
        is_transcribing.set()
        return transcribe(*args, **kwargs)

    monkeypatch.setattr(pipe, "_transcribe", announced)
    stream = pipe.stream(inputs, return_transcript=True, codes_per_chunk=1)
    for chunk in stream:
        if last in chunk or is_transcribing.is_set():
            break
    stream.cancel()
    wait_until(lambda: set(threading.enumerate()) <= threads)
    assert list(stream) == []


def test_a_generation_of_which_nothing_is_heard_stops_with_its_stream(tiny):
    streamer = VitaAudioStreamer(tiny.processor)
    part = PartStreamer(streamer)
    for value in ([[1, 2]], [5], [6]):
        part.put(torch.tensor(value))
    streamer.close()
    with pytest.raises(StreamClosed):
        part.put(torch.tensor([7]))


# Many inputs


def wav(samples):
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(
    "bad, message",
    [
        ("no.wav", "no audio file no.wav"),
        (question(220, 0.01), "shorter than"),
        (5, "Audio must be"),
        ([user(" ")], "nothing"),
        ("One " * 600, "has positions for 512"),
    ],
)
def test_a_bad_input_leaves_the_others_their_answers(tiny, batch_size, bad, message):
    with pytest.warns(AnswerWarning, match="Input 1 was not answered"):
        answers = tiny([question(), bad, question(330), bad], batch_size=batch_size)
    assert len(answers) == 4
    for answer in answers[1::2]:
        assert message in answer["error"] and answer["text"] == "" and answer["audio"].shape == (0,)
        assert answer["sampling_rate"] == 16000
    for answer, samples in zip(answers[::2], (question(), question(330))):
        assert "error" not in answer and answer["text"][:3] == tiny(samples)["text"][:3] and len(answer["audio"])
    with pytest.raises((ValueError, OSError, TypeError), match=message):
        tiny(bad)


@pytest.mark.slow
def test_datasets_columns_and_rows(tiny):
    samples = [question(), question(330), question(440)]
    expected = [tiny(one)["text"] for one in samples]
    rows = [{"audio": {"bytes": wav(one), "path": None}, "id": i, "text": "x"} for i, one in enumerate(samples)]
    decoded = Dataset.from_list(rows).cast_column("audio", Audio())
    undecoded = decoded.cast_column("audio", Audio(decode=False))
    for data in (decoded, undecoded):
        answers = tiny(data)
        assert len(answers) == 3 and [answer["text"] for answer in answers] == expected
        streamed = data.to_iterable_dataset()
        for inputs in (data["audio"], streamed, streamed["audio"], map(dict, undecoded), iter(undecoded)):
            assert [answer["text"] for answer in tiny(inputs)] == expected
    for data in (decoded, undecoded):
        assert [answer["text"] for answer in tiny(KeyDataset(data, "audio"))] == expected
    assert [answer["text"] for answer in tiny(row for row in undecoded)] == expected
    assert [answer["text"] for answer in tiny(tuple(samples), batch_size=1)] == expected
    assert tiny(undecoded[1])["text"] == expected[1]
    assert tiny({"audio": question(330), "sampling_rate": 16000, "text": "an answer of before"})["text"] == expected[1]
    for options in ({"batch_size": 2}, {"num_workers": 1}):
        assert [answer["text"][:2] for answer in tiny(undecoded, **options)] == [text[:2] for text in expected]
    mapped = undecoded.map(lambda row: {"answer": tiny(row)["text"]})
    assert mapped["answer"][:] == expected


def test_one_audio_of_any_kind_needs_no_list_around_it(tiny, tmp_path):
    samples = np.stack([question(), question()])
    content = wav(samples.T)
    (tmp_path / "a.wav").write_bytes(content)
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(sample_rate=16000, data=samples))
    marked = [user("<|audio|>")]

    def encode(messages, audios):
        return tiny.processor.apply_chat_template(messages, audios=audios, tokenize=True).tolist()

    expected = encode(marked, [samples])
    for one in (
        samples,
        torch.from_numpy(samples),
        tmp_path / "a.wav",
        io.BytesIO(content),
        bytearray(content),
        decoder,
    ):
        assert encode(marked, one) == expected
    # Several need one, but for what is a list of another kind
    names = [str(tmp_path / "a.wav")] * 2
    marked = [user("<|audio|><|audio|>")]
    expected = encode(marked, names)
    several = (Dataset.from_dict({"audio": names})["audio"], np.array(names), np.array(names, object), iter(names))
    for two in (*several, samples):
        assert encode(marked, two) == expected
    with pytest.raises(ValueError, match="2 marks .*, but 1 audios"):
        encode(marked, tmp_path / "a.wav")


@pytest.mark.slow
def test_rows_of_conversations(tiny):
    rows = [
        {"messages": [user("<|audio|>")], "audios": [{"bytes": wav(question(f)), "path": None}]} for f in (220, 330)
    ]
    data = Dataset.from_list(rows)
    assert [answer["text"] for answer in tiny(data)] == [tiny(question(f))["text"] for f in (220, 330)]
    assert next(iter(tiny(data["messages"])))["error"].startswith("The messages have 1 marks")
    mixed = tiny([question(), [user("One")], "Two"])
    assert [answer["text"] for answer in mixed] == [tiny(question())["text"], tiny("One")["text"], tiny("Two")["text"]]


# What the model cannot do is said


@pytest.mark.slow
@pytest.mark.parametrize(
    "inputs, message",
    [
        ("Привет, как дела?", "letters of 'Привет, как дела.' are of a language"),
        (synthesis_conversation("你好吗"), "letters of '你好吗' are of a language"),
        (np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), "as noise is and speech is not"),
        (question(100, 1), "as noise is and speech is not"),
        ([user("What is two plus two? " * 90)], "more than the 512 that this model was trained with"),
    ],
)
def test_what_is_unlike_the_training_is_said(pipe, inputs, message):
    with pytest.warns(AnswerWarning, match=message):
        pipe(inputs)
    with pytest.warns(AnswerWarning, match=message):
        list(pipe.stream(inputs))


@pytest.mark.slow
def test_long_speech_is_said_to_be_too_long(pipe):
    samples, rate = soundfile.read(SAMPLE, dtype="float32")
    with pytest.warns(AnswerWarning) as caught:
        pipe(np.resize(samples, 50 * rate))
    length, answer = (str(warning.message) for warning in caught)
    assert re.search(r"has 6\d\d tokens, more than the 512", length)
    assert re.search(r"s of speech, which cannot be all of a text of \d+ characters", answer)


@pytest.mark.slow
def test_an_answer_that_is_not_whole_is_said(pipe):
    with pytest.warns(AnswerWarning, match="'The .*was cut off .* a larger `max_new_tokens`"):
        pipe(SAMPLE, max_new_tokens=20)
    with pytest.warns(AnswerWarning, match="was cut off"):
        list(pipe.stream(SAMPLE, max_new_tokens=20))
    with pytest.warns(AnswerWarning, match="was cut off.*`max_time`"):
        pipe(SAMPLE, max_time=0.01)
    # The text of this one is whole, and its speech, of a second generation, is not
    for ask in (pipe, pipe.stream):
        with pytest.warns(AnswerWarning, match="'The sum of two and three is five.' was cut off"):
            list(ask("What is two plus three?", max_new_tokens=24))
    vocabulary = pipe.processor.speech_vocabulary
    silence = list(
        range(vocabulary.begin_audio_token_id, vocabulary.speech_token_offset + vocabulary.num_speech_tokens)
    )
    with pytest.warns(AnswerWarning, match="has no speech"):
        pipe(SAMPLE, suppress_tokens=silence, max_new_tokens=400)


@pytest.mark.slow
def test_good_questions_warn_of_nothing(pipe):
    samples, _ = soundfile.read(SAMPLE, dtype="float32")
    noise = np.random.default_rng(0).normal(0, 0.1 * samples.std(), len(samples)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswerWarning)
        for inputs in (SAMPLE, samples + noise, "What is two plus two?", recognition_conversation(SAMPLE)):
            pipe(inputs)
            list(pipe.stream(inputs))


# Ways to the pipeline


@pytest.mark.slow
def test_a_model_that_is_an_object_has_its_processor(pipe, tiny, tmp_path):
    loaded = pipeline("audio-to-audio", model=AutoModel.from_pretrained(MINI), device="cpu")
    assert_same(loaded(SAMPLE), pipe(SAMPLE))
    tiny.processor.save_pretrained(tmp_path)
    for processor in (tiny.processor, str(tmp_path)):
        assert_same(
            pipeline("audio-to-audio", model=tiny.model, processor=processor, device="cpu")("Two"),
            tiny("Two", max_new_tokens=40),
        )
    with pytest.raises(ValueError, match="needs `processor=`"):
        pipeline("audio-to-audio", model=VitaAudioForConditionalGeneration(tiny.model.config), device="cpu")


OBJECT = """
import sys
from transformers import AutoModelForMultimodalLM, AutoModelForTextToWaveform, pipeline
for auto_class in (AutoModelForMultimodalLM, AutoModelForTextToWaveform):
    model = auto_class.from_pretrained(sys.argv[1], trust_remote_code=True)
    assert type(model).__name__ == "VitaAudioForConditionalGeneration"
print(pipeline("audio-to-audio", model=model, device="cpu")(sys.argv[2])["text"])
assert not {"processing", "modeling_vita_audio"} & set(sys.modules)
"""


@pytest.mark.slow
def test_auto_classes_and_pipeline_of_an_object_without_our_packages(pipe, tmp_path):
    command = [sys.executable, "-P", "-c", OBJECT, str(MINI), SAMPLE]
    environment = {"PATH": "", "HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == pipe(SAMPLE)["text"].strip()
