# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A compact neural speech codec: one codebook, 12.5 codes per second, 16 kHz in and out.

It hears by a small encoder of GLM-4-Voice's kind, a part of its own (`tokenizer_config`).
The decoder is causal except for a look-ahead of `decoder_lookahead` codes. It predicts the pitch of a harmonic source
and, every 5 ms, the spectral envelopes with which the vocoder shapes this source and noise. The voice is an embedding
beside the codes, so the codes need to carry only what is said and how.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .compatibility_vita_audio import attach_to_package
from .configuration_vita_audio_codec import VitaAudioCodecConfig
from .modeling_glm4_voice_tokenizer import Glm4VoiceEncodingMixin, without_autocast
from .modeling_vita_audio_vocoder import VitaAudioCodecDecoderState, VitaAudioCodecVocoder
from .saving_vita_audio import saved_whole


# Frames, of all rows together, up to which a depthwise convolution is faster as a sum of products on a CPU: one code
# of 16 rows. PyTorch's convolution takes longer to prepare than to compute
MAX_SUMMED_FRAMES = 128


@dataclass
class VitaAudioCodecDecoderOutput(ModelOutput):
    r"""
    audio_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`):
        Audio in `[-1, 1]` at `config.sampling_rate` Hz.
    decoder_state ([`VitaAudioCodecDecoderState`], *optional*):
        State to pass with the next chunk of codes; None after the last one.
    """

    audio_values: torch.FloatTensor | None = None
    decoder_state: VitaAudioCodecDecoderState | None = None


@dataclass
class VitaAudioCodecFrames(ModelOutput):
    r"""
    What the decoder network predicts for the vocoder.

    log_f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`):
        Log pitch relative to the voice's, a frame every `synthesis_hop_length` samples.
    envelopes (`torch.FloatTensor` of shape `(batch_size, num_frames, num_envelopes, synthesis_window // 2 + 1)`):
        Log magnitudes that shape the harmonic source and the noise and, with `synthesis_phase`, the phase in radians
        by which the harmonic source is shifted.
    """

    log_f0: torch.FloatTensor | None = None
    envelopes: torch.FloatTensor | None = None


class VitaAudioCodecQuantizer(nn.Module):
    """The unit vectors that the decoder reads for the codes; the encoder has a codebook of its own."""

    def __init__(self, config: VitaAudioCodecConfig):
        super().__init__()
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def from_codes(self, codes: torch.LongTensor) -> torch.Tensor:
        """Codes `(...)` to their vectors `(..., codebook_dim)`."""
        return nn.functional.normalize(self.codebook(codes), dim=-1)


