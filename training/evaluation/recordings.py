# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Recordings of humans to test with, which stay in their Debian packages and are never trained on.

- `asterisk-core-sounds-en-g722`: one professional speaker, Allison Smith, in a studio; the texts are in
  `asterisk-core-sounds-en`. CC-BY-SA 3.0.
- `pocketsphinx-testdata`: five sentences of a novel, read by a volunteer of LibriVox. LibriVox's recordings are in the
  public domain, the package is under the BSD licence.
"""

import gzip
import re
from pathlib import Path

import numpy as np

from hub_cards.command_line import naming
from hub_cards.results import ASTERISK_SOUNDS, LIBRIVOX_SOUNDS, SETS, TEST_SPLIT
from training.conversations import ASR, transcribed_turns
from training.packages import package_folder

from .benchmarks import draw
from .normalizers import normalize_corpus_text


# The sets of recordings, all of them to be written down
HUMAN_SETS = tuple(name for name, of_set in SETS.items() if of_set.package)

SOUNDS_FOLDER = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
SOUNDS_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
LIBRIVOX_FOLDER = Path("/usr/share/pocketsphinx/test/data/librivox")

# 40 words: the numbers from zero to twenty, the days and the months
WORDS = tuple(
    f"digits/{name}"
    for name in (*range(21), *(f"day-{day}" for day in range(7)), *(f"mon-{month}" for month in range(12)))
)
MAX_PROMPT_WORDS = 8
# Letters and signs, the words that spell them, and silence
NOT_PROMPTS = ("digits/", "letters/", "phonetic/", "silence/")
# Words and numbers, but no "IAX", and a single letter only where it is a word
PROMPT_WORD = re.compile(r"(?![A-Z]{2})([A-Za-z]{2,}|[AaIi]|\d+)(['’-][A-Za-z]+)*")


def load_recordings(name: str, limit: int | None = None) -> list[dict]:
    """
    Reads a set of recordings.

    Args:
        name: One of `HUMAN_SETS`.
        limit: At most this many, drawn with a fixed seed; all by default.

    Returns:
        `list[dict]`: conversations as of [`~training.conversations.read_conversations`], with one audio each: a path,
        or samples with their rate.

    Raises:
        FileNotFoundError: The Debian packages are not installed.
        ImportError: PyAV is not installed, which reads G.722.
    """
    texts = read_librivox_texts() if SETS[name].package == LIBRIVOX_SOUNDS else read_sound_texts(name)
    texts = list(texts.items())
    rows = []
    for path, text in (texts[index] for index in draw(len(texts), limit)):
        rows.append(
            {
                "id": path.stem if path.parent == SOUNDS_FOLDER else f"{path.parent.name}/{path.stem}",
                "task": ASR,
                "split": TEST_SPLIT,
                "messages": transcribed_turns(text)[ASR],
                "audios": [read_g722(path) if path.suffix == ".g722" else str(path)],
                "reference": text,
                "accepted_answers": [],
                "turns": [],
            }
        )
    return rows


def read_sound_texts(name: str) -> dict[Path, str]:
    """The texts of the Asterisk recordings of `human_words` or `human_prompts`, by their files."""
    texts = {}
    for line in gzip.decompress(read_of_package(SOUNDS_TEXTS, ASTERISK_SOUNDS)).decode().splitlines():
        sound, colon, text = line.partition(": ")
        if colon and not sound.startswith(";"):
            texts[sound] = text.strip()
    if name == "human_words":
        texts = {word: texts[word] for word in WORDS}
    else:
        texts = {sound: text for sound, text in texts.items() if not sound.startswith(NOT_PROMPTS) and is_prompt(text)}
    if not SOUNDS_FOLDER.is_dir():
        raise missing_package(SOUNDS_FOLDER, ASTERISK_SOUNDS)
    files = {SOUNDS_FOLDER / f"{sound}.g722": text for sound, text in texts.items()}
    # The list has a text more than there are recordings
    return {path: text for path, text in files.items() if path.is_file()}


def is_prompt(text: str) -> bool:
    """Whether a text is what is said, in a few words: some describe a sound, and some are names of techniques."""
    words = re.sub(r"[.,!?]", " ", text).split()
    return all(map(PROMPT_WORD.fullmatch, words)) and 0 < len(normalize_corpus_text(text).split()) <= MAX_PROMPT_WORDS


def read_librivox_texts() -> dict[Path, str]:
    """The texts of the recordings of LibriVox, by their files."""
    lines = read_of_package(LIBRIVOX_FOLDER / "transcription", LIBRIVOX_SOUNDS).decode().splitlines()
    # <s> he was not an ill disposed young man </s> (NAME)
    parts = [re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()) for line in lines]
    return {LIBRIVOX_FOLDER / f"{part[2]}.wav": part[1] for part in parts if part}


def read_of_package(path: Path, package: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise missing_package(path, package) from error


def missing_package(path: Path, package: str) -> FileNotFoundError:
    packages = f"{package} asterisk-core-sounds-en" if package == ASTERISK_SOUNDS else package
    return FileNotFoundError(f"There is no {path}; on Debian: apt-get install {packages}")


def read_g722(path: Path) -> dict:
    """
    Samples of a file of raw G.722 (64 kbit/s) as `array`, float32 `(num_samples,)` in [-1, 1], and their
    `sampling_rate`, 16 kHz.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: The file cannot be decoded.
    """
    # A file without a header: soundfile does not know the codec, and PyAV has to be told
    package_folder("av", "reading G.722", "pip install vita-audio[media]")
    import av

    with naming(str(path)), av.open(str(path), format="g722") as container:
        (stream,) = container.streams.audio
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(stream)])
        return {"array": samples.astype(np.float32) / 2**15, "sampling_rate": stream.rate}
