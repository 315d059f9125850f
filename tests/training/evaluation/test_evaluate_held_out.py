# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import itertools
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from pictures import drawn_colors

from hub_cards.model_card import write_model_card
from hub_cards.results import codec_table
from processing.export import export_repository
from training import train
from training.evaluation import evaluate_held_out, evaluate_tolerance
from training.evaluation.benchmarks import build_item
from training.evaluation.harness import ResponseLog, respond, score
from training.evaluation.report import CODEC_TABLE, fill_section, percentage, results_table


QUESTION = "Convert the speech to text.\n<|audio|>"


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index in range(3):
        sf.write(folder / f"{index}.flac", 0.2 * np.sin(np.arange(8000 + 3000 * index) / (8 + index)), 16000)
        common = {"split": "test", "reference": "Two plus two is four.", "accepted_answers": ["four", "4"]}
        audio = f"{index}.flac"
        rows += [
            {"id": f"asr{index}", "task": "asr", "messages": [("user", QUESTION)], "audios": [audio], **common},
            {"id": f"tts{index}", "task": "tts", "messages": [("user", "Say it.")], "audios": [audio], **common},
            {"id": f"sqa{index}", "task": "sqa", "messages": [("user", "<|audio|>")], "audios": [audio] * 2, **common},
        ]
    for row in rows:
        num_marks = sum(content.count("<|audio|>") for _, content in row["messages"])
        answer = "an answer" + "<|audio|>" * (len(row["audios"]) - num_marks)
        messages = [*row["messages"], ("assistant", answer)]
        row["messages"] = [{"role": role, "content": content} for role, content in messages]
    (folder / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_an_item_is_the_conversation_without_its_answer(corpus_dir):
    (row,) = evaluate_held_out.load_sets(corpus_dir, limit=1)["sqa"]
    item = build_item(row)
    assert item.audios == [row["audios"][0]] and Path(item.audios[0]).parent == corpus_dir
    assert [message["role"] for message in item.messages] == ["user"]
    assert (item.id, item.reference) == (row["id"], "Two plus two is four.")
    assert item.accepted_answers == ("four", "4")


def test_an_answer_in_text_alone_is_not_listened_to(corpus_dir):
    (row,) = evaluate_held_out.load_sets(corpus_dir, limit=1)["sqa"]
    assert build_item(row).is_spoken
    user, answer = row["messages"]
    row["messages"] = [user, {**answer, "content": "Two plus two is four."}]
    item = build_item(row)
    responses, transcripts = {item.id: {"text": "It is four."}}, {item.id: {"heard": ""}}
    assert score("sqa", [item], responses, transcripts)[0] == {"conversations": 1, "text_accuracy": 1.0}


def test_score_counts_words_and_answers(corpus_dir):
    rows = evaluate_held_out.load_sets(corpus_dir, limit=2)["asr"]
    items = list(map(build_item, rows))
    texts = ["Two plus two is four.", "Two plus three is five."]
    responses = {item.id: {"text": text} for item, text in zip(items, texts)}
    figures, lines = score("asr", items, responses, {})
    # "three" for "two", "five" for "four" in ten words; 4 and 3 of 2 * 20 characters
    assert figures == {"conversations": 2, "wer": 0.2, "cer": pytest.approx(7 / 40)}
    transcripts = {item.id: {"heard": ""} for item in items}
    spoken = [replace(item, is_spoken=True) for item in items]
    figures, lines = score("sqa", spoken, responses, transcripts)
    assert figures == {"conversations": 2, "text_accuracy": 0.5, "speech_accuracy": 0.0}
    assert [line["heard"] for line in lines] == ["", ""]
    figures, _ = score("tts", items, responses, {items[0].id: {"heard": texts[0]}, items[1].id: {"heard": ""}})
    assert figures == {"conversations": 2, "wer": 0.5, "cer": 0.5}


@pytest.mark.slow
def test_the_command_writes_figures_picture_and_table(model, processor, corpus_dir, tiny_ctc_dir, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    defaults = tmp_path / "model" / "generation_config.json"
    defaults.write_text(json.dumps(json.loads(defaults.read_text()) | {"mctp_verify": [0.5, 0.0]}))
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results table -->\nold\n<!-- end of results table -->\nend\n")
    command = ["--model", str(tmp_path / "model"), "--corpus_dir", str(corpus_dir), "--modes", "vanilla", "turbo"]
    command += ["--sets", "asr", "tts", "sqa", "--max_new_tokens", "24", "--readme", str(readme)]
    command += ["--lines", str(tmp_path / "lines.jsonl"), "--recognizer", str(tiny_ctc_dir)]
    command += ["--second_recognizer", str(tiny_ctc_dir), "--log_dir", str(tmp_path / "logs")]
    evaluate_held_out.main(command)
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert list(results["modes"]) == ["vanilla", "turbo"] and results["normalizer"] == "corpus"
    assert results["mctp_verify"] == [0.5, 0.0]
    assert results["modes"]["turbo"]["sqa"]["conversations"] == 3
    second = results["second_recognizer"]
    assert second["name"] == results["recognizer"] == tiny_ctc_dir.name
    for mode, sets in results["modes"].items():
        assert set(second["modes"][mode]) == {"tts", "sqa"} and "dnsmos" not in sets["asr"]
        # it is the same one, so it hears the same
        for name, figures in second["modes"][mode].items():
            assert figures.items() < sets[name].items()
            assert 1 <= sets[name]["dnsmos"] <= 5 and 0 <= sets[name].get("speaker_similarity", 0) <= 1
        assert "text_accuracy" not in second["modes"][mode]["sqa"]
    assert second["wer_on_tts_references"] == results["recognizer_wer_on_tts_references"]
    # Three tones of one kind are like their mean. Likeness is judged where its weights are installed.
    assert ("speaker_similarity_of_references" in results) == (find_spec("resemblyzer") is not None)
    assert results.get("speaker_similarity_of_references", 1) > 0.8 and 1 <= results["dnsmos_of_references"] <= 5
    assert results["modes"]["turbo"]["speed"]["tokens_per_second"] > 0
    assert drawn_colors(tmp_path / "model" / "results.png") >= 2
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 18
    text = readme.read_text()
    assert results_table(results) in text and "old" not in text
    assert text.startswith("# Title\n") and text.endswith("\nend\n")
    assert "\n| | vanilla | turbo | conversations |\n" in text and "\n| TTS, DNSMOS | " in text
    assert "unseen voice" not in text

    # The same command again does what is missing, and no more
    logs = {path: path.read_text().splitlines(keepends=True) for path in (tmp_path / "logs").rglob("*.jsonl")}
    assert sorted({(path.parent.name, path.name.split("-")[0], len(rows)) for path, rows in logs.items()}) == [
        *(("responses", name, 3) for name in ("asr", "sqa", "tts")),
        *(("transcripts", name, 3) for name in ("sqa", "tts")),
    ]
    for path, rows in logs.items():
        if path.parent.name == "transcripts":
            path.write_text("".join(rows[:2]) + rows[2][:9])
    evaluate_held_out.main(command)
    for path, rows in logs.items():
        written = path.read_text().splitlines(keepends=True)
        assert written[:2] == rows[:2] and len(written) == 3
    again = json.loads((tmp_path / "model" / "results.json").read_text())
    for mode, sets in results["modes"].items():
        assert all(again["modes"][mode][name] == sets[name] for name in ("asr", "tts", "sqa"))


@pytest.mark.slow
def test_each_recogniser_has_figures_of_its_own(model_dir, corpus_dir, tmp_path, monkeypatch):
    class Recognizer:
        def __init__(self, name):
            self.name = name

        def __call__(self, waveform, sampling_rate):
            return f"Two plus two is {self.name}."

    monkeypatch.setattr(evaluate_held_out, "load_recognizer", Recognizer)
    command = ["--model", str(model_dir), "--corpus_dir", str(corpus_dir), "--output_dir", str(tmp_path)]
    command += ["--mode", "boost", "--sets", "tts", "sqa", "--max_new_tokens", "24", "--limit", "2"]
    evaluate_held_out.main([*command, "--recognizer", "four", "--second_recognizer", "five"])
    results = json.loads((tmp_path / "results.json").read_text())
    second = results["second_recognizer"]
    assert (results["recognizer"], second["name"]) == ("four", "five")
    # "four" is the last of five words in all that is to be said
    heard = results["modes"]["boost"], second["modes"]["boost"]
    assert [sets["tts"]["wer"] for sets in heard] == [0, 0.2]
    assert [sets["sqa"]["speech_accuracy"] for sets in heard] == [1, 0]
    assert (results["recognizer_wer_on_tts_references"], second["wer_on_tts_references"]) == (0, 0.2)


def test_speed_is_work_per_speech(model, processor, corpus_dir, monkeypatch):
    """By a clock on which a second goes by between two looks at it."""
    ticks = itertools.count()
    monkeypatch.setattr(evaluate_held_out, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    items = [build_item(row) for row in evaluate_held_out.load_sets(corpus_dir)["sqa"]]
    kwargs = {"mctp_mode": "boost", "max_new_tokens": 24}
    log = ResponseLog()
    respond(model, processor, items, log, batch_size=1, **kwargs)
    speech = processor.decode_audio([row["audio_codes"] for row in log.rows.values()])
    seconds = sum(map(len, speech)) / 16000
    assert len(items) == 3 and seconds > 0
    modes = [kwargs.pop("mctp_mode")]
    speed = evaluate_held_out.measure_speed(model, processor, items, modes, **kwargs)["boost"]
    # reading the prompt, writing the answer and speaking it take a second each
    num_tokens = sum(row["num_tokens"] for row in log.rows.values())
    assert speed == {"tokens_per_second": num_tokens / 3, "real_time_factor": pytest.approx(9 / seconds)}


def test_a_table_says_what_was_not_measured_in_a_mode():
    sets = {"human_words": {"conversations": 40, "accuracy": 0.5}, "tts": {"conversations": 2, "dnsmos": 3.456}}
    table = results_table({"modes": {"boost": sets, "turbo": {"tts": sets["tts"]}}})
    assert table.splitlines()[2:] == [
        "| TTS, DNSMOS | 3.46 | 3.46 | 2 |",
        "| ASR of a human's words, right | 50.0% | not measured | 40 |",
    ]


@pytest.mark.slow
def test_the_card_of_the_model_shows_what_was_measured(model, processor, corpus_dir, tmp_path, capsys):
    folder = export_repository(model, processor, tmp_path / "model")
    write_model_card(folder)
    card = folder / "README.md"
    arguments = ["--model", str(folder), "--corpus_dir", str(corpus_dir), "--mode", "vanilla", "--limit", "1"]
    arguments += ["--sets", "asr", "--max_new_tokens", "8", "--mctp_verify", "0.5,0", "--batch_size", "2"]
    arguments += ["--normalizer", "whisper_english", "--dtype", "auto"]

    def said(*more):
        evaluate_held_out.main([*arguments, *more])
        return capsys.readouterr().out

    missing = "Not measured: this folder has no `results.json`"
    # measured for another place, it says nothing of it
    assert f"The results are in {tmp_path / 'out' / 'results.json'}." in said("--output_dir", str(tmp_path / "out"))
    assert missing in card.read_text()
    assert f"The results are in {folder / 'results.json'}." in said()
    results = json.loads((folder / "results.json").read_text())
    assert (results["mctp_verify"], results["normalizer"]) == ([0.5, 0.0], "whisper_english")
    assert "Measured on held-out data" in card.read_text() and missing not in card.read_text()
    card.write_text("---\nlicense: mit\n---\nMine.\n")
    assert f"`vita-audio card {folder} --overwrite`" in said() and card.read_text().endswith("Mine.\n")


@pytest.mark.parametrize("name", ["nomodel", "pretrained/no-such-model", "runs/finetuned"])
def test_a_missing_model_is_named_before_the_corpus_is_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"There is no folder or file '{name}'"):
        evaluate_held_out.main(["--model", name, "--corpus_dir", "no/corpus"])


@pytest.mark.parametrize(
    "module, typed", [(evaluate_held_out, "vita-audio evaluate"), (train, "vita-audio train"), (train, None)]
)
def test_usage_names_the_command_that_was_typed(module, typed, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/some/where/vita-audio" if typed else "train.py"])
    with pytest.raises(SystemExit):
        module.main(["--no_such_option", "1"])
    err = capsys.readouterr().err
    assert f"{typed or module.PROG}: error: " in err and (typed is None or module.PROG not in err)


def test_results_of_benchmarks_are_not_written_over(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"model": "m", "weights": "w", "benchmarks": {}}))
    for module in (evaluate_held_out, evaluate_tolerance):
        with pytest.raises(ValueError, match="has results of benchmarks: name another --output_dir"):
            module.main(["--model", "some/model", "--output_dir", str(tmp_path), "--corpus_dir", "no/corpus"])


def test_other_sets_than_of_humans_need_a_corpus(tmp_path, capsys):
    for sets in ([], ["--sets", "human_words", "asr"]):
        with pytest.raises(SystemExit):
            evaluate_held_out.main(["--model", "some/model", "--output_dir", str(tmp_path), *sets])
        assert "--corpus_dir is needed" in capsys.readouterr().err


def test_a_set_without_conversations_is_named_before_the_model_is_loaded(corpus_dir, tmp_path):
    arguments = ["--model", "some/model", "--output_dir", str(tmp_path), "--corpus_dir", str(corpus_dir)]
    with pytest.raises(ValueError, match="no conversations for the sets tqa"):
        evaluate_held_out.main([*arguments, "--sets", "asr", "tqa"])


def test_a_readme_without_a_place_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="no place for the figures"):
        fill_section(tmp_path / "README.md", CODEC_TABLE, "table")
    assert (tmp_path / "README.md").read_text() == "# Title\n"


def test_codec_table_has_a_row_for_each_group():
    results = {"all": {"clips": 100, "wer_original": 0.101, "wer_decoded": 0.1554}}
    assert codec_table(results).splitlines()[-1] == "| all | 100 | 10.1% | 15.5% |"


def test_an_output_folder_that_can_not_be_is_named_before_the_model_is_loaded(corpus_dir, tmp_path):
    (tmp_path / "file").touch()
    arguments = ["--model", str(tmp_path), "--corpus_dir", str(corpus_dir)]
    with pytest.raises(NotADirectoryError, match="file"):
        evaluate_held_out.main([*arguments, "--output_dir", str(tmp_path / "file" / "results")])


def test_a_model_on_the_hub_needs_an_output_folder(corpus_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        evaluate_held_out.main(["--model", "someone/model", "--corpus_dir", str(corpus_dir)])
    assert "--output_dir is needed: someone/model" in capsys.readouterr().err
    assert not (tmp_path / "someone").exists()


def test_more_errors_than_words_leave_nothing_right():
    assert [percentage(0.25, 0), percentage(0.25, 1), percentage(1.35, 1)] == [25, 75, 0]
