# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Writes the held-out sets of the small corpus in the forms of the published benchmarks, for `evaluate_benchmarks`.

    python -m training.evaluation.corpus_benchmarks --corpus_dir corpus --output_dir corpus/benchmarks
    python -m training.evaluation.evaluate_benchmarks --model pretrained/vita-audio-mini --benchmark llama_questions \\
        --dataset_name corpus/benchmarks/llama_questions --normalizer corpus --output_dir runs/benchmarks

Each becomes a folder that `datasets.load_dataset` loads, with the columns of the published set and the audio files
inside; Seed-TTS becomes a folder with `meta.lst`. Questions have two more columns, `accepted_answers` and `reference`.
With these and `--normalizer corpus` the scores are those of `training.evaluation.evaluate_held_out`.
"""

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf
from datasets import Audio, Dataset
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser, no_empty_folder, run_command
from hub_cards.json_lines import read_json_lines
from modeling_vita_audio.saving_vita_audio import replaced_whole

from .benchmarks import SEED_TTS_META_FILE, read_benchmark


PROG = "training.evaluation.corpus_benchmarks"
CONVERSATION_FIELDS = {
    **dict.fromkeys(("id", "task", "split", "reference", "answer"), str),
    **dict.fromkeys(("messages", "audios", "accepted_answers"), list),
}
CLIP_FIELDS = dict.fromkeys(("path", "text", "voice", "split"), str)


class Corpus:
    """A rendered corpus: the rows of its `conversations.jsonl` and `clips.jsonl`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.conversations = [row for _, row in read_json_lines(folder / "conversations.jsonl", CONVERSATION_FIELDS)]
        self.clips = {row["path"]: row for _, row in read_json_lines(folder / "clips.jsonl", CLIP_FIELDS)}
        self.voices = sorted({clip["voice"] for clip in self.clips.values()})
        # the recordings of a sentence by the voice that is never trained on
        self.unseen_recordings = {
            clip["text"]: path for path, clip in self.clips.items() if clip["split"] == "test_voice"
        }

    def rows(self, task: str, split: str) -> list[dict]:
        rows = [row for row in self.conversations if (row["task"], row["split"]) == (task, split)]
        if not rows:
            raise ValueError(f"{self.folder} has no conversations of the task {task} and the split {split}.")
        return rows

    def audio(self, path: str | None) -> dict | None:
        """A recording as a row of an audio column."""
        return None if path is None else {"bytes": (self.folder / path).read_bytes(), "path": Path(path).name}

    def speaker(self, path: str) -> int:
        return self.voices.index(self.clip(path)["voice"])

    def clip(self, path: str) -> dict:
        if path not in self.clips:
            raise ValueError(f"{self.folder / 'clips.jsonl'} has no clip {path}, which conversations.jsonl names.")
        return self.clips[path]


def librispeech_row(corpus: Corpus, row: dict) -> dict:
    path = row["audios"][0]
    # upper case without punctuation, as in LibriSpeech
    text = " ".join(re.sub(r"[^\w' ]", " ", row["reference"]).upper().split())
    # The corpus has no chapters, but LibriSpeech has the column.
    speaker = {"speaker_id": corpus.speaker(path), "chapter_id": 0}
    return {"file": Path(path).name, "audio": corpus.audio(path), "text": text, **speaker, "id": row["id"]}


def libritts_row(corpus: Corpus, row: dict) -> dict:
    path, text = row["audios"][-1], row["reference"]
    return {
        "audio": corpus.audio(path),
        "text_normalized": text,
        "text_original": text,
        "speaker_id": str(corpus.speaker(path)),
        "path": path,
        "chapter_id": "0",
        "id": row["id"],
    }


def llama_questions_row(corpus: Corpus, row: dict) -> dict:
    path = row["audios"][0]
    return {
        "question": corpus.clip(path)["text"],
        "answer": row["answer"],
        "audio": corpus.audio(path),
        "accepted_answers": row["accepted_answers"],
        "reference": row["reference"],
    }


