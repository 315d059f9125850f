# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speech in and out: codec, processor, streaming, pipeline and command line."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_vita_audio_codec import VitaAudioCodecConfig
from .modeling_vita_audio_codec import VitaAudioCodec
from .processing_vita_audio import VitaAudioProcessor


AutoConfig.register(VitaAudioCodecConfig.model_type, VitaAudioCodecConfig)
AutoModel.register(VitaAudioCodecConfig, VitaAudioCodec)
# AutoProcessor finds the class by its name in processor_config.json; the configuration it is registered with is not asked.
AutoProcessor.register(VitaAudioCodecConfig, VitaAudioProcessor)


__all__ = ["VitaAudioCodec", "VitaAudioCodecConfig", "VitaAudioProcessor"]