class VitaAudioCodecBlock(nn.Module):
    """ConvNeXt block on `(batch_size, num_frames, channels)`: depthwise convolution, then a two-layer perceptron."""

    def __init__(self, config: VitaAudioCodecConfig, hidden_size: int):
        super().__init__()
        self.context = config.kernel_size - 1
        self.depthwise = nn.Conv1d(hidden_size, hidden_size, config.kernel_size, groups=hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.up_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.down_proj = nn.Linear(3 * hidden_size, hidden_size)
        self.scale = nn.Parameter(torch.full((hidden_size,), 0.1))

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Of all frames at once, reaching equally far to both sides, as the training of a tokenizer needs it. `mask`
        `(batch_size, num_frames, 1)` is 0 on padding, so that padding is read as the zeros behind the audio's end.
        """
        padded = nn.functional.pad(hidden_states * mask, (0, 0, self.context // 2, self.context // 2))
        return self._mix(hidden_states, self.depthwise(padded.transpose(1, 2)).transpose(1, 2))

    def forward_causal(self, hidden_states: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `past` `(batch_size, kernel_size - 1, channels)` are the frames before; returns the output and the next `past`.
        """
        padded = torch.cat([past, hidden_states], dim=1)
        if hidden_states.shape[0] * hidden_states.shape[1] > MAX_SUMMED_FRAMES:
            convolved = self.depthwise(padded.transpose(1, 2)).transpose(1, 2)
        else:
            # `(batch_size, num_frames, kernel_size, channels)`; contiguous, as the weights must lie like the frames
            windows = padded.unfold(1, self.context + 1, 1).transpose(2, 3)
            convolved = (windows * self.depthwise.weight[:, 0].T.contiguous()).sum(2) + self.depthwise.bias
        return self._mix(hidden_states, convolved), padded[:, padded.shape[1] - self.context :]

    def _mix(self, residual: torch.Tensor, convolved: torch.Tensor) -> torch.Tensor:
        hidden_states = self.down_proj(nn.functional.gelu(self.up_proj(self.norm(convolved))))
        return torch.addcmul(residual, self.scale, hidden_states)


class VitaAudioCodecDecoder(nn.Module):
    """Vectors of codes to pitch and spectral envelopes, causal."""

    def __init__(self, config: VitaAudioCodecConfig):
        super().__init__()
        coarse, fine = config.decoder_hidden_sizes
        self.frames_per_code = config.hop_length // config.mel_hop_length
        self.steps_per_frame = config.mel_hop_length // config.synthesis_hop_length
        self.num_bins = config.synthesis_window // 2 + 1
        self.num_envelopes = 2 + config.synthesis_phase
        self.in_proj = nn.Linear(config.codebook_dim, coarse)
        self.voice_embedding = nn.Embedding(config.num_voices, coarse)
        self.coarse_blocks = nn.ModuleList(
            [VitaAudioCodecBlock(config, coarse) for _ in range(config.decoder_depths[0])]
        )
        self.upsample = nn.Linear(coarse, self.frames_per_code * fine)
        self.fine_blocks = nn.ModuleList([VitaAudioCodecBlock(config, fine) for _ in range(config.decoder_depths[1])])
        self.norm = nn.LayerNorm(fine)
        self.f0_head = nn.Linear(fine, self.steps_per_frame)
        self.envelope_head = nn.Linear(fine, self.steps_per_frame * self.num_envelopes * self.num_bins)

    def forward(
        self, quantized: torch.Tensor, voice_ids: torch.LongTensor, pasts: list[torch.Tensor]
    ) -> tuple[VitaAudioCodecFrames, list[torch.Tensor]]:
        hidden_states = self.in_proj(quantized) + self.voice_embedding(voice_ids)[:, None]
        new_pasts, pasts = [], iter(pasts)
        for block in self.coarse_blocks:
            hidden_states, past = block.forward_causal(hidden_states, next(pasts))
            new_pasts.append(past)
        hidden_states = self.upsample(hidden_states).unflatten(-1, (self.frames_per_code, -1)).flatten(1, 2)
        for block in self.fine_blocks:
            hidden_states, past = block.forward_causal(hidden_states, next(pasts))
            new_pasts.append(past)
        hidden_states = self.norm(hidden_states)
        envelopes = self.envelope_head(hidden_states)
        envelopes = envelopes.unflatten(-1, (self.steps_per_frame, self.num_envelopes, self.num_bins))
        # The vocoder computes in float32, because lower types are too coarse for pitch and phase
        frames = VitaAudioCodecFrames(
            log_f0=self.f0_head(hidden_states).float().flatten(1), envelopes=envelopes.float().flatten(1, 2)
        )
        return frames, new_pasts


class VitaAudioCodecPreTrainedModel(PreTrainedAudioTokenizerBase):
    save_pretrained = saved_whole(PreTrainedAudioTokenizerBase.save_pretrained)
    remote_code = {
        "config.json": {
            "auto_map": {
                "AutoConfig": "configuration_vita_audio_codec.VitaAudioCodecConfig",
                "AutoModel": "modeling_vita_audio_codec.VitaAudioCodec",
            }
        }
    }

    config: VitaAudioCodecConfig
    base_model_prefix = "codec"
    main_input_name = "input_values"
    input_modalities = "audio"
    _no_split_modules = ["VitaAudioCodecBlock", "WhisperEncoderLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            # What PyTorch itself initialises these layers with
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            # Whisper's keys have none
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VitaAudioCodecBlock):
            init.constant_(module.scale, 0.1)
        elif isinstance(module, VitaAudioCodecDecoder):
            # with this bias an untrained decoder is about as loud as speech, and all harmonics are shifted alike
            init.constant_(module.envelope_head.bias, -4.0)
        elif isinstance(module, VitaAudioCodec):
            init.constant_(module.voice_log_f0, math.log(110.0))


class VitaAudioCodec(Glm4VoiceEncodingMixin, VitaAudioCodecPreTrainedModel):
    r"""
    The compact speech codec: `encode` turns 16 kHz mono audio into 12.5 codes per second of one codebook, `decode`
    turns codes into 16 kHz audio in one of the trained voices, at once or chunk by chunk.
    """

    def __init__(self, config: VitaAudioCodecConfig):
        super().__init__(config)
        self.init_tokenizer(config.tokenizer_config, config._attn_implementation)
        self.quantizer = VitaAudioCodecQuantizer(config)
        self.decoder = VitaAudioCodecDecoder(config)
        self.vocoder = VitaAudioCodecVocoder(config)
        # mean log pitch of each voice in log Hz, measured on the training data
        self.voice_log_f0 = nn.Parameter(torch.full((config.num_voices,), math.log(110.0)), requires_grad=False)
        self.post_init()

    def init_decoder_state(self, batch_size: int = 1) -> VitaAudioCodecDecoderState:
        """The state of a `decode` before its first chunk of codes. Each utterance needs its own."""
        config, device = self.config, self.voice_log_f0.device
        widths = [
            width for width, depth in zip(config.decoder_hidden_sizes, config.decoder_depths) for _ in range(depth)
        ]
        return VitaAudioCodecDecoderState(
            codes_to_skip=config.decoder_lookahead,
            convolutions=[
                torch.zeros(batch_size, config.kernel_size - 1, width, device=device, dtype=self.dtype)
                for width in widths
            ],
            log_f0=torch.full((batch_size, 1), math.nan, device=device),
            phase=torch.zeros(batch_size, 1, device=device, dtype=torch.double),
            sample_position=torch.zeros(batch_size, 1, dtype=torch.long, device="cpu"),
            source=torch.zeros(batch_size, 2, 3 * config.synthesis_hop_length, device=device),
            frames=torch.zeros(batch_size, 3, config.synthesis_window, device=device),
        )

    @can_return_tuple
    @torch.no_grad()
    @without_autocast
    def decode(
        self,
        audio_codes: torch.LongTensor,
        decoder_state: VitaAudioCodecDecoderState | None = None,
        is_final: bool = True,
        voice_id: int = 0,
    ) -> VitaAudioCodecDecoderOutput:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(batch_size, 1, num_codes)`):
                Codes in `[0, codebook_size)`; all of an utterance, or its next chunk.
            decoder_state ([`VitaAudioCodecDecoderState`], *optional*):
                State after the chunk before; used up by this call. Its rows may be utterances at different places, see
                [`VitaAudioCodecDecoderState`].
            is_final (`bool`, defaults to `True`):
                Whether these are the last codes. Otherwise `decoder_lookahead` codes are held back.
            voice_id (`int`, defaults to 0):
                Voice to speak with, one for the whole utterance.

        Returns:
            [`VitaAudioCodecDecoderOutput`]: `hop_length` samples for every code that can be spoken. The chunks of an
            utterance put together are what one call with all codes returns.

        Raises:
            ValueError: codes or `voice_id` are out of range, or the shape is wrong.
        """
        if audio_codes.ndim != 3 or audio_codes.shape[1] != 1:
            raise ValueError(f"`audio_codes` must be (batch_size, 1, num_codes), got {tuple(audio_codes.shape)}.")
        if audio_codes.numel() and not (0 <= audio_codes.min() and audio_codes.max() < self.config.codebook_size):
            raise ValueError(
                f"`audio_codes` must be in [0, {self.config.codebook_size}), got values from "
                f"{audio_codes.min().item()} to {audio_codes.max().item()}."
            )
        if not 0 <= voice_id < self.config.num_voices:
            raise ValueError(f"`voice_id` must be in [0, {self.config.num_voices}), got {voice_id}.")
        state = decoder_state or self.init_decoder_state(audio_codes.shape[0])
        if audio_codes.shape[-1] + is_final * self.config.decoder_lookahead == 0:
            # Nothing to decode, which a convolution refuses
            nothing = self.voice_log_f0.new_zeros(len(audio_codes), 1, 0)
            return VitaAudioCodecDecoderOutput(audio_values=nothing, decoder_state=None if is_final else state)
        quantized = self.quantizer.from_codes(audio_codes[:, 0])
        voice_ids = torch.full((audio_codes.shape[0],), voice_id, device=audio_codes.device)
        frames = self.decode_frames(quantized, voice_ids, state, is_final)
        # The codes of the look-ahead have not come yet
        if frames.log_f0.shape[1] == 0:
            audio = frames.log_f0
        else:
            audio = self.vocoder(frames.log_f0 + self.voice_log_f0[voice_id], frames.envelopes, state)
        return VitaAudioCodecDecoderOutput(
            audio_values=audio[:, None].clamp(-1, 1), decoder_state=None if is_final else state
        )

    def decode_frames(
        self,
        quantized: torch.Tensor,
        voice_ids: torch.LongTensor,
        state: VitaAudioCodecDecoderState,
        is_final: bool = True,
    ) -> VitaAudioCodecFrames:
        r"""
        Runs the decoder without the vocoder: frames of every code whose look-ahead has arrived.

        Args:
            quantized (`torch.FloatTensor` of shape `(batch_size, num_codes, codebook_dim)`): vectors of codes.
            voice_ids (`torch.LongTensor` of shape `(batch_size,)`): voices.
            state ([`VitaAudioCodecDecoderState`]): updated in place for the next codes.
        """
        if is_final:
            # No codes follow the last ones, so zeros stand for them
            quantized = nn.functional.pad(quantized, (0, 0, 0, self.config.decoder_lookahead))
        # While the look-ahead of the first code comes in, the decoder's output belongs to no code
        skipped = min(state.codes_to_skip, quantized.shape[1])
        state.codes_to_skip -= skipped
        # One code at a time: the results of an utterance must not depend on how it is cut into chunks, not even in the
        # last bit, because the phase of the source adds up all errors of the pitch. Those of joined states are not
        # exact anyway, and all codes at once take half the time.
        is_exact = not (self.training or state.is_joined)
        parts = []
        for codes in quantized.split(1 if is_exact else max(1, quantized.shape[1]), dim=1):
            frames, state.convolutions = self.decoder(codes, voice_ids, state.convolutions)
            parts.append(frames)
        skipped *= self.config.hop_length // self.config.synthesis_hop_length
        return VitaAudioCodecFrames(
            log_f0=torch.cat([frames.log_f0 for frames in parts], dim=1)[:, skipped:],
            envelopes=torch.cat([frames.envelopes for frames in parts], dim=1)[:, skipped:],
        )

    def forward(
        self, input_values: torch.FloatTensor, padding_mask: torch.Tensor | None = None
    ) -> VitaAudioCodecDecoderOutput:
        """Round trip: `decode(encode(input_values, padding_mask).audio_codes)`."""
        return self.decode(self.encode(input_values, padding_mask, return_dict=True).audio_codes)


attach_to_package(__name__)

__all__ = [
    "VitaAudioCodec",
    "VitaAudioCodecDecoderState",
    "VitaAudioCodecPreTrainedModel",
]
