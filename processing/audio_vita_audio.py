# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading users' audio: a path, URL, file in memory, array or row of a dataset in, checked mono samples out."""

import http.client
import importlib
import io
import os
import urllib.request
from pathlib import Path

import numpy as np
import torch


# Shorter than this there is no word in it; 0.1 s is a little more than one speech code (0.08 s).
MIN_AUDIO_SECONDS = 0.1

URL_TIMEOUT_SECONDS = 30

# Beyond this, floating point samples are surely integers that were not scaled; decoders of lossy files overshoot 1 a bit.
MAX_AMPLITUDE = 4.0

# -80 dBFS, three steps of 16-bit audio. Encoders level what they hear, and would make noise of it that is transcribed.
MIN_AMPLITUDE = 1e-4


def load_audio(
    source, sampling_rate: int, source_sampling_rate: int | None = None, max_seconds: float | None = None
) -> np.ndarray:
    """
    Reads audio as mono samples at `sampling_rate`; channels are averaged, other rates resampled (soxr).

    Args:
        source: a path or `http(s)://` URL, or the bytes, of a wav, flac, ogg or mp3 file; an array or tensor of samples,
            mono or with a second axis of channels, float in [-1, 1] or integer over its type's range; a dictionary with
            `"array"` or `"raw"` and `"sampling_rate"`, or with `"bytes"` or `"path"`; an `AudioDecoder` of torchcodec.
        sampling_rate: of the result, in Hz.
        source_sampling_rate: of `source` in Hz where that is an array; `sampling_rate` by default.
        max_seconds: the longest audio accepted.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32 in [-1, 1].

    Raises:
        ValueError: the audio is empty, silent (below -80 dBFS), corrupt, shorter than 0.1 s, longer than `max_seconds`, or
            has NaN or infinite samples; or an array in a dictionary came without its rate.
        OSError: a file is not there or cannot be read, or a URL cannot be fetched.
        TypeError: `source` is none of the above.
    """
    if isinstance(source, dict):
        for key in ("array", "raw", "bytes", "path"):
            if source.get(key) is not None:
                source_sampling_rate = source.get("sampling_rate", source_sampling_rate)
                if key in ("array", "raw") and source_sampling_rate is None:
                    break
                return load_audio(source[key], sampling_rate, source_sampling_rate, max_seconds)
        raise ValueError(
            'An audio dictionary needs "array" or "raw" together with "sampling_rate", or "bytes", or "path"; got one with '
            f"the keys {sorted(source)}."
        )
    if hasattr(source, "get_all_samples"):  # datasets decodes audio columns to AudioDecoder
        samples = source.get_all_samples()
        return load_audio(samples.data, sampling_rate, samples.sample_rate, max_seconds)
    if isinstance(source, (str, Path, bytes, bytearray)):
        name, samples, source_sampling_rate = _read_file(source, max_seconds)
    elif isinstance(source, (np.ndarray, torch.Tensor)):
        name, samples = "the audio array", _to_float(source)
        source_sampling_rate = sampling_rate if source_sampling_rate is None else source_sampling_rate
    else:
        raise TypeError(
            "Audio must be a path, a URL, bytes of an audio file, an array of samples or a dictionary with "
            f'"array" and "sampling_rate", got {type(source).__name__}.'
        )
    samples = _to_mono(name, samples)
    _check(name, samples, source_sampling_rate, max_seconds)
    if source_sampling_rate != sampling_rate:
        samples = _import("soxr").resample(samples, source_sampling_rate, sampling_rate)
    # decoders of lossy files and the resampler overshoot a bit
    return np.ascontiguousarray(samples, dtype=np.float32).clip(-1, 1)


def _import(package: str):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"Reading audio needs {package}: pip install {package}") from error


def _read_file(source: str | Path | bytes, max_seconds: float | None) -> tuple[str, np.ndarray, int]:
    soundfile = _import("soundfile")
    if isinstance(source, (bytes, bytearray)):
        name, content = "the audio in memory", bytes(source)
    elif str(source).startswith(("http://", "https://")):
        name = str(source)
        try:
            with urllib.request.urlopen(name, timeout=URL_TIMEOUT_SECONDS) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"Cannot fetch audio from {name}: {error}") from error
    else:
        name = os.fspath(source)
        if not os.path.isfile(name):
            raise FileNotFoundError(f"There is no audio file {name}.")
        content = Path(name).read_bytes()
    if not content:
        raise ValueError(f"{name} is empty (0 bytes).")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_length(name, file.frames, file.samplerate, max_seconds)
            return name, file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is corrupt or not a wav, flac, ogg or mp3 file ({error.error_string}).") from error


def _to_float(samples) -> np.ndarray:
    samples = samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.signedinteger):
        return samples.astype(np.float32) / np.float32(-np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"Audio samples must be floats in [-1, 1] or integers, got an array of {samples.dtype}.")
    return samples.astype(np.float32)


def _to_mono(name: str, samples: np.ndarray) -> np.ndarray:
    """Averages the channels: the shorter of two axes."""
    if samples.ndim > 2:
        raise ValueError(
            f"{name} must have one axis of samples and at most one of channels, got shape {samples.shape}."
        )
    if samples.ndim < 2 or samples.size == 0:
        return samples.reshape(-1)
    return samples.mean(axis=int(np.argmin(samples.shape)))


def _check_length(name: str, num_samples: int, sampling_rate: int, max_seconds: float | None) -> None:
    if num_samples == 0:
        raise ValueError(f"{name} is empty (no samples).")
    seconds = num_samples / sampling_rate
    if seconds < MIN_AUDIO_SECONDS:
        raise ValueError(f"{name} lasts {seconds:.3f} s, shorter than the {MIN_AUDIO_SECONDS} s that are needed.")
    if max_seconds is not None and seconds > max_seconds:
        raise ValueError(
            f"{name} lasts {seconds:.1f} s, longer than the limit of max_audio_seconds = {max_seconds:g}."
        )


def _check(name: str, samples: np.ndarray, sampling_rate: int, max_seconds: float | None) -> None:
    is_number = isinstance(sampling_rate, (int, float, np.number))
    if not is_number or not 0 < sampling_rate < float("inf"):
        raise ValueError(f"The sampling rate of {name} must be a positive number, got {sampling_rate!r}.")
    _check_length(name, len(samples), sampling_rate, max_seconds)
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} has NaN or infinite samples.")
    if np.abs(samples).max() > MAX_AMPLITUDE:
        raise ValueError(f"{name} has samples up to {np.abs(samples).max():.0f}; floating point audio is in [-1, 1].")
    if np.abs(samples).max() < MIN_AMPLITUDE:
        raise ValueError(f"{name} is silent: none of its samples is above {MIN_AMPLITUDE:g}, which is -80 dBFS.")


__all__ = ["MIN_AUDIO_SECONDS", "load_audio"]
