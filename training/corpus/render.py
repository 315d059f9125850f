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
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser, no_empty_folder, run_command
from modeling_vita_audio.saving_vita_audio import replaced_whole

from .clips import Clip
from .conversations import all_clips, all_conversations
from .noise import NOISE_VOICE, colored_noise, noise_samples
from .questions import stable_hash
from .voices import ALL_VOICES, JOE, check_programs, phonemize, speak


PROG = "training.corpus.render"
SAMPLING_RATE = 16_000
# Frames that are this much quieter than the loudest one are silence.
SILENCE_BELOW_PEAK_DB = 42.0
LEADING_SILENCE_S = 0.05
TRAILING_SILENCE_S = 0.1
# All clips of the fixed joe have this peak; those of other voices vary.
FIXED_PEAK_DB = -3.0
# The share of the training clips that have more silence around them, its length at one end, and the level of its noise
# below full scale
LONG_SILENCE_SHARE = 0.35
LONG_SILENCE_S = (0.1, 0.8)
SILENCE_FLOOR_DB = (-85.0, -60.0)


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


def add_silence(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """
    `samples` as somebody records them who presses the button too early or lets it go too late: mostly as they are,
    otherwise with near-silence before, after or at both ends, which has a floor of noise of its own.
    """
    if rng.random() >= LONG_SILENCE_SHARE:
        return samples
    lead, trail = rng.choice([(True, False), (False, True), (True, True)])
    lengths = [round(wanted * rng.uniform(*LONG_SILENCE_S) * SAMPLING_RATE) for wanted in (lead, trail)]
    floor = 10 ** (rng.uniform(*SILENCE_FLOOR_DB) / 20)
    noise_rng = np.random.default_rng(rng.getrandbits(64))
    before, after = (floor * noise_rng.standard_normal(length) for length in lengths)
    return np.concatenate([before, samples, after])


def render_samples(clip: Clip) -> np.ndarray:
    """The clip, float32 `(num_samples,)` at 16 kHz. Speed, level and noise vary, except in joe's fixed voice."""
    # The id is the seed, so a clip is the same whenever and by whichever process it is rendered.
    if clip.voice == NOISE_VOICE:
        return noise_samples(clip.id, SAMPLING_RATE)
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
    speech_level = np.sqrt(np.mean(samples**2))
    if not fixed and clip.split == "train":
        samples = add_silence(samples, rng)
    if not fixed and rng.random() < 0.5:
        level = speech_level * 10 ** (-rng.uniform(20, 45) / 20)
        noise_rng = np.random.default_rng(rng.getrandbits(64))
        samples = samples + level * colored_noise(len(samples), rng.choice([0, 1]), noise_rng)
    return np.clip(samples, -1, 1).astype(np.float32)


def render_clip(clip: Clip, output_dir: Path) -> dict:
    """Renders `clip` into `output_dir` unless it is there, and returns its row of `clips.jsonl`."""
    path = output_dir / clip.path
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as unfinished:
            sf.write(unfinished, render_samples(clip), SAMPLING_RATE, subtype="PCM_16", format="FLAC")
    duration = sf.info(path).frames / SAMPLING_RATE
    row = {"id": clip.id, "path": clip.path, "text": clip.text, "voice": clip.voice, "split": clip.split}
    # Noise has no text, and so no phonemes.
    return {**row, "phonemes": phonemize(clip.text) if clip.text else [], "duration": round(duration, 4)}


# `imap` passes one argument, and a worker can only be sent a function that a module has by name.
def _render_job(job: tuple[Clip, Path]) -> dict:
    return render_clip(*job)


def _write_jsonl(path: Path, rows: list[dict]) -> None:
    with replaced_whole(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def paths_of_some(limit: int) -> set[str]:
    """Paths of at most `limit` clips, all that some conversations need: about as many of each task and split."""
    kinds = defaultdict(list)
    for row in all_conversations():
        if row["audios"]:
            kinds[row["task"], row["split"]].append(row)
    # The order of hashes is a shuffle that is the same everywhere.
    shuffled = [sorted(rows, key=lambda row: stable_hash("limit", row["id"])) for rows in kinds.values()]
    paths: set[str] = set()
    for row in filter(None, chain.from_iterable(zip_longest(*shuffled))):
        if len(paths.union(row["audios"])) <= limit:
            paths.update(row["audios"])
    return paths


def render_corpus(output_dir: Path, limit: int | None = None, workers: int = 2) -> tuple[list[dict], list[dict]]:
    """
    Renders all clips, or at most `limit` of them for conversations of all kinds, and writes the conversations whose
    audios are there.

    Returns the rows of `clips.jsonl` and `conversations.jsonl`. Raises ValueError for a bad `limit` or `workers`, and
    RuntimeError if a synthesizer or WordNet is missing, or a synthesizer says nothing.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    clips = all_clips()
    if limit is not None:
        paths = paths_of_some(limit)
        clips = [clip for clip in clips if clip.path in paths]
    check_programs(ALL_VOICES[name] for name in {clip.voice for clip in clips} - {NOISE_VOICE})
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
