# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a speech codec has to have for the processor, the pipeline and training to work with it, and the one way to its
codes and back.

A codec needs no base class of ours: any `PreTrainedModel` with the members of [`SpeechCodec`] is one. To add one,
write it into a file with its configuration, register both with `AutoConfig` and `AutoModel`, and pass it to
[`VitaAudioProcessor.from_codec`]; `tests/test_one_file.py` has an example.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformers import PreTrainedModel


class SpeechCodecConfig(Protocol):
    r"""
    The configuration of a [`SpeechCodec`]: a `PreTrainedConfig` with a `model_type` of its own.

    sampling_rate (`int`): of the audio that `encode` takes, in Hz.
    codebook_size (`int`): how many codes there are; they are numbers in `[0, codebook_size)`.
    output_sampling_rate (`int`, *optional*): of the audio that `decode` makes, in Hz; `sampling_rate` where there is
        none.
    """

    model_type: str
    sampling_rate: int
    codebook_size: int


class SpeechCodec(Protocol):
    r"""
    A speech codec of one codebook.

    config ([`SpeechCodecConfig`]): rates and the number of codes.
    device (`torch.device`), dtype (`torch.dtype`): of the weights; every `PreTrainedModel` has both.
    input_dtype (`torch.dtype`, *optional*): of the samples that `encode` takes; `dtype` where there is none, as in the
        codecs of transformers.
    """

    config: Any
    device: torch.device
    dtype: torch.dtype

    def encode(self, input_values: torch.FloatTensor) -> Any:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                Mono audio in `[-1, 1]` at `config.sampling_rate` Hz, of any length from 0.1 s on.

        Returns:
            `ModelOutput` with `audio_codes`, a `torch.LongTensor` of shape `(1, 1, num_codes)`.
        """

    def decode(self, audio_codes: torch.LongTensor) -> Any:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(1, 1, num_codes)`):
                The codes of a whole utterance. A [`StreamingSpeechCodec`] also takes the next chunk of one.

        Returns:
            `ModelOutput` with `audio_values`, a `torch.FloatTensor` of shape `(1, 1, num_samples)` or `(1,
            num_samples)`.
        """


@runtime_checkable
class StreamingSpeechCodec(SpeechCodec, Protocol):
    """
    A [`SpeechCodec`] that speaks chunk by chunk. Its `decode` also takes `decoder_state` and `is_final` (`bool`):
    whether these are the last codes. Its output then has a `decoder_state` for the next chunk, and `audio_values` may
    be without samples.

    A codec that decodes several utterances in one call has states with the methods of [`JoinableDecoderState`].
    """

    def init_decoder_state(self, batch_size: int) -> Any:
        """The `decoder_state` of an utterance's first chunk. It belongs to this utterance alone."""


@runtime_checkable
class VoiceCloningCodec(StreamingSpeechCodec, Protocol):
    """A [`StreamingSpeechCodec`] that speaks in the voice of a recording."""

    def voice_options(self, audio_values: torch.FloatTensor, audio_codes: torch.LongTensor) -> dict[str, Any]:
        r"""
        Args:
            audio_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                The recording at the rate that the codec speaks at.
            audio_codes (`torch.LongTensor` of shape `(1, 1, num_codes)`):
                What `encode` makes of it.

        Returns:
            `dict`: keywords of `init_decoder_state`, for any number of utterances.
        """


@runtime_checkable
class JoinableDecoderState(Protocol):
    """
    The state of utterances that need not have begun together to be decoded side by side.

    codes_to_skip (`int`): how many more codes have to come before the first audio is made. States can be joined where
        it is the same.
    """

    codes_to_skip: int

    def cat(self, states: Sequence[Any]) -> Any:
        """A state whose rows are those of `states`, which stay as they are; a class method."""

    def split(self) -> list[Any]:
        """The state of each row."""


