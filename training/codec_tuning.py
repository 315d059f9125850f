# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What trains the encoder or the decoder of a codec whose codes are fixed.

The codebook stays, so a language model that was trained on the codes stays, too. The encoder learns to write, for any
voice, the codes that the default voice has for the same text; the decoder learns to speak the default voice's codes.
"""

from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import soxr
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers.utils import ModelOutput

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec, VitaAudioCodecPreTrainedModel
from training.codec import (
    OTHER_FORMANTS,
    OTHER_RATES,
    OTHER_VOICE_SHARE,
    PhonemeHead,
    change_voice,
    disturb,
    phoneme_loss,
    pitch_track,
    read_clip,
    reconstruction_losses,
    warp_formants,
)


CODE_SCALE = 16.0  # of the cosines that are the logits of codes
DEFAULT_VOICE_STEP = 4  # of the default voice's clips, which change no code, one in so many is enough for the encoder
OTHER_TEMPO_SHARE = 0.3  # of clips of other voices, played faster or slower
OTHER_FORMANT_SHARE = 0.3  # of all clips
DISTURBED_SHARE = 0.5  # and of these, heard in rooms, through microphones and noise
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
                text, padded with -100.
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
            audio_codes (`torch.LongTensor` of shape `(batch_size, max_codes)`): codes of the default voice, padded with 0.
            target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): the audio they were made from.
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


@torch.no_grad()
def encode_texts(codec: VitaAudioCodec, corpus_dir: Path, clips: list[dict]) -> dict[str, torch.LongTensor]:
    """Codes `(num_codes,)` of the clips by their texts."""
    codes = {}
    for clip in tqdm(clips, desc="Encoding the default voice"):
        waveform = torch.from_numpy(read_clip(corpus_dir, clip)[0])
        codes[clip["text"]] = codec.encode(waveform[None, None]).audio_codes[0, 0]
    return codes


class TuningClips(Dataset):
    """Base of the two datasets below: training clips of a corpus, and the codes of what the default voice says."""

    def __init__(
        self, corpus_dir: Path, codec: VitaAudioCodec, clips: list[dict], default_voice: str, phonemes: list[str]
    ):
        self.corpus_dir, self.config, self.default_voice = corpus_dir, codec.config, default_voice
        self.phonemes = phonemes
        defaults = [clip for clip in clips if clip["voice"] == default_voice]
        self.codes = encode_texts(codec, self.corpus_dir, defaults)
        self.clips = [clip for clip in clips if clip["text"] in self.codes]

    def __len__(self) -> int:
        return len(self.clips)

    def pad(self, waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.LongTensor]:
        """Waveforms padded to whole codes `(batch, samples)`, and the mask that is 1 on audio."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = nn.utils.rnn.pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
        padded = nn.functional.pad(padded, (0, -padded.shape[1] % self.config.hop_length))
        return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()


class EncoderTuningClips(TuningClips):
    """Clips for [`VitaAudioCodecForEncoderTuning`], with other pitch, formants, tempo, microphones, rooms and noise."""

    def __init__(self, corpus_dir, codec, clips, default_voice, phonemes):
        super().__init__(corpus_dir, codec, clips, default_voice, phonemes)
        defaults = [clip for clip in self.clips if clip["voice"] == default_voice]
        self.clips = [clip for clip in self.clips if clip["voice"] != default_voice] + defaults[::DEFAULT_VOICE_STEP]
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(phonemes)}

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, sampling_rate = read_clip(self.corpus_dir, clip)
        is_default = clip["voice"] == self.default_voice
        if not is_default and torch.rand(()) < OTHER_TEMPO_SHARE:
            rate = torch.empty(()).uniform_(*OTHER_RATES).item()
            waveform = soxr.resample(waveform, rate * sampling_rate, sampling_rate)
        if torch.rand(()) < OTHER_VOICE_SHARE:
            waveform = change_voice(waveform, torch.empty(()).uniform_(*OTHER_RATES).item(), sampling_rate)
        if torch.rand(()) < OTHER_FORMANT_SHARE:
            waveform = warp_formants(waveform, torch.empty(()).uniform_(*OTHER_FORMANTS).item())
        return {
            "waveform": waveform,
            "codes": self.codes[clip["text"]],
            "is_default": is_default,
            "labels": torch.tensor([self.phoneme_ids[phoneme] for phoneme in clip["phonemes"]]),
        }

    def collate(self, clips: list[dict]) -> dict:
        waveforms, mask = self.pad([clip["waveform"] for clip in clips])
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
    """What the default voice says, for [`VitaAudioCodecForDecoderTuning`]. Pitch is tracked once and kept."""

    def __init__(self, corpus_dir, codec, clips, default_voice, phonemes):
        clips = [clip for clip in clips if clip["voice"] == default_voice]
        super().__init__(corpus_dir, codec, clips, default_voice, phonemes)
        self.pitch = {}

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, _ = read_clip(self.corpus_dir, clip)
        codes = self.codes[clip["text"]]
        if index not in self.pitch:
            num_frames = len(codes) * self.config.hop_length // self.config.synthesis_hop_length
            self.pitch[index] = tuple(map(torch.from_numpy, pitch_track(waveform, self.config, num_frames)))
        log_f0, voiced = self.pitch[index]
        return {"waveform": waveform, "codes": codes, "log_f0": log_f0, "voiced": voiced}

    def collate(self, clips: list[dict]) -> dict:
        waveforms, mask = self.pad([clip["waveform"] for clip in clips])

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
