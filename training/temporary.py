# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What `datasets` makes on the way, in a temporary folder: gone at the end or, after a kill, when the next run starts."""

import shutil
from pathlib import Path

import datasets
from datasets.config import TEMP_CACHE_DIR_PREFIX
from datasets.fingerprint import get_temporary_cache_files_directory

from modeling_vita_audio.saving_vita_audio import UNFINISHED_SUFFIX, leftovers, owner_prefix


def disable_caching() -> None:
    """As that of `datasets`, which removes its temporary folder by itself where the process is not killed."""
    datasets.disable_caching()
    ours = Path(get_temporary_cache_files_directory())
    (ours / f"{owner_prefix()}datasets{UNFINISHED_SUFFIX}").touch()
    for folder in ours.parent.glob(f"{TEMP_CACHE_DIR_PREFIX}*"):
        if leftovers(folder):
            shutil.rmtree(folder, ignore_errors=True)
