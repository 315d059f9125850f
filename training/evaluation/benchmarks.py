# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Benchmarks: the YAML files that describe them, and the rows of their datasets as prompts with what answers are measured
by.

A benchmark is a YAML file in `training/evaluation/benchmarks/`, or one anywhere else. It describes a dataset on the
Hub; a folder on this machine in the same form can take its place. `training.evaluation.corpus_benchmarks` brings the
small corpus into the forms of the published ones.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_type_hints

from datasets import Audio, Dataset

from hub_cards.command_line import naming
from hub_cards.corpus_rows import count_marks
from processing.conversation_vita_audio import (
    AUDIO_MARK,
    recognition_conversation,
    split_at_marks,
    spoken_conversation,
    synthesis_conversation,
)
from training.conversations import ASR, SPOKEN_QA, TTS, WRITTEN_QA, load_any_dataset
from training.data import read_content
from training.settings import check_setting, read_config

from .normalizers import NORMALIZERS, find_normalizer, normalize_corpus_text


BENCHMARKS_FOLDER = Path(__file__).with_name("benchmarks")

# What the columns of a dataset can be.
ROLES = ("audio", "text", "voice", "question", "answers", "accepted_answers", "reference", "id")
# The roles that each task needs. `id` and, of questions, `reference` and `accepted_answers` are read where they are.
REQUIRED = {
    ASR: ("audio", "text"),
    TTS: ("text",),
    SPOKEN_QA: ("audio", "answers"),
    WRITTEN_QA: ("question", "answers"),
}

# The released models' system prompt of a voice to speak with (VITA-MLLM/VITA-Audio-Boost).
VOICE_PROMPT = "Your Voice: "

SEED_TTS_META_FILE = "meta.lst"


@dataclass(frozen=True)
class Benchmark:
    """
    A test set in the form of `datasets`, as its YAML file describes it. The keys of the file are these fields but
    `name`.

    Args:
        name: The file's name without its ending.
        task: "asr", "tts", "sqa" or "tqa".
        columns: For each role the name of the dataset's column. The roles are `audio`, `text` (what is said or has to
            be said), `voice` (a recording of the voice to speak with), `question` (in writing), `answers` (a string, a
            list of strings, or `{"value", "aliases"}` as in TriviaQA), `id`, and for questions `accepted_answers`
            (more answers) and `reference` (a whole sentence; an answer at its beginning or end must stand there in a
            response as well, see [`~training.evaluation.scoring.answer_is_right`]). A dataset may lack the columns of
            the last three.
        split: The dataset's split that is scored.
        normalizer: "whisper_english" for published sets, "corpus" for texts as the small corpus has them, see
            `training.evaluation.normalizers`.
        dataset_name: Hub id or folder. Without it a run has to name a folder with `--dataset_name`.
        config_name: The dataset's configuration.
    """

    name: str
    task: Literal[tuple(REQUIRED)]
    columns: dict[str, str]
    split: str
    normalizer: Literal[NORMALIZERS]
    dataset_name: str | None = None
    config_name: str | None = None


def list_benchmarks() -> list[str]:
    """The names of the package's benchmarks: those of the files in `training/evaluation/benchmarks/`."""
    return sorted(path.stem for path in BENCHMARKS_FOLDER.glob("*.yaml"))


def read_benchmark(name_or_path: str) -> Benchmark:
    """
    A benchmark of the package by its name, or one of one's own by the path of its YAML file.

    Raises:
        OSError: there is no such file.
        ValueError: it does not describe a benchmark; the file is named and, where there is one, the line.
    """
    is_name = name_or_path in list_benchmarks()
    path = BENCHMARKS_FOLDER / f"{name_or_path}.yaml" if is_name else Path(name_or_path)
    values, lines = read_config(path)
    kinds = get_type_hints(Benchmark)
    del kinds["name"]
    for key, value in values.items():
        try:
            if key not in kinds:
                raise ValueError(f"is no key of a benchmark: these are {', '.join(kinds)}")
            check_setting(value, kinds[key])
            if key == "columns":
                check_columns(value)
        except ValueError as error:
            raise ValueError(f"{path}, line {lines[key]}: `{key}` {error}.") from error
    if missing := [
        field.name for field in fields(Benchmark)[1:] if field.default is MISSING and field.name not in values
    ]:
        raise ValueError(f"{path} lacks {', '.join(f'`{key}`' for key in missing)}.")
    benchmark = Benchmark(name=path.stem, **values)
    if missing := [role for role in REQUIRED[benchmark.task] if role not in benchmark.columns]:
        raise ValueError(
            f"{path}, line {lines['columns']}: `columns` has no {', '.join(missing)}, which the task "
            f"'{benchmark.task}' needs."
        )
    return benchmark


def check_columns(columns: dict) -> None:
    """
    Raises:
        ValueError: a key is no role, or a value is no name of a column.
    """
    for role, name in columns.items():
        if role not in ROLES:
            raise ValueError(f"has the role {role!r}, but there are {', '.join(ROLES)}")
        if not isinstance(name, str):
            raise ValueError(f"must name a column as {role}, got {name!r:.100}")


