# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Renders the corpus of the small checkpoint: `python -m training.corpus.render --output_dir DIR`.

Writes `audio/<voice>/<id>.flac` (16 kHz, mono, 16 bit), `clips.jsonl` and `conversations.jsonl`. A clip's id is a hash
of all that it is made from, and files appear whole or not at all, so a run that was stopped continues where it was.
"""

import json
import multiprocessing
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser, no_empty_folder, run_command
from modeling_vita_audio.saving_vita_audio import replaced_whole
from processing.conversation_vita_audio import ASR_PROMPT, AUDIO_MARK, SPOKEN_CHAT_SYSTEM_PROMPT, TTS_PROMPT

from .questions import Question, all_facts, all_questions, stable_hash
from .sentences import Sentence, all_sentences
from .voices import ALL_VOICES, HELD_OUT_VOICE, JOE, TRAINING_VOICES, Voice, check_programs, phonemize, speak


PROG = "training.corpus.render"
SAMPLING_RATE = 16_000
# A part of every clip's id. Raise it whenever the signal processing below changes, so that all clips are made anew.
RENDERING_VERSION = 1

TRAINING_VOICES_PER_SENTENCE = 1
TEST_VOICES_PER_QUESTION = 2
TEST_VOICES_PER_SENTENCE = 1

# Frames that are this much quieter than the loudest one are silence.
SILENCE_BELOW_PEAK_DB = 42.0
LEADING_SILENCE_S = 0.05
TRAILING_SILENCE_S = 0.1
# All clips of the fixed joe have this peak; those of other voices vary.
FIXED_PEAK_DB = -3.0


@dataclass(frozen=True)
class Clip:
    """One recording to be made: `text` said by the voice named `voice`, for `split`."""

    text: str
    voice: str
    split: str

    @property
    def id(self) -> str:
        return f"{stable_hash(str(RENDERING_VERSION), self.voice, self.text):016x}"

    @property
    def path(self) -> str:
        return f"audio/{self.voice}/{self.id}.flac"


def draw_voices(text: str, count: int) -> list[Voice]:
    """`count` different training voices for `text`, drawn by weight; always the same ones for the same text."""
    rng = random.Random(stable_hash("voices", text))
    # Weighted sampling without replacement (Efraimidis and Spirakis, 2006): the largest of u ** (1 / weight).
    return sorted(TRAINING_VOICES, key=lambda voice: rng.random() ** (1 / voice.weight), reverse=True)[:count]


def question_clips(question: Question) -> list[Clip]:
    """The clips in which `question` is asked by other voices than the fixed joe's."""
    if question.split == "train":
        voices = draw_voices(question.text, question.fact.num_voices)
        return [Clip(question.text, voice.name, "train") for voice in voices]
    voices = draw_voices(question.text, TEST_VOICES_PER_QUESTION)
    clips = [Clip(question.text, voice.name, "test") for voice in voices]
    return [*clips, Clip(question.text, HELD_OUT_VOICE.name, "test_voice")]


def sentence_clips(sentence: Sentence) -> list[Clip]:
    """The clips of a simple sentence by other voices than the fixed joe's."""
    if sentence.split == "train":
        voices = draw_voices(sentence.text, TRAINING_VOICES_PER_SENTENCE)
        return [Clip(sentence.text, voice.name, "train") for voice in voices]
    voices = draw_voices(sentence.text, TEST_VOICES_PER_SENTENCE)
    clips = [Clip(sentence.text, voice.name, "test") for voice in voices]
    return [*clips, Clip(sentence.text, HELD_OUT_VOICE.name, "test_voice")]


def joe_clips() -> Iterator[Clip]:
    """What the fixed joe says: every answer, every training question and every simple sentence, once each."""
    for answer in dict.fromkeys(fact.answer for fact in all_facts()):
        yield Clip(answer, JOE.name, "train")
    for question in all_questions():
        # Joe's clips of questions are for training, so he never says a held-out wording.
        if question.split == "train":
            yield Clip(question.text, JOE.name, "train")
    for sentence in all_sentences():
        yield Clip(sentence.text, JOE.name, sentence.split)


