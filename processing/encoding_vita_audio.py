# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speech of a user that is encoded while it comes in, to codes or to features."""

from typing import Protocol

import numpy as np
import torch

from .audio_vita_audio import check_audible, check_values
from .codec_vita_audio import SpeechCodec, StreamingSpeechEncoder, encode, to_values
from .feature_extraction_vita_audio import VitaAudioFeatureExtractor
from .media_vita_audio import check_length, check_not_longer


# Of an audio, in messages
NAME = "the audio"

# How much is encoded at once. An encoder takes about as long for 0.02 s as for this, and 16 users may speak at once
SECONDS_AT_ONCE = 0.64


class Encoder(Protocol):
    """
    Encodes one audio, whose samples come by `put` and at last by `finish`. `settled` and what `finish` returns are
    codes, `list[int]`, or features, `np.ndarray`; `guess` returns what `finish` would, or as much as is settled.
    """

    def put(self, samples: np.ndarray) -> None: ...

    @property
    def settled(self) -> list[int] | np.ndarray: ...

    def guess(self, samples: np.ndarray) -> list[int] | np.ndarray: ...

    def finish(self, samples: np.ndarray) -> list[int] | np.ndarray: ...


class VitaAudioEncodingStream:
    r"""
    One audio of a user, encoded while it comes in. Made by [`VitaAudioProcessor.encoding_stream`].

    Args:
        encoder ([`Encoder`]): of this audio alone.
        sampling_rate (`int`): of the audio, in Hz.
        max_seconds (`float`): the longest audio accepted.

    Attributes:
        num_samples (`int`): how many have come.
    """

    def __init__(self, encoder: Encoder, sampling_rate: int, max_seconds: float):
        self.num_samples = 0
        self._encoder, self._sampling_rate, self._max_seconds = encoder, sampling_rate, max_seconds
        self._amplitude = 0.0
        # Samples that are not encoded yet
        self._waiting = np.zeros(0, np.float32)

    def put(self, samples: np.ndarray) -> None:
        """
        Takes the next samples, and encodes what can be encoded when 0.64 s have come.

        Args:
            samples (`np.ndarray` of shape `(num_samples,)`): float32 in [-1, 1] at the stream's rate; there may be
                none.

        Raises:
            ValueError: samples are of another shape or type, NaN or infinite, far beyond [-1, 1], or more than
                `max_seconds` with those before.
        """
        if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != np.float32:
            kind = f"{samples.dtype} of {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
            raise ValueError(f"Samples must be a float32 array of the shape (num_samples,), got {kind:.200}.")
        check_values(NAME, samples)
        check_not_longer(NAME, (self.num_samples + len(samples)) / self._sampling_rate, self._max_seconds)
        self.num_samples += len(samples)
        self._amplitude = max(self._amplitude, np.abs(samples).max(initial=0))
        # As `load_audio`
        self._waiting = np.concatenate([self._waiting, samples.clip(-1, 1)])
        if len(self._waiting) >= SECONDS_AT_ONCE * self._sampling_rate:
            self._encoder.put(self._waiting)
            self._waiting = self._waiting[:0]

    @property
    def settled(self) -> list[int] | np.ndarray:
        """
        What stands for the audio as far as it can be said: codes, `list[int]`, or features, float32 `(num_rows, 560)`.
        Features stay; codes may change or be taken back when more samples come. Another thread may ask for it.
        """
        return self._encoder.settled

    def guess(self) -> list[int] | np.ndarray:
        """
        What would stand for the audio if it ended here, or as much of that as is settled. It is for a pause: silence
        that follows changes few of the codes.
        """
        # Without a sample, there is no utterance that could end
        return self._encoder.guess(self._waiting) if self.num_samples else self.settled

    def finish(self) -> list[int] | np.ndarray:
        """
        Ends the audio.

        Returns:
            Its codes, `list[int]`, those that [`VitaAudioProcessor.encode_audio`] makes of the whole; or its features,
            float32 `(num_rows, 560)`, those of the whole but for rounding.

        Raises:
            ValueError: the audio is empty, shorter than 0.1 s or silent, as of [`load_audio`].
        """
        check_length(NAME, self.num_samples, self._sampling_rate, self._max_seconds)
        check_audible(NAME, self._amplitude)
        return self._encoder.finish(self._waiting)


