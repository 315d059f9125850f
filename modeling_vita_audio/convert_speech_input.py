# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The continuous speech input of the released VITA-Audio-Plus checkpoints: names of tensors, sizes, features.

There the encoder is FunASR's SenseVoice, which `config.yaml` and `am.mvn` describe. What of it this package does not
use, and the original asks for, is kept in the folder `sensevoice` beside our model, so that it can be converted back.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import yaml
from huggingface_hub import snapshot_download

from .configuration_vita_audio import AUDIO_MODEL_TYPE


SENSEVOICE_FOLDER = "sensevoice"
CONFIG_FILE, CMVN_FILE, CTC_FILE = "config.yaml", "am.mvn", "ctc.safetensors"
# What FunASR reads of a folder besides the weights. The tokenizer is needed, too, because
# its size is the width of the CTC head
SENSEVOICE_FILES = (CONFIG_FILE, CMVN_FILE, "configuration.json", "*.bpe.model")

SENSEVOICE = "model.audio_model.model."
# A head for SenseVoice's own recognition, which the Plus models have and never use
CTC_NAMES = (f"{SENSEVOICE}ctc.ctc_lo.weight", f"{SENSEVOICE}ctc.ctc_lo.bias")

# `mlp.1` is the activation between the two layers, which has no weights
PROJECTOR_NAMES = {"norm": "pre_proj_layernorm", "linear_1": "mlp.0", "linear_2": "mlp.2"}
LAYER_NAMES = {
    "self_attn.o_proj": "self_attn.linear_out",
    "self_attn.fsmn.conv": "self_attn.fsmn_block",
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    "mlp.fc1": "feed_forward.w_1",
    "mlp.fc2": "feed_forward.w_2",
}
# One matrix there is three here, in this order
FUSED_LAYER, FUSED_PARTS = "self_attn.linear_q_k_v", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

# The constructor's arguments of `VitaAudioFeatureExtractor`, and what `frontend_conf` of `config.yaml` calls them
FRONTEND_KEYS = {
    # The numbers are those of SenseVoiceSmall, for files that leave a key out
    "sampling_rate": ("fs", 16000),
    "feature_size": ("n_mels", 80),
    "frame_length": ("frame_length", 25),
    "frame_shift": ("frame_shift", 10),
    "num_stacked_frames": ("lfr_m", 7),
    "stacking_stride": ("lfr_n", 6),
}


def released_audio_name(name: str, num_transcription_layers: int) -> tuple[str, int | None]:
    """
    The name that the released layout has for a tensor of our encoder or projector, and which third of that tensor it
    is, or None where it is all of it.
    """
    if match := re.fullmatch(r"model\.multi_modal_projector\.(\w+)\.(\w+)", name):
        return f"model.audio_projection.{PROJECTOR_NAMES[match[1]]}.{match[2]}", None
    if name == "model.audio_tower.query_embeddings.weight":
        return f"{SENSEVOICE}embed.weight", None
    index, layer, kind = re.fullmatch(r"model\.audio_tower\.layers\.(\d+)\.(.+)\.(\w+)", name).groups()
    is_transcribing, index = int(index) < num_transcription_layers, int(index)
    # Two layers have such a norm: the last one that transcribes, and the last one of all
    if layer == "final_layernorm":
        return f"{SENSEVOICE}encoder.{'after_norm' if is_transcribing else 'tp_norm'}.{kind}", None
    block = f"encoders.{index - 1}" if is_transcribing else f"tp_encoders.{index - num_transcription_layers}"
    # The first block has a name of its own there, because it alone changes the width
    if index == 0:
        block = "encoders0.0"
    third = FUSED_PARTS.index(layer) if layer in FUSED_PARTS else None
    layer = FUSED_LAYER if third is not None else LAYER_NAMES[layer]
    return f"{SENSEVOICE}encoder.{block}.{layer}.{kind}", third


def find_sensevoice(folder: Path, sensevoice_dir: str | Path | None) -> Path:
    """
    The folder with `config.yaml` and `am.mvn`: the one that was given, where it has both, else the checkpoint's own.

    Raises:
        ValueError: none of them has both files.
        OSError: the Hub repository that was given cannot be downloaded.
    """
    places = [folder, folder / SENSEVOICE_FOLDER]
    if sensevoice_dir is not None:
        path = Path(sensevoice_dir)
        if not path.is_dir():
            path = Path(snapshot_download(str(sensevoice_dir), allow_patterns=[*SENSEVOICE_FILES]))
        places.insert(0, path)
    for place in places:
        if (place / CONFIG_FILE).is_file() and (place / CMVN_FILE).is_file():
            return place
    raise ValueError(
        f"{places[0]} has no {CONFIG_FILE} and {CMVN_FILE}, which describe SenseVoice's features. Give a folder or "
        "Hub id that has them as --sensevoice_dir, such as FunAudioLLM/SenseVoiceSmall."
    )


