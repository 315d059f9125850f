# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters (PEFT): which parts of a model a stage adapts, what is trained whole beside them, and what is saved."""

import copy
import os
import re
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from hub_cards.model_card import CARD_FILE
from hub_cards.stages import STAGES
from modeling_vita_audio import VitaAudioForConditionalGeneration


# PEFT's word for all linear layers but the head
ALL_LINEAR = "all-linear"
EMBEDDINGS, HEAD = "embed_tokens", "lm_head"


def parts_of_stage(model: VitaAudioForConditionalGeneration, stage: int) -> list[str]:
    """The names of the parts of a model that a stage trains, by which those of their parameters begin."""
    plan, parts = STAGES[stage], []
    if plan.trains_language_model:
        parts += ["model.language_model", HEAD]
        if model.config.audio_config is not None:
            # SenseVoice, which hears, is left as it is
            parts.append("model.multi_modal_projector")
    return parts + ["model.mctp_modules"] * plan.trains_mctp_modules


def adapt_to_stage(
    peft_config: PeftConfig,
    model: VitaAudioForConditionalGeneration,
    stage: int,
    num_modules_before: int,
    num_modules: int,
    new_modules_whole: bool,
) -> LoraConfig:
    """
    Limits adapters to the linear layers of what a stage trains. MCTP modules that it has added are trained whole, as
    there is nothing in them yet that could be adapted.

    Args:
        peft_config (`LoraConfig`): what was asked for. Its `target_modules` are all linear layers by default.
        model ([`VitaAudioForConditionalGeneration`]): the model with the modules of the stage. Without those that it
            adds, errors are the same.
        stage: number of the stage.
        num_modules_before: how many MCTP modules the model had before this stage.
        num_modules: how many it has in this stage.
        new_modules_whole: whether the modules that it has then beside them are trained whole; else they get adapters.

    Returns:
        `LoraConfig`: a copy with other `target_modules` and `modules_to_save`.

    Raises:
        TypeError: it is no configuration of LoRA.
        ValueError: no layer that the stage trains is asked for, or one is asked to be whole that it does not train, or
            a new first module is not to be trained whole.
    """
    if not isinstance(peft_config, LoraConfig):
        raise TypeError(f"`peft_config` must be a LoraConfig, got a {type(peft_config).__name__}.")
    peft_config = copy.deepcopy(peft_config)
    new = [f"mctp_modules.{index}" for index in range(num_modules_before, num_modules)]
    if new and not new_modules_whole and num_modules_before == 0:
        raise ValueError(
            "`new_modules_whole=False` is for modules that begin as copies of others, but this is the first one."
        )
    parts = [part for part in parts_of_stage(model, stage) if part != HEAD]
    if new and new_modules_whole:
        parts.remove("model.mctp_modules")
        parts += [f"model.mctp_modules.{index}" for index in range(num_modules_before)]
    whole = whole_modules(peft_config, model, stage) + (new if new_modules_whole else [])
    peft_config.modules_to_save = whole or None
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and begins(name, parts)]
    if peft_config.target_modules in (None, ALL_LINEAR):
        wanted = names
    else:
        if isinstance(peft_config.target_modules, str) and peft_config.target_modules.isidentifier():
            # the command line makes a text of a single name, which PEFT takes for a pattern of whole names
            peft_config.target_modules = {peft_config.target_modules}
        wanted = [name for name in names if check_target_module_exists(peft_config, name)]
    if not wanted and not peft_config.modules_to_save:
        raise ValueError(
            f"`target_modules` {peft_config.target_modules} are no linear layers of what stage {stage} trains, which "
            f"are: {', '.join(sorted({name.rpartition('.')[2] for name in names})) or 'none'}."
        )
    # As a pattern, because the configuration of the adapter would have hundreds of names
    peft_config.target_modules = pattern_of(wanted)
    return peft_config


def whole_modules(peft_config: LoraConfig, model: VitaAudioForConditionalGeneration, stage: int) -> list[str]:
    """
    The modules that are asked to be trained whole. Embeddings and head that share their weights are trained as one,
    whichever is asked for.
    """
    whole, parts = list(peft_config.modules_to_save or ()), parts_of_stage(model, stage)
    found = [name for name, _ in model.named_modules() if any(is_called(name, asked) for asked in whole)]
    unknown = [asked for asked in whole if not any(is_called(name, asked) for name in found)]
    if unknown:
        raise ValueError(f"`modules_to_save` {', '.join(unknown)}: the model has no such modules.")
    indices = peft_config.trainable_token_indices
    if outside := [name for name in found if not begins(name, parts)] or [EMBEDDINGS] * (
        indices is not None and not STAGES[stage].trains_language_model
    ):
        raise ValueError(f"Stage {stage} does not train {', '.join(outside)}; it trains {', '.join(parts)}.")
    if model.config.tie_word_embeddings and {EMBEDDINGS, HEAD} & set(whole):
        peft_config.ensure_weight_tying = True
        whole = [name for name in whole if name not in (EMBEDDINGS, HEAD)] + [EMBEDDINGS]
    return whole


