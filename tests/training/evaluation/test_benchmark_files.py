# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A benchmark is one YAML file, of the package or your own; what is wrong in it is named with its line."""

import json
import subprocess
import sys

import pytest
import yaml
from datasets import Audio, Dataset, load_dataset
from places import ROOT

from hub_cards.command_line import run_command
from training.conversations import TASKS
from training.evaluation import evaluate_benchmarks
from training.evaluation.benchmarks import BENCHMARKS_FOLDER, BenchmarkItems, list_benchmarks, read_benchmark


def score(path, model_dir, tiny_ctc_dir, output_dir, *arguments):
    evaluate_benchmarks.main(
        ["--model", str(model_dir), "--benchmark", str(path), "--output_dir", str(output_dir)]
        + ["--recognizer", str(tiny_ctc_dir), "--max_new_tokens", "16", *arguments]
    )
    return json.loads((output_dir / "results.json").read_text())["benchmarks"]


@pytest.mark.slow
def test_a_new_benchmark_is_one_yaml(model_dir, tiny_ctc_dir, corpus_dir, tmp_path):
    """Recordings, and a YAML that says what their columns are; nothing in the package is edited."""
    recordings = sorted(corpus_dir.glob("*.flac"))[:3]
    texts = ["The colour is grey.", "He passed.", "Twenty-one cats"]
    rows = {"key": ["x", "y", "z"], "sound": list(map(str, recordings)), "said": texts}
    dataset = Dataset.from_dict(rows).cast_column("sound", Audio())
    (tmp_path / "rows").mkdir()
    dataset.to_parquet(tmp_path / "rows" / "dev.parquet")
    path = tmp_path / "my_dictation.yaml"
    path.write_text(
        "# nobody et al.\n"
        "task: asr\n"
        "columns:\n"
        "  audio: sound\n"
        "  text: said\n"
        "  id: key\n"
        f"dataset_name: {tmp_path / 'rows'}\n"
        "split: validation\n"
        "normalizer: whisper_english\n"
    )
    results = score(path, model_dir, tiny_ctc_dir, tmp_path / "out", "--mctp_mode", "boost", "turbo")
    assert list(results) == ["my_dictation"] and list(results["my_dictation"]) == ["boost", "turbo"]
    figures = results["my_dictation"]["boost"]
    assert (figures["conversations"], figures["dataset"], figures["split"]) == (3, "rows", "validation")
    assert figures["normalizer"] == "whisper_english"
    lines = [json.loads(line) for line in (tmp_path / "out" / "my_dictation-boost.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reference"]) for line in lines] == list(zip("xyz", texts))


@pytest.mark.slow
def test_questions_of_your_own(model_dir, tiny_ctc_dir, forms_dir, tmp_path):
    """A task with answers, in a file that ends with .yml and lies in no folder of ours; in writing, too."""
    values = {
        "task": "sqa",
        "split": "test",
        "normalizer": "corpus",
        "dataset_name": str(forms_dir / "llama_questions"),
    }
    path = tmp_path / "quiz.yml"
    path.write_text(
        yaml.safe_dump(values | {"columns": {"audio": "audio", "answers": "answer", "question": "question"}})
    )
    for arguments, name in ([], "quiz"), (["--written_questions"], "quiz_written"):
        figures = score(path, model_dir, tiny_ctc_dir, tmp_path / "out", *arguments)[name]["boost"]
        assert figures["conversations"] == 4 and 0 <= figures["text_accuracy"] <= 1
        assert ("speech_accuracy" in figures) == (name == "quiz") and figures["normalizer"] == "corpus"


def test_the_files_of_the_package_are_benchmarks():
    assert len(list_benchmarks()) == 7
    for name in list_benchmarks():
        benchmark = read_benchmark(name)
        assert benchmark.name == name and benchmark.task in TASKS and benchmark.normalizer == "whisper_english"
        # the first line says where the set is from
        assert (BENCHMARKS_FOLDER / f"{name}.yaml").read_text().startswith("# ")
        assert read_benchmark(str(BENCHMARKS_FOLDER / f"{name}.yaml")) == benchmark


