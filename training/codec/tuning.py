# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the encoder, the decoder or both of a codec whose codes are fixed.

The codebook stays as it is, so a language model that was trained on the codes can be kept. The encoder learns to
write, for any voice, the codes that the default voice has for the same text; the decoder learns to speak with the
default voice, its own codes and those of other voices.
"""

import os
import re
from collections import Counter
from collections.abc import Container, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import scipy.fft
import scipy.ndimage
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers.utils import ModelOutput

from modeling_vita_audio.saving_vita_audio import replaced_whole
from processing.codec_vita_audio import encode
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import (
    VitaAudioCodec,
    VitaAudioCodecPreTrainedModel,
    log_mel_spectrogram,
)

from .augmentation import (
    STRETCH_HOP,
    change_rhythm,
    change_voice,
    disturb,
    morph,
    overlap_add,
    warp_formants,
)
from .clips import OTHER_RATES, OTHER_VOICE_SHARE
from .pitch import pitch_track
from .pretraining import PhonemeHead, phoneme_loss, reconstruction_losses
from .recordings import pad_to_codes, read_clip


PARTS = ("encoder", "decoder")
# The logits of codes are cosines, between -1 and 1, times this: without it, their softmax would be nearly even.
CODE_SCALE = 16.0
# Weight of the code loss on other voices and rhythms where the decoder is trained as well: it can learn to speak what
# the encoder writes, so the encoder has to write the default voice's codes less exactly.
OTHER_CODE_WEIGHT = 0.3

# Shares of the clips, of other voices and of the default one, that get another rhythm and length. The default voice is
# fast and even, and slow or uneven speech is hard to code.
OTHER_RHYTHM_SHARE = 0.5
DEFAULT_RHYTHM_SHARE = 0.25
# The shortest and the longest that such a clip becomes, relative to its length.
LENGTHS = (0.85, 1.4)

# Share of the other voices' clips that are morphed towards the default voice, or away from it.
MORPHED_SHARE = 0.3
# How much of the default voice a morphed clip has. With more, it is heard where the two recordings are not aligned.
DEFAULT_VOICE_SHARES = (-0.2, 0.6)
# Share of all clips whose formants are moved, and the factors that they are moved by; the pitch stays.
OTHER_FORMANT_SHARE = 0.3
OTHER_FORMANTS = (0.85, 1.18)
# Share of all clips that are heard in rooms, through microphones and with noise. The others stay as they were
# recorded.
DISTURBED_SHARE = 0.5

# Two recordings of a text are aligned in frames of 20 ms, a quarter of a code.
FRAMES_PER_CODE = 4
# The first coefficients of the cepstrum tell sounds apart, and not the pitch. The very first, the level, is left out.
NUM_CEPSTRA = 14
# Added to the cost (0 to 4) of a frame on which one of the recordings stands still.
HOLD_COST = 0.5
# Standard deviation of the filter that smooths the alignment, in hops of `STRETCH_HOP` samples; its steps would be
# heard.
PATH_SMOOTHING = 2.0

# Clips of the default voice that have a word of fewer than so many clips are drawn so many times as often.
RARE_WORD_CLIPS = 20
RARE_WORD_TIMES = 4

# No more processes than this prepare clips, however many cores there are.
MAX_PREPARING_PROCESSES = 8
# What `cross_entropy` leaves out
IGNORED = -100


@dataclass
class VitaAudioCodecTuningOutput(ModelOutput):
    """
    Scalars: the sum and its parts. The encoder has the losses of codes and phonemes, the decoder those of spectrum and
    pitch.
    """

    loss: torch.Tensor | None = None
    code_loss: torch.Tensor | None = None
    phoneme_loss: torch.Tensor | None = None
    spectral_loss: torch.Tensor | None = None
    pitch_loss: torch.Tensor | None = None


def code_logits(codec: VitaAudioCodec, latents: torch.Tensor) -> torch.Tensor:
    """Latents `(..., codebook_dim)` to logits of all codes `(..., codebook_size)`."""
    vectors = nn.functional.normalize(codec.quantizer.codebook.weight, dim=-1)
    return CODE_SCALE * nn.functional.normalize(latents, dim=-1).float() @ vectors.float().T


def follow_timing(codec: VitaAudioCodec, leader: np.ndarray, follower: np.ndarray) -> np.ndarray:
    """
    `follower` `(num_samples,)` with every sound when `leader`, another recording of the same text, has it: as many
    samples as `leader`. Frames of 20 ms are aligned by their cepstra and by the encoder's latents.
    """
    hop = codec.config.hop_length // FRAMES_PER_CODE
    features = []
    for waveform in (leader, follower):
        padded = torch.from_numpy(np.pad(waveform, (0, -len(waveform) % codec.config.hop_length)))
        # Mel frames are 10 ms long, so two of them make one of 20 ms.
        mels = log_mel_spectrogram(padded[None], codec.config)[0].unflatten(0, (-1, 2)).mean(1)
        cepstra = scipy.fft.dct(mels.numpy(), norm="ortho")[:, 1:NUM_CEPSTRA]
        # A voice and its microphone add the same to all frames, so it goes with the mean.
        cepstra = (cepstra - cepstra.mean(0)) / cepstra.std(0).clip(1e-6)
        latents = codec.encode(padded[None, None]).latents[0].numpy().repeat(FRAMES_PER_CODE, 0)
        features.append([x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6) for x in (cepstra, latents)])
    # The sum of two cosines: -2 to 2
    similarity = sum(a @ b.T for a, b in zip(*features))
    holding = np.array([0, HOLD_COST, HOLD_COST])
    path = librosa.sequence.dtw(C=2 - similarity, weights_add=holding)[1][::-1].astype(float)
    # where one recording stands still, the other one's frames are replaced by the middle of them
    for axis in (1, 0):
        values, groups = np.unique(path[:, axis], return_inverse=True)
        other = np.bincount(groups, path[:, 1 - axis]) / np.bincount(groups)
        path = np.stack([other, values] if axis else [values, other], axis=1)
    times = np.arange(-(-len(leader) // STRETCH_HOP) + 1) * STRETCH_HOP / hop
    # Half a frame is added, because a frame stands for the time in its middle.
    positions = np.interp(times, path[:, 0] + 0.5, path[:, 1] + 0.5)
    # Only what differs from an even tempo is smoothed, so that smoothing does not move the ends.
    even = np.linspace(positions[0], positions[-1], len(positions))
    positions = even + scipy.ndimage.gaussian_filter1d(positions - even, PATH_SMOOTHING, mode="nearest")
    return overlap_add(follower, (hop * positions).clip(0, len(follower)), len(leader))


def align_codes(logits: torch.Tensor, codes: torch.LongTensor) -> torch.LongTensor:
    """
    Dynamic time warping of another recording's `codes` `(num_codes,)` to `logits` `(num_frames, codebook_size)` of
    codes: for each frame the code it should have, `(num_frames,)`.
    """
    cost = -logits.detach()[:, codes].float().numpy()
    path = librosa.sequence.dtw(C=cost - cost.min())[1]
    # the path runs backwards; where several codes fall on one frame, its first one is kept
    aligned = np.empty(len(logits), dtype=np.int64)
    aligned[path[:, 0]] = path[:, 1]
    return codes[torch.from_numpy(aligned)]


class VitaAudioCodecForTuning(VitaAudioCodecPreTrainedModel):
    """
    Trains the encoder, the decoder in the default voice, or both. The encoder's codes are to be those of the default
    voice, and the frozen phoneme head has to read them. Where both are trained, the decoder speaks what the encoder
    writes, and gradients pass straight through the codes, so that the encoder learns to write what can be spoken.
    """

    def __init__(self, config: VitaAudioCodecConfig, num_phonemes: int, parts: Iterable[str] = PARTS):
        super().__init__(config)
        self.codec = VitaAudioCodec(config)
        self.phoneme_head = PhonemeHead(config, num_phonemes)
        self.parts = set(parts)
        # The codebook and the phoneme head stay frozen: they hold what the codes mean.
        self.requires_grad_(False)
        for part in self.parts:
            getattr(self.codec, part).requires_grad_(True)
        self.post_init()

    def forward(
        self,
        input_values: torch.FloatTensor,
        padding_mask: torch.Tensor,
        target_codes: torch.LongTensor,
        keeps_codes: torch.Tensor,
        labels: torch.LongTensor,
        target_values: torch.FloatTensor,
        log_f0: torch.FloatTensor,
        voiced_mask: torch.Tensor,
    ) -> VitaAudioCodecTuningOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`): audio to encode.
            padding_mask (`torch.LongTensor` of shape `(batch_size, num_samples)`): 1 on audio.
            target_codes (`torch.LongTensor` of shape `(batch_size, max_codes)`): what the default voice has for this
                text at this time, padded with -100.
            keeps_codes (`torch.BoolTensor` of shape `(batch_size,)`): whether they are those of the default voice's
                own recording. They have to stay as they are; others are aligned to what the encoder writes.
            labels (`torch.LongTensor` of shape `(batch_size, num_phonemes)`): phonemes from 1 on, padded with 0.
            target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): what `target_codes` are of.
            log_f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`): its log pitch, see `pitch_track`.
            voiced_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): where this pitch is to be trusted.
        """
        encoded = self.codec.encode(input_values, padding_mask)
        losses = {}
        if "encoder" in self.parts:
            mask = encoded.audio_codes_mask
            losses["code_loss"] = self._code_loss(encoded.latents, mask, target_codes, keeps_codes)
            log_probs = self.phoneme_head(encoded.quantized_representation, mask[..., None].float())
            losses["phoneme_loss"] = phoneme_loss(log_probs, mask, labels)
        if "decoder" in self.parts:
            # the decoder must speak the codes that language models write, and those are the ones that have to be kept
            speech = encoded.quantized_representation
            kept = self.codec.quantizer.from_codes(target_codes.clamp(min=0)).to(speech.dtype)
            losses["spectral_loss"], losses["pitch_loss"] = reconstruction_losses(
                self.codec,
                torch.where(keeps_codes[:, None, None], kept, speech),
                torch.zeros_like(target_codes[:, 0]),
                target_values,
                padding_mask,
                log_f0,
                voiced_mask,
                # The pitch of voice 0, the only one that a tuned decoder has
                self.codec.voice_log_f0[:1, None],
            )
        return VitaAudioCodecTuningOutput(
            loss=sum(losses.values()), **{name: loss.detach() for name, loss in losses.items()}
        )

    def _code_loss(
        self, latents: torch.Tensor, mask: torch.Tensor, target_codes: torch.LongTensor, keeps_codes: torch.Tensor
    ) -> torch.Tensor:
        logits = code_logits(self.codec, latents)
        targets = target_codes.clone()
        for row in (~keeps_codes).nonzero()[:, 0].tolist():
            num_codes = int(mask[row].sum())
            targets[row, :num_codes] = align_codes(logits[row, :num_codes], target_codes[row, :num_codes])
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        other_weight = OTHER_CODE_WEIGHT if "decoder" in self.parts else 1.0
        return (losses * torch.where(keeps_codes, 1.0, other_weight)[:, None]).sum() / mask.sum()


