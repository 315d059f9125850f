# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of one's own, in all the forms that there are, from training to the figures."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from datasets import Audio, Dataset, DatasetDict, Features, List
from places import ROOT
from tiny_models import tiny_model, tiny_processor, write_tiny_recognizer

from hub_cards.command_line import run_command
from training import train
from training.conversations import (
    CONVERSATION_FEATURES,
    load_conversations,
    read_conversations,
    reference_of,
    task_of,
)
from training.data import build_training_dataset
from training.evaluation import evaluate_benchmarks, evaluate_held_out
from training.evaluation.benchmarks import build_item


TEXTS = ["What is two plus two?", "Two plus two is four."]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer_dir(tmp_path_factory):
    return write_tiny_recognizer(tmp_path_factory.mktemp("ctc"))


def record(path: Path, seconds: float = 0.6) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(int(16000 * seconds)) / 20), 16000)
    return str(path)


def write_readme_example(folder: Path) -> Path:
    """What README shows, word for word."""
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "conversations.jsonl").write_text(block, encoding="utf-8")
    for seconds, name in enumerate(("question.flac", "answer.flac"), start=1):
        record(folder / name, seconds / 2)
    return folder


def write_audiofolder(folder: Path, splits=("train", "test")) -> Path:
    """Recordings with their texts in `metadata.csv`."""
    for split in splits:
        rows = [{"file_name": f"{number}.wav", "transcription": text} for number, text in enumerate(TEXTS)]
        for row in rows:
            record(folder / split / row["file_name"])
        with open(folder / split / "metadata.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


def write_saved(folder: Path) -> Path:
    """Conversations saved to disk by `datasets`, with the audio inside and nothing that may be left out."""
    audio = record(folder.parent / "said.wav")
    messages = [
        {"role": "user", "content": "Convert the speech to text.\n<|audio|>"},
        {"role": "assistant", "content": TEXTS[0]},
    ]
    rows = {"messages": [messages] * 2, "audios": [[audio]] * 2}
    dataset = Dataset.from_dict(rows).cast_column("audios", List(Audio()))
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(folder)
    return folder


def write_parquet(folder: Path) -> Path:
    """Recordings with their sentences, as a folder of Parquet files."""
    audio = record(folder.parent / "said.wav")
    dataset = Dataset.from_dict({"audio": [audio] * 2, "sentence": TEXTS}).cast_column("audio", Audio())
    for split in ("train", "test"):
        dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "write, sets",
    [
        (write_readme_example, ["asr", "sqa", "dialogue"]),
        (write_audiofolder, ["asr", "tts"]),
        (write_saved, ["asr"]),
        (write_parquet, ["asr", "tts"]),
    ],
)
def test_from_recordings_to_figures(write, sets, model_dir, recognizer_dir, tmp_path):
    (tmp_path / "data").mkdir()
    data, run = str(write(tmp_path / "data")), str(tmp_path / "run")
    recipe = ROOT / "training" / "configs" / "mini" / "finetune.yaml"
    # the recipe as it is, but for a model and a machine that are small
    small = ["--model_name_or_path", str(model_dir), "--max_steps", "1", "--max_length", "128", "--bf16", "False"]
    small += ["--code_cache_dir", str(tmp_path / "codes"), "--use_cpu", "True", "--disable_tqdm", "True"]
    train.main(["--config", str(recipe), "--dataset-name", data, "--output-dir", run, *small])
    record = json.loads((tmp_path / "run" / "training_args.json").read_text())
    assert record["stage"] == 4 and record["dataset"] == {"folder": "data"} and record["tasks"] is None

    common = ["--model", run, "--dataset_name", data, "--recognizer", str(recognizer_dir), "--max-new-tokens", "24"]
    # those that it has; without --sets also recordings of humans, where they are installed
    evaluate_held_out.main([*common, "--mode", "vanilla", "2,8", "--sets", *sets])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["modes"]) == ["vanilla", "2_8"]
    assert list(results["modes"]["2_8"]) == [*sets, "speed"]
    assert ("recognizer" in results) == ({"tts", "sqa"} & set(sets) != set())

    evaluate_benchmarks.main([*common, "--output_dir", str(tmp_path / "out"), "--modes", "boost"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(results["benchmarks"]) == sorted(f"data_{task}" for task in sets)
    assert results["benchmarks"]["data_asr"]["boost"]["split"] == "test"


def test_the_recipe_starts_from_the_shipped_model():
    recipe = yaml.safe_load((ROOT / "training" / "configs" / "mini" / "finetune.yaml").read_text())
    assert recipe["stage"] == 4 and (ROOT / recipe["model_name_or_path"] / "config.json").is_file()
    assert len(recipe) <= 7 and "dataset_name" not in recipe


def test_what_may_be_left_out_is_filled_in(tmp_path):
    rows = list(read_conversations(write_readme_example(tmp_path)))
    assert [(row["id"], row["task"], row["split"]) for row in rows] == [
        ("1", "sqa", "test"),
        ("2", "asr", None),
        ("3", "dialogue", "test"),
    ]
    assert [row["reference"] for row in rows] == ["It is four.", "What is two plus two?", "It is seven."]
    assert rows[0]["accepted_answers"] == ["four"] and rows[1]["accepted_answers"] == []
    item = build_item(rows[0])
    assert item.audios == [str(tmp_path / "question.flac")] and item.accepted_answers == ("four",)
    # those without a split are in every one
    assert [row["id"] for row in read_conversations(tmp_path, "train")] == ["2"]
    assert len(load_conversations(tmp_path, "test", cache_dir=tmp_path / "cache")) == 3


@pytest.mark.parametrize(
    "user, assistant, task, reference",
    [
        ("Convert the speech to text.\n<|audio|>", "Hello.", "asr", "Hello."),
        ("<|audio|>", "Hello.", "sqa", "Hello."),
        ("Answer kindly. <|audio|>", "Hello.<|audio|>", "sqa", "Hello."),
        ("Convert the text to speech.\nHello.", "<|audio|>", "tts", "Hello."),
        ("Convert the text to speech.\nHello.", "Hello.<|audio|>", "tts", "Hello."),
        ("Who is there?", "It is me.", "tqa", "It is me."),
        ("Who is there?", "It is me.<|audio|>", "tqa", "It is me."),
    ],
)
def test_the_form_says_what_is_asked_for(user, assistant, task, reference):
    voice = {"role": "system", "content": "Your Voice: <|audio|>\n"}
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    for conversation in (messages, [voice, *messages]):
        assert task_of(conversation) == task and reference_of(conversation) == reference
    assert task_of(messages, "tqa") == "tqa" and task_of(messages, "greetings") == task


def test_recordings_with_texts_are_read_and_spoken(tmp_path):
    rows = list(read_conversations(write_audiofolder(tmp_path / "data"), "train"))
    assert [(row["id"], row["task"]) for row in rows] == [
        ("asr-train/0.wav", "asr"),
        ("tts-train/0.wav", "tts"),
        ("asr-train/1.wav", "asr"),
        ("tts-train/1.wav", "tts"),
    ]
    assert [row["messages"][0]["content"] for row in rows[:2]] == [
        "Convert the speech to text.\n<|audio|>",
        f"Convert the text to speech.\n{TEXTS[0]}",
    ]
    assert [row["reference"] for row in rows] == [text for text in TEXTS for _ in range(2)]
    assert len(load_conversations(tmp_path / "data", "train", ["tts", "tts"], tmp_path / "cache")) == 4


def refusal(capsys, module, *arguments) -> str:
    assert run_command(module.main, module.PROG, list(map(str, arguments))) == 1
    err = capsys.readouterr().err
    line = err.splitlines()[-1]
    assert line.startswith(f"{module.PROG}: error: ") and "Traceback" not in err
    return line


def commands(source, model_dir, output_dir):
    """The three commands that read conversations."""
    settings = ["--config", ROOT / "training/configs/mini/finetune.yaml", "--use_cpu", "True", "--bf16", "False"]
    return [
        (train, *settings, "--model_name_or_path", model_dir, "--dataset_name", source, "--output_dir", output_dir),
        (evaluate_held_out, "--model", model_dir, "--corpus_dir", source, "--output_dir", output_dir),
        (evaluate_benchmarks, "--model", model_dir, "--dataset_name", source, "--output_dir", output_dir),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nowhere", "data/nowhere", "./no/where", "/no/where", "pretrained/mini"])
def test_a_missing_folder_is_said_to_be_one(name, model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for command in commands(name, model_dir, tmp_path / "new" / "out"):
        assert f"There is no folder or file '{name}'" in refusal(capsys, *command)
    # of models as well
    for command in commands(write_readme_example(tmp_path / "data"), name, tmp_path / "new" / "out"):
        assert f"There is no folder or file '{name}'" in refusal(capsys, *command)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: [lines[0], "{"], "conversations.jsonl, line 2 is not JSON"),
        (lambda lines: [lines[0], lines[1].replace("question.flac", "lost.flac")], "line 2 names .*lost.flac"),
        (
            lambda lines: [lines[0].replace('["four"]', '"four"'), lines[1]],
            "line 1 is not a conversation: `accepted_ans",
        ),
        (
            lambda lines: [lines[0], lines[1].replace('"user"', '"usr"')],
            "conversations.jsonl, line 2 is not a conversation: unknown role 'usr'; roles are system, user and "
            "assistant",
        ),
        (lambda lines: [lines[0].replace('"assistant"', '"tool"'), lines[1]], "line 1 is .* unknown role 'tool'"),
        (lambda lines: [line.replace("messages", "turns") for line in lines], "line 1 .* no list of `messages`"),
    ],
)
def test_a_bad_row_is_named_by_all(change, message, model_dir, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    path = write_readme_example(tmp_path / "data") / "conversations.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    for command in commands(tmp_path / "data", model_dir, tmp_path / "out"):
        assert re.search(message, refusal(capsys, *command))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("num_audios", [0, 2])
@pytest.mark.parametrize("with_audio_inside", [True, False])
def test_marks_without_audios_are_named_in_every_form(num_audios, with_audio_inside, model_dir, tmp_path, capsys):
    messages = [{"role": "user", "content": "<|audio|>"}, {"role": "assistant", "content": "Four."}]
    audios = [[record(tmp_path / "said.wav")] * number for number in (1, num_audios)]
    rows = [{"messages": messages, "audios": row_audios} for row_audios in audios]
    dataset = Dataset.from_list(rows)
    if with_audio_inside:
        dataset = dataset.cast_column("audios", List(Audio()))
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "saved")
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "conversations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "parquet").mkdir()
    for split in ("train", "test"):
        dataset.to_parquet(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet")
    message = rf"(line|row) 2 is not a conversation: the messages have 1 marks .*, but there are {num_audios} audios"
    for source in ("saved", "lines", "parquet"):
        for command in commands(tmp_path / source, model_dir, tmp_path / "out"):
            assert re.search(message, refusal(capsys, *command))
    assert not (tmp_path / "out").exists()


def test_no_audios_are_none_in_every_form(tmp_path):
    messages = [{"role": "user", "content": "Two plus two?"}, {"role": "assistant", "content": "Four."}]
    rows = [{"messages": messages, "audios": None}, {"messages": messages, "audios": []}]
    features = Features({"messages": CONVERSATION_FEATURES["messages"], "audios": List(Audio(decode=False))})
    Dataset.from_list(rows, features).save_to_disk(tmp_path / "saved")
    (tmp_path / "conversations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source in (tmp_path / "saved", tmp_path):
        assert [row["audios"] for row in read_conversations(source)] == [[], []]
        conversations = load_conversations(source, cache_dir=tmp_path / "cache")
        assert len(build_training_dataset(conversations, tiny_processor(), tmp_path / "codes")) == 2
    Dataset.from_list([{"messages": messages, "audios": "a.wav"}]).save_to_disk(tmp_path / "text")
    with pytest.raises(ValueError, match="`audios` of .*text must have a list of audios in each row, not Value"):
        load_conversations(tmp_path / "text")


def test_what_a_dataset_lacks_is_named_by_all(model_dir, tmp_path, capsys):
    record(tmp_path / "silent" / "a.wav")
    Dataset.from_dict({"question": ["a"]}).save_to_disk(tmp_path / "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 nothing")
    for source, message in (
        ("silent", "it has no conversations.jsonl nor, beside its audio files, metadata.csv"),
        ("other", "neither a column `messages`, nor `audio` and one of transcription.*; its columns are question"),
        ("broken", "cannot be read as a dataset|Unknown split"),
    ):
        for module, *arguments in commands(tmp_path / source, model_dir, tmp_path / "out"):
            split = (
                [] if module is train else ["--split" if module is evaluate_held_out else "--dataset_split", "train"]
            )
            said = refusal(capsys, module, *arguments, *split)
            assert re.search(message, said) and "torchcodec" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_data_is_scored_only_when_asked_for(model_dir, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    path = write_readme_example(tmp_path / "data") / "conversations.jsonl"
    line = path.read_text().splitlines()[1]
    path.write_text(line.replace('"messages"', '"split": "train", "messages"'))
    _, *commands_that_score = commands(tmp_path / "data", model_dir, tmp_path / "out")
    for command in commands_that_score:
        assert "no conversations of the split 'test'; its splits are train" in refusal(capsys, *command)
    arguments = [
        *map(str, commands_that_score[0][1:]),
        "--split",
        "train",
        "--mode",
        "vanilla",
        "--max_new_tokens",
        "8",
    ]
    evaluate_held_out.main(arguments)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["split"] == "train"


def test_a_row_is_of_the_split_that_it_names_in_every_form(tmp_path):
    def row(number: int) -> dict:
        messages = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "Yes."}]
        return {"id": str(number), "split": "test" if number > 4 else "train", "messages": messages, "audios": []}

    rows = list(map(row, range(7)))
    folder, dataset = tmp_path / "folder", Dataset.from_list(rows)
    folder.mkdir()
    (folder / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "all.parquet")
    dataset.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    for source in (folder, tmp_path / "saved", tmp_path / "all.parquet", tmp_path / "parquet"):
        assert len(load_conversations(source, "train", cache_dir=tmp_path / "cache")) == 5
        assert [row["id"] for row in read_conversations(source, "test")] == ["5", "6"]
        assert len(list(read_conversations(source))) == 7
        with pytest.raises(ValueError, match="no conversations of the split 'dev'|Unknown split|no split 'dev'"):
            load_conversations(source, "dev", cache_dir=tmp_path / "cache")
    # rows that name no split are of those of `datasets`, and not of one that nobody knows
    unnamed = Dataset.from_list([row | {"split": None} for row in rows], features=dataset.features)
    DatasetDict({"train": unnamed, "test": unnamed}).save_to_disk(tmp_path / "unnamed")
    assert len(load_conversations(tmp_path / "unnamed", "train")) == 7
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_conversations(tmp_path / "unnamed", "dev")
    Dataset.from_list([*rows, rows[-1]]).save_to_disk(tmp_path / "twice")
    with pytest.raises(ValueError, match="twice, row 3 has the id '6', as row 2 has"):
        list(read_conversations(tmp_path / "twice", "test"))


def test_tasks_come_one_after_the_other_from_every_form(tmp_path):
    folder = write_audiofolder(tmp_path / "folder")
    rows = list(read_conversations(folder, "train"))
    columns = {name: [row[name] for row in rows] for name in ("task", "messages", "audios")}
    Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    tasks = ["tts", "asr", "tts"]
    read = [load_conversations(source, "train", tasks, tmp_path / "cache") for source in (folder, tmp_path / "saved")]
    assert read[0]["messages"][:] == read[1]["messages"][:] and len(read[0]) == 6


@pytest.mark.slow
def test_a_model_without_a_codec_is_named_by_all(tmp_path, capsys):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "model")
    processor.audio_tokenizer = None
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for command in commands(write_readme_example(tmp_path / "data"), tmp_path / "model", tmp_path / "out"):
        line = refusal(capsys, *command)
        assert "has no speech codec" in line
    assert not (tmp_path / "out").exists()
