# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reads conversations, to train on and to score with, from JSON lines, from a folder of audio files with their texts, or
from a dataset of `datasets`.
"""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow.compute
from datasets import (
    Audio,
    Dataset,
    DatasetDict,
    Features,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.data_files import SPLIT_KEYWORDS
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from hub_cards.command_line import check_place, explain, naming
from hub_cards.corpus_rows import problem_of_row
from hub_cards.json_lines import read_json_lines
from hub_cards.results import TASK_CATEGORIES
from processing.conversation_vita_audio import ASR_PROMPT, AUDIO_MARK, TTS_PROMPT


# What a conversation asks for: to write down speech, to speak a text, to answer a spoken or a written question, to
# answer several spoken turns, to ask back where nothing was said.
ASR, TTS, SPOKEN_QA, WRITTEN_QA, DIALOGUE, NOISE = TASKS = tuple(TASK_CATEGORIES)
QUESTION_TASKS = (SPOKEN_QA, WRITTEN_QA)

CONVERSATIONS_FILE, METADATA_FILES = "conversations.jsonl", ("metadata.csv", "metadata.jsonl")
# `datasets` has the same value for all splits.
ALL_SPLITS = None

# `datasets` would guess the features from the first rows, and cannot where their lists are empty.
CONVERSATION_FEATURES = Features(
    {
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "audios": List(Value("string")),
        "reference": Value("string"),
    }
)

# The columns of a dataset without `messages`: its recordings and, under the first of these names that it has, their
# texts.
RECORDING_COLUMN, TEXT_COLUMNS = "audio", ("transcription", "text", "sentence", "transcript")


def load_conversations(
    source: str | os.PathLike,
    split: str = "train",
    tasks: list[str] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """
    Loads conversations for training.

    Args:
        source: what [`read_conversations`] reads.
        split: the split to take. Conversations without a split belong to every split.
        tasks: the tasks to take, by the field `task` or by the form of the conversations. A task that is named twice
            is taken twice.
        cache_dir: where `datasets` keeps what it reads from JSON lines.

    Returns:
        [`Dataset`] with the columns `messages` (`role` and `content`), `audios` (paths, or `bytes` and `path`) and
        `reference`, the text that an answer is measured by.

    Raises:
        FileNotFoundError: there is no such file, nor such a dataset.
        ValueError: a row is malformed (the message names its line), or no conversation is left.
    """
    if tasks is not None and not tasks:
        raise ValueError("`tasks` is empty; leave it out to take all.")
    files = find_row_files(source)
    # Lines of JSON and CSV are read here, all else by `datasets`.
    if files:
        # `datasets` takes a list among these arguments for shards and reads them one by one. So the tasks come one
        # after the other, as they do from a dataset.
        arguments = {"source": str(Path(source).resolve()), "split": split, "tasks": tasks}
        # All rows are read once before `datasets` does, which would hide their errors behind one of its own.
        num_conversations = sum(1 for _ in generate_rows(**arguments))
        if num_conversations > 0:
            return Dataset.from_generator(
                generate_rows,
                features=CONVERSATION_FEATURES,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                # With the time of its last change, `datasets` reads a changed file anew.
                gen_kwargs=arguments | {"changed": tuple(file.stat().st_mtime_ns for file in files)},
            )
        conversations = []
    else:
        conversations, _ = load_columns(os.fspath(source), split)
        # The rows are checked without their audio, which may be too much to read for that: its number is enough.
        rows = zip(conversations.remove_columns("audios"), list_lengths(conversations, "audios"))
        rows = (row | {"audios": [None] * (num_audios or 0)} for row, num_audios in rows)
        found, references = [], []
        for row in complete_rows(rows, os.fspath(source)):
            found.append(row["task"])
            references.append(row["reference"])
        others = [name for name in conversations.column_names if name not in CONVERSATION_FEATURES]
        conversations = conversations.remove_columns([*others, *{"reference"} & set(conversations.column_names)])
        conversations = conversations.add_column("reference", references)
        if tasks is not None:
            check_tasks(os.fspath(source), split, tasks, set(found))
            of_task = {task: [i for i, name in enumerate(found) if name == task] for task in set(tasks)}
            conversations = conversations.select([index for task in tasks for index in of_task[task]])
    if len(conversations) == 0:
        raise ValueError(
            f"{source} has no conversations of the split '{split}'" + (f" and the tasks {tasks}." if tasks else ".")
        )
    return conversations


def read_conversations(source: str | os.PathLike, split: str | None = ALL_SPLITS) -> Iterator[dict]:
    """
    Reads conversations one by one.

    Args:
        source: a JSON-lines file; a folder with `conversations.jsonl` in it, such as `training.corpus.render` writes;
            a folder of audio files with `metadata.csv` or `metadata.jsonl`, in it or in those of its splits; or a
            dataset of `datasets`: saved to disk, a folder that it loads, or on the Hub, where
            `hub_cards.publish_corpus` puts one. Each row has `messages`, whose contents have one mark `<|audio|>` per
            audio, and `audios`: paths relative to the JSON-lines file, or an audio column. Or it has a recording, as
            `file_name` or `audio`, and, as `transcription`, `text`, `sentence` or `transcript`, what is said there: a
            conversation that writes it down, and one that speaks it.
        split: the split to take; all by default. Rows without a split belong to every split.

    Returns:
        Iterator of `dict`: `id`, by default the number of the line or row, from 1 on; `task`, by default as
        [`task_of`] finds it; `split` or None; `messages`; `audios`; `reference`, by default the assistant's text or
        what is to be spoken; `accepted_answers` to questions, by default the reference; and `turns`, of a dialogue the
        `reference` and the `accepted_answers` of each turn of the assistant, otherwise empty.

    Raises:
        FileNotFoundError: there is no such file, nor such a dataset.
        ValueError: a row is malformed; the message names its line.
    """
    if not find_row_files(source):
        columns, split = load_columns(os.fspath(source), split)
        if "id" in columns.column_names:
            check_ids(columns["id"], os.fspath(source))
        return (row | {"split": row["split"] or split} for row in complete_rows(columns, os.fspath(source)))
    return (row for row in read_rows(source) if split is ALL_SPLITS or row["split"] in (None, split))


def find_row_files(source: str | os.PathLike) -> list[Path]:
    """The files of `source` whose lines are conversations or recordings; none if `datasets` has to read `source`."""
    path = Path(source)
    if path.is_file():
        return [path] if path.suffix != ".parquet" else []
    if (path / CONVERSATIONS_FILE).is_file():
        return [path / CONVERSATIONS_FILE]
    return sorted(file for name in METADATA_FILES for file in path.rglob(name)) if path.is_dir() else []


def read_rows(source: str | os.PathLike) -> Iterator[dict]:
    """The complete rows of the files of `source`, with the paths of their audios."""
    lines, known = {}, set()
    for path in find_row_files(source):
        reader = read_metadata(path, Path(source)) if path.name in METADATA_FILES else read_json_lines(path)
        for number, row in reader:
            line = f"{path}, line {number}"
            row = complete_row(row, line, number)
            if not all(isinstance(audio, str) for audio in row["audios"]):
                raise ValueError(f"{line} is not a conversation: `audios` must be a list of paths.")
            row["audios"] = [str(path.parent / audio) for audio in row["audios"]]
            for audio in row["audios"]:
                # A recording that many rows name is looked for once.
                if audio not in known and not os.path.isfile(audio):
                    raise FileNotFoundError(f"{line} names {audio}, but there is no such file.")
                known.add(audio)
            # Evaluation keeps responses by these ids, so each may come once only.
            if lines.setdefault(row["id"], line) is not line:
                raise ValueError(f"{line} has the id {row['id']!r}, as {lines[row['id']]} has.")
            yield row


def read_metadata(path: Path, source: Path) -> Iterator[tuple[int, dict]]:
    """
    Conversations about the recordings that a `metadata.csv` or `metadata.jsonl` lists, and the numbers of their lines.
    It is not read by `datasets`, which would need torchcodec.
    """
    for number, row in read_json_lines(path) if path.suffix == ".jsonl" else read_csv(path):
        name = row.get("file_name")
        text = next((row[column] for column in TEXT_COLUMNS if isinstance(row.get(column), str)), "").strip()
        if not isinstance(name, str) or not name or not text:
            raise ValueError(
                f"{path}, line {number} needs a `file_name` and the text of the recording, as one of "
                f"{', '.join(TEXT_COLUMNS)}."
            )
        # The first folder below `source` names the split, in one of the words that `datasets` knows, such as "dev".
        folder, *_ = Path(os.path.relpath(path.parent / name, source)).parts
        split = next((str(split) for split, names in SPLIT_KEYWORDS.items() if folder in names), None)
        for task, turns in transcribed_turns(text).items():
            # A recording makes a conversation for each task, so the task is in the id as well.
            row_id = f"{task}-{os.path.relpath(path.parent / name, source)}"
            yield number, {"id": row_id, "task": task, "split": split, "messages": turns, "audios": [name]}


def read_csv(path: Path) -> Iterator[tuple[int, dict]]:
    # `utf-8-sig`, because some programs begin a file with a byte order mark, which would be in the first column's
    # name.
    with naming(str(path)), open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        for row in rows:
            yield rows.line_num, row


def generate_rows(source: str, split: str, tasks: list[str] | None, changed: tuple[int, ...] = ()) -> Iterator[dict]:
    known_tasks = set()
    for row in read_rows(source):
        if row["split"] in (None, split):
            known_tasks.add(row["task"])
            # A task that is named twice is taken twice.
            for _ in range(1 if tasks is None else tasks.count(row["task"])):
                yield {name: row[name] for name in CONVERSATION_FEATURES}
    check_tasks(source, split, tasks, known_tasks)


def check_tasks(source: str, split: str, tasks: Sequence[str] | None, known_tasks: set[str]) -> None:
    if missing := [task for task in tasks or () if task not in known_tasks]:
        raise ValueError(
            f"{source} has no conversations of the split '{split}' and the tasks {missing}; its tasks are "
            f"{sorted(known_tasks)}."
        )


def check_ids(ids: Iterable[str | int | None], source: str) -> None:
    """
    Raises:
        ValueError: two rows have the same id, by which evaluation keeps responses.
    """
    known = {}
    for number, row_id in enumerate(ids, start=1):
        if row_id is not None and known.setdefault(str(row_id), number) != number:
            raise ValueError(f"{source}, row {number} has the id {row_id!r:.100}, as row {known[str(row_id)]} has.")


def complete_rows(rows: Iterable[dict], source: str) -> Iterator[dict]:
    for number, row in enumerate(rows, start=1):
        yield complete_row(row, f"{source}, row {number}", number)


def complete_row(row: dict, place: str, number: int) -> dict:
    """
    Checks a row and fills in the fields that may be left out.

    Raises:
        ValueError: the row is no conversation.
    """
    if problem := problem_of_row(row):
        raise ValueError(f"{place} is not a conversation: {problem}.")
    # Other keys are left out, because all rows of a dataset need the same.
    messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
    task = row.get("task") or task_of(messages)
    reference = row.get("reference") or reference_of(messages)
    return {
        "id": str(number if row.get("id") is None else row["id"]),
        "task": task,
        "split": row.get("split"),
        "messages": messages,
        "audios": row.get("audios") or [],
        "reference": reference,
        "accepted_answers": row.get("accepted_answers")
        or ([reference] if task_of(messages, task) in QUESTION_TASKS else []),
        "turns": row.get("turns") or [],
    }


def list_lengths(dataset: Dataset, column: str) -> list[int | None]:
    """The lengths of the lists in a column, of which the content is not read; None where there is no list."""
    batches = dataset.select_columns(column).with_format("arrow").iter(batch_size=1000)
    return [length for rows in batches for length in pyarrow.compute.list_value_length(rows[column]).to_pylist()]


def task_of(messages: list[dict], task: str | None = None) -> str:
    """
    The one of `TASKS` that a conversation is: `task` if it is one of them, otherwise the one that its form is of.
    """
    if task in TASKS:
        return task
    user = " ".join(message["content"] for message in messages[:-1] if message["role"] == "user")
    answer = messages[-1]["content"]
    is_heard, is_spoken = AUDIO_MARK in user, AUDIO_MARK in answer
    if is_heard:
        # A recording alone is a question. A text beside it is an instruction.
        return ASR if user.replace(AUDIO_MARK, "").strip() and not is_spoken else SPOKEN_QA
    # Where a text is to be spoken, the answer is speech alone, or the user's turn begins with the prompt of TTS. Any
    # other speech, such as that beside a text, answers a question.
    return TTS if is_spoken and (answer.strip() == AUDIO_MARK or user.startswith(TTS_PROMPT)) else WRITTEN_QA


def reference_of(messages: list[dict]) -> str:
    """The text of the last turn: the text of the answer or, if it has none, the text that is to be spoken."""
    answer = messages[-1]["content"].replace(AUDIO_MARK, "").strip()
    users = [message["content"] for message in messages[:-1] if message["role"] == "user"]
    return answer or (users[-1].removeprefix(TTS_PROMPT).replace(AUDIO_MARK, "").strip() if users else "")


def has_tts_prompt(messages: list[dict]) -> bool:
    """Whether the last turn of the user begins with the prompt of TTS, behind which is the text to be spoken."""
    users = [message["content"] for message in messages[:-1] if message["role"] == "user"]
    return bool(users) and users[-1].startswith(TTS_PROMPT)


def load_columns(source: str, split: str | None) -> tuple[Dataset, str | None]:
    """
    Loads the conversations of a dataset. What its column `split` says counts before the splits of `datasets`.

    Returns:
        The dataset, with the columns `messages` and `audios` (not decoded) and maybe others; and the split of rows
        that name none themselves, or None if these are of every split.

    Raises:
        FileNotFoundError: there is no such file, nor such a dataset.
        ValueError: it has no such split, no such columns, or it cannot be read.
    """
    refusal = None
    try:
        dataset = load_any_dataset(source, split)
    except ValueError as error:
        # Its rows may name a split that `datasets` does not know
        refusal, dataset = error, load_any_dataset(source, ALL_SPLITS)
    if isinstance(dataset, DatasetDict):
        dataset = concatenate_datasets(list(dataset.values()))
    splits = dataset["split"][:] if "split" in dataset.column_names else None
    if refusal is not None and (splits is None or split not in splits):
        raise refusal
    if splits is not None and split is not ALL_SPLITS:
        dataset = dataset.select([index for index, of_row in enumerate(splits) if of_row in (None, split)])
    if Path(source, "state.json").is_file():
        # A dataset that was saved alone, and not in a `DatasetDict`, has no splits.
        split = ALL_SPLITS
    names = dataset.column_names
    if "messages" in names:
        if "audios" not in names:
            dataset = dataset.add_column("audios", [[]] * len(dataset))
        audios = dataset.features["audios"]
        if not isinstance(audios, List):
            raise ValueError(f"The column `audios` of {source} must have a list of audios in each row, not {audios}.")
        if isinstance(audios.feature, Audio):
            # The files are not decoded here, because the processor decodes them.
            dataset = dataset.cast_column("audios", List(Audio(decode=False)))
        return dataset, split
    text_column = next((name for name in TEXT_COLUMNS if name in names), None)
    if RECORDING_COLUMN not in names or text_column is None:
        raise ValueError(
            f"{source} has neither a column `messages`, nor `{RECORDING_COLUMN}` and one of "
            f"{', '.join(TEXT_COLUMNS)}; its columns are {', '.join(names)}."
        )
    return transcribed_conversations(dataset, text_column, source), split


def transcribed_conversations(dataset: Dataset, text_column: str, source: str) -> Dataset:
    """Two conversations for each recording with its text: one that writes it down, and one that speaks it."""
    dataset = dataset.cast_column(RECORDING_COLUMN, Audio(decode=False))
    for number, text in enumerate(dataset[text_column], start=1):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{source}, row {number} has no text in its column `{text_column}`.")
    # `map` would guess a struct of bytes and path, and not an audio column.
    features = Features(
        {
            "id": Value("string"),
            "task": Value("string"),
            "messages": CONVERSATION_FEATURES["messages"],
            "audios": List(Audio(decode=False)),
        }
    )

    def conversation(row: dict, index: int, task: str) -> dict:
        messages = transcribed_turns(row[text_column])[task]
        return {"id": f"{task}-{index + 1}", "task": task, "messages": messages, "audios": [row[RECORDING_COLUMN]]}

    return concatenate_datasets(
        [
            dataset.map(
                conversation,
                with_indices=True,
                fn_kwargs={"task": task},
                remove_columns=dataset.column_names,
                features=features,
                desc=f"Conversations of {task}",
            )
            for task in transcribed_turns("")
        ]
    )


def transcribed_turns(text: str) -> dict[str, list[dict]]:
    """The messages of the two conversations that a recording with its `text` makes, by their tasks."""
    turns = {ASR: (ASR_PROMPT + AUDIO_MARK, text), TTS: (TTS_PROMPT + text, AUDIO_MARK)}
    return {
        task: [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        for task, (user, assistant) in turns.items()
    }


def load_any_dataset(source: str, split: str | None, config_name: str | None = None) -> Dataset | DatasetDict:
    """
    Loads a dataset that `datasets` has saved to disk, or that it loads from a folder, a Parquet file or the Hub.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: the dataset has no such split, or cannot be read.
    """
    path = Path(source)
    check_place(source)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            dataset = load_from_disk(source)
        elif path.is_file():
            dataset = load_dataset("parquet", data_files=source, split=split)
        else:
            dataset = load_dataset(source, config_name, split=split)
    except HfHubHTTPError as error:
        raise OSError(f"{source} cannot be loaded: {explain(error)}") from None
    except DatasetsError as error:
        # The message of a `DatasetsError` is always the same; its cause says what is wrong.
        cause = error.__cause__ or error
        if isinstance(cause, ImportError):
            # `datasets` asks for torchcodec here, which would not help.
            cause = f"it has no {CONVERSATIONS_FILE} nor, beside its audio files, {' or '.join(METADATA_FILES)}."
        raise ValueError(f"{source} cannot be read as a dataset: {cause}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        # Files that are not what their names say lead to any of these.
        raise ValueError(f"{source} cannot be read as a dataset: {error!r}") from error
    if isinstance(dataset, DatasetDict) and split is not ALL_SPLITS:
        if split not in dataset:
            raise ValueError(f"{source} has no split '{split}'; it has {', '.join(dataset)}.")
        dataset = dataset[split]
    return dataset


def conversation_texts(conversations: Dataset) -> Iterator[str]:
    """The texts of the conversations without the marks of audio, for the training of a tokenizer."""
    for messages in conversations["messages"]:
        for message in messages:
            yield from message["content"].split(AUDIO_MARK)
