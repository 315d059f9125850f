# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The clips of a rendered corpus as the training of a speech tokenizer hears them."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import WhisperFeatureExtractor

from training.augmentation import keep_alignment, other_places, other_voices

from .recordings import read_clip


SAMPLING_RATE = 16_000
# Samples in a code. Features are made of whole codes, as the codec makes them
HOP_LENGTH = 1280


def read_phonemes(clips: list[dict]) -> list[str]:
    """The symbols of all phonemes of `clips`, sorted."""
    return sorted({phoneme for clip in clips for phoneme in clip["phonemes"]})


class TokenizerClips(Dataset):
    """
    Clips as Whisper's features, once as they are recorded and once disturbed, with their phonemes.

    Args:
        corpus_dir: folder of a rendered corpus.
        clips: rows of its `clips.jsonl`.
        phonemes: all symbols, whose places from 1 on are the labels; the others are left out of the labels.
        num_mel_bins: of the features.
        is_disturbed: whether clips are heard in other voices and places than they were recorded in.
    """

    def __init__(
        self,
        corpus_dir: Path,
        clips: list[dict],
        phonemes: list[str],
        num_mel_bins: int,
        is_disturbed: bool = True,
    ):
        self.corpus_dir, self.clips, self.phonemes, self.is_disturbed = corpus_dir, clips, phonemes, is_disturbed
        self.phoneme_ids = {phoneme: index + 1 for index, phoneme in enumerate(phonemes)}
        self.feature_extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
        self.voices, self.places = other_voices(), other_places()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, _ = read_clip(self.corpus_dir, clip)
        labels = [self.phoneme_ids[phoneme] for phoneme in clip["phonemes"] if phoneme in self.phoneme_ids]
        if self.is_disturbed:
            waveform = self.voices(waveform, SAMPLING_RATE)
        features = {"teacher_features": self._extract(waveform)}
        if self.is_disturbed:
            heard = keep_alignment(self.places(waveform, SAMPLING_RATE), len(waveform))
            features["input_features"] = self._extract(heard)
        else:
            features["input_features"] = features["teacher_features"]
        # frames that lie on samples of the clip
        num_frames = -(-len(waveform) // self.feature_extractor.hop_length)
        return features | {"num_frames": num_frames, "labels": torch.tensor(labels, dtype=torch.long)}

    def _extract(self, waveform: np.ndarray) -> torch.FloatTensor:
        """Log-mel frames `(num_frames, num_mel_bins)` of whole codes."""
        features = self.feature_extractor(
            waveform,
            sampling_rate=SAMPLING_RATE,
            padding="longest",
            pad_to_multiple_of=HOP_LENGTH,
            return_tensors="pt",
        )
        return features["input_features"][0].T

    def collate(self, clips: list[dict]) -> dict:
        def padded(name: str) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence([clip[name] for clip in clips], batch_first=True)

        input_features = padded("input_features").transpose(1, 2)
        num_frames = torch.tensor([clip["num_frames"] for clip in clips])
        return {
            "input_features": input_features,
            "attention_mask": (torch.arange(input_features.shape[2]) < num_frames[:, None]).long(),
            "teacher_features": padded("teacher_features").transpose(1, 2),
            "labels": padded("labels"),
        }
