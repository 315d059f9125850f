# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
from places import MINI


@pytest.fixture(scope="session")
def assistant():
    """The shipped model, to be talked to."""
    from serving.naive import load_assistant

    return load_assistant(str(MINI))
