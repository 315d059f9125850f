# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The recordings of one voice with their codes and pitch, for the training of the decoder."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modeling_vita_audio.saving_vita_audio import replaced_whole
from processing.codec_vita_audio import encode
from processing.modeling_vita_audio_codec import VitaAudioCodec

from .pitch import pitch_track
from .recordings import pad_to_codes, read_clip, read_clips, read_recording


MAX_PREPARING_PROCESSES = 8
CLIPS_A_TIME = 8
# So many clips tell how high a voice speaks.
NUM_PITCH_CLIPS = 500


def encoder_fingerprint(codec: VitaAudioCodec) -> str:
    """Eight hexadecimal digits that another encoder does not have."""
    digest = hashlib.sha256()
    for name, tensor in sorted(codec.state_dict().items()):
        if name.startswith("tokenizer."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


class VoiceClips(Dataset):
    """
    Training clips of a corpus in one `voice`, of up to `max_seconds`, with the codes that `codec` writes for them.
    [`~VoiceClips.prepare`] computes codes and pitch and keeps them in `folder`, apart for each encoder.

    Raises:
        ValueError: the voice says nothing.
    """

    def __init__(self, corpus_dir: Path, folder: Path, codec: VitaAudioCodec, voice: str, max_seconds: float):
        self.corpus_dir, self.codec, self.config = corpus_dir, codec, codec.config
        self.folder = folder / encoder_fingerprint(codec)
        clips = read_clips(corpus_dir, max_seconds)
        self.clips = [clip for clip in clips if clip["voice"] == voice]
        if not self.clips:
            voices = sorted({clip["voice"] for clip in clips})
            raise ValueError(f"{corpus_dir} has no training clips of {voice}, but of {voices!s:.200}.")

    def __len__(self) -> int:
        return len(self.clips)

    def prepare(self) -> None:
        """Computes the codes and the pitch that `folder` has not yet, in several processes."""
        missing = [index for index in range(len(self)) if not self._prepared_path(index).is_file()]
        batches = [missing[start : start + CLIPS_A_TIME] for start in range(0, len(missing), CLIPS_A_TIME)]
        num_workers = min(MAX_PREPARING_PROCESSES, os.cpu_count() or 1, len(batches))
        # The loader serves for its processes alone: `_prepare` writes to the disk and returns nothing.
        loader = DataLoader(range(len(self)), batch_sampler=batches, collate_fn=self._prepare, num_workers=num_workers)
        with tqdm(total=len(missing), desc="Codes and pitch", unit="clip") as progress:
            for batch, _ in zip(batches, loader):
                progress.update(len(batch))

    def mean_log_f0(self) -> float:
        """Mean over clips of their median log pitch, in log Hz."""
        medians = []
        for index in range(min(len(self), NUM_PITCH_CLIPS)):
            prepared = self._read_prepared(index)
            if prepared["voiced_mask"].any():
                medians.append(prepared["log_f0"][prepared["voiced_mask"]].median().item())
        return sum(medians) / len(medians) if medians else math.log(110)

    def __getitem__(self, index: int) -> dict:
        waveform, _ = read_clip(self.corpus_dir, self.clips[index])
        return self._read_prepared(index) | {"waveform": torch.from_numpy(waveform)}

    def collate(self, clips: list[dict]) -> dict:
        """Pads a batch to whole codes."""

        def padded(name: str, value: float) -> torch.Tensor:
            rows = [clip[name] for clip in clips]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        waveforms, mask = pad_to_codes([clip["waveform"] for clip in clips], self.config.hop_length)
        return {
            "audio_codes": padded("codes", 0),
            "target_values": waveforms,
            "padding_mask": mask,
            # Padding needs a pitch that a voice can have, because the vocoder speaks it before the mask silences it.
            "log_f0": padded("log_f0", math.log(100)),
            "voiced_mask": padded("voiced_mask", False),
        }

    def _prepared_path(self, index: int) -> Path:
        return (self.folder / self.clips[index]["path"]).with_suffix(".npz")

    def _read_prepared(self, index: int) -> dict[str, torch.Tensor]:
        with np.load(self._prepared_path(index)) as file:
            return {name: torch.from_numpy(file[name]) for name in file}

    @torch.no_grad()
    def _prepare(self, indices: list[int]) -> None:
        for index in indices:
            # Codes as a language model learns them: an encoder may hear how loud speech is.
            codes = np.array(encode(self.codec, read_recording(self.corpus_dir, self.clips[index])[0]))
            waveform, _ = read_clip(self.corpus_dir, self.clips[index])
            num_frames = len(codes) * self.config.hop_length // self.config.synthesis_hop_length
            log_f0, voiced = pitch_track(waveform, self.config, num_frames)
            path = self._prepared_path(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_whole(path) as unfinished:
                np.savez(unfinished, codes=codes, log_f0=log_f0, voiced_mask=voiced)