GOOD = "task: tts\ncolumns:\n  text: text\nsplit: test\nnormalizer: corpus\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + "langauge: en\n", "line 6: `langauge` is no key of a benchmark: these are task, columns, split"),
        (GOOD + "name: mine\n", "line 6: `name` is no key"),
        (GOOD.replace("tts", "translation"), "line 1: `task` must be .*'asr', 'tts', 'sqa', 'tqa'.*got 'translation'"),
        (GOOD.replace("corpus", "whisper"), "line 5: `normalizer` must be .*'whisper_english'.*got 'whisper'"),
        (
            GOOD.replace("  text: text", "  txt: text"),
            "line 2: `columns` has the role 'txt', but there are audio, text",
        ),
        (GOOD.replace("  text: text", "  text: 3"), "line 2: `columns` must name a column as text, got 3"),
        (GOOD.replace("columns:\n  text: text", "columns: text"), "line 2: `columns` must be dict.*got 'text'"),
        (GOOD.replace("tts", "sqa"), "line 2: `columns` has no audio, answers, which the task 'sqa' needs"),
        (GOOD.replace("split: test", "split: [test]"), r"line 4: `split` must be str, got \['test'\]"),
        (GOOD.replace("split: test\n", ""), "mine.yaml lacks `split`"),
        ("columns:\n  text: text\n", "mine.yaml lacks `task`, `split`, `normalizer`"),
        (GOOD + "task: asr\n", "line 6 is no YAML of settings: `task` comes twice"),
        (GOOD + "  : [\n", r"mine.yaml, line \d is no YAML"),
        ("", "mine.yaml must have lines"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(content, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"mine.yaml.*{message.removeprefix('mine.yaml')}"):
        read_benchmark(str(tmp_path / "mine.yaml"))


@pytest.mark.slow
def test_evaluation_needs_nothing_that_only_training_needs():
    """The reader of YAML files is training's; the extra `eval` installs no trl."""
    code = (
        "import sys; sys.modules['trl'] = None; from training.evaluation import evaluate_benchmarks, evaluate_held_out"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


def test_a_bad_file_is_one_line_of_the_command(model_dir, tmp_path, capsys):
    for name, message in ("bad.yaml", "bad.yaml, line 1: `tsk` is no key"), ("missing.yaml", "missing.yaml"):
        (tmp_path / "bad.yaml").write_text("tsk: asr\n")
        arguments = [
            "--model",
            str(model_dir),
            "--output_dir",
            str(tmp_path / "out"),
            "--benchmark",
            str(tmp_path / name),
        ]
        assert run_command(evaluate_benchmarks.main, evaluate_benchmarks.PROG, arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{evaluate_benchmarks.PROG}: error: ") and message in line
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_normalizer_scores_the_responses_that_are_there(run, tmp_path):
    """The results say which one it was, for each mode, and no response is asked for twice."""
    arguments = ["libritts_test_clean", tmp_path, "--limit", "2", "--mctp_mode"]
    before = run(*arguments, "boost", "turbo")["benchmarks"]["libritts_test_clean"]
    logs = {
        path: path.read_bytes() for folder in ("responses", "transcripts") for path in (tmp_path / folder).iterdir()
    }
    after = run(*arguments, "boost", "--normalizer", "corpus")["benchmarks"]["libritts_test_clean"]
    assert after["turbo"] == before["turbo"] and after["turbo"]["normalizer"] == "whisper_english"
    assert after["boost"]["normalizer"] == "corpus"
    # "1 plus 1 is 2" has fewer characters than "one plus one is two"
    assert after["boost"]["cer"] != before["boost"]["cer"]
    assert logs == {path: path.read_bytes() for path in logs} and len(logs) == 4
    boost, turbo = (tmp_path / "results.md").read_text().splitlines()[2:]
    assert boost.endswith("| corpus |") and turbo.endswith("| whisper_english |")


def test_a_published_form_is_read_without_the_columns_that_only_ours_has(forms_dir):
    """`accepted_answers` and `reference` are in the files, and in no published set."""
    dataset = load_dataset(str(forms_dir / "llama_questions"), split="test")
    published = dataset.remove_columns(["accepted_answers", "reference"]).cast_column("audio", Audio(decode=False))
    items = BenchmarkItems(read_benchmark("llama_questions"), published)
    assert [item.reference for item in items] == [""] * 4 and items[0].accepted_answers == ("two",)
