# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""GLM-4-Voice's flow-matching decoder: speech codes to mel frames.

A block-causal encoder with relative positions reads the codes. Its output, interpolated to the mel rate, conditions a
U-Net that carries noise to mel frames along a straight flow (CosyVoice, arXiv 2407.05407; Matcha-TTS, arXiv
2309.03199). Given frames at the
front condition it too: those of a voice prompt or those decoded before.
"""

import math

import torch
from torch import nn

from .configuration_glm4_voice_codec import Glm4VoiceFlowConfig
from .modeling_glm4_voice_speech_encoder import block_causal_mask


def relative_positions(length: int, hidden_size: int, device: torch.device) -> torch.FloatTensor:
    """
    Sines and cosines, interleaved, of the distances `length - 1` to `1 - length`: `(2 * length - 1, hidden_size)`.
    """
    # In float32, because bfloat16 rounds whole numbers above 256
    distances = torch.arange(length - 1, -length, -1, device=device, dtype=torch.float32)
    exponents = torch.arange(0, hidden_size, 2, device=device, dtype=torch.float32)
    angles = distances[:, None] * torch.exp(exponents * (-math.log(10000.0) / hidden_size))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Glm4VoiceCodeAttention(nn.Module):
    """Attention with relative positions (Transformer-XL, arXiv 1901.02860)."""

    def __init__(self, config: Glm4VoiceFlowConfig):
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.position_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(config.num_attention_heads, self.head_dim))
        self.position_bias = nn.Parameter(torch.zeros(config.num_attention_heads, self.head_dim))

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, mask: torch.BoolTensor
    ) -> torch.FloatTensor:
        # `(batch_size, num_heads, length, head_dim)`
        query, key, value = (
            proj(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        distances = self.position_proj(positions).unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
        # `(batch_size, num_heads, length, 2 * length - 1)`: the score of each distance
        scores = (query + self.position_bias[:, None]) @ distances.transpose(-1, -2)
        # column `length - 1 - i + j` of row i holds the score of the distance i - j
        length = hidden_states.shape[1]
        steps = torch.arange(length, device=scores.device)
        index = (length - 1 - steps[:, None] + steps).expand(*scores.shape[:2], -1, -1)
        # Scaled here, because `scaled_dot_product_attention` scales the product and not the mask
        bias = (scores.gather(-1, index) * self.head_dim**-0.5).masked_fill(~mask, torch.finfo(scores.dtype).min)
        attended = nn.functional.scaled_dot_product_attention(
            query + self.content_bias[:, None], key, value, attn_mask=bias
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Glm4VoiceCodeEncoderLayer(nn.Module):
    def __init__(self, config: Glm4VoiceFlowConfig):
        super().__init__()
        # The epsilon of the published model
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.attention = Glm4VoiceCodeAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, mask: torch.BoolTensor
    ) -> torch.FloatTensor:
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states), positions, mask)
        return hidden_states + self.fc2(nn.functional.silu(self.fc1(self.mlp_norm(hidden_states))))


class Glm4VoiceCodeEncoder(nn.Module):
    """Codes `(batch_size, num_codes)` to the mel frames they suggest `(batch_size, num_codes, num_mel_bins)`."""

    def __init__(self, config: Glm4VoiceFlowConfig):
        super().__init__()
        self.block_size = config.attention_block_size
        self.scale = math.sqrt(config.hidden_size)
        self.embed_codes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.in_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.in_norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList([Glm4VoiceCodeEncoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.mel_proj = nn.Linear(config.hidden_size, config.num_mel_bins)

    def forward(self, codes: torch.LongTensor) -> torch.FloatTensor:
        # The published model scales what goes in, as ESPnet does before relative positions
        hidden_states = self.in_norm(self.in_proj(self.embed_codes(codes))) * self.scale
        positions = relative_positions(codes.shape[1], hidden_states.shape[-1], codes.device).to(hidden_states.dtype)
        mask = block_causal_mask(codes.shape[1], self.block_size, codes.device)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, mask)
        return self.mel_proj(self.norm(hidden_states))


class Glm4VoiceLengthRegulator(nn.Module):
    """Repeats `(batch_size, length, num_mel_bins)` to `(batch_size, num_mel_bins, num_frames)` and smoothes it."""

    def __init__(self, config: Glm4VoiceFlowConfig):
        super().__init__()
        bins = config.num_mel_bins
        self.convs = nn.ModuleList([nn.Conv1d(bins, bins, kernel_size=3, padding=1) for _ in range(4)])
        self.norms = nn.ModuleList([nn.GroupNorm(1, bins) for _ in range(4)])
        self.out_proj = nn.Conv1d(bins, bins, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, num_frames: int) -> torch.FloatTensor:
        # A code has no whole number of frames, so some codes are repeated once more than others
        hidden_states = nn.functional.interpolate(hidden_states.transpose(1, 2), size=num_frames, mode="nearest")
        for conv, norm in zip(self.convs, self.norms):
            hidden_states = nn.functional.mish(norm(conv(hidden_states)))
        return self.out_proj(hidden_states)


class Glm4VoiceUNetResnet(nn.Module):
    """Two convolutions on `(batch_size, channels, length)`, with the time in between."""

    def __init__(self, in_channels: int, out_channels: int, time_size: int):
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm1 = nn.GroupNorm(8, out_channels)
        self.time_proj = nn.Linear(time_size, out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.residual_conv = nn.Conv1d(in_channels, out_channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, time: torch.Tensor) -> torch.FloatTensor:
        residual = self.residual_conv(hidden_states)
        hidden_states = nn.functional.mish(self.norm1(self.conv1(hidden_states)))
        hidden_states = hidden_states + self.time_proj(nn.functional.mish(time))[..., None]
        return nn.functional.mish(self.norm2(self.conv2(hidden_states))) + residual


class Glm4VoiceUNetBlock(nn.Module):
    """Transformer block on `(batch_size, length, channels)`; every frame attends to all."""

    def __init__(self, channels: int, num_heads: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.attention_norm = nn.LayerNorm(channels)
        self.q_proj = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.FloatTensor:
        normed = self.attention_norm(hidden_states)
        query, key, value = (
            proj(normed).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        hidden_states = hidden_states + self.out_proj(attended.transpose(1, 2).flatten(2))
        return hidden_states + self.fc2(nn.functional.gelu(self.fc1(self.mlp_norm(hidden_states))))


class Glm4VoiceUNetLevel(nn.Module):
    """A residual block and its transformer blocks; `resample` leads to the next level, at another rate or the same."""

    def __init__(self, config: Glm4VoiceFlowConfig, in_channels: int, out_channels: int, resample: nn.Module):
        super().__init__()
        self.resnet = Glm4VoiceUNetResnet(in_channels, out_channels, 4 * config.unet_hidden_sizes[0])
        self.blocks = nn.ModuleList(
            [
                Glm4VoiceUNetBlock(out_channels, config.unet_num_attention_heads, config.unet_head_dim)
                for _ in range(config.unet_blocks_per_level)
            ]
        )
        self.resample = resample

    def forward(self, hidden_states: torch.Tensor, time: torch.Tensor) -> torch.FloatTensor:
        # Convolutions want the channels in the second axis, attention wants them in the last
        hidden_states = self.resnet(hidden_states, time).transpose(1, 2)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states.transpose(1, 2)


class Glm4VoiceUNet(nn.Module):
    """The flow's velocity at a time, from noisy mel frames and their conditions."""

    def __init__(self, config: Glm4VoiceFlowConfig):
        super().__init__()
        sizes = list(config.unet_hidden_sizes)
        # Noisy frames, encoded codes, speaker and given frames, each as wide as a frame
        self.in_channels = 4 * config.num_mel_bins
        self.time_proj1 = nn.Linear(self.in_channels, 4 * sizes[0])
        self.time_proj2 = nn.Linear(4 * sizes[0], 4 * sizes[0])

        def conv(size: int, stride: int = 1) -> nn.Conv1d:
            return nn.Conv1d(size, size, kernel_size=3, stride=stride, padding=1)

        self.down_levels = nn.ModuleList()
        for index, (in_size, size) in enumerate(zip([self.in_channels, *sizes], sizes)):
            resample = conv(size, stride=2 if index < len(sizes) - 1 else 1)
            self.down_levels.append(Glm4VoiceUNetLevel(config, in_size, size, resample))
        self.mid_levels = nn.ModuleList(
            [
                Glm4VoiceUNetLevel(config, sizes[-1], sizes[-1], nn.Identity())
                for _ in range(config.unet_num_mid_levels)
            ]
        )
        self.up_levels = nn.ModuleList()
        for index, (in_size, size) in enumerate(zip(sizes[::-1], [*sizes[-2::-1], sizes[0]])):
            is_last = index == len(sizes) - 1
            resample = conv(size) if is_last else nn.ConvTranspose1d(size, size, kernel_size=4, stride=2, padding=1)
            self.up_levels.append(Glm4VoiceUNetLevel(config, 2 * in_size, size, resample))
        self.final_conv = conv(sizes[0])
        self.final_norm = nn.GroupNorm(8, sizes[0])
        self.out_proj = nn.Conv1d(sizes[0], config.num_mel_bins, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, time: torch.Tensor) -> torch.FloatTensor:
        r"""
        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch_size, 4 * num_mel_bins, num_frames)`):
                Noisy frames, encoded codes, speaker and given frames.
            time (`torch.FloatTensor` of shape `(batch_size,)`): between 0 (noise) and 1 (mel frames).
        """
        half = self.in_channels // 2
        steps = torch.arange(half, device=time.device, dtype=torch.float32)
        # Sines and cosines of the time, which Matcha-TTS counts from 0 to 1000
        angles = 1000 * time.float()[:, None] * torch.exp(steps * (-math.log(10000.0) / (half - 1)))
        time = torch.cat([angles.sin(), angles.cos()], dim=-1).to(hidden_states.dtype)
        time = self.time_proj2(nn.functional.silu(self.time_proj1(time)))

        # Down, and keep what each level has computed before it halves the rate
        skipped = []
        for level in self.down_levels:
            hidden_states = level(hidden_states, time)
            skipped.append(hidden_states)
            hidden_states = level.resample(hidden_states)
        for level in self.mid_levels:
            hidden_states = level(hidden_states, time)
        for level in self.up_levels:
            skip = skipped.pop()
            # Halving rounds an odd length up, so doubling it may give one frame too many
            hidden_states = torch.cat([hidden_states[..., : skip.shape[-1]], skip], dim=1)
            hidden_states = level.resample(level(hidden_states, time))
        return self.out_proj(nn.functional.mish(self.final_norm(self.final_conv(hidden_states))))