def all_clips() -> list[Clip]:
    """Every clip of the corpus; joe's first."""
    clips = list(joe_clips())
    for question in all_questions():
        clips += question_clips(question)
    for sentence in all_sentences():
        clips += sentence_clips(sentence)
    return clips


def all_conversations() -> Iterator[dict]:
    """Every conversation of the corpus, in the form of the rows of `conversations.jsonl`."""

    def conversation(
        task: str,
        key: str,
        split: str,
        messages: list[tuple[str, str]],
        audios: list[str],
        reference: str,
        answer: str = "",
        accepted: tuple[str, ...] = (),
    ) -> dict:
        return {
            "id": f"{task}-{key}",
            "task": task,
            "split": split,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "audios": audios,
            "reference": reference,
            "answer": answer,
            "accepted_answers": list(accepted),
        }

    def asr(clip: Clip) -> dict:
        messages = [("user", ASR_PROMPT + AUDIO_MARK), ("assistant", clip.text)]
        return conversation("asr", clip.id, clip.split, messages, [clip.path], clip.text)

    for clip in joe_clips():
        yield asr(clip)
        messages = [("user", TTS_PROMPT + clip.text), ("assistant", AUDIO_MARK)]
        yield conversation("tts", clip.id, clip.split, messages, [clip.path], clip.text)
    for sentence in all_sentences():
        yield from map(asr, sentence_clips(sentence))
    for question in all_questions():
        fact = question.fact
        answer = Clip(fact.answer, JOE.name, "train")
        scored = {"reference": fact.answer, "answer": fact.gold, "accepted": (fact.gold, *fact.accepted)}
        for clip in question_clips(question):
            # Recognition is tested on sentences. Questions are further data to train it on.
            if clip.split == "train":
                yield asr(clip)
            messages = [
                ("system", SPOKEN_CHAT_SYSTEM_PROMPT),
                ("user", AUDIO_MARK),
                ("assistant", f"{fact.answer}{AUDIO_MARK}"),
            ]
            yield conversation("sqa", clip.id, clip.split, messages, [clip.path, answer.path], **scored)
        key = f"{stable_hash(question.text):016x}"
        messages = [("user", question.text), ("assistant", fact.answer)]
        yield conversation("tqa", key, question.split, messages, [], **scored)


def trim_silence(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`samples` from 50 ms before the first sound to 100 ms after the last, padded with zeros if need be."""
    # Frames of 10 ms
    hop = sampling_rate // 100
    frames = np.pad(samples, (0, -len(samples) % hop)).reshape(-1, hop)
    level = np.sqrt((frames**2).mean(axis=1))
    sounding = np.flatnonzero(level > level.max() * 10 ** (-SILENCE_BELOW_PEAK_DB / 20))
    lead, trail = round(LEADING_SILENCE_S * sampling_rate), round(TRAILING_SILENCE_S * sampling_rate)
    start, end = sounding[0] * hop, min((sounding[-1] + 1) * hop, len(samples))
    padded = np.pad(samples, (lead, trail))
    return padded[start : end + lead + trail]


def _noise(length: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(length)
    if pink:
        spectrum = np.fft.rfft(noise)
        # The power of pink noise falls as 1 / f, so its amplitude falls as the root of that.
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        noise = np.fft.irfft(spectrum, length)
    return noise / np.sqrt(np.mean(noise**2))


def render_samples(clip: Clip) -> np.ndarray:
    """The clip, float32 `(num_samples,)` at 16 kHz. Speed, level and noise vary, except in joe's fixed voice."""
    # The id is the seed, so a clip is the same whenever and by whichever process it is rendered.
    rng = random.Random(clip.id)
    samples, sampling_rate = speak(clip.text, ALL_VOICES[clip.voice], rng)
    # A synthesizer may fail without an error.
    if np.abs(samples).max(initial=0.0) < 1e-3:
        raise RuntimeError(f"Voice {clip.voice} said nothing for {clip.text!r}.")
    fixed = clip.voice == JOE.name
    # Playing at another rate changes speed and pitch together.
    rate_change = 1.0 if fixed or rng.random() < 0.5 else rng.uniform(0.94, 1.06)
    samples = soxr.resample(samples, sampling_rate * rate_change, SAMPLING_RATE)
    samples = trim_silence(samples, SAMPLING_RATE)
    peak_db = FIXED_PEAK_DB if fixed else rng.uniform(-20, -1)
    samples = samples * (10 ** (peak_db / 20) / np.abs(samples).max())
    if not fixed and rng.random() < 0.5:
        level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(20, 45) / 20)
        noise_rng = np.random.default_rng(rng.getrandbits(64))
        samples = samples + level * _noise(len(samples), rng.random() < 0.5, noise_rng)
    return np.clip(samples, -1, 1).astype(np.float32)


