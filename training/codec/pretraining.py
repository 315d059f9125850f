# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that trains the compact codec from nothing: spectral and pitch losses, and a phoneme loss on the codes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec, VitaAudioCodecBlock, VitaAudioCodecPreTrainedModel

from .losses import spectral_loss


# The codebook starts as the centres of clusters; so many latents for each code are clustered.
LATENTS_PER_CODE = 20
# Weight of the commitment loss, which draws the encoder towards the codebook (arXiv 1711.00937, equation 3)
COMMITMENT = 0.25


@dataclass
class VitaAudioCodecForPreTrainingOutput(ModelOutput):
    """Scalars: the weighted sum and its parts, each averaged over the batch."""

    loss: torch.Tensor | None = None
    spectral_loss: torch.Tensor | None = None
    pitch_loss: torch.Tensor | None = None
    codebook_loss: torch.Tensor | None = None
    phoneme_loss: torch.Tensor | None = None


class PhonemeHead(nn.Module):
    """
    Reads phonemes from latents, 4 CTC steps a code; needed for training only. A single block sees three codes either
    way: one that saw more would learn the sentences by heart and forgive unclear codes.
    """

    def __init__(self, config: VitaAudioCodecConfig, num_phonemes: int, hidden_size: int = 256, depth: int = 1):
        super().__init__()
        self.in_proj = nn.Linear(config.codebook_dim, hidden_size)
        self.blocks = nn.ModuleList([VitaAudioCodecBlock(config, hidden_size) for _ in range(depth)])
        # CTC writes at most one phoneme a step, and the 80 ms of a code can have several.
        self.out_proj = nn.Linear(hidden_size, 4 * (num_phonemes + 1))

    def forward(self, quantized: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Latents `(batch, codes, codebook_dim)` to log-probabilities `(batch, 4 * codes, num_phonemes + 1)`, blank
        first.
        """
        hidden_states = self.in_proj(quantized)
        for block in self.blocks:
            hidden_states = block(hidden_states, mask)
        return self.out_proj(hidden_states).unflatten(-1, (4, -1)).flatten(1, 2).float().log_softmax(-1)


def spherical_kmeans(points: torch.Tensor, num_clusters: int, num_iterations: int = 15) -> torch.Tensor:
    """Unit vectors `(num_clusters, dim)` that stand for the unit vectors `(num_points, dim)`."""
    centers = points[torch.randperm(len(points))[:num_clusters]]
    for _ in range(num_iterations):
        nearest = (points @ centers.T).argmax(-1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=num_clusters)
        # a cluster that lost all its points starts again from one of them
        sums[counts == 0] = points[torch.randint(len(points), (int((counts == 0).sum()),))]
        centers = nn.functional.normalize(sums, dim=-1)
    return centers


def reconstruction_losses(
    codec: VitaAudioCodec,
    speech: torch.Tensor,
    voice_ids: torch.LongTensor,
    target_values: torch.Tensor,
    padding_mask: torch.Tensor,
    log_f0: torch.Tensor,
    voiced_mask: torch.Tensor,
    median_log_f0: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Spectral and pitch losses of what is decoded from the latents `speech`; the rest is as in the models' `forward`.
    """
    state = codec.init_decoder_state(speech.shape[0])
    frames = codec.decode_frames(speech, voice_ids, state)
    # the source follows the true pitch, so that its harmonics lie on those of the target
    audio = codec.vocoder(log_f0, frames.envelopes, state) * padding_mask
    pitch = ((frames.log_f0 + median_log_f0 - log_f0).abs() * voiced_mask).sum() / voiced_mask.sum().clamp(min=1)
    return spectral_loss(audio, target_values), pitch


def phoneme_loss(log_probs: torch.Tensor, mask: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """CTC loss of a [`PhonemeHead`]'s output; `mask` `(batch, codes)`, `labels` from 1 on and padded with 0."""
    # A clip with more phonemes than steps would have an infinite loss; it counts as 0.
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1), labels, 4 * mask.sum(-1), (labels > 0).sum(-1), zero_infinity=True
    )