class CodeEncoder:
    """Codes of a codec that encodes chunk by chunk."""

    def __init__(self, codec: StreamingSpeechEncoder):
        self._codec, self._state = codec, codec.init_encoder_state()
        self.settled = []

    def put(self, samples: np.ndarray) -> None:
        self.settled = self._encode(samples, is_final=False)

    def guess(self, samples: np.ndarray) -> list[int]:
        if not hasattr(self._state, "copy"):
            return self.settled
        state, self._state = self._state, self._state.copy()
        try:
            return self._encode(samples, is_final=True)
        finally:
            self._state = state

    def finish(self, samples: np.ndarray) -> list[int]:
        return self._encode(samples, is_final=True)

    @torch.no_grad()
    def _encode(self, samples: np.ndarray, is_final: bool) -> list[int]:
        output = self._codec.encode_chunk(to_values(self._codec, samples), self._state, is_final=is_final)
        return output.audio_codes[0, 0].tolist()


class WholeEncoder:
    """Codes of a codec that encodes whole audios alone."""

    def __init__(self, codec: SpeechCodec):
        self._codec, self._samples, self.settled = codec, [], []

    def put(self, samples: np.ndarray) -> None:
        self._samples.append(samples)

    def guess(self, samples: np.ndarray) -> list[int]:
        return self.settled

    def finish(self, samples: np.ndarray) -> list[int]:
        return encode(self._codec, np.concatenate([*self._samples, samples]))


class FeatureEncoder:
    """Features, row by row: a row is there when the last of the frames has come that are stacked in it."""

    def __init__(self, extractor: VitaAudioFeatureExtractor):
        self._extractor = extractor
        self._window = extractor.frame_length * extractor.sampling_rate // 1000
        self._shift = extractor.frame_shift * extractor.sampling_rate // 1000
        # From the first one on that the next frame, or the next row, is made of
        self._samples = np.zeros(0, np.float32)
        self._frames = np.zeros((0, extractor.feature_size), np.float32)
        self._num_frames, self._num_rows = 0, 0
        self._rows = [np.zeros((0, extractor.stacked_size), np.float32)]

    @property
    def settled(self) -> np.ndarray:
        return np.concatenate(tuple(self._rows))

    def put(self, samples: np.ndarray) -> None:
        self._samples = np.concatenate([self._samples, samples])
        num_frames = (len(self._samples) - max(self._window, self._shift)) // self._shift + 1
        if num_frames > 0:
            self._add_frames(self._samples[: (num_frames - 1) * self._shift + self._window])
            self._samples = self._samples[num_frames * self._shift :]
            self._add_rows()

    def guess(self, samples: np.ndarray) -> np.ndarray:
        return self.settled

    def finish(self, samples: np.ndarray) -> np.ndarray:
        self.put(samples)
        # What is shorter than a window is a frame only where there is no other
        if len(self._samples) >= self._window or not self._num_frames:
            self._add_frames(self._samples)
        extractor = self._extractor
        # A row for each begun stride of frames, the last of which is repeated beyond the end
        num_rows = -(-self._num_frames // extractor.stacking_stride) - self._num_rows
        length = num_rows * extractor.stacking_stride + extractor.num_stacked_frames
        self._frames = np.pad(self._frames, ((0, length - len(self._frames)), (0, 0)), mode="edge")
        self._add_rows(num_rows)
        return self.settled

    def _add_frames(self, samples: np.ndarray) -> None:
        frames = self._extractor.fbank(samples)
        # The first frame is repeated before the start
        num_before = 0 if self._num_frames else (self._extractor.num_stacked_frames - 1) // 2
        self._num_frames += len(frames)
        self._frames = np.concatenate([self._frames, frames[:1].repeat(num_before, axis=0), frames])

    def _add_rows(self, num_rows: int | None = None) -> None:
        size, stride = self._extractor.num_stacked_frames, self._extractor.stacking_stride
        if num_rows is None:
            num_rows = (len(self._frames) - max(size, stride)) // stride + 1
        if num_rows > 0:
            stacked = self._frames[stride * np.arange(num_rows)[:, None] + np.arange(size)]
            self._rows.append(self._extractor.normalize(stacked.reshape(num_rows, -1)))
            self._num_rows += num_rows
            self._frames = self._frames[num_rows * stride :]


__all__ = ["CodeEncoder", "Encoder", "FeatureEncoder", "VitaAudioEncodingStream", "WholeEncoder"]
