# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Features of continuous speech input (VITA-Audio-Plus): Kaldi's filter banks, stacked and normalised as SenseVoice has
them.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from transformers.utils import TensorType

from .media_vita_audio import check_rate, import_package


# Kaldi's smallest energy, that of digital silence: the float32 epsilon
MEL_FLOOR = 2.0**-23
# Kaldi reads samples of 16 bits
SAMPLE_SCALE = 32768.0
# In a Hub folder
MODULE = "feature_extraction_vita_audio"
# Zeros of the sinc on either side, and the cut-off below the lower Nyquist frequency: the defaults of torchaudio's
# `Resample`
RESAMPLING_WIDTH, RESAMPLING_ROLLOFF = 6, 0.99
# Of the filters of a change of rate, 16 MB. 44.1 kHz to 16 kHz takes 76 thousand
MAX_FILTER_NUMBERS = 2**22


@lru_cache
def kaldi_filters(fft_length: int, num_mel_bands: int, sampling_rate: int) -> np.ndarray:
    return mel_filter_bank(
        num_frequency_bins=fft_length // 2 + 1,
        num_mel_filters=num_mel_bands,
        min_frequency=20,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )


class VitaAudioFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Makes the `input_features` of VITA-Audio-Plus: 80 log mel energies a 10 ms, 7 frames of them stacked every 60 ms,
    normalised.

    The original adds random noise to the samples (dither, Gaussian with a deviation of one step of 16 bits). Here
    there is none, so features are the same each time; in digital silence they are then those of silence.

    Args:
        feature_size (`int`, *optional*, defaults to 80): number of mel bands.
        sampling_rate (`int`, *optional*, defaults to 16000): rate in Hz that features are made at.
        padding_value (`float`, *optional*, defaults to 0.0): what shorter audios of a batch are filled up with.
        frame_length (`int`, *optional*, defaults to 25): in ms.
        frame_shift (`int`, *optional*, defaults to 10): in ms.
        num_stacked_frames (`int`, *optional*, defaults to 7): frames in a row of features (`lfr_m` of FunASR).
        stacking_stride (`int`, *optional*, defaults to 6): frames from one row to the next (`lfr_n`).
        cmvn_shift, cmvn_scale (`list[float]`, *optional*): what is added to each of the stacked features, and what it
            is then multiplied with: the two rows of SenseVoice's `am.mvn`. Without them features are not normalised.

    Raises:
        ValueError: a size makes no sense, or the rows of the normalisation have another length than the stacked
            features.
    """

    model_input_names = ["input_features", "feature_attention_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        frame_length: int = 25,
        frame_shift: int = 10,
        num_stacked_frames: int = 7,
        stacking_stride: int = 6,
        cmvn_shift: Sequence[float] | None = None,
        cmvn_scale: Sequence[float] | None = None,
        **kwargs,
    ):
        sizes = {
            "feature_size": feature_size,
            "sampling_rate": sampling_rate,
            "frame_length": frame_length,
            "frame_shift": frame_shift,
            "num_stacked_frames": num_stacked_frames,
            "stacking_stride": stacking_stride,
        }
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a whole number of 1 or more, got {value!r:.200}.")
        for name, row in (("cmvn_shift", cmvn_shift), ("cmvn_scale", cmvn_scale)):
            if row is not None and (len(row) != feature_size * num_stacked_frames or not np.isfinite(row).all()):
                raise ValueError(
                    f"`{name}` must have a finite number for each of the {feature_size * num_stacked_frames} stacked "
                    f"features, got {len(row)} numbers."
                )
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.frame_length, self.frame_shift = frame_length, frame_shift
        self.num_stacked_frames, self.stacking_stride = num_stacked_frames, stacking_stride
        # Lists of plain floats can be saved as JSON
        self.cmvn_shift = None if cmvn_shift is None else list(map(float, cmvn_shift))
        self.cmvn_scale = None if cmvn_scale is None else list(map(float, cmvn_scale))

    @property
    def stacked_size(self) -> int:
        """Features in a row: 560."""
        return self.feature_size * self.num_stacked_frames

    def num_rows(self, num_samples: int) -> int:
        """Rows of features of so many samples at `sampling_rate`."""
        # Frames of which no part lies beyond the samples, then one row for each begun stride of them
        window, shift = self.frame_length * self.sampling_rate // 1000, self.frame_shift * self.sampling_rate // 1000
        return -(-(1 + max(num_samples - window, 0) // shift) // self.stacking_stride)

    def fbank(self, waveform: np.ndarray) -> np.ndarray:
        """Kaldi's log mel energies `(num_frames, feature_size)` of samples `(num_samples,)` in [-1, 1]."""
        window = self.frame_length * self.sampling_rate // 1000
        # Kaldi has no frame of less than a window; FunASR makes the window as short as the audio
        window = min(window, len(waveform))
        fft_length = 2 ** math.ceil(math.log2(window))
        # Pre-emphasis, lowest frequency and mel scale are the defaults of Kaldi's filter banks
        energies = spectrogram(
            waveform.astype(np.float64) * SAMPLE_SCALE,
            # Kaldi's windows are symmetric
            window_function(window, "hamming", periodic=False),
            frame_length=window,
            hop_length=self.frame_shift * self.sampling_rate // 1000,
            fft_length=fft_length,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=kaldi_filters(fft_length, self.feature_size, self.sampling_rate),
            log_mel="log",
            mel_floor=MEL_FLOOR,
            remove_dc_offset=True,
        )
        return energies.T.astype(np.float32)

    def stack(self, frames: np.ndarray) -> np.ndarray:
        """
        Frames `(num_frames, feature_size)` to rows `(num_rows, stacked_size)`: each frame among its neighbours, the
        ends repeated.
        """
        starts = np.arange(0, len(frames), self.stacking_stride) - (self.num_stacked_frames - 1) // 2
        neighbours = starts[:, None] + np.arange(self.num_stacked_frames)
        # Beyond the ends, the first and the last frame are repeated, as in FunASR
        return frames[neighbours.clip(0, len(frames) - 1)].reshape(len(starts), -1)

    def normalize(self, rows: np.ndarray) -> np.ndarray:
        """Rows `(num_rows, stacked_size)`, normalised where there is a normalisation."""
        if self.cmvn_shift is not None:
            rows = rows + np.asarray(self.cmvn_shift, np.float32)
        if self.cmvn_scale is not None:
            rows = rows * np.asarray(self.cmvn_scale, np.float32)
        return rows

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """
        Args:
            raw_speech (`np.ndarray` or a list of them): audios `(num_samples,)`, or `(num_channels, num_samples)`,
                whose mean is taken, in [-1, 1].
            sampling_rate (`int`, *optional*): theirs, in Hz; that of the features by default. Others are resampled.
            return_tensors (`str`, *optional*): `"pt"`, `"np"`; NumPy's by default.

        Returns:
            [`BatchFeature`]: `input_features` `(num_audios, num_rows, stacked_size)`, float32, padded on the right,
            and `feature_attention_mask` `(num_audios, num_rows)`, int64, 0 at the padding.

        Raises:
            ValueError: an audio is empty, has other dimensions or values that are not finite.
        """
        audios = [raw_speech] if isinstance(raw_speech, np.ndarray) and raw_speech.ndim < 3 else list(raw_speech)
        if not audios:
            raise ValueError("There is no audio to make features of.")
        if sampling_rate is not None:
            check_rate("the audios", sampling_rate)
        rows = []
        for index, audio in enumerate(audios):
            audio = np.asarray(audio, dtype=np.float32)
            if audio.ndim not in (1, 2) or not audio.size or not np.isfinite(audio).all():
                raise ValueError(
                    f"Audio {index} must have finite samples of the shape (num_samples,) or (num_channels, "
                    f"num_samples), got {audio.shape}."
                )
            audio = audio.mean(axis=0) if audio.ndim == 2 else audio
            if sampling_rate not in (None, self.sampling_rate):
                audio = self.resample(audio, sampling_rate)
            rows.append(self.normalize(self.stack(self.fbank(audio))))
        return BatchFeature(self.pad_rows(rows), tensor_type=return_tensors or "np")

    def resample(self, waveform: np.ndarray, rate: float) -> np.ndarray:
        """
        `waveform` `(num_samples,)` of another `rate` at `sampling_rate`, by a windowed sinc (Hann) as torchaudio's
        `Resample` has it by default: what the released models were trained with. Rates that have hardly a common
        divisor with `sampling_rate` would need filters without end, and go through soxr.
        """
        divisor = math.gcd(round(rate), self.sampling_rate)
        step, new_step = round(rate) // divisor, self.sampling_rate // divisor
        if round(rate) != rate or step * new_step > MAX_FILTER_NUMBERS:
            return import_package("soxr").resample(waveform, rate, self.sampling_rate)
        cutoff = min(step, new_step) * RESAMPLING_ROLLOFF
        width = math.ceil(RESAMPLING_WIDTH * step / cutoff)
        # One filter for each of the `new_step` samples that `step` samples give: `(new_step, filter_length)`
        times = np.arange(-width, width + step)[None] / step - np.arange(new_step)[:, None] / new_step
        times = (times * cutoff).clip(-RESAMPLING_WIDTH, RESAMPLING_WIDTH)
        window = np.cos(times * np.pi / RESAMPLING_WIDTH / 2) ** 2
        kernels = (np.sinc(times) * window * cutoff / step).astype(np.float32)
        padded = np.pad(waveform, (width, width + step))
        # `(num_steps, filter_length)`, views and no copies
        pieces = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[1])[::step]
        return (pieces @ kernels.T).reshape(-1)[: math.ceil(new_step * len(waveform) / step)]

    def pad_rows(self, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays that `__call__` returns, of the features `(num_rows, stacked_size)` of each audio."""
        features = np.full((len(rows), max(map(len, rows)), self.stacked_size), self.padding_value, np.float32)
        mask = np.zeros(features.shape[:2], np.int64)
        for index, row in enumerate(rows):
            features[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {"input_features": features, "feature_attention_mask": mask}

    def to_dict(self) -> dict:
        # By this entry `AutoFeatureExtractor` finds the class in a Hub folder
        return super().to_dict() | {"auto_map": {"AutoFeatureExtractor": f"{MODULE}.{type(self).__name__}"}}


__all__ = ["VitaAudioFeatureExtractor"]
