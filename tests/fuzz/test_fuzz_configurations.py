# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Configurations: they make sense, or are refused at once by a clear error."""

from fuzz_values import CLEAR_ERRORS, VALUES
from hypothesis import given
from hypothesis import strategies as st

from modeling_vita_audio import VitaAudioConfig
from processing import Glm4VoiceCodecConfig, VitaAudioCodecConfig
from processing.configuration_glm4_voice_codec import (
    Glm4VoiceFlowConfig,
    Glm4VoiceTokenizerConfig,
    Glm4VoiceVocoderConfig,
)


# within what a file says, so that most of it makes sense
CONFIGS = {
    VitaAudioConfig: [
        "num_mctp_modules",
        "audio_token_id",
        "speech_token_offset",
        "num_speech_tokens",
        "text_config",
        "storage_dtype",
        "tie_word_embeddings",
    ],
    VitaAudioCodecConfig: [
        "sampling_rate",
        "codebook_size",
        "decoder_hidden_sizes",
        "decoder_depths",
        "decoder_lookahead",
        "kernel_size",
        "num_voices",
        "voice_names",
        "synthesis_window",
        "tokenizer_config",
    ],
    Glm4VoiceTokenizerConfig: ["d_model", "encoder_layers", "max_source_positions", "pooling_kernel_size", "dropout"],
    Glm4VoiceFlowConfig: ["hidden_size", "unet_hidden_sizes", "num_inference_steps", "guidance_scale"],
    Glm4VoiceVocoderConfig: ["upsample_rates", "upsample_kernel_sizes", "resblock_dilation_sizes", "istft_hop_length"],
    Glm4VoiceCodecConfig: ["tokenizer_config", "vocoder_config", "streaming_block_size", "streaming_overlap"],
}


@given(st.sampled_from(list(CONFIGS)), st.data())
def test_configurations(config_class, data):
    values = data.draw(st.dictionaries(st.sampled_from(CONFIGS[config_class]), VALUES, max_size=3))
    try:
        config_class(**values)
    except CLEAR_ERRORS:
        pass
    except Exception as error:
        # `@strict` has errors of its own, for a wrong type
        assert type(error).__module__ == "huggingface_hub.errors", values
