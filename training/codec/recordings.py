# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the recordings of a rendered corpus for the training of the compact codec."""

from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from torch import nn

from hub_cards.command_line import naming
from hub_cards.json_lines import read_json_lines


CLIP_FIELDS = {**dict.fromkeys(("path", "text", "voice", "split"), str), "duration": (int, float), "phonemes": list}
# Root mean square of all clips: about -23 dB of full scale. Codes do not say how loud speech is, so all clips get one
# level.
TARGET_RMS = 0.07


def read_recording(corpus_dir: Path, clip: dict) -> tuple[np.ndarray, int]:
    """Samples of a clip as they were recorded, and their rate."""
    with naming(f"The clip {corpus_dir / clip['path']}"):
        return sf.read(corpus_dir / clip["path"], dtype="float32")


def read_clip(corpus_dir: Path, clip: dict) -> tuple[np.ndarray, int]:
    """Samples of a clip at the level that the codec is trained at, and their rate."""
    waveform, sampling_rate = read_recording(corpus_dir, clip)
    # The small number keeps the division finite where a clip is silent.
    return waveform * (TARGET_RMS / max(float(np.sqrt(np.mean(waveform**2))), 1e-4)), sampling_rate


def read_clips(corpus_dir: Path, max_seconds: float, split: str = "train") -> list[dict]:
    """Rows of the clips of a split of a rendered corpus that are not too long."""
    clips = [clip for _, clip in read_json_lines(corpus_dir / "clips.jsonl", CLIP_FIELDS)]
    return [clip for clip in clips if clip["split"] == split and clip["duration"] <= max_seconds]


def pad_to_codes(waveforms: list[torch.Tensor], hop_length: int) -> tuple[torch.Tensor, torch.LongTensor]:
    """Waveforms `(num_samples,)` padded to whole codes, `(batch, samples)`, and the mask that is 1 on audio."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    padded = nn.functional.pad(padded, (0, -padded.shape[1] % hop_length))
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()
