# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A compact neural speech codec: one codebook, 12.5 codes per second, 16 kHz in and out.

The encoder is a stack of convolutional blocks over log-mel frames; vector quantization makes a code of every 80 ms.
Speech can be encoded while it comes in, though the frames are relative to the loudest bin of the whole utterance.
The decoder is causal except for a look-ahead of `decoder_lookahead` codes. It predicts the pitch of a harmonic source
and, every 5 ms, the spectral envelopes with which the vocoder shapes this source and noise. The voice is an embedding
beside the codes, so the codes need to carry only what is said and how.
"""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import nn
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .compatibility_vita_audio import attach_to_package
from .configuration_vita_audio_codec import VitaAudioCodecConfig
from .modeling_glm4_voice_tokenizer import (
    Glm4VoiceCodecEncoderOutput,
    Glm4VoiceCodecEncoderState,
    Glm4VoiceEncodingMixin,
)
from .modeling_vita_audio_vocoder import VitaAudioCodecDecoderState, VitaAudioCodecVocoder
from .saving_vita_audio import saved_whole


# Frames, of all rows together, up to which a depthwise convolution is faster as a sum of products on a CPU: one code
# of 16 rows. PyTorch's convolution takes longer to prepare than to compute
MAX_SUMMED_FRAMES = 128

# Samples in the window of a log-mel frame
FOURIER_LENGTH = 512

# When louder audio has come, all codes are made anew once it has been no louder for this part of all audio so far, and
# for this many frames (0.32 s). So audio that gets louder and louder costs only a few times what it costs to encode it
LOUDEST_AGE, MIN_LOUDEST_AGE = 1 / 8, 32

# How many steps of its floating point type a code's product with a latent has to be above all others, so that rounding
# cannot have made another code of it. In 110 s of speech products differed by 11 steps at most, encoded whole and in
# pieces
CLEAR_MARGIN = 100


@dataclass
class VitaAudioCodecEncoderOutput(ModelOutput):
    r"""
    audio_codes (`torch.LongTensor` of shape `(batch_size, 1, num_codes)`):
        Speech codes in `[0, codebook_size)`, 0 where a shorter row of the batch is padded.
    audio_codes_mask (`torch.BoolTensor` of shape `(batch_size, num_codes)`):
        True where a code stands for audio of the row, False where it pads.
    quantized_representation (`torch.FloatTensor` of shape `(batch_size, num_codes, codebook_dim)`):
        The quantized latents: unit vectors, whose gradients pass straight through the quantization.
    latents (`torch.FloatTensor` of shape `(batch_size, num_codes, codebook_dim)`):
        The encoder's output before quantization.
    """

    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.BoolTensor | None = None
    quantized_representation: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None


@dataclass
class VitaAudioCodecEncoderState:
    r"""
    What `encode_chunk` carries from one chunk of samples to the next; made by [`VitaAudioCodec.init_encoder_state`].

    samples (`list[torch.FloatTensor]`): all chunks `(1, num_samples)` so far.
    waiting (`torch.FloatTensor` of shape `(1, num_samples)`): the last samples, which have no frames yet, and those
        before them that the windows of these frames begin with.
    log_mel (`list[torch.FloatTensor]`): all frames `(1, num_frames, num_mel_bins)` so far, in powers of ten.
    num_frames (`int`): how many these are.
    loudest (`float`): the loudest bin of all frames.
    loudest_age (`int`): how many frames have come since.
    convolutions (`list[torch.FloatTensor]`, *optional*): the last inputs `(1, num_frames, channels)` of every
        convolution of the encoder, None while a louder bin has made all codes void.
    codes (`list[int]`): the codes so far.
    has_unclear_code (`bool`): whether rounding could have made another code of one of them.
    """

    waiting: torch.FloatTensor
    samples: list[torch.FloatTensor] = field(default_factory=list)
    log_mel: list[torch.FloatTensor] = field(default_factory=list)
    num_frames: int = 0
    loudest: float = -math.inf
    loudest_age: int = 0
    convolutions: list[torch.FloatTensor] | None = None
    codes: list[int] = field(default_factory=list)
    has_unclear_code: bool = False

    def copy(self) -> "VitaAudioCodecEncoderState":
        """A state that goes on by itself."""
        # Tensors are never written to, but lists are
        lists = {name: list(values) for name, values in vars(self).items() if isinstance(values, list)}
        return replace(self, **lists)


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


@lru_cache
def mel_filters(num_mel_bins: int, sampling_rate: int) -> torch.Tensor:
    return torch.from_numpy(
        # 257 bins are those of the Fourier transform over 512 samples
        mel_filter_bank(257, num_mel_bins, 0.0, sampling_rate / 2, sampling_rate, norm="slaney", mel_scale="slaney")
    ).float()


def log_mel_frames(waveform: torch.Tensor, config: VitaAudioCodecConfig) -> torch.Tensor:
    """
    Log-mel frames `(batch_size, num_frames, num_mel_bins)`, in powers of ten, of all windows that lie within samples
    `(batch_size, num_samples)`.
    """
    window = torch.hann_window(FOURIER_LENGTH, device=waveform.device)
    spectrum = torch.stft(
        waveform.float(), FOURIER_LENGTH, config.mel_hop_length, window=window, center=False, return_complex=True
    )
    mel = spectrum.abs().square().transpose(1, 2)
    mel = mel @ mel_filters(config.num_mel_bins, config.sampling_rate).to(waveform.device)
    return mel.clamp(min=1e-9).log10()


def frame_padding(config: VitaAudioCodecConfig) -> int:
    """Zeros on either side of audio, with which each hop of samples has one log-mel frame."""
    return (FOURIER_LENGTH - config.mel_hop_length) // 2


def relative_to_loudest(log_mel: torch.Tensor, loudest: torch.Tensor | float) -> torch.Tensor:
    """Log-mel frames in `[-1, 1]`, relative to the loudest bin."""
    # Everything 60 dB or more below it counts as silence
    log_mel = torch.maximum(log_mel - loudest, log_mel.new_tensor(-6.0))
    # From [-6, 0] to [-1, 1]
    return log_mel / 3 + 1


def log_mel_spectrogram(waveform: torch.Tensor, config: VitaAudioCodecConfig) -> torch.Tensor:
    r"""
    Log-mel frames relative to the loudest bin of each row, so that codes do not depend on how loud the audio is.

    Args:
        waveform (`torch.FloatTensor` of shape `(batch_size, num_samples)`): a multiple of `mel_hop_length` samples.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_samples // mel_hop_length, num_mel_bins)` in `[-1, 1]`.
    """
    log_mel = log_mel_frames(nn.functional.pad(waveform, (frame_padding(config),) * 2), config)
    return relative_to_loudest(log_mel, log_mel.amax(dim=(1, 2), keepdim=True))


class VitaAudioCodecQuantizer(nn.Module):
    """Vector quantization on the unit sphere: each latent becomes the codebook vector at the smallest angle."""

    def __init__(self, config: VitaAudioCodecConfig):
        super().__init__()
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.LongTensor]:
        """Latents `(..., codebook_dim)` to quantized ones, gradients straight through, and codes `(...)`."""
        directions = nn.functional.normalize(latents, dim=-1)
        # Of unit vectors, the one with the largest product is at the smallest angle
        codes = self.products(directions).argmax(-1)
        return directions + (self.from_codes(codes) - directions).detach(), codes

    def products(self, directions: torch.Tensor) -> torch.Tensor:
        """Of unit vectors `(..., codebook_dim)` with those of all codes, `(..., codebook_size)`."""
        # call the module, because hooks may keep its weights on another device
        vectors = self.from_codes(torch.arange(self.codebook.num_embeddings, device=directions.device))
        return directions @ vectors.T

    def from_codes(self, codes: torch.LongTensor) -> torch.Tensor:
        """Codes `(...)` to quantized latents `(..., codebook_dim)`."""
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
        `mask` `(batch_size, num_frames, 1)` is 0 on padding, so that padding is read as the zeros behind the audio's
        end.
        """
        padded = nn.functional.pad(hidden_states * mask, (0, 0, self.context // 2, self.context // 2))
        return self._mix(hidden_states, self.depthwise(padded.transpose(1, 2)).transpose(1, 2))

    def forward_causal(self, hidden_states: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `past` `(batch_size, kernel_size - 1, channels)` are the frames before; returns the output and the next `past`.
        """
        padded = torch.cat([past, hidden_states], dim=1)
        return self._mix(hidden_states, self._convolve(padded)), padded[:, padded.shape[1] - self.context :]

    def forward_chunk(
        self, hidden_states: torch.Tensor, past: torch.Tensor, is_final: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `forward` of frames that come in chunks: of those whose following frames have come. `past` are the frames
        before that are still needed, at first zeros `(batch_size, kernel_size // 2, channels)`; returns the output and
        the next `past`.
        """
        padded = torch.cat([past, hidden_states], dim=1)
        if is_final:
            padded = nn.functional.pad(padded, (0, 0, 0, self.context // 2))
        num_frames = padded.shape[1] - self.context
        if num_frames <= 0:
            return hidden_states[:, :0], padded
        residual = padded[:, self.context // 2 :][:, :num_frames]
        return self._mix(residual, self._convolve(padded)), padded[:, num_frames:]

    def _convolve(self, padded: torch.Tensor) -> torch.Tensor:
        """`depthwise` of frames that come a few at a time."""
        if padded.shape[0] * (padded.shape[1] - self.context) > MAX_SUMMED_FRAMES:
            return self.depthwise(padded.transpose(1, 2)).transpose(1, 2)
        # `(batch_size, num_frames, kernel_size, channels)`; contiguous, as the weights must lie like the frames
        windows = padded.unfold(1, self.context + 1, 1).transpose(2, 3)
        return (windows * self.depthwise.weight[:, 0].T.contiguous()).sum(2) + self.depthwise.bias

    def _mix(self, residual: torch.Tensor, convolved: torch.Tensor) -> torch.Tensor:
        hidden_states = self.down_proj(nn.functional.gelu(self.up_proj(self.norm(convolved))))
        return torch.addcmul(residual, self.scale, hidden_states)


class VitaAudioCodecEncoder(nn.Module):
    """Log-mel frames (100 per second) to latents (12.5 per second)."""

    def __init__(self, config: VitaAudioCodecConfig):
        super().__init__()
        sizes = [config.num_mel_bins, *config.encoder_hidden_sizes]
        self.downsamples = nn.ModuleList(
            [nn.Conv1d(size, next_size, 4, stride=2) for size, next_size in zip(sizes, sizes[1:])]
        )
        self.stages = nn.ModuleList(
            [
                nn.ModuleList([VitaAudioCodecBlock(config, size) for _ in range(depth)])
                for size, depth in zip(config.encoder_hidden_sizes, config.encoder_depths)
            ]
        )
        self.norm = nn.LayerNorm(sizes[-1])
        self.out_proj = nn.Linear(sizes[-1], config.codebook_dim)

    def forward(self, log_mel: torch.Tensor, num_codes: torch.LongTensor) -> torch.Tensor:
        r"""
        Args:
            log_mel (`torch.FloatTensor` of shape `(batch_size, 8 * max_codes, num_mel_bins)`): frames.
            num_codes (`torch.LongTensor` of shape `(batch_size,)`): codes in each row.
        """
        hidden_states = log_mel
        for level, (downsample, blocks) in enumerate(zip(self.downsamples, self.stages)):
            # A code has 8 frames at the input, and 4, 2 and 1 behind the three levels
            hidden_states = hidden_states * self._mask(hidden_states, num_codes * 2 ** (3 - level))
            padded = nn.functional.pad(hidden_states.transpose(1, 2), (1, 1))
            hidden_states = downsample(padded).transpose(1, 2)
            mask = self._mask(hidden_states, num_codes * 2 ** (2 - level))
            for block in blocks:
                hidden_states = block(hidden_states, mask)
        return self.out_proj(self.norm(hidden_states))

    def init_pasts(self, log_mel: torch.Tensor) -> list[torch.Tensor]:
        """The `pasts` of `forward_chunk` before the first frame: the zeros in front of the audio."""
        pasts = []
        for downsample, blocks in zip(self.downsamples, self.stages):
            pasts.append(log_mel.new_zeros(1, 1, downsample.in_channels))
            pasts += [log_mel.new_zeros(1, block.context // 2, downsample.out_channels) for block in blocks]
        return pasts

    def forward_chunk(
        self, log_mel: torch.Tensor, pasts: list[torch.Tensor], is_final: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        `forward` of frames `(1, num_frames, num_mel_bins)` that come in chunks: the latents `(1, num_codes,
        codebook_dim)` for which all frames that they depend on have come, and the next `pasts`.
        """
        hidden_states, new_pasts, pasts = log_mel, [], iter(pasts)
        for downsample, blocks in zip(self.downsamples, self.stages):
            padded = torch.cat([next(pasts), hidden_states], dim=1)
            if is_final:
                padded = nn.functional.pad(padded, (0, 0, 0, 1))
            # Each output reads four frames and is two frames behind the last
            num_outputs = max(0, padded.shape[1] - 2) // 2
            hidden_states = padded.new_zeros(1, 0, downsample.out_channels)
            if num_outputs:
                hidden_states = downsample(padded.transpose(1, 2)).transpose(1, 2)
            new_pasts.append(padded[:, 2 * num_outputs :])
            for block in blocks:
                hidden_states, past = block.forward_chunk(hidden_states, next(pasts), is_final)
                new_pasts.append(past)
        return self.out_proj(self.norm(hidden_states)), new_pasts

    def _mask(self, hidden_states: torch.Tensor, lengths: torch.LongTensor) -> torch.Tensor:
        frames = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        return (frames < lengths[:, None])[..., None].to(hidden_states.dtype)


class VitaAudioCodecDecoder(nn.Module):
    """Quantized latents to pitch and spectral envelopes, causal."""

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
        if config.tokenizer_config is None:
            self.encoder = VitaAudioCodecEncoder(config)
        else:
            self.init_tokenizer(config.tokenizer_config, config._attn_implementation)
        self.quantizer = VitaAudioCodecQuantizer(config)
        self.decoder = VitaAudioCodecDecoder(config)
        self.vocoder = VitaAudioCodecVocoder(config)
        # mean log pitch of each voice in log Hz, measured on the training data
        self.voice_log_f0 = nn.Parameter(torch.full((config.num_voices,), math.log(110.0)), requires_grad=False)
        self.post_init()

    @can_return_tuple
    def encode(
        self, input_values: torch.FloatTensor, padding_mask: torch.Tensor | None = None
    ) -> VitaAudioCodecEncoderOutput | Glm4VoiceCodecEncoderOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`):
                Mono audio at `config.sampling_rate` Hz.
            padding_mask (`torch.BoolTensor` or `torch.LongTensor` of shape `(batch_size, num_samples)`, *optional*):
                1 on audio, 0 on the padding behind it.

        Returns:
            [`VitaAudioCodecEncoderOutput`]: `ceil(num_samples / hop_length)` codes a row.

        Raises:
            ValueError: `input_values` is not mono audio, or a row has no sample.
        """
        if self.config.tokenizer_config is not None:
            return super().encode(input_values, padding_mask)
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(f"`input_values` must be (batch_size, 1, num_samples), got {tuple(input_values.shape)}.")
        waveform = input_values[:, 0]
        if padding_mask is None:
            padding_mask = torch.ones_like(waveform, dtype=torch.bool)
        lengths = padding_mask.long().sum(-1)
        if waveform.shape[1] == 0 or (lengths == 0).any():
            raise ValueError("`input_values` has a row without a single sample; there is nothing to encode.")
        hop = self.config.hop_length
        num_codes = -(-lengths // hop)
        # What lies in the padding must not be heard
        waveform = waveform * padding_mask
        waveform = nn.functional.pad(waveform, (0, -waveform.shape[1] % hop))
        log_mel = log_mel_spectrogram(waveform, self.config)
        latents = self.encoder(log_mel.to(self.dtype), num_codes)
        quantized, audio_codes = self.quantizer(latents)
        mask = torch.arange(quantized.shape[1], device=num_codes.device) < num_codes[:, None]
        return VitaAudioCodecEncoderOutput(
            audio_codes=(audio_codes * mask)[:, None],
            audio_codes_mask=mask,
            quantized_representation=quantized,
            latents=latents,
        )

    def init_encoder_state(self) -> VitaAudioCodecEncoderState | Glm4VoiceCodecEncoderState:
        """The state of an `encode_chunk` before its first chunk of samples. Each utterance needs its own."""
        if self.config.tokenizer_config is not None:
            return super().init_encoder_state()
        return VitaAudioCodecEncoderState(waiting=self.voice_log_f0.new_zeros(1, frame_padding(self.config)))

    @can_return_tuple
    @torch.no_grad()
    def encode_chunk(
        self, input_values: torch.FloatTensor, encoder_state: VitaAudioCodecEncoderState, is_final: bool = False
    ) -> VitaAudioCodecEncoderOutput:
        r"""
        Encodes an utterance while it comes in. A code is made 1.4 s later, when all that it depends on is there, but
        for one thing: it also depends on the loudest bin of the utterance. Louder audio makes all codes void, and they
        are made anew when it has not become louder for a while.

        Args:
            input_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                The next samples, at `config.sampling_rate` Hz. There may be none.
            encoder_state ([`VitaAudioCodecEncoderState`]):
                State after the chunk before; updated in place.
            is_final (`bool`, defaults to `False`):
                Whether these are the last samples.

        Returns:
            [`VitaAudioCodecEncoderOutput`]: `audio_codes`, all codes of the utterance that stand so far; after the
            last chunk those that `encode` makes of the whole.

        Raises:
            ValueError: `input_values` has another shape, or the utterance ends without a sample.
        """
        if self.config.tokenizer_config is not None:
            return super().encode_chunk(input_values, encoder_state, is_final)
        if input_values.ndim != 3 or input_values.shape[:2] != (1, 1):
            raise ValueError(f"`input_values` must be (1, 1, num_samples), got {tuple(input_values.shape)}.")
        state = encoder_state
        state.samples.append(input_values)
        log_mel = self._next_frames(state, is_final)
        if is_final and (state.convolutions is None or state.has_unclear_code):
            return self.encode(torch.cat(state.samples, dim=-1))
        is_settled = state.loudest_age >= max(MIN_LOUDEST_AGE, LOUDEST_AGE * state.num_frames)
        if state.convolutions is None and is_settled:
            log_mel = torch.cat(state.log_mel, dim=1)
            state.convolutions = self.encoder.init_pasts(log_mel.to(self.dtype))
        if state.convolutions is not None and (log_mel.shape[1] or is_final):
            latents, state.convolutions = self.encoder.forward_chunk(
                relative_to_loudest(log_mel, state.loudest).to(self.dtype), state.convolutions, is_final
            )
            # The two best codes for each latent
            products, codes = self.quantizer.products(nn.functional.normalize(latents, dim=-1)).topk(2)
            margin = CLEAR_MARGIN * torch.finfo(self.dtype).eps
            state.has_unclear_code |= bool((products[..., 0] - products[..., 1] < margin).any())
            state.codes += codes[0, :, 0].tolist()
        return VitaAudioCodecEncoderOutput(audio_codes=torch.tensor([[state.codes]], device=self.device))

    def _next_frames(self, state: VitaAudioCodecEncoderState, is_final: bool) -> torch.FloatTensor:
        """Log-mel frames `(1, num_frames, num_mel_bins)` of samples that have come, of whole codes."""
        config, hop = self.config, self.config.mel_hop_length
        waiting = torch.cat([state.waiting, state.samples[-1][0].float()], dim=1)
        if is_final:
            # As in `encode`, zeros fill up the last code
            num_samples = sum(samples.shape[-1] for samples in state.samples)
            padding = -num_samples % config.hop_length + frame_padding(config)
            waiting = nn.functional.pad(waiting, (0, padding))
        num_codes = max(0, waiting.shape[1] - FOURIER_LENGTH + hop) // config.hop_length
        num_frames = num_codes * (config.hop_length // hop)
        state.waiting = waiting[:, num_frames * hop :]
        if not num_frames:
            return waiting.new_zeros(1, 0, config.num_mel_bins)
        log_mel = log_mel_frames(waiting[:, : (num_frames - 1) * hop + FOURIER_LENGTH], config)
        state.log_mel.append(log_mel)
        state.num_frames += num_frames
        state.loudest_age += num_frames
        if (loudest := log_mel.max().item()) > state.loudest:
            state.loudest, state.loudest_age = loudest, 0
            state.convolutions, state.codes, state.has_unclear_code = None, [], False
        return log_mel

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
            sample_position=torch.zeros(batch_size, 1, dtype=torch.long),
            source=torch.zeros(batch_size, 2, 3 * config.synthesis_hop_length, device=device),
            frames=torch.zeros(batch_size, 3, config.synthesis_window, device=device),
        )

    @can_return_tuple
    @torch.no_grad()
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
            quantized (`torch.FloatTensor` of shape `(batch_size, num_codes, codebook_dim)`): latents.
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
    "VitaAudioCodecEncoderState",
    "VitaAudioCodecPreTrainedModel",
]
