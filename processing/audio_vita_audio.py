# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading users' audio: a path, URL, file in memory, array or row of a dataset in, checked mono samples out."""

import http.client
import importlib
import io
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import torch


# Shorter than this there is no word in it; 0.1 s is a little more than one speech code (0.08 s).
MIN_AUDIO_SECONDS = 0.1

# Where no other limit is given: an hour
MAX_AUDIO_SECONDS = 3600.0

# From the lowest rate at which there are words to the highest of studios. A file may claim any, and the cost of resampling grows with
# the ratio.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 768000

# Of a URL: to its next byte, for all of it, and how much. An hour of 16-bit audio at 16 kHz has 115 MB.
URL_TIMEOUT_SECONDS, URL_TOTAL_SECONDS = 30, 120
MAX_URL_BYTES = 256 * 2**20
URL_BLOCK_BYTES = 2**20

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
        max_seconds: the longest audio accepted; an hour by default.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32 in [-1, 1].

    Raises:
        ValueError: the audio is empty, silent (below -80 dBFS), corrupt, shorter than 0.1 s, longer than `max_seconds`, at a rate
            outside of 1 to 768 kHz, or has NaN or infinite samples; or an array in a dictionary came without its rate. All of
            it is said before more than that much is decoded.
        OSError: a file is not there or cannot be read, or a URL cannot be fetched, within 120 s, or has more than 256 MiB.
        TypeError: `source` is none of the above.
    """
    max_seconds = MAX_AUDIO_SECONDS if max_seconds is None else max_seconds
    if isinstance(source, dict):
        for key in ("array", "raw", "bytes", "path"):
            if source.get(key) is not None:
                source_sampling_rate = source.get("sampling_rate", source_sampling_rate)
                if key in ("array", "raw") and source_sampling_rate is None:
                    break
                if isinstance(source[key], dict):
                    raise TypeError(f'"{key}" of an audio dictionary must be the audio, got another dictionary.')
                return load_audio(source[key], sampling_rate, source_sampling_rate, max_seconds)
        raise ValueError(
            'An audio dictionary needs "array" or "raw" together with "sampling_rate", or "bytes", or "path"; got one with '
            f"the keys {', '.join(sorted(map(str, source))):.200}."
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


def _read_file(source: str | Path | bytes, max_seconds: float) -> tuple[str, np.ndarray, int]:
    """The name of a file in messages, its samples with the channels averaged, and its rate."""
    soundfile = _import("soundfile")
    if isinstance(source, (bytes, bytearray)):
        name, stream = "the audio in memory", io.BytesIO(source)
    elif str(source).startswith(("http://", "https://")):
        name = f"{str(source):.200}"
        stream = io.BytesIO(_fetch(str(source)))
    else:
        name = os.fspath(source)
        if not os.path.isfile(name):
            raise FileNotFoundError(f"There is no audio file {name}.")
        stream = open(name, "rb")  # noqa: SIM115  closed below
    with stream:
        if not stream.seek(0, os.SEEK_END):
            raise ValueError(f"{name} is empty (0 bytes).")
        stream.seek(0)
        try:
            with soundfile.SoundFile(stream) as file:
                _check_rate(name, file.samplerate)
                _check_length(name, file.frames, file.samplerate, max_seconds)
                return name, _decode(name, file, max_seconds), file.samplerate
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{name} is corrupt or not a wav, flac, ogg or mp3 file ({error.error_string})."
            ) from error


def _decode(name: str, file, max_seconds: float) -> np.ndarray:
    """Mono samples, second by second: what a header says of the length need not be so, and channels cost memory."""
    blocks, num_frames = [], 0
    while len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
        num_frames += len(block)
        _check_not_longer(name, num_frames / file.samplerate, max_seconds)
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to `http(s)://` alone."""

    def redirect_request(self, request, file, code, message, headers, new_url):
        if not new_url.startswith(("http://", "https://")):
            raise urllib.error.URLError(f"it redirects to another kind of address, {new_url:.100}")
        return super().redirect_request(request, file, code, message, headers, new_url)


