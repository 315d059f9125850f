# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speech in and out: codec, processor, streaming, pipeline and command line."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_vita_audio import VitaAudioConfig  # the tokenizer of a whole folder asks for it

from .configuration_glm4_voice_codec import Glm4VoiceCodecConfig
from .configuration_vita_audio_codec import VitaAudioCodecConfig
from .conversation_vita_audio import (
    ASR_PROMPT,
    SPOKEN_CHAT_SYSTEM_PROMPT,
    TTS_PROMPT,
    recognition_conversation,
    spoken_conversation,
    synthesis_conversation,
)
from .feature_extraction_vita_audio import VitaAudioFeatureExtractor
from .modeling_glm4_voice_codec import Glm4VoiceCodec
from .modeling_vita_audio_codec import VitaAudioCodec
from .pipeline_vita_audio import AnswerWarning, VitaAudioPipeline
from .processing_vita_audio import VitaAudioProcessor
from .streaming_vita_audio import VitaAudioStreamer
from .voice_vita_audio import VoicePrompt, read_voice


AutoConfig.register(VitaAudioCodecConfig.model_type, VitaAudioCodecConfig)
AutoModel.register(VitaAudioCodecConfig, VitaAudioCodec)
AutoConfig.register(Glm4VoiceCodecConfig.model_type, Glm4VoiceCodecConfig)
AutoModel.register(Glm4VoiceCodecConfig, Glm4VoiceCodec)
# `AutoProcessor` and `AutoFeatureExtractor` find a class by its name in processor_config.json. The configurations that
# these are registered with are not asked.
AutoProcessor.register(VitaAudioCodecConfig, VitaAudioProcessor)
AutoFeatureExtractor.register(VitaAudioConfig, VitaAudioFeatureExtractor)
PIPELINE_REGISTRY.register_pipeline("audio-to-audio", VitaAudioPipeline, pt_model=AutoModel, type="multimodal")


__all__ = [
    "ASR_PROMPT",
    "SPOKEN_CHAT_SYSTEM_PROMPT",
    "TTS_PROMPT",
    "AnswerWarning",
    "Glm4VoiceCodec",
    "Glm4VoiceCodecConfig",
    "VitaAudioCodec",
    "VitaAudioCodecConfig",
    "VitaAudioFeatureExtractor",
    "VitaAudioPipeline",
    "VitaAudioProcessor",
    "VitaAudioStreamer",
    "VoicePrompt",
    "read_voice",
    "recognition_conversation",
    "spoken_conversation",
    "synthesis_conversation",
]
