# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reads the released checkpoints as they are, so that `VitaAudioForConditionalGeneration.from_pretrained` takes
`VITA-MLLM/VITA-Audio-Boost` and the others without a conversion. transformers renames the tensors while it loads them.

The code of a Hub folder has no use for this: only this package does it.
"""

from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, cached_file

from .configuration_vita_audio import VitaAudioConfig
from .convert_speech_input import CONFIG_FILE, CTC_NAMES, FUSED_LAYER, FUSED_PARTS, read_encoder_sizes
from .convert_vita_audio_to_hf import (
    RELEASED_TYPES,
    check_architecture,
    check_sliding_window,
    convert_config,
    convert_generation_config,
    read_json,
    released_name,
    take_layout,
)
from .modeling_vita_audio import READERS, VitaAudioForConditionalGeneration
from .modeling_vita_audio_encoder import VitaAudioEncoder


class ReleasedCheckpoint:
    """
    A released checkpoint, as `from_pretrained` reads it.

    Args:
        name_or_path: its folder or Hub id.
        hub_kwargs: of transformers' `cached_file`, such as `revision`.

    Raises:
        ValueError: its config is not one of the released ones.
    """

    # Tensors that it has and our model does not
    unused_names = frozenset(CTC_NAMES)

    def __init__(self, name_or_path: str, **hub_kwargs):
        # No weights are fetched here. The files that exist lie in one folder, in the Hub's cache as well
        names = (CONFIG_NAME, GENERATION_CONFIG_NAME, CONFIG_FILE, "tokenizer.json", "tokenizer_config.json")
        files = [
            cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
            for name in names
        ]
        folder = Path(next(file for file in files if file is not None)).parent
        self.config = read_config(folder)
        content, schedule = convert_generation_config(folder, self.config, to_released=False)
        take_layout(self.config, schedule)
        self.generation_config = GenerationConfig.from_dict(content)

    def key_mapping(self) -> dict[str, str]:
        """Our names by those of the released tensors, as regular expressions, for `from_pretrained`."""
        with torch.device("meta"):
            model = VitaAudioForConditionalGeneration(self.config)
        mapping = {}
        for name, _ in model.named_parameters():
            source, third = released_name(name, self.config)
            if third is not None:
                # The released tensor is query, key and value in one, which the `WeightConverter` below cuts in three
                name = name.replace(FUSED_PARTS[third], FUSED_LAYER)
            mapping["^" + source.replace(".", r"\.") + "$"] = name
        return mapping


def read_config(folder: Path) -> VitaAudioConfig:
    """The config of a released checkpoint's folder. Without `config.yaml`, an encoder has SenseVoiceSmall's sizes."""
    hears_features = check_architecture(read_json(folder / CONFIG_NAME), to_released=False)
    config = convert_config(folder, hears_features)
    check_sliding_window(config)
    if hears_features:
        config.audio_config = AutoConfig.for_model(**read_encoder_sizes(folder / CONFIG_FILE))
        config.validate_speech_input()
    return config


for model_type, _ in RELEASED_TYPES.values():
    READERS[model_type] = ReleasedCheckpoint
register_checkpoint_conversion_mapping(
    VitaAudioEncoder.__name__,
    [
        WeightConverter(f"{FUSED_LAYER}.{kind}", [f"{part}.{kind}" for part in FUSED_PARTS], operations=[Chunk(dim=0)])
        for kind in ("weight", "bias")
    ],
)