def read_sensevoice_config(path: Path) -> dict:
    """
    Reads `config.yaml`, in which nothing is run.

    Raises:
        ValueError: it is no YAML of plain values, or a part of it is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # RecursionError is for YAML that is nested too deeply, the last three are for values that are not of their tag,
    # such as `!!bool x`, or the date 2026-99-99
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is no YAML of plain values: {' '.join(str(error).split())[:200]}") from error
    parts = [
        content,
        *(content.get(name, {}) for name in ("encoder_conf", "frontend_conf") if isinstance(content, dict)),
    ]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{path} must have mappings `encoder_conf` and `frontend_conf`.")
    return content


def read_audio_config(path: Path, shapes: Mapping[str, torch.Size]) -> dict:
    """
    The `audio_config` of a [`VitaAudioConfig`]: heads and dropout from `config.yaml`, other sizes from the tensors.

    Raises:
        ValueError: a tensor that tells a size is missing, or `config.yaml` has values of other types.
    """
    content = read_sensevoice_config(path)

    def shape(name: str) -> torch.Size:
        # A tensor without dimensions tells no size, either
        if not (found := shapes.get(f"{SENSEVOICE}{name}")):
            raise ValueError(f"The checkpoint has no tensor {SENSEVOICE}{name}, so it is none of VITA-Audio-Plus.")
        return found

    def count(pattern: str) -> int:
        matches = (re.match(rf"{re.escape(SENSEVOICE)}encoder\.{pattern}\.(\d+)\.", name) for name in shapes)
        return len({match[1] for match in matches if match})

    # `encoders0` is one layer more, and it does not match the pattern `encoders`
    num_prediction_layers = count("tp_encoders")
    return without_shapes(content, path) | {
        "hidden_size": shape("encoder.encoders0.0.norm2.weight")[0],
        "intermediate_size": shape("encoder.encoders0.0.feed_forward.w_1.weight")[0],
        "fsmn_kernel_size": shape("encoder.encoders0.0.self_attn.fsmn_block.weight")[-1],
        "num_hidden_layers": 1 + count("encoders") + num_prediction_layers,
        "num_timestamp_prediction_layers": num_prediction_layers,
    }


def read_encoder_sizes(path: Path) -> dict:
    """
    The `audio_config` by `config.yaml` alone, which says all sizes of the encoder. What it does not say, or all where
    there is no file, is as in SenseVoiceSmall.
    """
    content = read_sensevoice_config(path) if path.is_file() else {}
    encoder = content.get("encoder_conf", {})
    num_prediction_layers = number_of(encoder, "tp_blocks", 20, path)
    return without_shapes(content, path) | {
        "hidden_size": number_of(encoder, "output_size", 512, path),
        "intermediate_size": number_of(encoder, "linear_units", 2048, path),
        "fsmn_kernel_size": number_of(encoder, "kernel_size", 11, path),
        "num_hidden_layers": number_of(encoder, "num_blocks", 50, path) + num_prediction_layers,
        "num_timestamp_prediction_layers": num_prediction_layers,
    }


def without_shapes(content: dict, path: Path) -> dict:
    """What of an `audio_config` no tensor's shape shows. The defaults are those of SenseVoiceSmall."""
    encoder, frontend = content.get("encoder_conf", {}), content.get("frontend_conf", {})
    return {
        "model_type": AUDIO_MODEL_TYPE,
        "num_mel_bins": number_of(frontend, "n_mels", 80, path),
        "num_stacked_frames": number_of(frontend, "lfr_m", 7, path),
        "num_attention_heads": number_of(encoder, "attention_heads", 4, path),
        "hidden_dropout": number_of(encoder, "dropout_rate", 0.1, path, float),
        "attention_dropout": number_of(encoder, "attention_dropout_rate", 0.1, path, float),
    }


def number_of(content: dict, name: str, default: float, path: Path, kind: Callable = int, smallest: int = 0) -> float:
    """A size, which is whole, or with `kind=float` a probability."""
    value = content.get(name, default)
    largest, expected = (1, "from 0 to 1") if kind is float else (math.inf, f"that is whole and at least {smallest}")
    # Comparisons are false for NaN and right for any whole number; infinity is no size
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value != math.inf
    if not is_number or not smallest <= value <= largest or kind(value) != value:
        raise ValueError(f"{path}: `{name}` must be a number {expected}, got {value!r:.100}.")
    return kind(value)


def feature_extractor_config(sensevoice_dir: Path) -> dict:
    """
    The content of `preprocessor_config.json` of a `VitaAudioFeatureExtractor`.

    Raises:
        ValueError: `config.yaml` asks for features of another kind, or `am.mvn` is broken.
    """
    path = sensevoice_dir / CONFIG_FILE
    frontend = read_sensevoice_config(path).get("frontend_conf", {})
    if (window := frontend.get("window", "hamming")) != "hamming":
        raise ValueError(f"{path}: only the window 'hamming' is known, not {window!r:.100}.")
    sizes = {
        name: number_of(frontend, key, default, path, smallest=1) for name, (key, default) in FRONTEND_KEYS.items()
    }
    shift, scale = read_cmvn(sensevoice_dir / CMVN_FILE, sizes["feature_size"] * sizes["num_stacked_frames"])
    return {
        "feature_extractor_type": "VitaAudioFeatureExtractor",
        "padding_value": 0.0,
        **sizes,
        "cmvn_shift": shift,
        "cmvn_scale": scale,
    }


def read_cmvn(path: Path, size: int) -> tuple[list[float], list[float]]:
    """
    Reads what is added to features, and what they are then multiplied with, from Kaldi's text `am.mvn`.

    Raises:
        ValueError: the file does not have two rows of `size` finite numbers.
    """
    # A file that is no text gets the message below, which says what is missing
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = []
    for name in ("AddShift", "Rescale"):
        # The numbers stand in brackets in the line after the name
        match = re.search(rf"<{name}>[^\n]*\n[^\n\[]*\[([^\]]*)\]", text)
        try:
            rows.append([float(number) for number in match[1].split()])
        # There was no match, or something in the brackets is no number
        except (TypeError, ValueError):
            rows.append([])
        if len(rows[-1]) != size:
            raise ValueError(
                f"{path} must have {size} numbers in brackets after <{name}>, but has {len(rows[-1])}: it may be cut "
                "off."
            )
        if not all(map(math.isfinite, rows[-1])):
            raise ValueError(f"{path} must have finite numbers after <{name}>, but has NaN or infinite ones.")
    return rows[0], rows[1]
