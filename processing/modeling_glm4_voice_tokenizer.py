# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Audio to codes with GLM-4-Voice's speech encoder, at once or while it comes in: what all codecs have that hear so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps

import torch
from torch import nn
from transformers import WhisperFeatureExtractor
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig
from .modeling_glm4_voice_speech_encoder import Glm4VoiceSpeechEncoder, Glm4VoiceSpeechEncoderState


# Segments of 30 s that the encoder reads at once; longer audio is read in several calls.
SEGMENTS_PER_FORWARD = 16

# Whisper's range of a segment's log-mel bins, in powers of ten: quieter ones are raised to so far below the loudest.
MEL_RANGE = 8.0

# How much nearer the nearest vector of the codebook has to be than the next, in steps of the distance's floating point
# type, so that rounding cannot have made another code. Distances of 30 s of speech, encoded whole and in pieces by a
# small encoder, differed by 3 steps.
CLEAR_MARGIN = 200


@dataclass
class Glm4VoiceCodecEncoderOutput(ModelOutput):
    r"""
    audio_codes (`torch.LongTensor` of shape `(batch_size, 1, num_codes)`):
        Speech codes in `[0, codebook_size)`, 0 where a shorter row of the batch is padded.
    audio_codes_mask (`torch.BoolTensor` of shape `(batch_size, num_codes)`):
        True where a code stands for audio of the row, False where it pads.
    """

    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.BoolTensor | None = None


@dataclass
class Glm4VoiceCodecEncoderState:
    r"""
    What `encode_chunk` carries from one chunk of samples to the next; made by `init_encoder_state`. All but the codes
    is of the segment that is not over yet.

    codes (`list[int]`): the codes so far.
    num_final_codes (`int`): how many of them are of segments that are over.
    samples (`list[torch.FloatTensor]`): its chunks `(num_samples,)`.
    num_samples (`int`): how many these are.
    waiting (`torch.FloatTensor` of shape `(num_samples,)`): the last samples, which have no frames yet, and those
        before them that the windows of these frames begin with.
    log_mel (`list[torch.FloatTensor]`): its frames `(num_mel_bins, num_frames)`, in powers of ten.
    num_frames (`int`): how many these are.
    loudest (`float`): the loudest bin of these frames.
    quietest (`float`): the quietest bin of the frames that have codes.
    encoder ([`Glm4VoiceSpeechEncoderState`], *optional*): the encoder's; None before its first block.
    has_unclear_code (`bool`): whether rounding could have made another code of one of the segment's.
    """

    waiting: torch.FloatTensor
    codes: list[int] = field(default_factory=list)
    num_final_codes: int = 0
    samples: list[torch.FloatTensor] = field(default_factory=list)
    num_samples: int = 0
    log_mel: list[torch.FloatTensor] = field(default_factory=list)
    num_frames: int = 0
    loudest: float = -math.inf
    quietest: float = math.inf
    encoder: Glm4VoiceSpeechEncoderState | None = None
    has_unclear_code: bool = False

    def copy(self) -> "Glm4VoiceCodecEncoderState":
        """A state that goes on by itself."""
        # Tensors are never written to, but lists are
        lists = {name: list(values) for name, values in vars(self).items() if isinstance(values, list)}
        encoder = self.encoder and replace(self.encoder, layers=list(self.encoder.layers))
        return replace(self, encoder=encoder, **lists)


def without_autocast(method: Callable) -> Callable:
    """
    A method of a codec that computes in the types it is made for, also inside of `torch.autocast`: codes must not
    depend on where it is called, and lower types are too coarse for pitch and phase.
    """

    @wraps(method)
    def call(self, *args, **kwargs):
        with torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return call


