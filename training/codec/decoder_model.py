# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that trains a decoder on fixed codes: what it says of them, and how far that is from the recordings."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from processing.modeling_vita_audio_codec import VitaAudioCodec, VitaAudioCodecFrames, VitaAudioCodecPreTrainedModel
from processing.modeling_vita_audio_vocoder import NOISE_PERIOD

from .losses import mel_loss, spectral_loss


# A frame's window and the source that it shapes reach three frames further back each.
FRAMES_BEFORE = 6
# Log magnitude of the frames before an utterance
SILENCE = -20.0


@dataclass
class DecoderTrainingOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor`): the sum of the three losses of the batch below.
    audio_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): a decoded piece of each clip.
    target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): the same piece of the recording.
    """

    loss: torch.Tensor | None = None
    spectral_loss: torch.Tensor | None = None
    mel_loss: torch.Tensor | None = None
    pitch_loss: torch.Tensor | None = None
    audio_values: torch.FloatTensor | None = None
    target_values: torch.FloatTensor | None = None


def disturb_codes(codes: torch.LongTensor, mask: torch.Tensor, share: float) -> torch.LongTensor:
    """
    Replaces a `share` of the codes `(batch, codes)` that `mask` has, as a language model errs: half of them by the
    code before, as when the time is wrong, and half by any code of the batch, as when the sound is.
    """
    drawn = torch.rand(codes.shape, device=codes.device)
    spoken = codes[mask]
    others = spoken[torch.randint(len(spoken), codes.shape, device=codes.device)]
    before = torch.cat([codes[:, :1], codes[:, :-1]], dim=1)
    disturbed = torch.where(drawn < share / 2, before, torch.where(drawn < share, others, codes))
    return torch.where(mask, disturbed, codes)


def take_pieces(values: torch.Tensor, starts: torch.LongTensor, length: int) -> torch.Tensor:
    """Of `(batch, time, ...)` for each row the `length` steps from its one of the `starts` `(batch,)` on."""
    steps = starts[:, None] + torch.arange(length, device=starts.device)
    return values[torch.arange(len(values), device=starts.device)[:, None], steps]


class VitaAudioCodecForDecoderTraining(VitaAudioCodecPreTrainedModel):
    """
    The codec, of which the decoder, the vectors that it reads for the codes, and the vocoder learn. The encoder stays,
    and so do the codes.

    Args:
        codec: the codec.
        piece_seconds: how long the piece of each clip is that is spoken and compared. Its frames are those that the
            decoder has for it within the whole clip.
        code_error_share: share of the codes that are replaced.
    """

    def __init__(self, codec: VitaAudioCodec, piece_seconds: float, code_error_share: float):
        super().__init__(codec.config)
        self.codec = codec
        self.piece_frames = round(piece_seconds * codec.config.sampling_rate / codec.config.synthesis_hop_length)
        self.code_error_share = code_error_share
        self.requires_grad_(False)
        self.codec.decoder.requires_grad_(True)
        self.codec.vocoder.requires_grad_(True)
        self.codec.quantizer.requires_grad_(True)

    def forward(
        self,
        audio_codes: torch.LongTensor,
        padding_mask: torch.Tensor,
        target_values: torch.FloatTensor,
        log_f0: torch.FloatTensor,
        voiced_mask: torch.Tensor,
    ) -> DecoderTrainingOutput:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(batch_size, num_codes)`): what the encoder writes.
            padding_mask (`torch.LongTensor` of shape `(batch_size, num_samples)`): 1 on audio.
            target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): the recordings.
            log_f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`): their log pitch, see `pitch_track`.
            voiced_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): where this pitch is to be trusted.
        """
        # A code is there if its first sample is.
        mask = padding_mask[:, :: self.config.hop_length].bool()
        codes = disturb_codes(audio_codes, mask, self.code_error_share)
        # Zeros stand for the codes behind the end, as in `decode`.
        quantized = self.codec.quantizer.from_codes(codes) * mask[..., None]
        frames = self.codec.decode_frames(
            quantized, torch.zeros_like(codes[:, 0]), self.codec.init_decoder_state(len(codes))
        )
        error = (frames.log_f0 + self.codec.voice_log_f0[0] - log_f0).abs() * voiced_mask
        pitch = error.sum() / voiced_mask.sum().clamp(min=1)
        audio, target = self._speak_pieces(frames, padding_mask, target_values, log_f0)
        spectral, mel = spectral_loss(audio, target), mel_loss(audio, target, self.config.sampling_rate)
        return DecoderTrainingOutput(
            loss=spectral + mel + pitch,
            spectral_loss=spectral.detach(),
            mel_loss=mel.detach(),
            pitch_loss=pitch.detach(),
            audio_values=audio,
            target_values=target,
        )

    def _speak_pieces(
        self,
        frames: VitaAudioCodecFrames,
        padding_mask: torch.Tensor,
        target_values: torch.Tensor,
        log_f0: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A random piece of each row, decoded and recorded, `(batch_size, num_samples)`; zeros behind its end."""
        batch_size, hop = len(log_f0), self.config.synthesis_hop_length
        length = min(self.piece_frames, log_f0.shape[1])
        latest = (padding_mask.sum(1) // hop - length).clamp(min=0)
        starts = (torch.rand(batch_size, device=latest.device) * (latest + 1)).long()
        # The source follows the true pitch, so that its harmonics lie on those of the target.
        before = log_f0[:, :1].expand(-1, FRAMES_BEFORE)
        log_f0 = take_pieces(torch.cat([before, log_f0], dim=1), starts, length + FRAMES_BEFORE)
        envelopes = nn.functional.pad(frames.envelopes, (0, 0, 0, 0, FRAMES_BEFORE, 0), value=SILENCE)
        envelopes = take_pieces(envelopes, starts, length + FRAMES_BEFORE)
        state = self.codec.init_decoder_state(batch_size)
        # In an utterance the piece would not begin where the noise does.
        state.sample_position = torch.randint(NOISE_PERIOD, (batch_size, 1))
        audio = self.codec.vocoder(log_f0, envelopes, state)[:, FRAMES_BEFORE * hop :]
        mask = take_pieces(padding_mask, starts * hop, length * hop)
        return audio * mask, take_pieces(target_values, starts * hop, length * hop)
