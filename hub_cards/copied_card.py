# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The card of a model that was made of another one, as `vita-audio export` and `vita-audio merge` make them."""

import shutil
from pathlib import Path

from transformers.utils import cached_file

from .model_card import CARD_FILE, FILES_OF_THE_CARD, MEASURED_FILES, write_model_card


def write_copied_card(source: str, folder: Path, revision: str | None = None, is_measured: bool = True) -> None:
    """
    Writes the card of the model in `folder` from what there is about the one that it was made of.

    Args:
        source: folder or Hub id of the model that it was made of. Its card says licence, languages and origin.
        folder: folder of a complete model.
        revision: of the Hub id.
        is_measured: whether what was measured of `source` is true of the model in `folder`.

    Raises:
        OSError: the Hub could not be reached.
        ValueError: a file of `source` is malformed.
    """
    for name in (CARD_FILE, *FILES_OF_THE_CARD):
        if name in MEASURED_FILES and not is_measured:
            continue
        # `cached_file` looks into folders and on the Hub alike
        path = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            shutil.copyfile(path, folder / name)
    # The copied card may have been edited by hand, which the new one is not.
    write_model_card(folder, overwrite=True)