@dataclass(frozen=True)
class Item:
    """
    A prompt with what the response to it is measured by.

    Args:
        id: Unlike that of any other item of the benchmark.
        messages: The prompt: messages whose contents are lists of parts.
        reference: What is said or has to be said. For a question a whole right answer, or "" where there is none.
        accepted_answers: The right answers to a question, each of them enough.
        earlier: Of a later turn of a dialogue the ids of the items before it: the model's responses to them are the
            assistant's turns of the prompt, whose contents are empty until they are known.
        is_spoken: Whether the response to a question is to be heard; of one that is only read nothing is scored by
            what a recogniser hears.
    """

    id: str
    messages: list[dict]
    reference: str = ""
    accepted_answers: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    is_spoken: bool = True

    @property
    def audios(self) -> list:
        return [part["audio"] for message in self.messages for part in message["content"] if part["type"] == "audio"]

    def with_audios(self, audios: Sequence) -> "Item":
        """The item with `audios` in place of its own, in their order."""
        audios = iter(audios)
        contents = [
            [{**part, "audio": next(audios)} if part["type"] == "audio" else part for part in message["content"]]
            for message in self.messages
        ]
        messages = [{**message, "content": content} for message, content in zip(self.messages, contents)]
        return replace(self, messages=messages)


class BenchmarkItems(Sequence):
    """
    The rows of a benchmark's dataset as [`Item`]s, each made when it is asked for.

    Args:
        benchmark ([`Benchmark`]): What the dataset's columns are.
        dataset ([`Dataset`]): Its audio columns are not decoded.
        limit (`int`, *optional*): Number of rows, drawn with a fixed seed; all by default.
        with_voice (`bool`): Whether the model gets the recording of the voice to speak with, where there is one.

    Raises:
        ValueError: A column that is needed is missing, an id comes twice, or a row lacks what it is measured by.
    """

    def __init__(self, benchmark: Benchmark, dataset: Dataset, limit: int | None = None, with_voice: bool = True):
        self.task, names = benchmark.task, benchmark.columns
        self.normalize = find_normalizer(benchmark.normalizer)
        # the role of the column whose audio is in the prompt
        self.audio_role = "audio" if self.task in (ASR, SPOKEN_QA) else None
        if self.task == TTS and "voice" in names and with_voice:
            self.audio_role = "voice"
        needed = dict.fromkeys([*REQUIRED[self.task], *([self.audio_role] if self.audio_role else [])])
        missing = [role for role in needed if names.get(role) not in dataset.column_names]
        if missing:
            missing = ", ".join(f"{role} ({names[role]})" if role in names else role for role in missing)
            raise ValueError(
                f"The dataset has no column for {missing}; its columns are {', '.join(dataset.column_names)}. "
                "Name the right ones with --columns, such as audio=recording."
            )
        optional = ("id", *(("accepted_answers", "reference") if "answers" in needed else ()))
        self.columns = {role: names[role] for role in (*needed, *optional) if names.get(role) in dataset.column_names}
        self.row_numbers = draw(len(dataset), limit)
        # Two roles may have one column, and `select_columns` would take it twice.
        self.dataset = dataset.select(self.row_numbers).select_columns(list(dict.fromkeys(self.columns.values())))
        self._check_rows()

    def _check_rows(self) -> None:
        # all rows, without their audio, before the model starts to work
        columns = {role: name for role, name in self.columns.items() if role != self.audio_role}
        silent = self.dataset.select_columns(list(dict.fromkeys(columns.values()))) if columns else [{}] * len(self)
        seen = set()
        for index, row in enumerate(silent):
            item = self._build(index, {role: row[name] for role, name in columns.items()})
            if item.id in seen:
                raise ValueError(f"The id {item.id!r} comes twice in the dataset: name another column as the id.")
            seen.add(item.id)
            if self.task in (ASR, TTS) and not self.normalize(item.reference):
                raise ValueError(f"The text of {item.id} has no words: {item.reference!r}.")
            if self.task in (SPOKEN_QA, WRITTEN_QA) and not item.accepted_answers:
                raise ValueError(f"{item.id} has no accepted answer with words.")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):  # an IndexError ends an iteration
            raise IndexError(index)
        row = self.dataset[index]
        values = {role: row[name] for role, name in self.columns.items()}
        if self.audio_role is not None and values[self.audio_role] is None:
            raise ValueError(f"Row {self.row_numbers[index]} of the dataset has no {self.audio_role}.")
        return self._build(index, values)

    def _build(self, index: int, values: dict) -> Item:
        item_id = str(self.row_numbers[index] if values.get("id") is None else values["id"])
        if self.task == ASR:
            return Item(item_id, recognition_conversation(values.get("audio")), values["text"] or "")
        if self.task == TTS:
            messages = synthesis_conversation(values["text"] or "")
            if self.audio_role == "voice":
                voice = {"type": "audio", "audio": values.get("voice")}
                prompt = [{"type": "text", "text": VOICE_PROMPT}, voice, {"type": "text", "text": "\n"}]
                messages = [{"role": "system", "content": prompt}, *messages]
            return Item(item_id, messages, values["text"] or "")
        if self.task == SPOKEN_QA:
            messages = spoken_conversation(values.get("audio"))
        else:
            messages = [{"role": "user", "content": [{"type": "text", "text": values["question"]}]}]
        # Published sets have no such column, but a set of one's own may.
        answers = [*list_answers(values["answers"]), *list_answers(values.get("accepted_answers"))]
        accepted = tuple(dict.fromkeys(answer for answer in answers if self.normalize(answer)))
        return Item(item_id, messages, values.get("reference") or "", accepted)


