# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The published benchmarks: where each is, which of its columns is what, and its rows as prompts with their references.

The form of each is that of the set on the Hub that is its default; a folder on this machine in the same form does as well.
`training.evaluation.corpus_benchmarks` brings the small corpus into these forms.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Audio, Dataset

from hub_cards.command_line import naming
from processing.conversation_vita_audio import (
    recognition_conversation,
    split_at_marks,
    spoken_conversation,
    synthesis_conversation,
)
from training.conversations import ASR, SPOKEN_QA, TTS, WRITTEN_QA, count_marks, load_any_dataset
from training.data import read_content
from training.evaluation.scoring import normalize_text


# What each task cannot do without. `id` and, of questions, `reference` and `accepted_answers` are read where they are.
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
    A test set in the form of `datasets`.

    Args:
        task: "asr", "tts", "sqa" or "tqa".
        columns: what each of its columns is: `audio`, `text` (said or to be said), `voice` (a recording of the voice to speak
            with), `question` (written), `answers` (a string, a list of strings, or `{"value", "aliases"}` as in TriviaQA),
            `id`, and of questions `accepted_answers` (more of them) and `reference` (a whole sentence: the answer must stand
            where it stands there, see [`~training.evaluation.scoring.answer_is_right`]).
        dataset_name: Hub id; None where there is none, so that a folder has to be named.
        config_name: of the dataset.
        split: of the dataset.
    """

    task: str
    columns: dict[str, str]
    dataset_name: str | None
    config_name: str | None
    split: str


LIBRISPEECH_COLUMNS = {"audio": "audio", "text": "text", "id": "id"}
EXTRA_ANSWER_COLUMNS = {"accepted_answers": "accepted_answers", "reference": "reference"}

BENCHMARKS = {
    # Panayotov et al., 2015
    "librispeech_test_clean": Benchmark(ASR, LIBRISPEECH_COLUMNS, "openslr/librispeech_asr", "clean", "test"),
    "librispeech_test_other": Benchmark(ASR, LIBRISPEECH_COLUMNS, "openslr/librispeech_asr", "other", "test"),
    # Zen et al., arXiv 1904.02882
    "libritts_test_clean": Benchmark(
        TTS, {"text": "text_normalized", "id": "id"}, "mythicinfinity/libritts", "clean", "test.clean"
    ),
    # Anastassiou et al., arXiv 2406.02430: the folder `en` of the test set in github.com/BytedanceSpeech/seed-tts-eval, with
    # `meta.lst`: lines `id|text of the voice|path of the voice|text to be said`
    "seed_tts_en": Benchmark(TTS, {"text": "text", "voice": "prompt_audio", "id": "id"}, None, None, "test"),
    # Nachmani et al., arXiv 2305.15255
    "llama_questions": Benchmark(
        SPOKEN_QA,
        {"audio": "audio", "question": "question", "answers": "answer", **EXTRA_ANSWER_COLUMNS},
        "fixie-ai/llama-questions",
        None,
        "test",
    ),
    # Joshi et al., arXiv 1705.03551, spoken
    "trivia_qa": Benchmark(
        SPOKEN_QA,
        {
            "audio": "question_audio",
            "question": "question",
            "answers": "answer",
            "id": "question_id",
            **EXTRA_ANSWER_COLUMNS,
        },
        "fixie-ai/trivia_qa-audio",
        None,
        "validation",
    ),
    # Berant et al., EMNLP 2013, spoken
    "web_questions": Benchmark(
        SPOKEN_QA,
        {"audio": "audio", "question": "question", "answers": "answers", **EXTRA_ANSWER_COLUMNS},
        "TwinkStart/speech-web-questions",
        None,
        "test",
    ),
}


@dataclass(frozen=True)
class Item:
    """
    A prompt with what the response to it is measured by.

    Args:
        id: of its own in the benchmark.
        messages: the prompt, contents as lists of parts.
        reference: what is said or to be said; of questions a whole right answer, or "" where there is none.
        accepted_answers: to a question; any of them is right.
    """

    id: str
    messages: list[dict]
    reference: str = ""
    accepted_answers: tuple[str, ...] = ()

    @property
    def audios(self) -> list:
        return [part["audio"] for message in self.messages for part in message["content"] if part["type"] == "audio"]

    def with_audios(self, audios: Sequence) -> "Item":
        """The item with other sources in place of its audios, in order."""
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
        benchmark ([`Benchmark`]).
        dataset ([`Dataset`]): in its form, the audio columns not decoded.
        limit (`int`, *optional*): so many rows, drawn with a fixed seed; all by default.
        with_voice (`bool`): whether the model gets the recording of the voice to speak with, where there is one.

    Raises:
        ValueError: a column that is needed is missing, an id comes twice, or a row lacks what it is measured by.
    """

    def __init__(self, benchmark: Benchmark, dataset: Dataset, limit: int | None = None, with_voice: bool = True):
        self.task, names = benchmark.task, benchmark.columns
        # which of the columns is in the prompt as audio
        self.audio_role = "audio" if self.task in (ASR, SPOKEN_QA) else None
        if self.task == TTS and "voice" in names and with_voice:
            self.audio_role = "voice"
        needed = dict.fromkeys([*REQUIRED[self.task], *([self.audio_role] if self.audio_role else [])])
        missing = [role for role in needed if names.get(role) not in dataset.column_names]
        if missing:
            missing = ", ".join(f"{role} ({names[role]})" if role in names else role for role in missing)
            raise ValueError(
                f"The dataset has no column for {missing}; its columns are {', '.join(dataset.column_names)}. Name the right "
                "ones with --columns, such as audio=recording."
            )
        optional = ("id", *(("accepted_answers", "reference") if "answers" in needed else ()))
        self.columns = {role: names[role] for role in (*needed, *optional) if names.get(role) in dataset.column_names}
        self.row_numbers = draw(len(dataset), limit)
        self.dataset = dataset.select(self.row_numbers).select_columns(list(dict.fromkeys(self.columns.values())))
        self._check_rows()

    def _check_rows(self) -> None:
        columns = {role: name for role, name in self.columns.items() if role != self.audio_role}
        silent = self.dataset.select_columns(list(dict.fromkeys(columns.values()))) if columns else [{}] * len(self)
        seen = set()
        for index, row in enumerate(silent):
            item = self._build(index, {role: row[name] for role, name in columns.items()})
            if item.id in seen:
                raise ValueError(f"The id {item.id!r} comes twice in the dataset: name another column as the id.")
            seen.add(item.id)
            if self.task in (ASR, TTS) and not normalize_text(item.reference):
                raise ValueError(f"The text of {item.id} has no words: {item.reference!r}.")
            if self.task in (SPOKEN_QA, WRITTEN_QA) and not item.accepted_answers:
                raise ValueError(f"{item.id} has no accepted answer with words.")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):  # ends an iteration
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
        answers = [*list_answers(values["answers"]), *list_answers(values.get("accepted_answers"))]
        accepted = tuple(dict.fromkeys(answer for answer in answers if normalize_text(answer)))
        return Item(item_id, messages, values.get("reference") or "", accepted)


