# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Removes the temporary folder of `datasets`: at the end of a run or, if that was killed, when the next run starts."""

import shutil
from contextlib import suppress
from pathlib import Path

import datasets
from datasets.config import TEMP_CACHE_DIR_PREFIX
from datasets.fingerprint import get_temporary_cache_files_directory

from modeling_vita_audio.saving_vita_audio import UNFINISHED_SUFFIX, leftovers, owner_prefix


def disable_caching() -> None:
    """As `datasets.disable_caching`, whose temporary folder `datasets` removes itself unless the process is killed."""
    datasets.disable_caching()
    ours = Path(get_temporary_cache_files_directory())
    # The name of this file has the process in it. Once that no longer runs, `leftovers` finds the file, and so the
    # folder around it is known to be left over.
    (ours / f"{owner_prefix()}datasets{UNFINISHED_SUFFIX}").touch()
    for folder in ours.parent.glob(f"{TEMP_CACHE_DIR_PREFIX}*"):
        # the other processes of this run, which start at the same time, may have removed it
        with suppress(FileNotFoundError):
            if leftovers(folder):
                shutil.rmtree(folder, ignore_errors=True)