def build_item(row: dict) -> Item:
    """
    An item whose prompt is a conversation without its last turn, which says what a response is measured by.

    Args:
        row: One of [`~training.conversations.read_conversations`].

    Raises:
        ValueError: The last turn is not the assistant's, or has no words to measure by.
    """
    *prompt, answer = row["messages"]
    if answer["role"] != "assistant" or not prompt:
        raise ValueError(f"The conversation {row['id']} does not end with an answer of the assistant to be measured.")
    if not normalize_corpus_text(row["reference"]):
        raise ValueError(f"The conversation {row['id']} has no words to be measured by; give it a `reference`.")
    messages = split_at_marks(prompt, row["audios"][: count_marks(prompt)])
    accepted = tuple(row["accepted_answers"])
    return Item(row["id"], messages, row["reference"], accepted, is_spoken=AUDIO_MARK in answer["content"])


def list_answers(answers: str | dict | Sequence[str] | None) -> list[str]:
    """The answers in a column's value: a string, a list of strings, or TriviaQA's `{"value", "aliases"}`."""
    if answers is None:
        return []
    if isinstance(answers, str):
        return [answers]
    if isinstance(answers, dict):
        return [answers["value"], *answers.get("aliases", [])]
    return list(answers)


def load_benchmark_dataset(
    benchmark: Benchmark, dataset_name: str | None = None, config_name: str | None = None
) -> Dataset:
    """
    Loads the split of a benchmark's dataset; its audio columns give files, which are not decoded.

    Args:
        benchmark ([`Benchmark`]): Says which dataset and split.
        dataset_name: Another Hub id than the benchmark's own, or a folder: one that `datasets` loads or has saved to
            disk, or one of the Seed-TTS test set with `meta.lst`.
        config_name: Configuration of the dataset; the benchmark's own by default, if the dataset is.

    Raises:
        FileNotFoundError, ConnectionError: There is no such dataset, or it cannot be reached.
        ValueError: No dataset is named, or it has no such split, or no rows.
    """
    if dataset_name is None:
        dataset_name, config_name = benchmark.dataset_name, config_name or benchmark.config_name
    if dataset_name is None:
        raise ValueError(
            f"{benchmark.name} has no dataset on the Hub: give a folder as `--dataset_name`, which for seed_tts_en is "
            f"`en` of the Seed-TTS test set, with `{SEED_TTS_META_FILE}`."
        )
    if (Path(dataset_name) / SEED_TTS_META_FILE).is_file():
        dataset = read_seed_tts(Path(dataset_name))
    else:
        dataset = load_any_dataset(dataset_name, benchmark.split, config_name)
    if not len(dataset):
        raise ValueError(f"{dataset_name} has no rows in the split '{benchmark.split}'.")
    for name, feature in dataset.features.items():
        if isinstance(feature, Audio):
            # the processor decodes the files
            dataset = dataset.cast_column(name, Audio(decode=False))
    return dataset


def read_seed_tts(folder: Path) -> Dataset:
    """The rows of a `meta.lst`, with the columns `id`, `prompt_text`, `prompt_audio` (a path) and `text`."""
    rows = []
    with naming(str(folder / SEED_TTS_META_FILE)):
        lines = (folder / SEED_TTS_META_FILE).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fields = line.split("|")
        if len(fields) < 4:
            raise ValueError(
                f"{folder / SEED_TTS_META_FILE}, line {number} must have four fields with | between them: {line!r}."
            )
        rows.append(
            {"id": fields[0], "prompt_text": fields[1], "prompt_audio": str(folder / fields[2]), "text": fields[3]}
        )
    return Dataset.from_list(rows)


def draw(number: int, limit: int | None) -> list[int]:
    """Indices of `limit` out of `number` rows, drawn with a fixed seed; without a limit all, in their order."""
    # A generator of its own, so that the rows are the same whatever else draws numbers.
    return list(range(number)) if limit is None else random.Random(0).sample(range(number), min(limit, number))


def items_fingerprint(items: Sequence[Item]) -> str:
    """Hash of all that is in the items, with the content of their audio files."""
    digest = hashlib.blake2b(digest_size=12)
    for item in items:
        for audio in item.audios:
            # The content and not the path, because a file may change under its name. Some are samples already.
            is_read = isinstance(audio, dict) and "array" in audio
            content = audio["array"].tobytes() if is_read else read_content(audio)
            digest.update(hashlib.blake2b(content).digest())
        silent = item.with_audios([None] * len(item.audios))
        digest.update(json.dumps([silent.id, silent.messages, silent.reference, silent.accepted_answers]).encode())
    return digest.hexdigest()