def _fetch(url: str) -> bytes:
    start, content = time.monotonic(), bytearray()
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
        ascii_url = parts._replace(netloc=host, path=urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~"))
        ascii_url = ascii_url._replace(query=urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?"))
        opener = urllib.request.build_opener(_HttpOnly)
        with opener.open(ascii_url.geturl(), timeout=URL_TIMEOUT_SECONDS) as response:
            # one call of the connection at a time, so that a slow one is noticed
            while block := response.read1(URL_BLOCK_BYTES):
                content += block
                if len(content) > MAX_URL_BYTES:
                    raise OSError(f"it has more than {MAX_URL_BYTES} bytes")
                if time.monotonic() - start > URL_TOTAL_SECONDS:
                    raise OSError(f"it takes more than {URL_TOTAL_SECONDS} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OSError(f"Cannot fetch audio from {url:.200}: {error}") from error
    return bytes(content)


def _to_float(samples) -> np.ndarray:
    if isinstance(samples, torch.Tensor):
        if samples.is_meta:
            raise ValueError("The audio tensor is on the meta device, where there are no samples.")
        samples = samples.detach()
        samples = samples.dequantize() if samples.is_quantized else samples.to_dense()
        samples = (samples.float() if samples.is_floating_point() else samples).cpu().numpy()
    samples = np.asarray(samples)
    if samples.dtype.kind not in "iuf":
        raise ValueError(f"Audio samples must be floats in [-1, 1] or integers, got an array of {samples.dtype}.")
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half_range = np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    # unsigned ones have their zero in the middle
    return samples.astype(np.float32) / half_range - (1 if samples.dtype.kind == "u" else 0)


def _to_mono(name: str, samples: np.ndarray) -> np.ndarray:
    """Averages the channels: the shorter of two axes."""
    if samples.ndim > 2:
        raise ValueError(
            f"{name} must have one axis of samples and at most one of channels, got shape {samples.shape}."
        )
    if samples.ndim < 2 or samples.size == 0:
        return samples.reshape(-1)
    return samples.mean(axis=int(np.argmin(samples.shape)))


def _check_rate(name: str, sampling_rate: float) -> None:
    is_number = isinstance(sampling_rate, (int, float, np.number)) and not isinstance(sampling_rate, bool)
    if not is_number or not MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"The sampling rate of {name} must be a number of Hz from {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE}, got "
            f"{sampling_rate!r:.100}."
        )


def _check_length(name: str, num_samples: int, sampling_rate: float, max_seconds: float) -> None:
    if num_samples == 0:
        raise ValueError(f"{name} is empty (no samples).")
    seconds = num_samples / sampling_rate
    if seconds < MIN_AUDIO_SECONDS:
        raise ValueError(f"{name} lasts {seconds:.3f} s, shorter than the {MIN_AUDIO_SECONDS} s that are needed.")
    _check_not_longer(name, seconds, max_seconds)


def _check_not_longer(name: str, seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise ValueError(
            f"{name} lasts {seconds:.1f} s, longer than the limit of max_audio_seconds = {max_seconds:g}."
        )


def _check(name: str, samples: np.ndarray, sampling_rate: float, max_seconds: float) -> None:
    _check_rate(name, sampling_rate)
    _check_length(name, len(samples), sampling_rate, max_seconds)
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} has NaN or infinite samples.")
    if np.abs(samples).max() > MAX_AMPLITUDE:
        raise ValueError(f"{name} has samples up to {np.abs(samples).max():.0f}; floating point audio is in [-1, 1].")
    if np.abs(samples).max() < MIN_AMPLITUDE:
        raise ValueError(f"{name} is silent: none of its samples is above {MIN_AMPLITUDE:g}, which is -80 dBFS.")


__all__ = ["MAX_AUDIO_SECONDS", "MIN_AUDIO_SECONDS", "load_audio"]