def build_item(row: dict) -> Item:
    """
    A conversation without its last turn, and what that turn is measured by.

    Args:
        row: of [`~training.conversations.read_conversations`].

    Raises:
        ValueError: its last turn is not the assistant's, or has no words to be measured by.
    """
    *prompt, answer = row["messages"]
    if answer["role"] != "assistant" or not prompt:
        raise ValueError(f"The conversation {row['id']} does not end with an answer of the assistant to be measured.")
    if not normalize_text(row["reference"]):
        raise ValueError(f"The conversation {row['id']} has no words to be measured by; give it a `reference`.")
    messages = split_at_marks(prompt, row["audios"][: count_marks(prompt)])
    return Item(row["id"], messages, row["reference"], tuple(row["accepted_answers"]))


def list_answers(answers: str | dict | Sequence[str] | None) -> list[str]:
    """Accepted answers of a column's value: one string, several, or TriviaQA's `{"value", "aliases"}`."""
    if answers is None:
        return []
    if isinstance(answers, str):
        return [answers]
    if isinstance(answers, dict):
        return [answers["value"], *answers.get("aliases", [])]
    return list(answers)


def load_benchmark(
    benchmark: Benchmark,
    dataset_name: str | None = None,
    config_name: str | None = None,
    split: str | None = None,
) -> Dataset:
    """
    The dataset of a benchmark; its audio columns give the files as they are.

    Args:
        benchmark ([`Benchmark`]).
        dataset_name: another Hub id than the benchmark's own, or a folder: one that `datasets` loads or has saved to disk, or
            a folder of the Seed-TTS test set with `meta.lst`.
        config_name: of the dataset named; of the benchmark's own by default.
        split: the benchmark's by default.

    Raises:
        FileNotFoundError, ConnectionError: there is no such dataset, or it cannot be reached.
        ValueError: no dataset is named, or it has no such split, or no rows.
    """
    if dataset_name is None:
        dataset_name, config_name = benchmark.dataset_name, config_name or benchmark.config_name
    if dataset_name is None:
        raise ValueError(
            f"This benchmark has no dataset on the Hub: name a folder with `{SEED_TTS_META_FILE}`, such as `en` of the "
            "Seed-TTS test set, as `--dataset_name`."
        )
    split = split or benchmark.split
    if (Path(dataset_name) / SEED_TTS_META_FILE).is_file():
        dataset = read_seed_tts(Path(dataset_name))
    else:
        dataset = load_any_dataset(dataset_name, split, config_name)
    if not len(dataset):
        raise ValueError(f"{dataset_name} has no rows in the split '{split}'.")
    for name, feature in dataset.features.items():
        if isinstance(feature, Audio):
            # files as they are: the processor decodes them
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


def draw(number: int, limit: int | None, seed: int = 0) -> list[int]:
    """Indices of `limit` of `number` rows, drawn with a fixed seed; all in their order without a limit."""
    return list(range(number)) if limit is None else random.Random(seed).sample(range(number), min(limit, number))


def items_fingerprint(items: Sequence[Item]) -> str:
    """Hash of all that the items say, the content of their audio files included."""
    digest = hashlib.blake2b(digest_size=12)
    for item in items:
        for audio in item.audios:
            digest.update(hashlib.blake2b(read_content(audio)).digest())
        silent = item.with_audios([None] * len(item.audios))
        digest.update(json.dumps([silent.id, silent.messages, silent.reference, silent.accepted_answers]).encode())
    return digest.hexdigest()
