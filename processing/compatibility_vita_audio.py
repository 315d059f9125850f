# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What this package needs of the module of the same name in `modeling_vita_audio`. In a Hub folder, where all files are
side by side, that module itself has this name.
"""

from modeling_vita_audio.compatibility_vita_audio import attach_to_package


__all__ = ["attach_to_package"]
