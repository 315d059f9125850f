# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio for transformers. Importing this package makes the auto classes know it."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForTextToWaveform,
)

from . import released_layout  # noqa: F401  lets `from_pretrained` read the released checkpoints
from .cache_vita_audio import VitaAudioCache
from .configuration_vita_audio import VitaAudioConfig
from .generation_vita_audio import MCTP_MODES, VitaAudioGenerateOutput, VitaAudioGenerationMixin
from .modeling_vita_audio import (
    VitaAudioForConditionalGeneration,
    VitaAudioModel,
    VitaAudioModelOutputWithPast,
    VitaAudioOutputWithPast,
    VitaAudioPreTrainedModel,
)


AutoConfig.register("vita_audio", VitaAudioConfig)
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForTextToWaveform):
    auto_class.register(VitaAudioConfig, VitaAudioForConditionalGeneration)

__all__ = [
    "MCTP_MODES",
    "VitaAudioCache",
    "VitaAudioConfig",
    "VitaAudioForConditionalGeneration",
    "VitaAudioGenerateOutput",
    "VitaAudioGenerationMixin",
    "VitaAudioModel",
    "VitaAudioModelOutputWithPast",
    "VitaAudioOutputWithPast",
    "VitaAudioPreTrainedModel",
]