def trivia_qa_row(corpus: Corpus, row: dict) -> dict:
    path = row["audios"][0]
    return {
        "question": corpus.clip(path)["text"],
        "question_id": row["id"],
        "question_audio": corpus.audio(path),
        "answer": {"value": row["answer"], "aliases": row["accepted_answers"]},
        "reference": row["reference"],
    }


def web_questions_row(corpus: Corpus, row: dict) -> dict:
    """A written question, and its recording by the voice that is never trained on."""
    question = row["messages"][0]["content"]
    return {
        "url": "",
        "question": question,
        "answers": row["accepted_answers"],
        "audio": corpus.audio(corpus.unseen_recordings.get(question)),
        "reference": row["reference"],
    }


@dataclass(frozen=True)
class Form:
    """The set of the small corpus that takes the place of a benchmark, and how its rows get the benchmark's form."""

    task: str
    split: str
    build_row: Callable[[Corpus, dict], dict]
    audio_column: str = "audio"


# Together they are the sets of `training.evaluation.evaluate_held_out`. Seed-TTS gets the set that LibriTTS has.
FORMS = {
    "librispeech_test_clean": Form("asr", "test", librispeech_row),
    "librispeech_test_other": Form("asr", "test_voice", librispeech_row),
    "libritts_test_clean": Form("tts", "test", libritts_row),
    "llama_questions": Form("sqa", "test", llama_questions_row),
    "trivia_qa": Form("sqa", "test_voice", trivia_qa_row, "question_audio"),
    "web_questions": Form("tqa", "test", web_questions_row),
}
SEED_TTS_SET = ("tts", "test")


def write_dataset(corpus: Corpus, name: str, folder: Path) -> int:
    """Writes a benchmark as a Parquet file whose name says the split; returns the number of its rows."""
    form = FORMS[name]
    rows = corpus.rows(form.task, form.split)
    rows = [form.build_row(corpus, row) for row in tqdm(rows, desc=name, leave=False)]
    dataset = Dataset.from_list(rows).cast_column(form.audio_column, Audio(decode=False))
    # so that `datasets` decodes the column when it loads it, as it does with the published sets
    dataset = dataset.cast_column(form.audio_column, Audio())
    (folder / "data").mkdir()
    dataset.to_parquet(folder / "data" / f"{read_benchmark(name).split}-00000-of-00001.parquet")
    return len(rows)


def write_seed_tts(corpus: Corpus, folder: Path) -> int:
    """Writes `meta.lst` and the recordings of voices: the voice of each text is the recording of the text after it."""
    rows = corpus.rows(*SEED_TTS_SET)
    (folder / "prompt-wavs").mkdir()
    lines = []
    # A recording of the text itself would show the model what it is to say.
    for row, voice in zip(tqdm(rows, desc="seed_tts_en", leave=False), [*rows[1:], rows[0]]):
        path = f"prompt-wavs/{voice['id']}.wav"
        sf.write(folder / path, *sf.read(corpus.folder / voice["audios"][-1]), subtype="PCM_16")
        lines.append("|".join((row["id"], voice["reference"], path, row["reference"])))
    (folder / SEED_TTS_META_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(rows)


def write_benchmarks(corpus_dir: Path, output_dir: Path) -> dict[str, int]:
    """
    Writes a folder for each benchmark into `output_dir`, whole or not at all, and returns their numbers of rows.

    Raises:
        OSError, ValueError: The corpus is not there, or has no conversations for a benchmark, whose folder is then not
            written.
    """
    corpus = Corpus(corpus_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for name in [*FORMS, "seed_tts_en"]:
        with replaced_whole(output_dir / name) as unfinished:
            unfinished.mkdir()
            numbers[name] = (
                write_dataset(corpus, name, unfinished) if name in FORMS else write_seed_tts(corpus, unfinished)
            )
    return numbers


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus_dir", required=True, type=Path, help="folder of the rendered corpus")
    parser.add_argument("--output_dir", required=True, type=Path, help="where a folder for each benchmark goes")
    args = parser.parse_args(argv)
    with no_empty_folder(args.output_dir):
        numbers = write_benchmarks(args.corpus_dir, args.output_dir)
    for name, number in numbers.items():
        print(f"{name}: {number} rows in {args.output_dir / name}")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
