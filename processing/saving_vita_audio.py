# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What this package needs of the module of the same name in `modeling_vita_audio`. In a Hub folder, where all files are
side by side, that module itself has this name.
"""

from modeling_vita_audio.saving_vita_audio import (
    HUB_KWARGS,
    check_is_free,
    check_storage_dtype,
    check_weights,
    describe_misfit,
    keep_code,
    saved_whole,
    written_whole,
)


__all__ = [
    "HUB_KWARGS",
    "check_is_free",
    "check_storage_dtype",
    "check_weights",
    "describe_misfit",
    "keep_code",
    "saved_whole",
    "written_whole",
]
