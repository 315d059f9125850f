# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The whole corpus as texts, made once: it takes some seconds."""

import os

import pytest

from training.corpus import conversations
from training.corpus.general import WORDNET_FOLDER


@pytest.fixture(scope="session")
def recordings():
    # .ci/run installs it
    if not WORDNET_FOLDER.is_dir() and "CI" not in os.environ:
        pytest.skip("Debian's wordnet-base is not installed, so the corpus is not whole")
    return list(conversations.all_recordings())


@pytest.fixture(scope="session")
def rows(recordings):
    return list(conversations.all_conversations())
