# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
from matplotlib.image import imread


def drawn_colors(path) -> int:
    """
    How many colours, but for shades of grey, a picture has that a curve, a bar or a point of some pixels is drawn in.
    """
    pixels = (255 * imread(path)[..., :3]).astype(int).reshape(-1, 3)
    pixels = pixels[np.ptp(pixels, axis=1) > 60]
    _, counts = np.unique(pixels, axis=0, return_counts=True)
    return int((counts > 20).sum())
