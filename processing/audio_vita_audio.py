# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading users' audio: a path, URL, file in memory, array or row of a dataset in, checked mono samples out."""

import array
import base64
import http.client
import io
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from numbers import Real
from typing import Any, BinaryIO

import numpy as np
import torch

from .conversation_vita_audio import AUDIO_KEYS
from .media_vita_audio import MAX_BYTES, MIN_AUDIO_SECONDS, check_length, check_rate, decode_file, import_package


# An hour, the limit where no other is given
MAX_AUDIO_SECONDS = 3600.0

# How long a URL may take to its next byte, and for all of its bytes
URL_TIMEOUT_SECONDS, URL_TOTAL_SECONDS = 30, 120

# Files and answers are read in blocks of so many bytes, and size and time are checked between two blocks
BLOCK_BYTES = 2**20

# Base64 without a `data:` in front: longer than the name of a file can be, and without a full stop
BASE64 = re.compile(r"[A-Za-z0-9+/_=\s-]{256,}")

# Decoders of lossy files overshoot 1 a bit. Floating point samples beyond this are integers that were not scaled.
MAX_AMPLITUDE = 4.0

# -80 dBFS, three steps of 16-bit audio. Quieter audio is refused: encoders level what they hear, so the model would
# hear noise and write words for it.
MIN_AMPLITUDE = 1e-4

SAMPLES = (np.ndarray, torch.Tensor, list, tuple, array.array)


def load_audio(
    source: Any,
    sampling_rate: int,
    source_sampling_rate: int | None = None,
    max_seconds: float | None = None,
    resampler: Callable[[np.ndarray, float], np.ndarray] | None = None,
) -> np.ndarray:
    """
    Reads audio as mono samples at `sampling_rate`; channels are averaged, other rates resampled.

    Args:
        source: one of

            - a file, of wav, flac, ogg or mp3, with PyAV (`pip install av`) also webm, mp4, m4a, mov, 3gp, aac, amr,
              caf or wma: its path, a pipe's too, or `"-"` for the standard input; an `http(s)://` or `file://` URL;
              its bytes; a file object opened in binary mode, read from its start where it can be; its base64, as a
              `data:` URI or alone;
            - samples, mono or with a second axis of channels: an array, a tensor, or anything that NumPy makes an
              array of, float in [-1, 1] or integer over its type's range (unsigned ones have their zero in the
              middle); a list of floats;
            - `(rate, samples)` or `(samples, rate)`;
            - a dictionary with samples as `"array"`, `"raw"` or `"audio"` and their `"sampling_rate"`, or with a file
              as `"bytes"`, `"base64"`, `"path"`, `"url"`, `"audio_url"` or `"audio"`; its `"text"` is ignored;
            - an `AudioDecoder` of torchcodec.
        sampling_rate (`int`): rate of the result in Hz.
        source_sampling_rate (`int`, *optional*): rate in Hz of a `source` of samples; `sampling_rate` by default.
        max_seconds (`float`, *optional*): the longest audio accepted; an hour by default.
        resampler (*optional*): brings samples and their rate to `sampling_rate`; soxr by default.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32 in [-1, 1].

    Raises:
        ValueError: the audio is empty, silent (below -80 dBFS), corrupt, of a kind that needs PyAV where that is
            missing, shorter than 0.1 s, longer than `max_seconds`, at a rate outside of 1 to 768 kHz, or has NaN or
            infinite samples; or samples in a dictionary came without their rate, or with an unknown key. No more than
            `max_seconds` are decoded before the error.
        OSError: a file is not there or cannot be read, a URL cannot be fetched within 120 s, or a URL, a pipe or a
            file object has more than 256 MiB.
        TypeError: `source` is none of the above.
    """
    max_seconds = MAX_AUDIO_SECONDS if max_seconds is None else max_seconds
    if isinstance(source, dict):
        source, source_sampling_rate = _from_dictionary(source, source_sampling_rate)
    if hasattr(source, "get_all_samples"):  # datasets decodes audio columns to AudioDecoder
        decoded = source.get_all_samples()
        source = (decoded.sample_rate, decoded.data)
    if _has_rate(source):
        source_sampling_rate, source = source if _is_number(source[0]) else reversed(source)
    # A dataset in the format of NumPy or PyTorch has arrays without axes for numbers
    if getattr(source_sampling_rate, "ndim", None) == 0:
        source_sampling_rate = source_sampling_rate.item()
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read"):
        name, stream = _open(source)
        # this closes our own stream; a file object of the caller's has been copied and stays open
        with stream:
            samples, source_sampling_rate = decode_file(name, stream, max_seconds)
    elif isinstance(source, SAMPLES) or hasattr(source, "__array__"):
        # messages name the type, because integers of a small range in a large type are silent
        name = f"the audio array ({str(getattr(source, 'dtype', type(source).__name__)):.50})"
        samples = _to_float(source)
        source_sampling_rate = sampling_rate if source_sampling_rate is None else source_sampling_rate
        check_rate(name, source_sampling_rate)
    else:
        raise TypeError(
            "Audio must be a path, a URL, bytes or a file object of an audio file, an array or list of samples, a "
            'tuple of a rate and samples, or a dictionary with "array" and "sampling_rate", got '
            f"{type(source).__name__:.100}."
        )
    samples = _to_mono(name, samples)
    # a file may have less in it than its header says
    check_length(name, len(samples), source_sampling_rate, max_seconds)
    check_values(name, samples)
    check_audible(name, np.abs(samples).max())
    if source_sampling_rate != sampling_rate and resampler is not None:
        samples = resampler(samples, source_sampling_rate)
    elif source_sampling_rate != sampling_rate:
        samples = import_package("soxr").resample(samples, source_sampling_rate, sampling_rate)
    # decoders of lossy files and the resampler overshoot a bit
    return np.ascontiguousarray(samples, dtype=np.float32).clip(-1, 1)


