# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What tests of evaluation share: a corpus of tones, also in the forms of benchmarks, a tiny model and recogniser."""

import json

import numpy as np
import pytest
import soundfile as sf
from tiny_models import tiny_model, tiny_processor, write_tiny_recognizer

from processing.conversation_vita_audio import ASR_PROMPT, AUDIO_MARK, SPOKEN_CHAT_SYSTEM_PROMPT, TTS_PROMPT
from training.evaluation import evaluate_benchmarks
from training.evaluation.corpus_benchmarks import write_benchmarks


NUM_QUESTIONS = 4


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """A corpus as `training.corpus.render` writes it, of tones: questions in a trained and in an unseen voice."""
    folder = tmp_path_factory.mktemp("corpus")
    clips, conversations, numbers = [], [], ["two", "three", "four", "five"]

    def record(text, voice, split):
        path = f"{voice}-{len(clips)}.flac"
        tone = 0.2 * np.sin(np.arange(6000 + 500 * len(clips)) / (5 + len(clips)))
        sf.write(folder / path, tone, 16000, subtype="PCM_16")
        clips.append({"path": path, "text": text, "voice": voice, "split": split})
        return path

    def add(task, split, turns, audios, reference, accepted=()):
        answer = {
            "reference": reference,
            "answer": accepted[0] if accepted else "",
            "accepted_answers": list(accepted),
        }
        messages = [{"role": role, "content": content} for role, content in turns]
        row = {"id": f"{task}-{len(conversations)}", "task": task, "split": split, "messages": messages}
        conversations.append(row | {"audios": audios, **answer})

    for index in range(NUM_QUESTIONS):
        number = numbers[index]
        question, answer = f"What's one plus {index + 1}?", f"One plus {index + 1} is {number}."
        spoken = record(answer, "joe", "test")
        for voice, split in (("joe", "test"), ("flite-rms", "test_voice")):
            asked = record(question, voice, split)
            add("asr", split, [("user", ASR_PROMPT + AUDIO_MARK), ("assistant", question)], [asked], question)
            turns = [("system", SPOKEN_CHAT_SYSTEM_PROMPT), ("user", AUDIO_MARK), ("assistant", answer + AUDIO_MARK)]
            add("sqa", split, turns, [asked, spoken], answer, (number, str(index + 2)))
        add("tts", "test", [("user", TTS_PROMPT + answer), ("assistant", AUDIO_MARK)], [spoken], answer)
        add("tqa", "test", [("user", question), ("assistant", answer)], [], answer, (number, str(index + 2)))
    for name, rows in (("clips", clips), ("conversations", conversations)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def forms_dir(corpus_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    write_benchmarks(corpus_dir, folder)
    return folder


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor):
    return tiny_model(processor)


@pytest.fixture(scope="module")
def model_dir(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_ctc_dir(tmp_path_factory):
    """A random recogniser of transformers; Whisper takes its time over what is no speech."""
    return write_tiny_recognizer(tmp_path_factory.mktemp("ctc"))


@pytest.fixture
def run(model_dir, forms_dir, tiny_ctc_dir):
    """Scores the tiny model on a benchmark of the small corpus and returns its results."""

    def run(benchmark, output_dir, *arguments, command=evaluate_benchmarks.main):
        command(
            ["--model", str(model_dir), "--benchmark", benchmark, "--dataset_name", str(forms_dir / benchmark)]
            + ["--output_dir", str(output_dir), "--recognizer", str(tiny_ctc_dir)]
            + ["--max_new_tokens", "24", "--batch_size", "2", *arguments]
        )
        return json.loads((output_dir / "results.json").read_text())

    return run