def is_called(name: str, asked: str) -> bool:
    return name == asked or name.endswith(f".{asked}")


def begins(name: str, parts: list[str]) -> bool:
    """Whether `name` is that of one of the parts, or of something in it."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def pattern_of(names: list[str]) -> str:
    """A regular expression that matches these names of layers alone; for none of them PEFT's word for that."""
    # `model.language_model.layers.3.mlp.up_proj` becomes the kind `model.language_model.layers.*.mlp.up_proj` and 3
    kinds: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"\.\d+(?=\.)", name)
        kind = name if number is None else f"{name[: number.start()]}.*{name[number.end() :]}"
        kinds.setdefault(kind, []).append("" if number is None else number[0][1:])
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, numbers in kinds.items():
        before, _, after = kind.partition(".*")
        groups.setdefault((before, "|".join(numbers)), []).append(after)
    patterns = [
        f"{re.escape(before)}\\.({numbers})({'|'.join(map(re.escape, after))})" if numbers else re.escape(before)
        for (before, numbers), after in groups.items()
    ]
    return "|".join(patterns) or DUMMY_TARGET_MODULES


def check_trained_parts(model: PeftModel, stage: int) -> None:
    """
    Raises:
        ValueError: an adapter would train what the stage leaves alone, or nothing.
    """
    base = model.get_base_model()
    parts = parts_of_stage(base, stage)
    trained = [name for name, parameter in base.named_parameters() if parameter.requires_grad]
    if outside := [name for name in trained if not begins(name, parts)]:
        raise ValueError(
            f"The adapter would train {outside[0]} and {len(outside) - 1} more, which stage {stage} leaves alone; it "
            f"trains {', '.join(parts)}."
        )
    if not trained:
        raise ValueError("The adapter has no parameters to train; load it with `is_trainable=True`.")


def train_in_float32(model: PeftModel) -> None:
    """
    Has all that is trained in float32: adapters, which TRL puts into bfloat16 beside quantised weights, and what is
    trained whole, which has the type of the model. In half precision an optimizer's small steps would be rounded away.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def name_base(model: PeftModel) -> None:
    """Lets the configurations of adapters name the model that they are trained on, as a folder by its whole path."""
    base = model.get_base_model()
    for config in model.peft_config.values():
        # From another folder, a path that begins in this one would lead nowhere
        name = base.name_or_path
        config.base_model_name_or_path = os.path.abspath(name) if os.path.isdir(name) else name
        config.revision = base.revision


def save_adapter(model: PeftModel, folder: Path, **kwargs) -> None:
    """
    Saves the adapters of a model, and beside them the configurations of the model: they have the number of its MCTP
    modules, its layout and its default mode.
    """
    base = model.get_base_model()
    has_card = (folder / CARD_FILE).exists()
    # `auto` would ask the Hub at each checkpoint whether the vocabulary has grown, and it has not
    model.save_pretrained(folder, save_embedding_layers=False, **kwargs)
    if not has_card:
        # PEFT writes an empty one, in the place of ours
        (folder / CARD_FILE).unlink(missing_ok=True)
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        # The adapter also fits the weights that are not quantised, so who loads them chooses
        del config.quantization_config
    config.save_pretrained(folder)
    base.generation_config._from_model_config = False
    base.generation_config.save_pretrained(folder)


def describe_adapter(model: PeftModel) -> dict:
    """The settings of an adapter, by their names on the command line, for the record of a run."""
    base, config = model.get_base_model(), model.active_peft_config
    targets = config.target_modules
    settings = {
        "use_peft": True,
        "lora_r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "lora_target_modules": targets if isinstance(targets, str) else sorted(targets or ()),
        "lora_modules_to_save": config.modules_to_save or None,
        "use_rslora": config.use_rslora or None,
        "use_dora": config.use_dora or None,
        "load_in_4bit": getattr(base, "is_loaded_in_4bit", None) or None,
        "load_in_8bit": getattr(base, "is_loaded_in_8bit", None) or None,
    }
    return {name: value for name, value in settings.items() if value is not None}
