# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The module of this name of `modeling_vita_audio`, under which a Hub folder, where all files lie side by side, has that itself."""

from modeling_vita_audio.saving_vita_audio import (
    HUB_KWARGS,
    check_is_free,
    check_weights,
    describe_misfit,
    keep_code,
    saved_whole,
    written_whole,
)


__all__ = [
    "HUB_KWARGS",
    "check_is_free",
    "check_weights",
    "describe_misfit",
    "keep_code",
    "saved_whole",
    "written_whole",
]