class TuningClips(Dataset):
    """
    Training clips of a corpus for [`VitaAudioCodecForTuning`]: all of the default voice, those with rare words more
    often and those at the paths `answers` `answer_times`, and of other voices what the default one says, too. They are
    faster or slower than they were recorded, in a rhythm of their own, and if `is_disturbed` they are encoded in other
    voices, through microphones, in rooms and noise.

    Targets are what `codec`, which is not trained itself, makes of a clip. [`~TuningClips.prepare`] writes them to
    `folder`.
    """

    def __init__(
        self,
        corpus_dir: Path,
        folder: Path,
        codec: VitaAudioCodec,
        clips: list[dict],
        default_voice: str,
        phonemes: list[str],
        is_disturbed: bool = True,
        answers: Container[str] = (),
        answer_times: int = 1,
    ):
        self.corpus_dir, self.folder = corpus_dir, folder
        # A copy, because the codec that is given may be the one that is trained.
        self.codec, self.config = deepcopy(codec).eval(), codec.config
        self.default_voice, self.phonemes, self.is_disturbed = default_voice, phonemes, is_disturbed
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(phonemes)}
        defaults = [clip for clip in clips if clip["voice"] == default_voice]
        self.default_clips = {clip["text"]: clip for clip in defaults}
        # What the default voice does not say has no codes to learn.
        others = [clip for clip in clips if clip["voice"] != default_voice and clip["text"] in self.default_clips]
        words = {text: set(re.findall(r"[\w']+", text.lower())) for text in self.default_clips}
        numbers = Counter(word for text in words.values() for word in text)
        rare = [clip for clip in defaults if any(numbers[word] < RARE_WORD_CLIPS for word in words[clip["text"]])]
        answering = [clip for clip in defaults if clip["path"] in answers]
        self.clips = others + defaults + (RARE_WORD_TIMES - 1) * rare + (answer_times - 1) * answering
        # a clip is prepared once however often it is drawn, and always in the same rhythm
        self.indices = {clip["path"]: index for index, clip in reversed(list(enumerate(self.clips)))}

    def __len__(self) -> int:
        return len(self.clips)

    def prepare(self) -> None:
        """Computes the targets that `folder` has not yet, in several processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [index for index in sorted(self.indices.values()) if not self._target_path(index).is_file()]
        num_workers = min(MAX_PREPARING_PROCESSES, os.cpu_count() or 1)
        # The loader serves for its processes alone: `_prepare` writes to the disk and returns nothing.
        for _ in tqdm(
            DataLoader(missing, 32, collate_fn=self._prepare, num_workers=num_workers), desc="Preparing clips"
        ):
            pass

    def read(self, index: int) -> tuple[np.ndarray, bool]:
        """A clip `(num_samples,)`, and whether it is one of the default voice in its own rhythm."""
        clip = self.clips[index]
        waveform, _ = read_clip(self.corpus_dir, clip)
        is_default = clip["voice"] == self.default_voice
        # A clip always has the same rhythm, because its target on disk was computed in it.
        generator = torch.Generator().manual_seed(index)
        share, factor = torch.rand(2, generator=generator).tolist()
        if share >= (DEFAULT_RHYTHM_SHARE if is_default else OTHER_RHYTHM_SHARE):
            return waveform, is_default
        shortest, longest = LENGTHS
        num_samples = round(len(waveform) * (shortest + factor * (longest - shortest)))
        return change_rhythm(waveform, num_samples, generator), False

    def __getitem__(self, index: int) -> dict:
        index = self.indices[self.clips[index]["path"]]
        waveform, keeps_codes = self.read(index)
        with np.load(self._target_path(index)) as file:
            target = {name: torch.from_numpy(file[name]) for name in file}
        is_other = self.clips[index]["voice"] != self.default_voice
        if self.is_disturbed and is_other and torch.rand(()) < MORPHED_SHARE:
            share = torch.empty(()).uniform_(*DEFAULT_VOICE_SHARES).item()
            waveform = morph(waveform, target["target"].float().numpy(), share)
        if self.is_disturbed and torch.rand(()) < OTHER_VOICE_SHARE:
            factor = torch.empty(()).uniform_(*OTHER_RATES).item()
            waveform = change_voice(waveform, factor, self.config.sampling_rate)
        if self.is_disturbed and torch.rand(()) < OTHER_FORMANT_SHARE:
            waveform = warp_formants(waveform, torch.empty(()).uniform_(*OTHER_FORMANTS).item())
        return target | {
            "waveform": torch.from_numpy(waveform),
            "keeps_codes": keeps_codes,
            "labels": torch.tensor([self.phoneme_ids[phoneme] for phoneme in self.clips[index]["phonemes"]]),
        }

    def collate(self, clips: list[dict]) -> dict:
        def padded(name: str, value: float) -> torch.Tensor:
            rows = [clip[name] for clip in clips]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        waveforms, mask = pad_to_codes([clip["waveform"] for clip in clips], self.config.hop_length)
        targets, _ = pad_to_codes([clip["target"] for clip in clips], self.config.hop_length)
        is_disturbed = (torch.rand(len(clips), 1) < DISTURBED_SHARE) & self.is_disturbed
        heard = torch.where(is_disturbed, disturb(waveforms, mask, self.config.sampling_rate), waveforms)
        return {
            "input_values": heard[:, None],
            "padding_mask": mask,
            "target_codes": padded("codes", IGNORED).long(),
            "keeps_codes": torch.tensor([clip["keeps_codes"] for clip in clips]),
            "labels": padded("labels", 0),
            "target_values": targets.float(),
            # A pitch that a voice can have, as in `CodecClips`
            "log_f0": padded("log_f0", float(np.log(100))),
            "voiced_mask": padded("voiced", False),
        }

    def _target_path(self, index: int) -> Path:
        return self.folder / f"{index}.npz"

    @torch.no_grad()
    def _prepare(self, indices: list[int]) -> None:
        for index in indices:
            clip, (target, _) = self.clips[index], self.read(index)
            if clip["voice"] != self.default_voice:
                own, _ = read_clip(self.corpus_dir, self.default_clips[clip["text"]])
                target = follow_timing(self.codec, target, own)
            codes = np.array(encode(self.codec, target))
            num_frames = len(codes) * self.config.hop_length // self.config.synthesis_hop_length
            log_f0, voiced = pitch_track(target, self.config, num_frames)
            with replaced_whole(self._target_path(index)) as unfinished:
                # half precision saves half of the disk; its error is 60 dB below each sample
                np.savez(
                    unfinished,
                    target=target.astype(np.float16),
                    codes=codes.astype(np.int32),
                    log_f0=log_f0,
                    voiced=voiced,
                )
