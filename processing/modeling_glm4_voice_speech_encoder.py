# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""GLM-4-Voice's speech encoder: a Whisper encoder that reads blocks of 4 s from left to right, and a codebook."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from .configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig


def block_causal_mask(length: int, block_size: int, device: torch.device) -> torch.BoolTensor:
    """
    Mask `(length, length)`, True where a position (row) may attend: to all positions before it and to its own block.
    """
    blocks = torch.arange(length, device=device) // block_size
    return blocks[:, None] >= blocks


@dataclass
class Glm4VoiceSpeechEncoderState:
    r"""
    What the encoder carries from one chunk of a segment to the next, where it comes in chunks.

    num_positions (`int`): half as many as frames have come.
    frames (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, 2)`), hidden (`torch.FloatTensor` of shape
        `(batch_size, d_model, 2)`): the last inputs of the two convolutions.
    layers (`list[torch.FloatTensor]`): what each layer attends to, `(batch_size, num_positions, d_model)`.
    """

    num_positions: int
    frames: torch.FloatTensor
    hidden: torch.FloatTensor
    layers: list[torch.FloatTensor]


class Glm4VoiceSpeechEncoder(nn.Module):
    """Log-mel frames (100 per second) to codes (12.5 per second)."""

    def __init__(self, config: Glm4VoiceTokenizerConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2)
        self.activation_fn = ACT2FN[config.activation_function]
        self.embed_positions = nn.Embedding(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList([WhisperEncoderLayer(config) for _ in range(config.encoder_layers)])
        if config.latent_dim:
            # Whisper's own last norm; GLM-4-Voice's encoder ends in the middle of Whisper's, which has none there
            self.layer_norm = nn.LayerNorm(config.d_model)
            self.projection = nn.Linear(config.d_model, config.latent_dim)
        self.codebook = nn.Embedding(config.codebook_size, config.latent_dim or config.d_model)

    def init_state(self, input_features: torch.FloatTensor) -> Glm4VoiceSpeechEncoderState:
        """The state of a segment before its first frame, for frames of this kind."""
        batch_size, d_model, zeros = len(input_features), self.config.d_model, input_features.new_zeros
        # Causal convolutions: all padding, one frame less than the kernel's width, stands in front
        return Glm4VoiceSpeechEncoderState(
            num_positions=0,
            frames=zeros(batch_size, self.config.num_mel_bins, 2),
            hidden=zeros(batch_size, d_model, 2),
            layers=[zeros(batch_size, 0, d_model) for _ in self.layers],
        )

    def forward(
        self,
        input_features: torch.FloatTensor,
        attention_mask: torch.Tensor,
        state: Glm4VoiceSpeechEncoderState | None = None,
    ) -> tuple[torch.LongTensor, torch.BoolTensor, torch.FloatTensor]:
        r"""
        Args:
            input_features (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`):
                Log-mel frames of `WhisperFeatureExtractor`, 30 s at most; `num_frames` is a multiple of the 8 of a
                code.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_frames)`):
                1 on audio, 0 on the padding behind it.
            state ([`Glm4VoiceSpeechEncoderState`], *optional*):
                Of a segment that comes in chunks, of whole blocks of `attention_block_size` frames but for the last;
                updated in place.

        Returns:
            `tuple`: codes of shape `(batch_size, num_codes)`; True where they stand for audio of the row, of the same
            shape; the latents that they are nearest to, `(batch_size, num_codes, latent_dim or d_model)`.

        Raises:
            ValueError: there is a wrong number of mel bins or frames.
        """
        config = self.config
        frames_per_code, max_frames = 2 * config.pooling_kernel_size, 2 * config.max_source_positions
        if input_features.ndim != 3 or input_features.shape[1] != config.num_mel_bins:
            raise ValueError(
                f"`input_features` must be (batch_size, {config.num_mel_bins} mel bins, num_frames), got "
                f"{tuple(input_features.shape)}."
            )
        num_frames = input_features.shape[2]
        max_frames -= 0 if state is None else 2 * state.num_positions
        if not 0 < num_frames <= max_frames or num_frames % frames_per_code:
            raise ValueError(
                f"`input_features` must have 1 to {max_frames} frames, a multiple of {frames_per_code}, got "
                f"{num_frames}."
            )
        state = self.init_state(input_features) if state is None else state
        padded = torch.cat([state.frames, input_features], dim=2)
        hidden_states, state.frames = self.activation_fn(self.conv1(padded)), padded[..., -2:]
        padded = torch.cat([state.hidden, hidden_states], dim=2)
        hidden_states, state.hidden = self.activation_fn(self.conv2(padded)).transpose(1, 2), padded[..., -2:]
        # The second convolution has halved the number of frames
        attention_mask = attention_mask[:, ::2].bool()
        start, stop = state.num_positions, state.num_positions + hidden_states.shape[1]
        state.num_positions = stop
        hidden_states = hidden_states + self.embed_positions(torch.arange(start, stop, device=hidden_states.device))

        # Of new positions to all; what came before is audio
        allowed = block_causal_mask(stop, config.attention_block_size, hidden_states.device)[start:]
        # `(batch_size, 1, num_new_positions, num_positions)`
        allowed = (allowed & nn.functional.pad(attention_mask, (start, 0), value=True)[:, None])[:, None]
        bias = torch.zeros_like(allowed, dtype=hidden_states.dtype)
        bias = bias.masked_fill(~allowed, torch.finfo(hidden_states.dtype).min)
        for index, layer in enumerate(self.layers):
            # A layer attends to its normalised inputs, those of before among them
            attended = torch.cat([state.layers[index], layer.self_attn_layer_norm(hidden_states)], dim=1)
            state.layers[index] = attended
            hidden_states = layer(hidden_states, bias, key_value_states=attended)

        if config.latent_dim:
            hidden_states = self.layer_norm(hidden_states)
        # The mean of `pooling_kernel_size` frames is one code: `(batch_size, num_codes, d_model)`
        latents = hidden_states.unflatten(1, (-1, config.pooling_kernel_size)).mean(2)
        if config.latent_dim:
            latents = self.projection(latents).tanh()
        return self.quantize(latents), attention_mask[:, :: config.pooling_kernel_size], latents

    def quantize(self, latents: torch.FloatTensor) -> torch.LongTensor:
        """Codes `(...)` of the codebook's vectors nearest to `latents`, whose last dimension is theirs."""
        return self.distances(latents).argmin(-1)

    def distances(self, latents: torch.FloatTensor) -> torch.FloatTensor:
        """
        Squared distances `(..., codebook_size)` of `latents` from the codebook's vectors, in float32, without the
        latent's own square, which is the same for all vectors.
        """
        # call the module, because hooks may keep its weights on another device
        vectors = self.codebook(torch.arange(self.codebook.num_embeddings, device=latents.device)).float()
        latents = latents.float()
        return vectors.square().sum(-1) - 2 * latents @ vectors.T


__all__ = ["Glm4VoiceSpeechEncoder", "Glm4VoiceSpeechEncoderState", "block_causal_mask"]