def is_one_audio(source: Any) -> bool:
    """
    Whether `source` is one audio and not several. A list of samples is one, and so is a pair of samples and their
    rate.
    """
    return not isinstance(source, (list, tuple)) or _has_rate(source) or any(map(_is_number, source[:1]))


def _is_number(value: Any) -> bool:
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return isinstance(value, Real) and not isinstance(value, bool)


def _has_rate(source: Any) -> bool:
    """
    Whether `source` is a pair of a rate and samples, as Gradio and `scipy.io.wavfile.read` give it, or of samples and
    a rate, as soundfile and torchaudio do.
    """
    return isinstance(source, (list, tuple)) and len(source) == 2 and sum(map(_is_number, source)) == 1


def _from_dictionary(row: dict, sampling_rate: int | None) -> tuple[Any, int | None]:
    """The audio of a dictionary and its rate."""
    given = {key: value for key, value in row.items() if value is not None}
    if unknown := given.keys() - {*AUDIO_KEYS, "sampling_rate", "text"}:
        raise ValueError(
            f"An audio dictionary has the unknown keys {', '.join(sorted(map(str, unknown))):.200}; it takes "
            f"{', '.join(AUDIO_KEYS)}, sampling_rate and text."
        )
    # a row of a dataset may have several of these keys; the first one counts
    key = next((key for key in AUDIO_KEYS if key in given), None)
    source, sampling_rate = given.get(key), given.get("sampling_rate", sampling_rate)
    if key is None or (sampling_rate is None and isinstance(source, SAMPLES) and not _has_rate(source)):
        raise ValueError(
            'An audio dictionary needs "array" or "raw" together with "sampling_rate", or "bytes", "base64", "path" '
            f'or "url"; got one with the keys {", ".join(sorted(map(str, row))):.200}.'
        )
    if isinstance(source, dict):
        raise TypeError(f'"{key}" of an audio dictionary must be the audio, got another dictionary.')
    if key == "base64":
        source = _decode_base64(source)
    return source, sampling_rate


