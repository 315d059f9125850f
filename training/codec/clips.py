# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The clips of a rendered corpus as the training of the compact codec reads them."""

import math
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import nn
from torch.utils.data import Dataset

from hub_cards.json_lines import read_json_lines
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig

from .augmentation import change_voice, disturb
from .pitch import pitch_track
from .recordings import pad_to_codes, read_clip, read_clips


# Played at a rate between these, speech sounds like that of another voice: pitch and formants move together.
OTHER_RATES = (0.8, 1.25)
# Share of the clips of other voices than the default one that are changed so. Only phonemes are learnt from them.
OTHER_RATE_SHARE = 0.5
# Share of the other clips that are encoded in another voice than they are decoded in, so that codes do not depend on
# the voice.
OTHER_VOICE_SHARE = 0.5


def read_answers(corpus_dir: Path) -> set[str]:
    """Paths of the clips of a rendered corpus that spoken questions are answered with in training."""
    rows = (row for _, row in read_json_lines(corpus_dir / "conversations.jsonl"))
    return {
        # The question comes first, the answer last.
        row["audios"][-1]
        for row in rows
        if (row.get("task"), row.get("split")) == ("sqa", "train") and row.get("audios")
    }


class CodecClips(Dataset):
    """
    Clips of a rendered corpus as tensors for [`VitaAudioCodecForPreTraining`]. The first voice is the
    default one, whose clips are drawn twice.

    Half of the clips to be reconstructed are encoded in another voice than the one to decode: codes must be those of
    all voices. Of voices other than the default one, half are only read.

    Raises:
        ValueError: one of the `voices` says nothing.
    """

    def __init__(
        self,
        corpus_dir: str | Path,
        config: VitaAudioCodecConfig,
        default_voice: str,
        voices: list[str] | None = None,
        is_disturbed: bool = True,
    ):
        self.corpus_dir, self.config, self.is_disturbed = Path(corpus_dir), config, is_disturbed
        clips = read_clips(self.corpus_dir)
        spoken = {clip["voice"] for clip in clips}
        if missing := sorted({default_voice, *(voices or ())} - spoken):
            raise ValueError(f"{corpus_dir} has no training clips of {', '.join(missing)}, but of {sorted(spoken)}.")
        clips = [clip for clip in clips if voices is None or clip["voice"] in voices]
        # The default voice has to be voice 0, as the codec's configuration says.
        self.voices = sorted({clip["voice"] for clip in clips}, key=lambda voice: (voice != default_voice, voice))
        self.phonemes = sorted({phoneme for clip in clips for phoneme in clip["phonemes"]})
        # of several voices the default one is the one that the codec has to speak best
        defaults = [clip for clip in clips if clip["voice"] == default_voice]
        self.clips = clips + defaults if len(self.voices) > 1 else clips
        # 0 is the blank of CTC.
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(self.phonemes)}
        self.pitch = {}  # of clips to reconstruct, tracked once

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, sampling_rate = read_clip(self.corpus_dir, clip)
        is_reconstructed = clip["voice"] == self.voices[0] or bool(torch.rand(()) > OTHER_RATE_SHARE)
        # At another rate the clip has a voice that the codec does not learn to speak with.
        if not is_reconstructed:
            rate = torch.empty(()).uniform_(*OTHER_RATES).item()
            waveform = soxr.resample(waveform, rate * sampling_rate, sampling_rate)
        num_codes = -(-len(waveform) // self.config.hop_length)
        num_frames = num_codes * self.config.hop_length // self.config.synthesis_hop_length
        inputs = waveform
        if self.is_disturbed and is_reconstructed and torch.rand(()) < OTHER_VOICE_SHARE:
            inputs = change_voice(waveform, torch.empty(()).uniform_(*OTHER_RATES).item(), sampling_rate)
        if not is_reconstructed:
            # Only phonemes are learnt from this clip, so its pitch is not needed.
            log_f0, voiced = np.zeros(num_frames, np.float32), np.zeros(num_frames, bool)
        else:
            if index not in self.pitch:
                self.pitch[index] = pitch_track(waveform, self.config, num_frames)
            log_f0, voiced = self.pitch[index]
        median = np.median(log_f0[voiced]) if voiced.any() else np.median(log_f0)
        return {
            "inputs": torch.from_numpy(inputs),
            "waveform": torch.from_numpy(waveform),
            "log_f0": torch.from_numpy(log_f0),
            "voiced_mask": torch.from_numpy(voiced),
            "median_log_f0": float(median),
            "voice_id": self.voices.index(clip["voice"]),
            "is_reconstructed": is_reconstructed,
            "labels": torch.tensor([self.phoneme_ids[phoneme] for phoneme in clip["phonemes"]]),
        }

    def collate(self, clips: list[dict]) -> dict:
        """Pads a batch to whole codes; of inputs and targets only the former are disturbed."""
        # Another voice has the same length, so the mask of the inputs is that of the targets, too.
        inputs, mask = pad_to_codes([clip["inputs"] for clip in clips], self.config.hop_length)
        waveforms, _ = pad_to_codes([clip["waveform"] for clip in clips], self.config.hop_length)
        if self.is_disturbed:
            inputs = disturb(inputs, mask, self.config.sampling_rate)
        # Padding needs a pitch that a voice can have, because the vocoder speaks it before the mask silences it.
        frames = nn.utils.rnn.pad_sequence(
            [clip["log_f0"] for clip in clips], batch_first=True, padding_value=math.log(100)
        )
        return {
            "input_values": inputs[:, None],
            "padding_mask": mask,
            "target_values": waveforms,
            "log_f0": frames,
            "voiced_mask": nn.utils.rnn.pad_sequence([clip["voiced_mask"] for clip in clips], batch_first=True),
            "median_log_f0": torch.tensor([[clip["median_log_f0"]] for clip in clips]),
            "voice_ids": torch.tensor([clip["voice_id"] for clip in clips]),
            "is_reconstructed": torch.tensor([[clip["is_reconstructed"]] for clip in clips]),
            "labels": nn.utils.rnn.pad_sequence([clip["labels"] for clip in clips], batch_first=True),
        }
