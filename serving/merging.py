# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes a whole model of an adapter and the model that it was trained on."""

from pathlib import Path

from hub_cards.command_line import naming
from hub_cards.copied_card import write_copied_card
from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.adapters_vita_audio import find_adapter, load_adapted
from modeling_vita_audio.saving_vita_audio import written_whole
from processing import VitaAudioProcessor
from processing.export import export_repository


def merge(name_or_path: str, folder: Path, base: str | None = None, revision: str | None = None) -> None:
    """
    Writes a complete repository in which the adapter is in the weights. They are of the type that the base model is
    computed in, so those of a model in bfloat16 are rounded to it.

    Args:
        name_or_path: folder or Hub id of the adapter.
        folder: a folder that does not exist or is empty.
        base: folder or Hub id of the base model; by default the one that the adapter names.
        revision: of the adapter's Hub id.

    Raises:
        ValueError: there is no adapter, it does not fit the base model, or there is no processor with a codec.
        OSError: a model is not there, or the folder cannot be written.
    """
    adapter = find_adapter(name_or_path, revision=revision)
    if adapter is None:
        raise ValueError(f"{name_or_path} is no adapter: it has no adapter_config.json.")
    with naming(f"The adapter {name_or_path} with its model"):
        model = load_adapted(VitaAudioForConditionalGeneration, adapter, base)
        processor = VitaAudioProcessor.from_pretrained(name_or_path, revision=revision)
    with written_whole(folder) as unfinished:
        export_repository(model, processor, unfinished)
        write_copied_card(name_or_path, unfinished, revision)