@runtime_checkable
class StreamingSpeechEncoder(SpeechCodec, Protocol):
    """A [`SpeechCodec`] that encodes speech while it comes in."""

    def init_encoder_state(self) -> Any:
        """
        The `encoder_state` of an utterance's first chunk. It belongs to this utterance alone. If encoding is fast, it
        has a method `copy`, so that what comes can be encoded as if the utterance ended there, and then go on.
        """

    def encode_chunk(self, input_values: torch.FloatTensor, encoder_state: Any, is_final: bool = False) -> Any:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(1, 1, num_samples)`):
                The next samples, of which there may be none.
            encoder_state: of `init_encoder_state`; updated in place.
            is_final (`bool`): whether these are the last samples.

        Returns:
            `ModelOutput` with `audio_codes`, a `torch.LongTensor` of shape `(1, 1, num_codes)`: all codes of the
            utterance that stand as far as it has been heard. Later samples may change or take back some of them. After
            the last samples these are the codes that `encode` makes of the whole.
        """


def check_codec(codec: Any, name: str) -> None:
    """
    Args:
        codec: what should be a [`SpeechCodec`].
        name: of it, for the message.

    Raises:
        TypeError: `codec` lacks something that a speech codec has.
    """
    # By hand and not by `isinstance`, which would not say what is missing, nor look into the configuration
    missing = [name for name in ("encode", "decode") if not hasattr(codec, name)]
    missing += [
        f"config.{name}"
        for name in ("sampling_rate", "codebook_size")
        if not hasattr(getattr(codec, "config", None), name)
    ]
    if missing or not isinstance(codec, PreTrainedModel):
        lack = f"without {', '.join(missing)}" if missing else "which is no PreTrainedModel"
        raise TypeError(f"{name} must be a speech codec, got a {type(codec).__name__} {lack}.")


def output_sampling_rate(codec: SpeechCodec) -> int:
    """Rate of the audio that a codec makes, in Hz."""
    # most codecs speak at the rate that they hear at, and transformers' name only one
    return getattr(codec.config, "output_sampling_rate", codec.config.sampling_rate)


@torch.no_grad()
def encode(codec: SpeechCodec, waveform: np.ndarray) -> list[int]:
    r"""
    The codes of one audio, for inference and training alike. Audios are never encoded side by side: codes must not
    depend on what else is in a batch.

    Args:
        codec ([`SpeechCodec`]): the codec.
        waveform (`np.ndarray` of shape `(num_samples,)`): float32 samples in [-1, 1] at `codec.config.sampling_rate`
            Hz.

    Returns:
        `list[int]`: codes in `[0, codebook_size)`.

    Raises:
        ValueError: the codec has more than one codebook.
    """
    # `(1, 1, num_codes)`
    codes = codec.encode(to_values(codec, waveform)).audio_codes
    if codes.ndim != 3 or codes.shape[:2] != (1, 1):
        raise ValueError(
            f"The codec must have one codebook, and codes of shape (1, 1, num_codes); those of {type(codec).__name__} "
            f"are {tuple(codes.shape)}."
        )
    return codes[0, 0].tolist()


def to_values(codec: SpeechCodec, waveform: np.ndarray) -> torch.Tensor:
    """Samples `(num_samples,)` as what a codec encodes, `(1, 1, num_samples)`."""
    dtype = getattr(codec, "input_dtype", codec.dtype)
    return torch.from_numpy(waveform)[None, None].to(codec.device, dtype)


@torch.no_grad()
def decode_chunks(
    codec: SpeechCodec, chunks: Sequence[Sequence[int]], decoder_states: Sequence[Any], is_final: bool
) -> list[tuple[np.ndarray, Any]]:
    r"""
    The next samples of utterances whose codes come in chunks.

    Args:
        codec ([`SpeechCodec`]): the codec.
        chunks (`list[list[int]]`): the next codes of each utterance, of equal length; each also as an array or a
            tensor of one axis.
        decoder_states (`list`): of each, from `init_decoder_state` or the call before. Several must be
            [`JoinableDecoderState`]s that can be joined, which stay as they are. None for a whole utterance.
        is_final (`bool`): whether no more codes follow.

    Returns:
        `list[tuple]`: of each, samples, float32 `np.ndarray` of shape `(num_samples,)` in [-1, 1], and the next state.

    Raises:
        ValueError: a code is not one of the codec's, or an utterance is no list of codes.
    """
    chunks = [codes.tolist() if hasattr(codes, "tolist") else codes for codes in chunks]
    for codes in chunks:
        if not isinstance(codes, (list, tuple)) or not all(isinstance(code, Real) for code in codes):
            raise ValueError(f"The codes of an utterance must be a list of whole numbers, got {codes!r:.100}.")
    codebook_size = codec.config.codebook_size
    # The vocabulary may have more speech tokens than the codec has codes
    for code in (code for codes in chunks for code in codes):
        if not 0 <= code < codebook_size or code != int(code):
            raise ValueError(f"Speech code {code} is out of range: the codec has {codebook_size} codes.")
    state = decoder_states[0] if len(chunks) == 1 else type(decoder_states[0]).cat(decoder_states)
    # A codec need not decode an utterance of no codes
    if state is None and not len(chunks[0]):
        return [(np.zeros(0, dtype=np.float32), None)]
    audio_codes = torch.tensor(chunks, dtype=torch.long, device=codec.device).reshape(len(chunks), 1, -1)
    # A codec that is no `StreamingSpeechCodec` has no such arguments
    streaming = {} if state is None else {"decoder_state": state, "is_final": is_final}
    output = codec.decode(audio_codes=audio_codes, **streaming)
    samples = output.audio_values.reshape(len(chunks), -1).float().clamp(-1, 1).cpu().numpy()
    state = output.get("decoder_state")
    if len(chunks) == 1:
        return [(samples[0], state)]
    # A copy, because one row would keep all of them in memory
    return list(zip(map(np.copy, samples), [None] * len(chunks) if is_final else state.split()))


__all__ = [
    "JoinableDecoderState",
    "SpeechCodec",
    "SpeechCodecConfig",
    "StreamingSpeechCodec",
    "StreamingSpeechEncoder",
    "VoiceCloningCodec",
    "check_codec",
    "decode_chunks",
    "encode",
    "output_sampling_rate",
    "to_values",
]
