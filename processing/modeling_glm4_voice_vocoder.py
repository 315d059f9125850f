# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""GLM-4-Voice's vocoder: mel frames to audio by a HiFT generator (arXiv 2309.09493), at once or piece by piece.

A predicted pitch drives a source of harmonics and noise. Convolutions make the short-time spectrum of the speech from
that of the source and the mel frames. They reach a fixed number of frames to both sides. So a piece of the frames with
its surroundings gives the same samples as all frames at once, if the source goes on in phase.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from .configuration_glm4_voice_codec import Glm4VoiceVocoderConfig


@dataclass
class Glm4VoiceVocoderState:
    r"""
    What the vocoder carries from one piece of an utterance to the next. Its size does not depend on the utterance's
    length.

    generator (`torch.Generator`): draws the source's noise.
    phase (`torch.DoubleTensor` of shape `(1, num_harmonics + 1)`, then `(batch_size, num_harmonics + 1)`): of the
        source's sines, in cycles.
    num_spoken (`int`): how many of the frames of `mel` have been spoken; the others wait for those behind them.
    mel (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`, *optional*): the last frames.
    source (`torch.FloatTensor` of shape `(batch_size, num_samples)`, *optional*): the source of the first of them.
    """

    generator: torch.Generator
    phase: torch.DoubleTensor
    num_spoken: int = 0
    mel: torch.FloatTensor | None = None
    source: torch.FloatTensor | None = None