def _open(source: str | os.PathLike | bytes | bytearray | memoryview | BinaryIO) -> tuple[str, BinaryIO]:
    """The name of a file for messages, and a stream of its bytes. What is no file on a disk is read into memory."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the audio in memory", io.BytesIO(source)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return _read_all(f"{name:.200}" if isinstance(name, str) else "the audio in memory", source)
    path = os.fsdecode(source)
    name = f"{path:.200}"
    if isinstance(source, str):
        # The case of a scheme does not matter, and the longest one asked for, https://, has 8 characters
        address = path[:8].lower()
        if address.startswith(("http://", "https://")):
            return name, io.BytesIO(_fetch(path))
        if path == "-":
            if not hasattr(sys.stdin, "buffer"):
                raise OSError("There is no standard input to read audio from.")
            return _read_all("the standard input", sys.stdin.buffer)
        if address.startswith("data:"):
            return "the data: URI", io.BytesIO(_decode_data_uri(path))
        if address.startswith("file:"):
            path = _path_of_uri(path)
    if not os.path.exists(path):
        # Only what is the name of no file is taken for base64
        if isinstance(source, str) and BASE64.fullmatch(path):
            return "the base64 audio", io.BytesIO(_decode_base64(path))
        hint = " Of addresses, http(s)://, file:// and data: are read." if "://" in name else ""
        raise FileNotFoundError(f"There is no audio file {name}.{hint}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{name} is a folder, and no audio file.")
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise OSError(error.errno, f"Cannot read audio, {error.strerror}", name) from error
    # Pipes and devices cannot seek, so they are read into memory
    if os.path.isfile(path):
        return name, stream
    with stream:
        return _read_all(name, stream)


def _read_all(name: str, file: BinaryIO) -> tuple[str, BinaryIO]:
    """
    The name and the bytes of a file object, from its start where it can seek: one that was just written is at its end.
    """
    content = bytearray()
    try:
        # An object that has `read` and nothing else is taken as well
        if hasattr(file, "readable") and not file.readable():
            raise OSError("it is not open for reading")
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        while True:
            block = file.read(BLOCK_BYTES)
            if not isinstance(block, (bytes, bytearray)):
                raise TypeError(
                    f"{name} gives {type(block).__name__:.100} where audio is bytes; a file must be opened in binary "
                    'mode, "rb".'
                )
            if not block:
                break
            content += block
            if len(content) > MAX_BYTES:
                raise OSError(f"it has more than {MAX_BYTES} bytes")
    # A closed file raises ValueError
    except (OSError, ValueError) as error:
        raise OSError(f"Cannot read {name}: {error!s:.200}") from error
    return name, io.BytesIO(content)


def _path_of_uri(uri: str) -> str:
    path = uri[len("file:") :]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = slash + path
        if host not in ("", "localhost"):
            raise ValueError(
                f"A file: URI must be of this machine, as file:///folder/a.wav, got the host {host:.100}."
            )
    return urllib.request.url2pathname(path)


def _decode_data_uri(uri: str) -> bytes:
    kind, comma, data = uri[len("data:") :].partition(",")
    if not comma:
        raise ValueError(f"A data: URI has a comma before its data, got {uri:.100}.")
    data = urllib.parse.unquote_to_bytes(data)
    return _decode_base64(data) if kind.lower().endswith(";base64") else data


def _decode_base64(text: str | bytes) -> bytes:
    """Decodes base64 in both of its alphabets, with or without padding and line ends."""
    if isinstance(text, str) and text[:5].lower() == "data:":
        return _decode_data_uri(text)
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"Audio in base64 must be a string, got {type(text).__name__:.100}.")
    try:
        text = b"".join((text.encode("ascii") if isinstance(text, str) else text).split()).rstrip(b"=")
        return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"The audio is not base64: {error!s:.100}.") from error


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to `http(s)://` alone."""

    def redirect_request(self, request, file, code, message, headers, new_url: str):
        if not new_url.lower().startswith(("http://", "https://")):
            raise urllib.error.URLError(f"it redirects to another kind of address, {new_url:.100}")
        return super().redirect_request(request, file, code, message, headers, new_url)


