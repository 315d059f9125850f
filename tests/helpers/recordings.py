# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import io
from collections.abc import Callable

import av
import numpy as np


def recording(
    samples: np.ndarray,
    sampling_rate: int,
    container_format: str,
    codec: str,
    rate: int,
    channels: str = "mono",
    output: Callable[[], io.BytesIO] = io.BytesIO,
) -> bytes:
    """
    A file as browsers and phones write it: mono float `samples` at `sampling_rate` Hz, resampled to `rate` and
    encoded.
    """
    output = output()
    with av.open(output, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout=channels, bit_rate=64000)
        resampler = av.AudioResampler(stream.format, channels, rate, stream.codec_context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.pts = sampling_rate, 0
        for resampled in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return output.getvalue()
