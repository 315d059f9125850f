# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads an adapter (PEFT) together with the model that it was trained on."""

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, cached_file

from .saving_vita_audio import HUB_KWARGS, REPO_ID, describe_misfit


ADAPTER_CONFIG_FILE = "adapter_config.json"

HOW_TO_NAME = "`base_model_name_or_path` in its adapter_config.json, or `--base` of `vita-audio merge`, names a model."


@dataclass(frozen=True)
class Adapter:
    """
    A folder or Hub id with an adapter.

    Args:
        place: the folder or Hub id.
        hub_kwargs: arguments of `from_pretrained` that say how to get its files, see `HUB_KWARGS`.
    """

    place: str
    hub_kwargs: dict[str, Any]

    def read(self, file_name: str) -> dict | None:
        """The content of one of its JSON files; None where it has no such file."""
        if not os.path.isdir(self.place) and not REPO_ID.fullmatch(self.place):
            return None
        path = cached_file(
            self.place,
            file_name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **self.hub_kwargs,
        )
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def find_adapter(
    name_or_path: str, adapter_kwargs: dict | None = None, subfolder: str = "", **kwargs
) -> Adapter | None:
    """
    Finds the adapter that `from_pretrained` was asked for; None where it was asked for a model.

    Args:
        name_or_path: the folder or Hub id that `from_pretrained` was given.
        adapter_kwargs: what the auto classes of transformers pass on where they have found an adapter: its place, as
            they ask for its model instead.
        subfolder, kwargs: the arguments of `from_pretrained`.
    """
    adapter_kwargs = adapter_kwargs or {}
    place = adapter_kwargs.get("_adapter_model_path") or name_or_path
    # the revision of the model is not that of the adapter
    given = adapter_kwargs if place != name_or_path else kwargs
    adapter = Adapter(str(place), {name: given[name] for name in HUB_KWARGS if name in given})
    return None if subfolder or adapter.read(ADAPTER_CONFIG_FILE) is None else adapter


def load_adapted(cls: type[PreTrainedModel], adapter: Adapter, base: str | None = None, **kwargs) -> PreTrainedModel:
    """
    Loads the model that an adapter was trained on, gives it the MCTP modules that the adapter's training has added,
    and puts the adapter into its weights, which cost no time then. The layout and the default mode are the adapter's.
    Weights that are quantised stay as they are, and the adapter beside them.

    Args:
        cls: the class of the model, whose `from_pretrained` is called with `kwargs`.
        adapter ([`Adapter`]): what was found by [`find_adapter`].
        base: folder or Hub id of that model; by default the one that the adapter names.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: the adapter names no model, or was trained on another one.
        FileNotFoundError: the model that it was trained on is not there.
    """
    try:
        # by name, because transformers asks for all that an `import` names before it loads any model
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ImportError(f"'{adapter.place}' is an adapter, which needs `pip install peft`.") from error
    settings = adapter.read(ADAPTER_CONFIG_FILE)
    if base is None:
        base, kwargs["revision"] = settings.get("base_model_name_or_path"), settings.get("revision")
    if not base:
        raise ValueError(f"The adapter '{adapter.place}' does not say which model it was trained on. {HOW_TO_NAME}")
    if os.path.isabs(base) and not os.path.isdir(base):
        raise FileNotFoundError(
            f"The adapter '{adapter.place}' was trained on the model '{base}', which is not here. {HOW_TO_NAME}"
        )
    with without_adapter(base, adapter) as place:
        model = cls.from_pretrained(place, **kwargs)
    config = adapter.read(CONFIG_NAME) or {}
    add_modules(model, config.get("num_mctp_modules", 0), settings)
    model.config.interleave_pattern = config.get("interleave_pattern", model.config.interleave_pattern)
    if (generation_config := adapter.read(GENERATION_CONFIG_NAME)) is not None:
        model.generation_config = GenerationConfig.from_dict(generation_config)
    put_in = peft.PeftModel(model, peft.PeftConfig.from_pretrained(adapter.place, **adapter.hub_kwargs))
    device = str(model.device)
    result = put_in.load_adapter(adapter.place, "default", torch_device=device, **adapter.hub_kwargs)
    if misfit := describe_misfit(result.missing_keys, result.unexpected_keys, ()):
        raise ValueError(f"The tensors of the adapter '{adapter.place}' do not fit '{base}'. {misfit}.")
    if getattr(model, "is_quantized", False):
        model = put_in.get_base_model()
    else:
        # PEFT has frozen them, and a trainer may be handed this model as any other
        model = put_in.merge_and_unload().requires_grad_(True)
    # The processor and the pipeline's code are in the adapter's folder, too
    model.name_or_path = model.config._name_or_path = adapter.place
    return model.eval()


@contextmanager
def without_adapter(base: str, adapter: Adapter) -> Iterator[str]:
    """
    The place of the model that an adapter was trained on. Where that is the adapter's own folder, it is a folder with
    links to its other files, as anything else would find the adapter again.

    Raises:
        ValueError: the adapter names its own repository on the Hub.
    """
    if os.path.isdir(base) and os.path.isdir(adapter.place) and os.path.samefile(base, adapter.place):
        with TemporaryDirectory() as folder:
            for path in Path(base).resolve().iterdir():
                if not path.name.startswith("adapter_"):
                    (Path(folder) / path.name).symlink_to(path, target_is_directory=path.is_dir())
            yield folder
    elif base == adapter.place:
        raise ValueError(f"The adapter '{base}' names itself as the model that it was trained on. {HOW_TO_NAME}")
    else:
        yield base


def add_modules(model: PreTrainedModel, num_mctp_modules: int, settings: dict) -> None:
    """
    Gives a model as many MCTP modules as its adapter was trained with.

    Args:
        settings: of the adapter, whose `modules_to_save` says which modules it brings whole.

    Raises:
        ValueError: a module would begin as a copy of one whose layers are quantised, which cannot be copied.
    """
    numbers = range(model.config.num_mctp_modules, num_mctp_modules)
    can_copy, whole = model.can_copy_layers(), settings.get("modules_to_save") or ()
    if not can_copy and any(f"mctp_modules.{number}" not in whole for number in numbers):
        raise ValueError(
            "The adapter has MCTP modules that are copies of the model's, whose layers would be quantised and cannot "
            "be copied. Load it without `quantization_config`, or with 'int8' or 'int4'."
        )
    model.grow_mctp_modules(max(num_mctp_modules, model.config.num_mctp_modules), as_copies=can_copy)


__all__ = ["ADAPTER_CONFIG_FILE", "Adapter", "find_adapter", "load_adapted"]