class VitaAudioCodecForPreTraining(VitaAudioCodecPreTrainedModel):
    """The codec with its losses. Only `codec` is kept after training.

    While `is_quantizing` is False the decoder and the phoneme head see the encoder's latents as they are.
    """

    def __init__(self, config: VitaAudioCodecConfig, num_phonemes: int, phoneme_loss_weight: float = 1.0):
        super().__init__(config)
        self.codec = VitaAudioCodec(config)
        self.phoneme_head = PhonemeHead(config, num_phonemes)
        self.phoneme_loss_weight = phoneme_loss_weight
        self.is_quantizing = True
        self.post_init()

    @torch.no_grad()
    def initialize_codebook(self, batches: Iterable[dict]) -> None:
        """Sets the codebook to the clusters of the latents of as many of the `batches` as it takes."""
        latents, missing = [], LATENTS_PER_CODE * self.config.codebook_size
        for batch in batches:
            encoded = self.codec.encode(batch["input_values"], batch["padding_mask"])
            latents.append(nn.functional.normalize(encoded.latents[encoded.audio_codes_mask], dim=-1))
            missing -= len(latents[-1])
            if missing <= 0:
                break
        self.codec.quantizer.codebook.weight.copy_(spherical_kmeans(torch.cat(latents), self.config.codebook_size))

    def forward(
        self,
        input_values: torch.FloatTensor,
        padding_mask: torch.Tensor,
        target_values: torch.FloatTensor,
        log_f0: torch.FloatTensor,
        voiced_mask: torch.Tensor,
        median_log_f0: torch.FloatTensor,
        voice_ids: torch.LongTensor,
        is_reconstructed: torch.Tensor,
        labels: torch.LongTensor,
    ) -> VitaAudioCodecForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`): audio to encode, with noise.
            padding_mask (`torch.LongTensor` of shape `(batch_size, num_samples)`): 1 on audio.
            target_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): audio to reconstruct.
            log_f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`): log pitch where the vocoder wants it.
            voiced_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): where this pitch is to be trusted.
            median_log_f0 (`torch.FloatTensor` of shape `(batch_size, 1)`): of each clip.
            voice_ids (`torch.LongTensor` of shape `(batch_size,)`): voices.
            is_reconstructed (`torch.BoolTensor` of shape `(batch_size, 1)`): False where only phonemes are learnt.
            labels (`torch.LongTensor` of shape `(batch_size, num_phonemes)`): phonemes from 1 on, padded with 0.
        """
        encoded = self.codec.encode(input_values, padding_mask)
        directions = nn.functional.normalize(encoded.latents, dim=-1)
        speech = encoded.quantized_representation if self.is_quantizing else directions
        # Clips that are only read are silent on both sides, so they have no distance.
        spectral, pitch = reconstruction_losses(
            self.codec,
            speech,
            voice_ids,
            target_values * is_reconstructed,
            padding_mask * is_reconstructed,
            log_f0,
            voiced_mask & is_reconstructed,
            median_log_f0,
        )
        mask = encoded.audio_codes_mask
        phoneme = phoneme_loss(self.phoneme_head(speech, mask[..., None].float()), mask, labels)
        # The first term moves the codebook to the latents, the second the latents to the codebook.
        vectors = self.codec.quantizer.from_codes(encoded.audio_codes[:, 0])
        codebook = (
            (vectors - directions.detach()).square() + COMMITMENT * (vectors.detach() - directions).square()
        ).sum(-1)
        # Before it is set to clusters, the codebook is random and its loss has no weight.
        codebook = (codebook * mask).sum() / mask.sum() * self.is_quantizing
        loss = spectral + pitch + codebook + self.phoneme_loss_weight * phoneme
        parts = {
            "spectral_loss": spectral,
            "pitch_loss": pitch,
            "codebook_loss": codebook,
            "phoneme_loss": phoneme,
        }
        return VitaAudioCodecForPreTrainingOutput(loss=loss, **{name: part.detach() for name, part in parts.items()})
