# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What training adds for models that hear by features (VITA-Audio-Plus): SenseVoice's encoder to start from, and
batches that have the features of the audios in them.

Features are made when a batch is: kept on disk they would take forty times the room of the audio's codes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import snapshot_download
from transformers import AutoConfig

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.convert_speech_input import (
    CONFIG_FILE,
    SENSEVOICE,
    SENSEVOICE_FILES,
    feature_extractor_config,
    find_sensevoice,
    read_audio_config,
    released_audio_name,
)
from modeling_vita_audio.modeling_vita_audio_encoder import VitaAudioEncoder
from modeling_vita_audio.saving_vita_audio import describe_misfit
from processing import VitaAudioFeatureExtractor, VitaAudioProcessor


WEIGHTS_FILE = "model.pt"
# The label of an audio's first token, which is no target, names the audio: this one less its number. TRL packs
# `input_ids` and `labels` and drops all other columns.
AUDIO_LABEL = -1000


@dataclass
class SenseVoice:
    """An encoder to start from: its configuration, its features and its weights, by our encoder's names."""

    audio_config: dict
    feature_extractor: VitaAudioFeatureExtractor
    weights: dict[str, torch.Tensor]

    def load_into(self, model: VitaAudioForConditionalGeneration) -> None:
        """Gives the model's encoder these weights."""
        model.model.audio_tower.load_state_dict(self.weights)


def load_sensevoice(name_or_path: str) -> SenseVoice:
    """
    Loads the encoder of a folder or Hub id with `config.yaml`, `am.mvn` and `model.pt`, such as
    `FunAudioLLM/SenseVoiceSmall`.

    Raises:
        ValueError: a file is missing or broken, or has something else than SenseVoice.
        OSError: the Hub repository cannot be downloaded.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = Path(snapshot_download(name_or_path, allow_patterns=[*SENSEVOICE_FILES, WEIGHTS_FILE]))
    find_sensevoice(folder, None)
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_FILE}, the weights of SenseVoice.")
    try:
        content = torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    # A pickle of other things than tensors, or a file that is cut off, fails in many ways
    except Exception as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} has no weights that are safe to load: {error!s:.200}") from error
    # FunASR's loader looks for the tensors under these keys, too
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout is torch.strided
        for name, value in content.items()
    ):
        raise ValueError(f"{folder / WEIGHTS_FILE} must have dense tensors by their names.")
    released = {SENSEVOICE + name.removeprefix("module."): tensor for name, tensor in content.items()}
    audio_config = read_audio_config(folder / CONFIG_FILE, {name: tensor.shape for name, tensor in released.items()})
    with torch.device("meta"):
        encoder = VitaAudioEncoder(AutoConfig.for_model(**audio_config))
    num_layers = audio_config["num_hidden_layers"] - audio_config["num_timestamp_prediction_layers"]
    weights, missing, misshaped = {}, [], []
    # The head of SenseVoice's own recognition is left out
    for name, parameter in encoder.state_dict().items():
        source, third = released_audio_name(f"model.audio_tower.{name}", num_layers)
        if source not in released:
            missing.append(source)
            continue
        tensor = released[source] if third is None else released[source].chunk(3)[third]
        if tensor.shape != parameter.shape:
            misshaped.append((source, tensor.shape, parameter.shape))
        elif tensor.is_meta or not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise ValueError(
                f"{folder / WEIGHTS_FILE} has values in {source} that are no finite floating point numbers."
            )
        weights[name] = tensor.float()
    if misfit := describe_misfit(missing, (), misshaped):
        raise ValueError(f"{folder / WEIGHTS_FILE} has no encoder of SenseVoice. {misfit}.")
    return SenseVoice(audio_config, VitaAudioFeatureExtractor.from_dict(feature_extractor_config(folder)), weights)


class SpeechInput:
    """
    The audios of the users' turns in the examples of a run, each by its number.

    Args:
        processor ([`VitaAudioProcessor`]): loads audio and makes features of it.
    """

    def __init__(self, processor: VitaAudioProcessor):
        self.processor = processor
        self.places: list[tuple[Dataset, int, int]] = []

    def add(self, conversations: Dataset, row: int, place: int) -> tuple[int, int]:
        """
        Takes an audio of a dataset.

        Returns:
            The number of the audio, and the number of rows of its features.

        Raises:
            ValueError, OSError: the audio cannot be read, or is refused by the processor.
        """
        self.places.append((conversations, row, place))
        number = len(self.places) - 1
        return number, self.processor.feature_extractor.num_rows(len(self._load(number)))

    def features(self, number: int) -> np.ndarray:
        """Features `(num_rows, 560)` of an audio."""
        return self.processor.feature_extractor(self._load(number))["input_features"][0]

    def _load(self, number: int) -> np.ndarray:
        conversations, row, place = self.places[number]
        return self.processor.load_audio(conversations[row]["audios"][place])

    def mark(self, example: dict, numbers: list[int]) -> dict:
        """`example` with labels that name the audios `numbers`, in order of the runs of `<|context_of_audio|>`."""
        context, numbers = self.processor.speech_vocabulary.context_audio_token_id, iter(numbers)
        labels, previous = list(example["labels"]), None
        for index, token_id in enumerate(example["input_ids"]):
            if token_id == context != previous:
                labels[index] = AUDIO_LABEL - next(numbers)
            previous = token_id
        return {**example, "labels": labels}


@dataclass
class SpeechInputCollator:
    """
    Adds the features of the audios to the batches of another collator.

    Args:
        collator: makes `input_ids` and `labels` of examples, whose labels [`SpeechInput.mark`] has marked.
        speech_input: has the audios.
    """

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    speech_input: SpeechInput

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            The batch of the collator and, if there are audios in it, `input_features` and `feature_attention_mask` as
            of [`VitaAudioFeatureExtractor`].
        """
        batch = self.collator(examples)
        labels = batch["labels"]
        is_audio = labels <= AUDIO_LABEL
        # row by row, which is the order in which the model reads the features
        numbers = (AUDIO_LABEL - labels[is_audio]).tolist()
        labels[is_audio] = -100
        padded = self.speech_input.processor.pad_features([self.speech_input.features(number) for number in numbers])
        return batch | {name: torch.from_numpy(values) for name, values in padded.items()}
