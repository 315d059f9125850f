# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What trains the encoder or the decoder of a codec whose codes are fixed.

The codebook stays, so a language model that was trained on the codes stays, too. The encoder learns to write, for any
voice, the codes that the default voice has for the same text; the decoder learns to speak with the default voice, its own
codes and those of other voices.
"""

import os
import re
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import scipy.fft
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers.utils import ModelOutput

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import (
    VitaAudioCodec,
    VitaAudioCodecPreTrainedModel,
    log_mel_spectrogram,
)
from training.codec import (
    OTHER_FORMANTS,
    OTHER_RATES,
    OTHER_VOICE_SHARE,
    STRETCH_HOP,
    PhonemeHead,
    change_voice,
    disturb,
    overlap_add,
    pad_to_codes,
    phoneme_loss,
    pitch_track,
    read_clip,
    reconstruction_losses,
    stretch,
    warp_formants,
)


CODE_SCALE = 16.0  # of the cosines that are the logits of codes
DEFAULT_VOICE_STEP = 4  # of the default voice's clips, which change no code, one in so many is enough for the encoder
# Clips of other voices are longer by these factors: the default voice is faster than most, and slow speech is hard to code.
OTHER_TEMPOS, OTHER_TEMPO_SHARE = (0.85, 1.4), 0.5
OTHER_FORMANT_SHARE = 0.3  # of all clips
DISTURBED_SHARE = 0.5  # and of these, heard in rooms, through microphones and noise
# Recordings of different voices are aligned by so many features; to hold a frame costs more.
FRAMES_PER_CODE, NUM_CEPSTRA, HOLD_COST = 4, 14, 0.5
# Clips of the default voice with a word that few have are drawn so many times more often by the decoder.
RARE_WORD_CLIPS, RARE_WORD_TIMES = 20, 4
OTHER_VOICES_STEP = 2  # of clips of other voices, which take long to prepare, one in so many is enough for the decoder
MAX_ENCODING_PROCESSES = 8
IGNORED = -100


@dataclass
class VitaAudioCodecTuningOutput(ModelOutput):
    """Scalars: the sum and its parts; the encoder has codes and phonemes, the decoder spectrum and pitch."""

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
    `follower` `(num_samples,)` with every sound when `leader`, another recording of the same text, has it: as many samples
    as `leader`. Frames of 20 ms are aligned by their cepstra and by the encoder's latents.
    """
    hop = codec.config.hop_length // FRAMES_PER_CODE
    features = []
    for waveform in (leader, follower):
        padded = torch.from_numpy(np.pad(waveform, (0, -len(waveform) % codec.config.hop_length)))
        mels = log_mel_spectrogram(padded[None], codec.config)[0].unflatten(0, (-1, 2)).mean(1)
        cepstra = scipy.fft.dct(mels.numpy(), norm="ortho")[:, 1:NUM_CEPSTRA]
        cepstra = (cepstra - cepstra.mean(0)) / cepstra.std(0).clip(1e-6)
        latents = codec.encode(padded[None, None]).latents[0].numpy().repeat(FRAMES_PER_CODE, 0)
        features.append([x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6) for x in (cepstra, latents)])
    similarity = sum(a @ b.T for a, b in zip(*features))
    holding = np.array([0, HOLD_COST, HOLD_COST])
    path = librosa.sequence.dtw(C=2 - similarity, weights_add=holding)[1][::-1].astype(float)
    # of frames that are held, in either recording, the middle
    for axis in (1, 0):
        values, groups = np.unique(path[:, axis], return_inverse=True)
        other = np.bincount(groups, path[:, 1 - axis]) / np.bincount(groups)
        path = np.stack([other, values] if axis else [values, other], axis=1)
    times = np.arange(-(-len(leader) // STRETCH_HOP) + 1) * STRETCH_HOP / hop
    positions = np.interp(times, path[:, 0] + 0.5, path[:, 1] + 0.5)
    return overlap_add(follower, (hop * positions).clip(0, len(follower)), len(leader))


def align_codes(logits: torch.Tensor, codes: torch.LongTensor) -> torch.LongTensor:
    """
    Dynamic time warping of another recording's `codes` `(num_codes,)` to `logits` `(num_frames, codebook_size)` of codes:
    for each frame the code it should have, `(num_frames,)`.
    """
    cost = -logits.detach()[:, codes].float().numpy()
    path = librosa.sequence.dtw(C=cost - cost.min())[1]
    # the path runs backwards; where several codes fall on one frame, its first one is kept
    aligned = np.empty(len(logits), dtype=np.int64)
    aligned[path[:, 0]] = path[:, 1]
    return codes[torch.from_numpy(aligned)]


class VitaAudioCodecForEncoderTuning(VitaAudioCodecPreTrainedModel):
    """Trains the encoder alone: the frozen phoneme head has to read its codes, which are to be the default voice's."""

    def __init__(self, config: VitaAudioCodecConfig, num_phonemes: int):
        super().__init__(config)
        self.codec = VitaAudioCodec(config)
        self.phoneme_head = PhonemeHead(config, num_phonemes)
        self.requires_grad_(False)
        self.codec.encoder.requires_grad_(True)
        self.post_init()

    def forward(
        self,
        input_values: torch.FloatTensor,
        padding_mask: torch.Tensor,
        target_codes: torch.LongTensor,
        is_default_voice: torch.Tensor,
        labels: torch.LongTensor,
    ) -> VitaAudioCodecTuningOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`): audio to encode.
            padding_mask (`torch.LongTensor` of shape `(batch_size, num_samples)`): 1 on audio.
            target_codes (`torch.LongTensor` of shape `(batch_size, max_codes)`): what the default voice has for this
                text at this time, padded with -100.
            is_default_voice (`torch.BoolTensor` of shape `(batch_size,)`): whether these are the codes of the same recording.
            labels (`torch.LongTensor` of shape `(batch_size, num_phonemes)`): phonemes from 1 on, padded with 0.
        """
        encoded = self.codec.encode(input_values, padding_mask)
        mask = encoded.audio_codes_mask
        logits = code_logits(self.codec, encoded.latents)
        targets = torch.full_like(encoded.audio_codes[:, 0], IGNORED)
        for row, (codes, is_default) in enumerate(zip(target_codes, is_default_voice)):
            num_codes, codes = int(mask[row].sum()), codes[codes != IGNORED]
            targets[row, :num_codes] = codes if is_default else align_codes(logits[row, :num_codes], codes)
        code = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        log_probs = self.phoneme_head(encoded.quantized_representation, mask[..., None].float())
        phoneme = phoneme_loss(log_probs, mask, labels)
        return VitaAudioCodecTuningOutput(loss=code + phoneme, code_loss=code.detach(), phoneme_loss=phoneme.detach())


class VitaAudioCodecForDecoderTuning(VitaAudioCodecPreTrainedModel):
    """Trains the decoder alone, in the default voice."""

    def __init__(self, config: VitaAudioCodecConfig):
        super().__init__(config)
        self.codec = VitaAudioCodec(config)
        self.requires_grad_(False)
        self.codec.decoder.requires_grad_(True)
        self.post_init()

    def forward(
        self,
        audio_codes: torch.LongTensor,
        target_values: torch.FloatTensor,
        padding_mask: torch.Tensor,
        log_f0: torch.FloatTensor,
        voiced_mask: torch.Tensor,
    ) -> VitaAudioCodecTuningOutput:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(batch_size, max_codes)`): codes of any voice, padded with 0.
            target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): what the default voice has for them.
            padding_mask (`torch.LongTensor` of shape `(batch_size, num_samples)`): 1 on audio.
            log_f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`): its log pitch, see `pitch_track`.
            voiced_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): where this pitch is to be trusted.
        """
        spectral, pitch = reconstruction_losses(
            self.codec,
            self.codec.quantizer.from_codes(audio_codes),
            torch.zeros_like(audio_codes[:, 0]),
            target_values,
            padding_mask,
            log_f0,
            voiced_mask,
            self.codec.voice_log_f0[:1, None],
        )
        return VitaAudioCodecTuningOutput(
            loss=spectral + pitch, spectral_loss=spectral.detach(), pitch_loss=pitch.detach()
        )


class TuningClips(Dataset):
    """
    Base of the two datasets below: training clips of a corpus, those of other voices faster or slower than they were
    recorded. What the codec makes of them is what it made before it was trained.
    """

    def __init__(
        self, corpus_dir: Path, codec: VitaAudioCodec, clips: list[dict], default_voice: str, phonemes: list[str]
    ):
        self.corpus_dir, self.config, self.default_voice = corpus_dir, codec.config, default_voice
        self.codec, self.phonemes = deepcopy(codec).eval(), phonemes
        self.defaults = [clip for clip in clips if clip["voice"] == default_voice]
        self.default_clips = {clip["text"]: clip for clip in self.defaults}
        self.others = [clip for clip in clips if clip["voice"] != default_voice and clip["text"] in self.default_clips]

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int) -> np.ndarray:
        """A clip `(num_samples,)`, of another voice at a tempo of its own, which is always the same."""
        clip = self.clips[index]
        waveform, _ = read_clip(self.corpus_dir, clip)
        share, factor = torch.rand(2, generator=torch.Generator().manual_seed(index)).tolist()
        if clip["voice"] == self.default_voice or share >= OTHER_TEMPO_SHARE:
            return waveform
        fastest, slowest = OTHER_TEMPOS
        return stretch(waveform, round(len(waveform) * (fastest + factor * (slowest - fastest))))

    @torch.no_grad()
    def default_recording(self, index: int, waveform: np.ndarray) -> np.ndarray:
        """What the default voice would have said, had it the timing of `waveform`, the clip at `index`."""
        clip = self.clips[index]
        if clip["voice"] == self.default_voice:
            return waveform
        return follow_timing(self.codec, waveform, read_clip(self.corpus_dir, self.default_clips[clip["text"]])[0])

    @torch.no_grad()
    def encode(self, waveform: np.ndarray) -> torch.LongTensor:
        """Codes `(num_codes,)`."""
        return self.codec.encode(torch.from_numpy(waveform)[None, None]).audio_codes[0, 0]


class EncoderTuningClips(TuningClips):
    """Clips for [`VitaAudioCodecForEncoderTuning`], with other pitch, formants, tempo, microphones, rooms and noise."""

    def __init__(self, corpus_dir, codec, clips, default_voice, phonemes):
        super().__init__(corpus_dir, codec, clips, default_voice, phonemes)
        self.clips = self.others + self.defaults[::DEFAULT_VOICE_STEP]
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(phonemes)}
        num_workers = min(MAX_ENCODING_PROCESSES, os.cpu_count() or 1)
        batches = DataLoader(range(len(self.clips)), 32, collate_fn=self.target_codes, num_workers=num_workers)
        self.codes = [codes for batch in tqdm(batches, desc="Encoding the default voice") for codes in batch]

    def target_codes(self, indices: list[int]) -> list[np.ndarray]:
        # arrays, because tensors of other processes hold a file descriptor each
        return [self.encode(self.default_recording(index, self.read(index))).numpy() for index in indices]

    def __getitem__(self, index: int) -> dict:
        clip, waveform = self.clips[index], self.read(index)
        if torch.rand(()) < OTHER_VOICE_SHARE:
            factor = torch.empty(()).uniform_(*OTHER_RATES).item()
            waveform = change_voice(waveform, factor, self.config.sampling_rate)
        if torch.rand(()) < OTHER_FORMANT_SHARE:
            waveform = warp_formants(waveform, torch.empty(()).uniform_(*OTHER_FORMANTS).item())
        return {
            "waveform": waveform,
            "codes": torch.from_numpy(self.codes[index]),
            "is_default": clip["voice"] == self.default_voice,
            "labels": torch.tensor([self.phoneme_ids[phoneme] for phoneme in clip["phonemes"]]),
        }

    def collate(self, clips: list[dict]) -> dict:
        waveforms = [torch.from_numpy(clip["waveform"]) for clip in clips]
        waveforms, mask = pad_to_codes(waveforms, self.config.hop_length)
        is_disturbed = torch.rand(len(clips), 1) < DISTURBED_SHARE
        heard = torch.where(is_disturbed, disturb(waveforms, mask, self.config.sampling_rate), waveforms)
        return {
            "input_values": heard[:, None],
            "padding_mask": mask,
            "target_codes": nn.utils.rnn.pad_sequence(
                [clip["codes"] for clip in clips], batch_first=True, padding_value=IGNORED
            ),
            "is_default_voice": torch.tensor([clip["is_default"] for clip in clips]),
            "labels": nn.utils.rnn.pad_sequence([clip["labels"] for clip in clips], batch_first=True),
        }


class DecoderTuningClips(TuningClips):
    """
    For [`VitaAudioCodecForDecoderTuning`]: what the default voice says and its codes, and what it would have said with the
    timing of other voices, and theirs. Thus the decoder learns to speak codes of voices that are not coded as well.
    """

    def __init__(self, corpus_dir, codec, clips, default_voice, phonemes):
        super().__init__(corpus_dir, codec, clips, default_voice, phonemes)
        words = {text: set(re.findall(r"[\w']+", text.lower())) for text in self.default_clips}
        numbers = Counter(word for text in words.values() for word in text)
        rare = [clip for clip in self.defaults if any(numbers[word] < RARE_WORD_CLIPS for word in words[clip["text"]])]
        self.clips = self.defaults + (RARE_WORD_TIMES - 1) * rare + self.others[::OTHER_VOICES_STEP]
        self.prepared = {}

    def __getitem__(self, index: int) -> dict:
        # made once, for it is slow, also where a clip is drawn more often
        path = self.clips[index]["path"]
        if path not in self.prepared:
            self.prepared[path] = self.prepare(index)
        return self.prepared[path]

    def prepare(self, index: int) -> dict:
        heard = self.read(index)
        codes, waveform = self.encode(heard), self.default_recording(index, heard)
        num_frames = len(codes) * self.config.hop_length // self.config.synthesis_hop_length
        log_f0, voiced = map(torch.from_numpy, pitch_track(waveform, self.config, num_frames))
        return {"waveform": waveform, "codes": codes, "log_f0": log_f0, "voiced": voiced}

    def collate(self, clips: list[dict]) -> dict:
        waveforms = [torch.from_numpy(clip["waveform"]) for clip in clips]
        waveforms, mask = pad_to_codes(waveforms, self.config.hop_length)

        def padded(name: str, value: float) -> torch.Tensor:
            rows = [clip[name] for clip in clips]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        return {
            "audio_codes": padded("codes", 0),
            "target_values": waveforms,
            "padding_mask": mask,
            "log_f0": padded("log_f0", float(np.log(100))),
            "voiced_mask": padded("voiced", False),
        }