def log_mel_spectrogram(waveform: torch.FloatTensor, config: Glm4VoiceVocoderConfig) -> torch.FloatTensor:
    r"""
    The mel frames of audio, as the vocoder reads them: those of HiFi-GAN (arXiv 2010.05646), up to 8 kHz.

    Args:
        waveform (`torch.FloatTensor` of shape `(batch_size, num_samples)`): audio at `config.sampling_rate` Hz.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_samples // hop_length, num_mel_bins)`: natural logarithms.
    """
    hop = config.hop_length
    # As in HiFi-GAN: windows of four hops, padded so that each hop of samples has one frame
    n_fft = 4 * hop
    padded = nn.functional.pad(waveform.float()[:, None], ((n_fft - hop) // 2, (n_fft - hop) // 2), mode="reflect")
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.stft(padded[:, 0], n_fft, hop, window=window, center=False, return_complex=True)
    filters = mel_filter_bank(
        n_fft // 2 + 1, config.num_mel_bins, 0.0, 8000.0, config.sampling_rate, norm="slaney", mel_scale="slaney"
    )
    filters = torch.from_numpy(filters).to(waveform.device, torch.float32)
    # 1e-9 and 1e-5 are those of HiFi-GAN
    return ((spectrum.abs().square() + 1e-9).sqrt().transpose(1, 2) @ filters).clamp(min=1e-5).log()


class Glm4VoiceSnake(nn.Module):
    """`x + sin(alpha x)^2 / alpha` with an alpha for each channel (arXiv 2006.08195)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.FloatTensor:
        alpha = self.alpha[:, None]
        # 1e-9 is the published model's: it keeps an alpha of 0 from dividing by zero
        return hidden_states + (hidden_states * alpha).sin().square() / (alpha + 1e-9)


class Glm4VoiceVocoderResBlock(nn.Module):
    """Pairs of a dilated convolution and a plain one, on `(batch_size, channels, length)`."""

    def __init__(self, channels: int, kernel_size: int, dilations: list[int] | tuple[int, ...]):
        super().__init__()
        self.reach = sum((dilation + 1) * (kernel_size - 1) // 2 for dilation in dilations)

        def conv(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding="same")

        self.activations1 = nn.ModuleList([Glm4VoiceSnake(channels) for _ in dilations])
        self.convs1 = nn.ModuleList([conv(dilation) for dilation in dilations])
        self.activations2 = nn.ModuleList([Glm4VoiceSnake(channels) for _ in dilations])
        self.convs2 = nn.ModuleList([conv(1) for _ in dilations])

    def forward(self, hidden_states: torch.Tensor) -> torch.FloatTensor:
        for snake1, conv1, snake2, conv2 in zip(self.activations1, self.convs1, self.activations2, self.convs2):
            hidden_states = hidden_states + conv2(snake2(conv1(snake1(hidden_states))))
        return hidden_states


class Glm4VoicePitchPredictor(nn.Module):
    """Mel frames `(batch_size, num_mel_bins, num_frames)` to their pitch in Hz `(batch_size, num_frames)`."""

    def __init__(self, config: Glm4VoiceVocoderConfig):
        super().__init__()
        sizes = [config.num_mel_bins] + 5 * [config.f0_channels]
        self.convs = nn.ModuleList(
            [nn.Conv1d(size, next_size, kernel_size=3, padding=1) for size, next_size in zip(sizes, sizes[1:])]
        )
        self.out_proj = nn.Linear(config.f0_channels, 1)

    def forward(self, mel: torch.Tensor) -> torch.FloatTensor:
        for conv in self.convs:
            mel = nn.functional.elu(conv(mel))
        return self.out_proj(mel.transpose(1, 2))[..., 0].abs()


class Glm4VoiceVocoder(nn.Module):
    """Mel frames to audio."""

    def __init__(self, config: Glm4VoiceVocoderConfig):
        super().__init__()
        self.config = config
        num_bins = config.istft_n_fft // 2 + 1
        channels = [config.base_channels // 2**index for index in range(len(config.upsample_rates) + 1)]
        self.pitch_predictor = Glm4VoicePitchPredictor(config)
        self.source_proj = nn.Linear(config.num_harmonics + 1, 1)
        self.conv_pre = nn.Conv1d(config.num_mel_bins, channels[0], kernel_size=7, padding=3)
        self.upsamples, self.source_downsamples = nn.ModuleList(), nn.ModuleList()
        self.resblocks, self.source_resblocks = nn.ModuleList(), nn.ModuleList()
        for index, (rate, kernel_size) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes)):
            size, padding = channels[index + 1], (kernel_size - rate) // 2
            self.upsamples.append(nn.ConvTranspose1d(channels[index], size, kernel_size, rate, padding))
            # the source's spectrum already has the rate that the frames have after the last upsampling
            stride = math.prod(config.upsample_rates[index + 1 :])
            source_kernel_size = 1 if stride == 1 else 2 * stride
            self.source_downsamples.append(nn.Conv1d(2 * num_bins, size, source_kernel_size, stride, stride // 2))
            self.source_resblocks.append(
                Glm4VoiceVocoderResBlock(
                    size, config.source_resblock_kernel_sizes[index], config.source_resblock_dilation_sizes[index]
                )
            )
            self.resblocks.append(
                nn.ModuleList(
                    [
                        Glm4VoiceVocoderResBlock(size, kernel_size, dilations)
                        for kernel_size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes)
                    ]
                )
            )
        # Log magnitude and phase of every bin
        self.conv_post = nn.Conv1d(channels[-1], 2 * num_bins, kernel_size=7, padding=3)

    @property
    def context(self) -> int:
        """Frames to both sides that a frame's audio depends on, where the source is given."""
        # counted from the output backwards, in the steps of each level
        istft = self.config.istft_n_fft // self.config.istft_hop_length
        # 3 is what the kernel of 7 of `conv_post` reaches to either side
        reach, source_reach, steps_per_frame = 3 + istft, 0, math.prod(self.config.upsample_rates)
        for index in reversed(range(len(self.upsamples))):
            reach += max(block.reach for block in self.resblocks[index])
            source = reach + self.source_resblocks[index].reach + 1
            source_reach = max(source_reach, source / steps_per_frame)
            reach = reach / self.config.upsample_rates[index] + 1
            steps_per_frame //= self.config.upsample_rates[index]
        # `conv_pre` has a kernel of 7, too
        return math.ceil(max(reach + 3, source_reach + istft / math.prod(self.config.upsample_rates)))

    def init_state(self, generator: torch.Generator) -> Glm4VoiceVocoderState:
        """State before the first piece; `generator` also draws the phases that the harmonics start with."""
        phase = torch.rand(1, self.config.num_harmonics + 1, generator=generator, device=generator.device).double()
        # As in the published model, only the harmonics start anywhere
        phase[:, 0] = 0
        return Glm4VoiceVocoderState(generator=generator, phase=phase)

    def forward(
        self, mel: torch.FloatTensor, state: Glm4VoiceVocoderState, is_final: bool = True
    ) -> torch.FloatTensor:
        r"""
        Args:
            mel (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`):
                All frames of an utterance, or its next ones.
            state ([`Glm4VoiceVocoderState`]):
                From `init_state`; each call updates it in place for the next piece.
            is_final (`bool`, defaults to `True`):
                Whether these are the last frames. Otherwise the last `context` frames are held back, and as many more
                as the pitch predictor looks ahead.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_samples)`: `hop_length` samples for every frame that can be
            spoken. The pieces put together are what all frames at once give, up to rounding.
        """
        hop = self.config.hop_length
        mel = mel.to(self.source_proj.weight.dtype)
        # The frames that were kept, then the new ones
        state.mel = mel if state.mel is None else torch.cat([state.mel, mel], dim=-1)
        num_frames = state.mel.shape[-1]
        # a frame's source needs its pitch, and each convolution of the pitch predictor looks one frame ahead
        num_sourced = 0 if state.source is None else state.source.shape[-1] // hop
        can_be_sourced = num_frames if is_final else num_frames - len(self.pitch_predictor.convs)
        if can_be_sourced > num_sourced:
            source = self.make_source(self.pitch_predictor(state.mel)[:, num_sourced:can_be_sourced], state)
            state.source = source if state.source is None else torch.cat([state.source, source], dim=-1)
        can_be_spoken = num_frames if is_final else can_be_sourced - self.context
        if can_be_spoken <= state.num_spoken:
            return torch.zeros(mel.shape[0], 0, device=mel.device)
        # Speak all frames that are kept, and give out those whose surroundings are complete
        audio = self.synthesize(state.mel[..., : state.source.shape[-1] // hop], state.source)
        audio = audio[:, state.num_spoken * hop : can_be_spoken * hop]
        # Keep the frames that later ones can still hear
        surplus = max(0, can_be_spoken - self.context)
        state.mel, state.source = state.mel[..., surplus:], state.source[:, surplus * hop :]
        state.num_spoken = can_be_spoken - surplus
        return audio

    def make_source(self, f0: torch.FloatTensor, state: Glm4VoiceVocoderState) -> torch.FloatTensor:
        r"""
        Args:
            f0 (`torch.FloatTensor` of shape `(batch_size, num_frames)`): pitch in Hz.
            state ([`Glm4VoiceVocoderState`]): its phase and its noise go on.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_frames * hop_length)`: harmonics in quiet noise where the
            frame is voiced, louder noise elsewhere.
        """
        config, num_frames = self.config, f0.shape[1]
        f0 = f0.float().repeat_interleave(config.hop_length, dim=1)[..., None]
        harmonics = torch.arange(1, config.num_harmonics + 2, device=f0.device)
        # in double precision, because the phase is the sum of the pitch of all samples, whose rounding errors would
        # add up
        phase = state.phase.to(f0.device)[:, None] + (f0.double() * harmonics / config.sampling_rate).cumsum(1)
        # A phase near 0 keeps its precision in float32
        phase = phase - phase.round()
        state.phase = phase[:, -1]
        sines = config.source_amplitude * (2 * math.pi * phase.float()).sin()
        is_voiced = (f0 > config.voiced_threshold).float()
        # all rows get the same noise, so that a row does not depend on what else is in the batch
        shape = (1, num_frames * config.hop_length, len(harmonics))
        noise = torch.randn(shape, generator=state.generator, device=state.generator.device).to(f0.device)
        # A third of the amplitude where there is no voice, as in the published model
        noise_std = is_voiced * config.source_noise_std + (1 - is_voiced) * config.source_amplitude / 3
        source = sines * is_voiced + noise_std * noise
        return self.source_proj(source.to(self.source_proj.weight.dtype))[..., 0].tanh()

    def synthesize(self, mel: torch.FloatTensor, source: torch.FloatTensor) -> torch.FloatTensor:
        r"""
        Args:
            mel (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`): frames.
            source (`torch.FloatTensor` of shape `(batch_size, num_frames * hop_length)`): their source.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_frames * hop_length)`: audio, float32.
        """
        config, dtype = self.config, self.source_proj.weight.dtype
        window = torch.hann_window(config.istft_n_fft, device=mel.device)
        spectrum = torch.stft(
            source.float(), config.istft_n_fft, config.istft_hop_length, window=window, return_complex=True
        )
        spectrum = torch.cat([spectrum.real, spectrum.imag], dim=1).to(dtype)
        hidden_states = self.conv_pre(mel.to(dtype))
        for index, upsample in enumerate(self.upsamples):
            hidden_states = upsample(nn.functional.leaky_relu(hidden_states, config.lrelu_slope))
            if index == len(self.upsamples) - 1:
                # the source's spectrum has one frame more than it has hops
                hidden_states = nn.functional.pad(hidden_states, (1, 0), mode="reflect")
            shaped = self.source_resblocks[index](self.source_downsamples[index](spectrum))
            hidden_states = hidden_states + shaped
            hidden_states = sum(block(hidden_states) for block in self.resblocks[index]) / len(self.resblocks[index])
        # no `lrelu_slope` here: the published model has PyTorch's default slope before its last convolution
        log_magnitude, phase = self.conv_post(nn.functional.leaky_relu(hidden_states)).float().chunk(2, dim=1)
        # as the published model, which limits the phase to one radian by its sine
        spectrum = torch.polar(log_magnitude.exp().clamp(max=100.0), phase.sin())
        audio = torch.istft(spectrum, config.istft_n_fft, config.istft_hop_length, window=window)
        return audio.clamp(-config.audio_limit, config.audio_limit)


__all__ = ["Glm4VoiceVocoder", "Glm4VoiceVocoderState", "log_mel_spectrogram"]
