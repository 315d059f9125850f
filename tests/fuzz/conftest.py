# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Bad input by the thousand. `pytest tests/fuzz` makes the same examples each time, in about a minute;
`pytest tests/fuzz --hypothesis-profile=long --hypothesis-seed=N` makes new ones, for half an hour or so.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from tiny_models import tiny_model, tiny_processor

from processing.pipeline_vita_audio import VitaAudioPipeline


# No input may take longer than 20 s
COMMON = {"deadline": 20_000, "suppress_health_check": list(HealthCheck)}
# which takes minutes; what was found is found again at once
NO_SHRINKING = [phase for phase in Phase if phase is not Phase.shrink]
settings.register_profile("ci", max_examples=60, derandomize=True, database=None, phases=NO_SHRINKING, **COMMON)
settings.register_profile("long", max_examples=2_000, **COMMON)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def pipe():
    processor = tiny_processor()
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu", max_new_tokens=4)