def _fetch(url: str) -> bytes:
    start, content = time.monotonic(), bytearray()
    try:
        parts = urllib.parse.urlsplit(url)
        # urllib takes only ASCII addresses. What is quoted in them already stays, because % counts as safe
        host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
        ascii_url = parts._replace(netloc=host, path=urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~"))
        ascii_url = ascii_url._replace(query=urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?"))
        opener = urllib.request.build_opener(_HttpOnly)
        with opener.open(ascii_url.geturl(), timeout=URL_TIMEOUT_SECONDS) as response:
            # `Content-Length`; None of an answer in chunks, which end by themselves
            length = response.length
            # `read1` returns after one call of the connection, so that the time of a slow one is checked
            while block := response.read1(BLOCK_BYTES):
                content += block
                if len(content) > MAX_BYTES:
                    raise OSError(f"it has more than {MAX_BYTES} bytes")
                if time.monotonic() - start > URL_TOTAL_SECONDS:
                    raise OSError(f"it takes more than {URL_TOTAL_SECONDS} s")
            # which `read1` does not check
            if length is not None and len(content) < length:
                raise OSError(f"the connection ended early, after {len(content)} of {length} bytes")
    # Answers that are no HTTP and addresses that are none raise the last two
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OSError(f"Cannot fetch audio from {url:.100}: {error!s:.200}") from error
    return bytes(content)


def _to_float(samples: Any) -> np.ndarray:
    if isinstance(samples, (list, tuple)):
        samples = _to_array(samples)
    if isinstance(samples, torch.Tensor):
        if samples.is_meta:
            raise ValueError("The audio tensor is on the meta device, where there are no samples.")
        try:
            samples = samples.detach()
            # NumPy has no quantised or sparse arrays
            samples = samples.dequantize() if samples.is_quantized else samples.to_dense()
            # NumPy has no bfloat16
            samples = (samples.float() if samples.is_floating_point() else samples).cpu().numpy()
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"Audio samples must be floats or integers, got a tensor of {samples.dtype}.") from error
    samples = np.asarray(samples)
    if samples.dtype.kind not in "iuf":
        raise ValueError(
            f"Audio samples must be floats in [-1, 1] or integers, got an array of {str(samples.dtype):.100}."
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused later
        floats = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return floats
    half_range = np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    # the zero of unsigned samples is the middle of their range
    return floats / half_range - (1 if samples.dtype.kind == "u" else 0)


def _to_array(samples: list | tuple, is_channel: bool = False) -> np.ndarray:
    """An array of a list of samples, or of a list of channels, which are lists or arrays of samples."""
    if samples and not is_channel and all(isinstance(channel, SAMPLES) for channel in samples):
        channels = [
            _to_float(_to_array(channel, is_channel=True) if isinstance(channel, (list, tuple)) else channel)
            for channel in samples
        ]
        if len({channel.shape for channel in channels}) > 1:
            raise ValueError("The channels of an audio must be of one length.")
        return np.stack(channels)
    # One check for each type, because a list may have a million samples
    for kind in set(map(type, samples)):
        if not issubclass(kind, Real) or kind is bool:
            raise ValueError(f"A list of samples must be one of floats in [-1, 1], got {kind.__name__:.100} in it.")
    numbers = np.asarray(samples)
    if numbers.dtype in (np.int64, np.uint64):
        raise ValueError(
            "A list of integers does not say over which range they are: pass floats in [-1, 1], or an array of a type "
            "such as int16."
        )
    return numbers


def _to_mono(name: str, samples: np.ndarray) -> np.ndarray:
    """Averages the channels. Of two axes, the shorter one is that of the channels."""
    if samples.ndim > 2:
        raise ValueError(
            f"{name} must have one axis of samples and at most one of channels, got shape {samples.shape}."
        )
    if samples.ndim < 2 or samples.size == 0:
        return samples.reshape(-1)
    return samples.mean(axis=int(np.argmin(samples.shape)))


def check_values(name: str, samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} has NaN or infinite samples.")
    if np.abs(samples).max(initial=0) > MAX_AMPLITUDE:
        raise ValueError(f"{name} has samples up to {np.abs(samples).max():.0f}; floating point audio is in [-1, 1].")


def check_audible(name: str, amplitude: float) -> None:
    """`amplitude` is the largest of all samples."""
    if amplitude < MIN_AMPLITUDE:
        raise ValueError(f"{name} is silent: none of its samples is above {MIN_AMPLITUDE:g}, which is -80 dBFS.")


__all__ = ["MAX_AUDIO_SECONDS", "MIN_AUDIO_SECONDS", "check_audible", "check_values", "is_one_audio", "load_audio"]