class Glm4VoiceFlow(nn.Module):
    """Codes to mel frames, by Euler steps from noise."""

    def __init__(self, config: Glm4VoiceFlowConfig):
        super().__init__()
        self.config = config
        self.encoder = Glm4VoiceCodeEncoder(config)
        self.length_regulator = Glm4VoiceLengthRegulator(config)
        self.speaker_proj = nn.Linear(config.speaker_embedding_size, config.num_mel_bins)
        self.unet = Glm4VoiceUNet(config)

    def forward(
        self,
        codes: torch.LongTensor,
        noise: torch.FloatTensor,
        given_mel: torch.FloatTensor | None = None,
        speaker_embedding: torch.FloatTensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> torch.FloatTensor:
        r"""
        Args:
            codes (`torch.LongTensor` of shape `(batch_size, num_codes)`):
                Codes, those of the given frames included.
            noise (`torch.FloatTensor` of shape `(batch_size or 1, num_mel_bins, num_frames)`):
                Standard normal noise, as many frames as shall be made.
            given_mel (`torch.FloatTensor` of shape `(batch_size or 1, num_mel_bins, num_given_frames)`, *optional*):
                The first frames, where they are known.
            speaker_embedding (`torch.FloatTensor` of shape `(batch_size or 1, speaker_embedding_size)`, *optional*):
                A voice, by default zeros: the released decoder was trained without voices.
            num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*):
                See [`Glm4VoiceFlowConfig`], whose values are the defaults.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames - num_given_frames)`: float32 log-mel
            frames, those behind the given ones.
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        (batch_size, _), num_frames = codes.shape, noise.shape[-1]
        dtype = self.speaker_proj.weight.dtype
        encoded = self.length_regulator(self.encoder(codes), num_frames)
        if speaker_embedding is None:
            speaker_embedding = encoded.new_zeros(1, self.config.speaker_embedding_size)
        # Normalised zeros stay zeros, so without a voice only the bias is left
        speaker = self.speaker_proj(nn.functional.normalize(speaker_embedding.to(dtype), dim=-1))
        given = torch.zeros_like(encoded)
        num_given_frames = 0 if given_mel is None else given_mel.shape[-1]
        if num_given_frames:
            given[..., :num_given_frames] = given_mel
        # The conditions, `(batch_size, 3 * num_mel_bins, num_frames)`
        conditions = torch.cat([encoded, speaker[..., None].expand(batch_size, -1, num_frames), given], dim=1)
        # the second half of the batch has no conditions: guidance leads away from what the model makes of it
        conditions = torch.cat([conditions, torch.zeros_like(conditions)])

        # The Euler steps, whose sum stays in float32 whatever type the U-Net computes in
        mel = noise.float().expand(batch_size, -1, -1)
        # The spacing of the published decoder: the first steps, near the noise, are the smallest
        times = 1 - torch.cos(torch.linspace(0, 1, steps + 1, device=mel.device) * (math.pi / 2))
        for start, end in zip(times, times[1:]):
            # With and without conditions in one call
            inputs = torch.cat([mel.to(dtype).repeat(2, 1, 1), conditions], dim=1)
            with_codes, without = self.unet(inputs, start.expand(2 * batch_size)).float().chunk(2)
            mel = mel + (end - start) * ((1 + guidance) * with_codes - guidance * without)
        return mel[..., num_given_frames:]


__all__ = ["Glm4VoiceFlow"]