def render_clip(clip: Clip, output_dir: Path) -> dict:
    """Renders `clip` into `output_dir` unless it is there, and returns its row of `clips.jsonl`."""
    path = output_dir / clip.path
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as unfinished:
            sf.write(unfinished, render_samples(clip), SAMPLING_RATE, subtype="PCM_16", format="FLAC")
    duration = sf.info(path).frames / SAMPLING_RATE
    row = {"id": clip.id, "path": clip.path, **asdict(clip), "phonemes": phonemize(clip.text)}
    return {**row, "duration": round(duration, 4)}


# `imap` passes one argument, and a worker can only be sent a function that a module has by name.
def _render_job(job: tuple[Clip, Path]) -> dict:
    return render_clip(*job)


def _write_jsonl(path: Path, rows: list[dict]) -> None:
    with replaced_whole(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def render_corpus(output_dir: Path, limit: int | None = None, workers: int = 2) -> tuple[list[dict], list[dict]]:
    """
    Renders all clips, or `limit` of them from all kinds, and writes the conversations whose audios are there.

    Returns the rows of `clips.jsonl` and `conversations.jsonl`. Raises ValueError for a bad `limit` or `workers`, and
    RuntimeError if a synthesizer is missing or says nothing.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    clips = all_clips()
    if limit is not None:
        # Ids are hashes, so the first of them are clips of all kinds.
        clips = sorted(clips, key=lambda clip: clip.id)[:limit]
    check_programs(ALL_VOICES[name] for name in {clip.voice for clip in clips})
    output_dir.mkdir(parents=True, exist_ok=True)
    jobs = [(clip, output_dir) for clip in clips]
    # `imap` keeps the order, so the files do not depend on the number of workers.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        rows = list(tqdm(pool.imap(_render_job, jobs, chunksize=8), total=len(jobs), desc="Rendering", unit="clip"))
    rendered = {row["path"] for row in rows}
    conversations = [row for row in all_conversations() if rendered.issuperset(row["audios"])]
    _write_jsonl(output_dir / "clips.jsonl", rows)
    _write_jsonl(output_dir / "conversations.jsonl", conversations)
    return rows, conversations


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description="Render the corpus of the small checkpoint.")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write (a stopped run continues)")
    parser.add_argument("--limit", type=int, help="render only so many clips, of all kinds")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    arguments = parser.parse_args(argv)
    with no_empty_folder(arguments.output_dir):
        rows, conversations = render_corpus(arguments.output_dir, arguments.limit, arguments.workers)
    hours = sum(row["duration"] for row in rows) / 3600
    print(f"{len(rows)} clips, {hours:.2f} hours, {len(conversations)} conversations in {arguments.output_dir}")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
