# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The tiny VITA-Audio-Plus checkpoint of the original implementation, in our model, and what the original computes from
it.
"""

import functools
import json

import torch
from places import FIXTURES
from safetensors.torch import load_file

from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration


PLUS_FIXTURE = FIXTURES / "vita_audio_plus_k10"
NUM_LAYERS, NUM_ENCODERS = 2, 3
ENCODER = "model.audio_model.model.encoder"


def released_source(name: str) -> tuple[str, int | None]:
    """
    Of one of our tensors, the released tensor, and which third of it where query, key and value are one there. Written
    a second time, apart from the converter.
    """
    parts = name.split(".")
    if parts[1] == "mctp_modules":
        rest = ".".join(parts[3:])
        if parts[3] == "layer":
            return f"model.layers.{NUM_LAYERS + int(parts[2])}.{rest.removeprefix('layer.')}", None
        return f"mtp_{parts[3]}s.{parts[2]}.weight", None
    if parts[1] == "multi_modal_projector":
        layer = {"norm": "pre_proj_layernorm", "linear_1": "mlp.0", "linear_2": "mlp.2"}[parts[2]]
        return f"model.audio_projection.{layer}.{parts[3]}", None
    if parts[1] != "audio_tower":
        return name.replace("language_model.", ""), None
    if parts[2] == "query_embeddings":
        return "model.audio_model.model.embed.weight", None
    index, kind = int(parts[3]), parts[-1]
    block = "encoders0.0" if index == 0 else f"encoders.{index - 1}"
    if index >= NUM_ENCODERS:
        block = f"tp_encoders.{index - NUM_ENCODERS}"
    layer = ".".join(parts[4:-1])
    if layer == "final_layernorm":
        return f"{ENCODER}.{'after_norm' if index < NUM_ENCODERS else 'tp_norm'}.{kind}", None
    third = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}.get(layer)
    released = {
        "self_attn.o_proj": "self_attn.linear_out",
        "self_attn.fsmn.conv": "self_attn.fsmn_block",
        "input_layernorm": "norm1",
        "post_attention_layernorm": "norm2",
        "mlp.fc1": "feed_forward.w_1",
        "mlp.fc2": "feed_forward.w_2",
    }
    return f"{ENCODER}.{block}.{'self_attn.linear_q_k_v' if third is not None else released[layer]}.{kind}", third


@functools.cache
def plus_weights() -> dict[str, torch.Tensor]:
    return load_file(PLUS_FIXTURE / "model.safetensors")


@functools.cache
def plus_tensors() -> dict[str, torch.Tensor]:
    return load_file(PLUS_FIXTURE / "expected.safetensors")


@functools.cache
def plus_expected() -> dict:
    return json.loads((PLUS_FIXTURE / "expected.json").read_text())


def plus_config(**kwargs) -> VitaAudioConfig:
    released = json.loads((PLUS_FIXTURE / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    names += ("max_position_embeddings", "rms_norm_eps", "bos_token_id", "pad_token_id")
    text_config = {name: released[name] for name in names} | {"model_type": "qwen2", "num_hidden_layers": NUM_LAYERS}
    text_config |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "eos_token_id": None}
    audio_config = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_timestamp_prediction_layers": 1,
        "fsmn_kernel_size": 5,
    }
    vocabulary = {
        "begin_audio_token_id": 509,
        "end_audio_token_id": 510,
        "context_audio_token_id": 511,
        "audio_token_id": 520,
        "speech_token_offset": 521,
        "num_speech_tokens": 119,
    }
    config = {"text_config": text_config, "audio_config": audio_config, "num_mctp_modules": 10, **vocabulary}
    config["interleave_pattern"] = [1, 10, 4, 10]
    return VitaAudioConfig(**config | kwargs)


def plus_model() -> VitaAudioForConditionalGeneration:
    model = VitaAudioForConditionalGeneration(plus_config())
    state = {}
    for name, parameter in model.named_parameters():
        source, third = released_source(name)
        tensor = plus_weights()[source]
        state[name] = tensor if third is None else tensor.chunk(3)[third]
        assert state[name].shape == parameter.shape
    model.load_state_dict(state)
    return model.eval()


def plus_features(audios) -> dict[str, torch.Tensor]:
    """Features of the fixture's audios by name, padded into one batch; nothing where there are none."""
    if not audios:
        return {}
    rows = [plus_tensors()[f"features.{name}"] for name in audios]
    features = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(features.shape[1]) < lengths[:, None]).long()
    return {"input_features": features, "feature_attention_mask": mask}