class Glm4VoiceEncodingMixin:
    """
    For a `PreTrainedModel` whose configuration has a `tokenizer_config`, `sampling_rate` and `hop_length`: its
    `__init__` calls `init_tokenizer`.
    """

    # the feature extractor makes log-mel frames in float32, whatever the weights are in
    input_dtype = torch.float32

    def init_tokenizer(self, config: Glm4VoiceTokenizerConfig, attn_implementation: str | None) -> None:
        """Makes the parts that hear."""
        # Whisper's layers read it from their own configuration
        config._attn_implementation = attn_implementation
        # called a tokenizer as by its authors, in the configuration and in the names of the weights of all Hub folders
        self.tokenizer = Glm4VoiceSpeechEncoder(config)
        # Whisper's windows of 25 ms every 10 ms, as the published tokenizer has them, and the longest segment
        self.feature_extractor = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins,
            sampling_rate=config.sampling_rate,
            hop_length=config.sampling_rate // 100,
            n_fft=config.sampling_rate // 40,
            chunk_length=math.ceil(config.segment_length / config.sampling_rate),
        )

    # Audio to codes

    @can_return_tuple
    @torch.no_grad()
    @without_autocast
    def encode(
        self,
        input_values: torch.FloatTensor,
        padding_mask: torch.Tensor | None = None,
        sampling_rate: int | None = None,
    ) -> Glm4VoiceCodecEncoderOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, 1, num_samples)`):
                Mono audio at `config.sampling_rate` Hz. It is read in segments of 30 s, each on its own.
            padding_mask (`torch.BoolTensor` or `torch.LongTensor` of shape `(batch_size, num_samples)`, *optional*):
                1 on audio, 0 on the padding behind it.
            sampling_rate (`int`, *optional*):
                Rate of `input_values` in Hz, which is then checked.

        Returns:
            [`Glm4VoiceCodecEncoderOutput`]: `ceil(num_samples / hop_length)` codes a row, the same in any batch.

        Raises:
            ValueError: `input_values` is not mono audio at the codec's rate, a row has no sample, or the padding is
                not behind the audio.
        """
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(
                f"The codec takes audio at {self.config.sampling_rate} Hz, got {sampling_rate} Hz; resample it first."
            )
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(f"`input_values` must be (batch_size, 1, num_samples), got {tuple(input_values.shape)}.")
        waveforms = input_values[:, 0]
        if padding_mask is None:
            padding_mask = torch.ones_like(waveforms, dtype=torch.bool)
        if padding_mask.shape != waveforms.shape:
            raise ValueError(
                f"`padding_mask` must be (batch_size, num_samples) {tuple(waveforms.shape)}, got "
                f"{tuple(padding_mask.shape)}."
            )
        lengths = padding_mask.long().sum(-1).tolist()
        if waveforms.shape[1] == 0 or 0 in lengths:
            raise ValueError("`input_values` has a row without a single sample; there is nothing to encode.")
        if (padding_mask.long().diff(dim=-1) > 0).any():
            raise ValueError("`padding_mask` must be 1 on the audio and 0 behind it: padding is on the right.")

        # The segments of all rows go through the encoder together
        rows = [waveform[:length].split(self.segment_length) for waveform, length in zip(waveforms, lengths)]
        codes = iter(self._encode_segments([segment for row in rows for segment in row]))
        rows = [torch.cat([next(codes) for _ in row]) for row in rows]
        mask = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        return Glm4VoiceCodecEncoderOutput(
            audio_codes=nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, None],
            audio_codes_mask=nn.utils.rnn.pad_sequence(mask, batch_first=True),
        )

    @property
    def segment_length(self) -> int:
        """Samples in the longest audio that the encoder reads as a whole (30 s)."""
        return self.config.tokenizer_config.segment_length

    def _encode_segments(self, segments: list[torch.FloatTensor]) -> list[torch.LongTensor]:
        """Codes `(num_codes,)` of segments `(num_samples,)`."""
        all_codes = []
        for start in range(0, len(segments), SEGMENTS_PER_FORWARD):
            # one by one: in a batch, the frames at a segment's end would depend on how long the others are
            features = [self._extract_features(segment) for segment in segments[start : start + SEGMENTS_PER_FORWARD]]
            frames, mask = (nn.utils.rnn.pad_sequence(part, batch_first=True) for part in zip(*features))
            codes, codes_mask, _ = self.tokenizer(frames.transpose(1, 2).to(self.dtype), mask)
            # Without the codes of the padding
            all_codes += [row[row_mask] for row, row_mask in zip(codes, codes_mask)]
        return all_codes

    def _extract_features(self, segment: torch.FloatTensor) -> tuple[torch.FloatTensor, torch.LongTensor]:
        """
        Log-mel frames `(num_frames, num_mel_bins)` of samples `(num_samples,)`, padded to whole codes, and their mask.
        """
        features = self.feature_extractor(
            # transformers' extractor takes NumPy arrays
            segment.float().cpu().numpy(),
            sampling_rate=self.config.sampling_rate,
            padding="longest",
            pad_to_multiple_of=self.config.hop_length,
            return_attention_mask=True,
            return_tensors="pt",
            device=str(self.device),
        ).to(self.device)
        return features["input_features"][0].T, features["attention_mask"][0]

    # Audio to codes while it comes in

    def init_encoder_state(self) -> Glm4VoiceCodecEncoderState:
        """The state of an `encode_chunk` before its first chunk of samples. Each utterance needs its own."""
        return Glm4VoiceCodecEncoderState(waiting=torch.zeros(0, device=self.device))

    @can_return_tuple
    @torch.no_grad()
    @without_autocast
    def encode_chunk(
        self, input_values: torch.FloatTensor, encoder_state: Glm4VoiceCodecEncoderState, is_final: bool = False
    ) -> Glm4VoiceCodecEncoderOutput:
        r"""
        Encodes an utterance while it comes in: a block of 4 s when its last sample has come. A code also depends on
        the loudest bin of its segment where a bin of its frames is 80 dB quieter. When one gets as loud as that, the
        codes of the segment are taken back, and made anew with the next block.

        Args:
            input_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                The next samples, at `config.sampling_rate` Hz. There may be none.
            encoder_state ([`Glm4VoiceCodecEncoderState`]):
                State after the chunk before; updated in place.
            is_final (`bool`, defaults to `False`):
                Whether these are the last samples.

        Returns:
            [`Glm4VoiceCodecEncoderOutput`]: `audio_codes`, all codes of the utterance that stand so far; after the
            last chunk those that `encode` makes of the whole.

        Raises:
            ValueError: `input_values` has another shape, or the utterance ends without a sample.
        """
        if input_values.ndim != 3 or input_values.shape[:2] != (1, 1):
            raise ValueError(f"`input_values` must be (1, 1, num_samples), got {tuple(input_values.shape)}.")
        state, rest = encoder_state, input_values[0, 0].float()
        # Half as many positions as frames
        block_size = 2 * self.config.tokenizer_config.attention_block_size
        while len(rest):
            samples, rest = rest.tensor_split([self.segment_length - state.num_samples])
            state.samples.append(samples)
            state.num_samples += len(samples)
            num_blocks = state.num_frames // block_size
            self._add_frames(state, samples)
            if state.num_samples == self.segment_length:
                self._end_segment(state)
            elif state.num_frames // block_size > num_blocks:
                self._encode_frames(state, state.num_frames // block_size * block_size)
        if is_final and not state.num_samples and not state.codes:
            raise ValueError("The utterance ends without a single sample; there is nothing to encode.")
        if is_final and state.num_samples:
            self._end_segment(state)
        return Glm4VoiceCodecEncoderOutput(audio_codes=torch.tensor([[state.codes]], device=self.device))

    def _add_frames(self, state: Glm4VoiceCodecEncoderState, samples: torch.FloatTensor, is_end: bool = False) -> None:
        """
        Makes the frames that Whisper's feature extractor would, but for its clamping, of all windows whose samples
        have come. It mirrors the segment at its ends.
        """
        n_fft, hop = self.feature_extractor.n_fft, self.feature_extractor.hop_length
        state.waiting = waiting = torch.cat([state.waiting, samples])
        if is_end:
            # As in `encode`, zeros fill up the last code
            waiting = nn.functional.pad(waiting, (0, -state.num_samples % self.config.hop_length))
        if not state.num_frames:
            if len(waiting) <= n_fft // 2:
                return
            waiting = torch.cat([waiting[1 : n_fft // 2 + 1].flip(0), waiting])
        num_frames = (len(waiting) - n_fft) // hop + 1
        if is_end:
            # The frame that would be in the middle of the end is left out
            num_frames = (len(waiting) - n_fft // 2) // hop
            waiting = torch.cat([waiting, waiting[-n_fft // 2 - 1 : -1].flip(0)])
        if num_frames <= 0:
            return
        state.waiting = waiting[num_frames * hop :]
        spectrum = torch.stft(
            waiting[: (num_frames - 1) * hop + n_fft],
            n_fft,
            hop,
            window=torch.hann_window(n_fft, device=waiting.device),
            center=False,
            return_complex=True,
        )
        filters = torch.from_numpy(self.feature_extractor.mel_filters).to(waiting)
        log_mel = (filters.T @ spectrum.abs().square()).clamp(min=1e-10).log10()
        state.log_mel.append(log_mel)
        state.num_frames += num_frames
        if (loudest := log_mel.max().item()) <= state.loudest:
            return
        state.loudest = loudest
        if state.quietest < state.loudest - MEL_RANGE:
            # The codes were made of bins that are raised now
            del state.codes[state.num_final_codes :]
            state.encoder, state.quietest, state.has_unclear_code = None, math.inf, False

    def _encode_frames(self, state: Glm4VoiceCodecEncoderState, stop: int) -> None:
        """Makes the codes of all frames of the segment up to `stop` that have none."""
        start = 0 if state.encoder is None else 2 * state.encoder.num_positions
        log_mel = torch.cat(state.log_mel, dim=1)[:, start:stop]
        state.quietest = min(state.quietest, log_mel.min().item())
        # As Whisper's feature extractor
        features = ((log_mel.clamp(min=state.loudest - MEL_RANGE) + 4.0) / 4.0)[None].to(self.dtype)
        frames = torch.arange(start, stop, device=features.device)
        mask = (frames * self.feature_extractor.hop_length < state.num_samples)[None]
        if state.encoder is None:
            state.encoder = self.tokenizer.init_state(features)
        _, _, latents = self.tokenizer(features, mask, state.encoder)
        # `(num_codes, 2)`: the two nearest vectors
        distances = self.tokenizer.distances(latents[0])
        nearest, codes = distances.topk(2, largest=False)
        margin = CLEAR_MARGIN * torch.finfo(self.dtype).eps * distances.abs().amax(-1)
        state.has_unclear_code |= bool((nearest[:, 1] - nearest[:, 0] < margin).any())
        state.codes += codes[:, 0].tolist()

    def _end_segment(self, state: Glm4VoiceCodecEncoderState) -> None:
        """Makes the last codes of a segment, and begins another one."""
        self._add_frames(state, state.waiting[:0], is_end=True)
        if state.encoder is not None and state.num_frames > 2 * state.encoder.num_positions:
            self._encode_frames(state, state.num_frames)
        if state.encoder is None or state.has_unclear_code:
            (codes,) = self._encode_segments([torch.cat(state.samples)])
            state.codes[state.num_final_codes :] = codes.tolist()
        following = self.init_encoder_state()
        following.codes, following.num_final_codes = state.codes, len(state.codes)
        state.__dict__.update(vars(following))


__all__ = [
    "Glm4VoiceCodecEncoderOutput",
    "Glm4VoiceCodecEncoderState",
    "Glm4VoiceEncodingMixin",
    "without_autocast",
]
