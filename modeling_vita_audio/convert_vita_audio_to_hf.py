# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Converts checkpoints of the released layout (`VITA-MLLM/VITA-Audio-Boost`, `-Balance`, `-Plus-Boost`, `-Plus-Vanilla`)
to the one of this package:

python -m modeling_vita_audio.convert_vita_audio_to_hf \\
    --input_dir VITA-MLLM/VITA-Audio-Boost --output_dir vita-audio-boost

and back, so that models that are trained here run in the original code:

python -m modeling_vita_audio.convert_vita_audio_to_hf \\
    --to_released --input_dir vita-audio-boost --output_dir released
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen2Config
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import (
    CONFIG_NAME,
    FEATURE_EXTRACTOR_NAME,
    GENERATION_CONFIG_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    logging,
)

from hub_cards.command_line import ArgumentParser, is_path, run_command

from .configuration_vita_audio import VitaAudioConfig
from .convert_speech_input import (
    CONFIG_FILE,
    CTC_FILE,
    CTC_NAMES,
    SENSEVOICE_FILES,
    SENSEVOICE_FOLDER,
    feature_extractor_config,
    find_sensevoice,
    read_audio_config,
    released_audio_name,
)
from .generation_vita_audio import MCTP_MODES, resolve_mctp_mode
from .interleaving_vita_audio import SpeechVocabulary, check_interleave_pattern
from .modeling_vita_audio import VitaAudioForConditionalGeneration
from .saving_vita_audio import check_is_free, describe_misfit, written_whole


logger = logging.get_logger(__name__)

PROG = "modeling_vita_audio.convert_vita_audio_to_hf"
# Model type and architecture of models that hear codes, and of those that hear by features (Plus)
RELEASED_TYPES = {
    False: ("qwen2_mtp", "Qwen2MTPForCausalLM"),
    True: ("qwen2_mtp_sensevoice", "Qwen2MTPSenseVoiceForCausalLM"),
}

# The keys that a `Qwen2Config` and the released layout (of transformers 4.48) have under the same name
TEXT_CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "bos_token_id",
    "pad_token_id",
    "eos_token_id",
)

# Keys of a `VitaAudioConfig` with the values of the released checkpoints, whose config.json does not have them. The
# original code ignores keys that it does not know, so a value that differs is written there, and is read back
CONFIG_DEFAULTS = {
    "speech_token_offset": VitaAudioConfig.speech_token_offset,
    "num_speech_tokens": VitaAudioConfig.num_speech_tokens,
    "audio_token_id": VitaAudioConfig.audio_token_id,
    "begin_audio_token_id": VitaAudioConfig.begin_audio_token_id,
    "end_audio_token_id": VitaAudioConfig.end_audio_token_id,
    "interleave_pattern": None,
}
# Those of Plus have one token more, `<|context_of_audio|>`, behind `<|end_of_audio|>`
PLUS_CONFIG_DEFAULTS = CONFIG_DEFAULTS | {
    "context_audio_token_id": 151676,
    "audio_token_id": 151685,
    "speech_token_offset": 151686,
}

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
# Files and folders that are copied as they are
COMPANION_FILES = (
    *TOKENIZER_FILES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    PROCESSOR_NAME,
)
COMPANION_FOLDERS = ("additional_chat_templates", "audio_tokenizer")


def convert(
    input_dir: str | Path,
    output_dir: str | Path,
    to_released: bool = False,
    max_shard_size: int | str = "2GB",
    sensevoice_dir: str | Path | None = None,
) -> Path:
    """
    Converts a checkpoint. Everything is checked before anything is written, and `output_dir` gets its files at the
    end, when all are written: where anything goes wrong, such as a full disk, there is nothing new.

    A tokenizer, a chat template and a processor (with its codec and its code) are copied if the checkpoint has them.
    No processor is made, because the released checkpoints have their codec in other repositories.

    Args:
        input_dir: folder or Hub id of a checkpoint in safetensors, in one file or several.
        output_dir: folder to write to; it must not exist or be empty.
        to_released: from this package's layout to the released one, instead of the other way round.
        max_shard_size: size of the largest file of weights. The conversion needs so much memory, or as much as the
            largest tensor has.
        sensevoice_dir: folder or Hub id with the `config.yaml` and `am.mvn` of a Plus checkpoint's encoder, such as
            `FunAudioLLM/SenseVoiceSmall`. By default those of `input_dir`.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: `output_dir` is not empty, the checkpoint is of another architecture, its tensors are not those of
            its config, or a file is broken.
        OSError: the checkpoint cannot be found or read, or the output cannot be written.
    """
    output_dir = Path(output_dir).absolute()
    check_is_free(output_dir)
    # The config comes first, so that a model of another architecture is refused before its weights are downloaded
    folder = find_folder(input_dir, [CONFIG_NAME])
    hears_features = check_architecture(read_json(folder / CONFIG_NAME), to_released)
    sensevoice_files = (*SENSEVOICE_FILES, f"{SENSEVOICE_FOLDER}/*") if hears_features else ()
    # `*.py` is for checkpoints of ours whose processor has its code beside it
    folder = find_folder(input_dir, ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.py", *sensevoice_files])

    config = VitaAudioConfig.from_pretrained(folder) if to_released else convert_config(folder, hears_features)
    check_sliding_window(config)
    files = read_headers(folder)
    sensevoice = find_sensevoice(folder, sensevoice_dir) if hears_features else None
    if hears_features and not to_released:
        shapes = {name: tensor.shape for name, (_, tensor) in files.items()}
        # `convert_config` cannot say this, because a released config.json says nothing of the encoder
        config.audio_config = AutoConfig.for_model(**read_audio_config(sensevoice / CONFIG_FILE, shapes))
        config.validate_speech_input()
    generation_config, schedule = convert_generation_config(folder, config, to_released)
    if not to_released:
        take_layout(config, schedule)
    elif config.interleave_pattern == schedule:
        config.interleave_pattern = None
    # Only the names and shapes of the parameters are needed, so the model takes no memory
    with torch.device("meta"):
        model = VitaAudioForConditionalGeneration(config)
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    released = {name: released_name(name, config) for name in parameters}
    # The Plus models' unused head is not ours. It stays beside our model, so that it can be put back
    unused = {name: files.pop(name) for name in CTC_NAMES if name in files and not to_released}
    check_tensors(folder, parameters if to_released else released_shapes(parameters, released), files)
    sources = released_sources(released) if to_released else our_sources(released)
    if to_released and hears_features and (sensevoice / CTC_FILE).is_file():
        files |= read_file(sensevoice / CTC_FILE)
        sources |= {name: Source([name]) for name in CTC_NAMES}
    features = feature_extractor_config(sensevoice) if hears_features and not to_released else None

    with written_whole(output_dir) as unfinished:
        copy_companions(folder, unfinished)
        if hears_features:
            copy_sensevoice(sensevoice, unfinished if to_released else unfinished / SENSEVOICE_FOLDER)
        if features is not None:
            write_json(unfinished / FEATURE_EXTRACTOR_NAME, features)
        if unused:
            save_file(load_tensors(unused), unfinished / SENSEVOICE_FOLDER / CTC_FILE)
        if to_released:
            write_json(unfinished / CONFIG_NAME, released_config(config))
        else:
            # The model's `save_pretrained` would enter this, but here the config is saved alone
            config.architectures = [VitaAudioForConditionalGeneration.__name__]
            config.save_pretrained(unfinished)
        write_json(unfinished / GENERATION_CONFIG_NAME, generation_config)
        write_weights(unfinished, sources, files, max_shard_size)
    return output_dir


# Reading the checkpoint


def find_folder(input_dir: str | Path, patterns: list[str]) -> Path:
    """Returns the folder itself, or the folder that the matching files of a Hub repository are downloaded to."""
    if Path(input_dir).is_dir():
        return Path(input_dir)
    try:
        return Path(snapshot_download(str(input_dir), allow_patterns=patterns))
    # The Hub's client raises ValueError for a name that cannot be a repository
    except (OSError, ValueError) as error:
        raise OSError(f"'{input_dir}' is no folder, and no Hub repository that can be downloaded: {error}") from error


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    # RecursionError is for JSON that is nested too deeply
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def check_architecture(content: dict, to_released: bool) -> bool:
    """Whether the model hears by features (Plus)."""
    model_type, (architecture, *_) = content.get("model_type"), content.get("architectures") or [None]
    hears_features = model_type == RELEASED_TYPES[True][0]
    expected = RELEASED_TYPES[hears_features]
    if to_released:
        hears_features = content.get("audio_config") is not None
        expected = (VitaAudioConfig.model_type, VitaAudioForConditionalGeneration.__name__)
        text_model_type = content.get("text_config", {}).get("model_type")
        if (model_type, architecture) == expected and text_model_type != Qwen2Config.model_type:
            raise ValueError(f"The released layout is for a language model of type 'qwen2', not '{text_model_type}'.")
    if (model_type, architecture) != expected:
        raise ValueError(
            f"The checkpoint is of model type '{model_type}' and architecture '{architecture}'; this conversion takes "
            f"'{expected[0]}' and '{expected[1]}'."
        )
    return hears_features


def check_sliding_window(config: VitaAudioConfig) -> None:
    if config.text_config.use_sliding_window:
        raise ValueError(
            "The config has `use_sliding_window`. The released layout counts the MCTP modules as layers and does not "
            "define which layers have the window, so only checkpoints without it can be converted."
        )


def read_headers(folder: Path) -> dict[str, tuple[Path, torch.Tensor]]:
    """
    Finds the file of each tensor, without reading the tensors.

    Returns:
        `dict`: by its name, each tensor's file and the tensor on the meta device, in the stored dtype.

    Raises:
        ValueError: a file is missing or broken.
    """
    paths = [folder / SAFE_WEIGHTS_NAME]
    # As in `from_pretrained`, a single file comes before an index that lies beside it
    if not paths[0].is_file() and (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        weight_map = read_json(folder / SAFE_WEIGHTS_INDEX_NAME).get("weight_map", {})
        paths = [folder / name for name in sorted(set(weight_map.values()))]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise ValueError(f"The weights are to be in safetensors, but {folder} has no {', '.join(absent)}.")
    return {name: tensor for path in paths for name, tensor in read_file(path).items()}


def read_file(path: Path) -> dict[str, tuple[Path, torch.Tensor]]:
    """[`read_headers`] of one file."""
    try:
        with safe_open(path, framework="pt") as file:
            # The tensor is only mapped into memory, so moving it to the meta device reads nothing of it
            return {name: (path, file.get_tensor(name).to("meta")) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is broken or not complete: {error}") from error


def check_tensors(folder: Path, shapes: dict[str, torch.Size], files: dict[str, tuple[Path, torch.Tensor]]) -> None:
    """
    Args:
        folder: the folder of the checkpoint.
        shapes: the shapes of the tensors that the checkpoint must have, by their names. It must have no others.
        files: what it has, see [`read_headers`].

    Raises:
        ValueError: tensors are missing, not expected or of another shape.
    """
    if misfit := compare_shapes(shapes, {name: tensor.shape for name, (_, tensor) in files.items()}):
        raise ValueError(f"The tensors in {folder} do not fit its {CONFIG_NAME}. {misfit}.")


def compare_shapes(expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> str:
    """Says which tensors `found` in a checkpoint are not as `expected`; see [`describe_misfit`]."""
    misshaped = [
        (name, found[name], expected[name]) for name in expected.keys() & found.keys() if found[name] != expected[name]
    ]
    return describe_misfit(expected.keys() - found.keys(), found.keys() - expected.keys(), misshaped)


# Converting names and configs


def released_name(name: str, config: VitaAudioConfig) -> tuple[str, int | None]:
    """
    The name that the released layout has for a tensor of ours, and which third of that tensor it is, or None where it
    is all of it. There the modules' layers are numbered on from the layers of the language model.
    """
    if match := re.fullmatch(r"model\.mctp_modules\.(\d+)\.layer\.(.+)", name):
        return f"model.layers.{config.text_config.num_hidden_layers + int(match[1])}.{match[2]}", None
    if match := re.fullmatch(r"model\.mctp_modules\.(\d+)\.(\w+)\.weight", name):
        return f"mtp_{match[2]}s.{match[1]}.weight", None
    if name.startswith(("model.audio_tower.", "model.multi_modal_projector.")):
        audio_config = config.audio_config
        return released_audio_name(name, audio_config.num_hidden_layers - audio_config.num_timestamp_prediction_layers)
    return name.replace("model.language_model.", "model.", 1), None


def released_shapes(
    parameters: dict[str, torch.Size], released: dict[str, tuple[str, int | None]]
) -> dict[str, torch.Size]:
    """The shapes of the released tensors, from those of ours and from where they are there."""
    shapes = {}
    for name, shape in parameters.items():
        source, third = released[name]
        shapes[source] = shape if third is None else torch.Size([3 * shape[0], *shape[1:]])
    return shapes


def convert_config(folder: Path, hears_features: bool = False) -> VitaAudioConfig:
    """
    Reads the config of a released checkpoint, whose `num_hidden_layers` counts the layers of the language model and,
    after them, one for each of the `num_nextn_predict_layers` modules. It says nothing of an encoder.
    """
    released = read_json(folder / CONFIG_NAME)
    defaults = PLUS_CONFIG_DEFAULTS if hears_features else CONFIG_DEFAULTS
    required = ("num_hidden_layers", "num_nextn_predict_layers", "vocab_size", "hidden_size")
    if absent := [key for key in required if key not in released]:
        raise ValueError(f"{folder / CONFIG_NAME} does not say {', '.join(absent)}.")
    num_modules = released["num_nextn_predict_layers"]
    num_layers = released["num_hidden_layers"] - num_modules
    if num_modules < 0 or num_layers < 1:
        raise ValueError(
            f"{folder / CONFIG_NAME} has {released['num_hidden_layers']} layers (`num_hidden_layers`), of which "
            f"{num_modules} are MCTP modules (`num_nextn_predict_layers`). That leaves no language model."
        )
    # transformers 4.48 takes "type" as well as "rope_type"
    scaling = dict(released.get("rope_scaling") or {})
    rope_type = scaling.pop("type", "default")
    text_config = Qwen2Config(
        **{key: released[key] for key in TEXT_CONFIG_KEYS if key in released},
        num_hidden_layers=num_layers,
        rope_parameters={
            # transformers 5 has one dictionary where 4.48 has the keys `rope_scaling` and `rope_theta`
            "rope_type": rope_type,
            **scaling,
            "rope_theta": released.get("rope_theta", 10000.0),
        },
    )
    return VitaAudioConfig(
        text_config=text_config,
        num_mctp_modules=num_modules,
        dtype=released.get("torch_dtype"),
        **defaults | find_vocabulary(folder, released, defaults),
    )


def find_vocabulary(folder: Path, released: dict, defaults: dict) -> dict:
    """
    Reads what a released checkpoint says of the keys in `defaults`: in its tokenizer if it has one, else in its
    config.json.
    """
    known = {key: released[key] for key in defaults if key in released}
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        # With a config of a type that it knows, the auto class does not read config.json, whose type it does not know
        tokenizer = AutoTokenizer.from_pretrained(folder, config=Qwen2Config())
        try:
            return known | SpeechVocabulary.from_tokenizer(tokenizer).to_config()
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    speech, vocab_size = defaults | known, released["vocab_size"]
    if vocab_size < speech["speech_token_offset"] + speech["num_speech_tokens"]:
        logger.warning(
            f"{folder} has no tokenizer that says which tokens are speech, and those of the released models, from "
            f"{speech['speech_token_offset']}, are not in its vocabulary of {vocab_size}. The last ids take "
            f"their place: correct `audio_token_id` and so on in the converted {CONFIG_NAME} where they matter."
        )
        # The config asks only that the ids differ and are in the vocabulary
        keys = [key for key in defaults if key.endswith("_token_id")] + ["speech_token_offset"]
        return known | dict(zip(keys, range(vocab_size - len(keys), vocab_size))) | {"num_speech_tokens": 1}
    return known


def released_config(config: VitaAudioConfig) -> dict:
    """Returns the content of a released checkpoint's config.json."""
    text_config = config.text_config.to_dict()
    rope_parameters = dict(text_config["rope_parameters"])
    rope_theta = rope_parameters.pop("rope_theta")
    hears_features = config.audio_config is not None
    model_type, architecture = RELEASED_TYPES[hears_features]
    defaults = PLUS_CONFIG_DEFAULTS if hears_features else CONFIG_DEFAULTS
    return {
        **{key: text_config[key] for key in TEXT_CONFIG_KEYS if key in text_config},
        "architectures": [architecture],
        "model_type": model_type,
        "num_hidden_layers": config.text_config.num_hidden_layers + config.num_mctp_modules,
        "num_nextn_predict_layers": config.num_mctp_modules,
        # The original code reads the weight from here; ours takes it as an argument of training
        "mtp_loss_weight": 1.0,
        "rope_theta": rope_theta,
        "rope_scaling": rope_parameters if rope_parameters["rope_type"] != "default" else None,
        "tie_word_embeddings": config.tie_word_embeddings,
        # `to_dict` gives the type as a string, which JSON can hold
        "torch_dtype": config.to_dict().get("dtype"),
        "speech_token_offset": config.speech_token_offset,
        **{key: getattr(config, key) for key, value in defaults.items() if getattr(config, key) != value},
    }


def convert_generation_config(
    folder: Path, config: VitaAudioConfig, to_released: bool
) -> tuple[dict, list[int] | None]:
    """
    Returns the content of generation_config.json, where `mtp_inference_mode`, a list, becomes `mctp_mode`, the name of
    the mode if the list has one, or the other way round; and the schedule of the mode, if there is one.
    """
    if (folder / GENERATION_CONFIG_NAME).is_file():
        content = read_json(folder / GENERATION_CONFIG_NAME)
    else:
        content = GenerationConfig.from_model_config(config).to_diff_dict()
    # transformers loads a generation config with this flag without keys that it does not know, such as `mctp_mode`
    content.pop("_from_model_config", None)
    mode = content.pop("mctp_mode" if to_released else "mtp_inference_mode", None)
    schedule = None
    if mode is not None:
        schedule = resolve_mctp_mode(mode, config.num_mctp_modules)
        names = [name for name, named_schedule in MCTP_MODES.items() if named_schedule == schedule]
        content |= {"mtp_inference_mode": schedule} if to_released else {"mctp_mode": names[0] if names else schedule}
    return content, schedule


def take_layout(config: VitaAudioConfig, schedule: list[int] | None) -> None:
    """A released checkpoint was trained with the layout of its mode, unless its config says another one."""
    if config.interleave_pattern is None and schedule is not None:
        with suppress(ValueError):  # a schedule such as [1, 0] is not a layout
            check_interleave_pattern(schedule)
            config.interleave_pattern = schedule


# Writing the checkpoint


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass
class Source:
    """What a new tensor is made of: old ones, one under the other, or a third of an old one."""

    names: list[str]
    third: int | None = None

    def build(self, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        if self.third is not None:
            return read(self.names[0]).chunk(3)[self.third].clone()
        return torch.cat([read(name) for name in self.names]) if len(self.names) > 1 else read(self.names[0])


def our_sources(released: dict[str, tuple[str, int | None]]) -> dict[str, Source]:
    """What each of our tensors is made of, from where they are in the released layout, see [`released_name`]."""
    return {name: Source([source], third) for name, (source, third) in released.items()}


def released_sources(released: dict[str, tuple[str, int | None]]) -> dict[str, Source]:
    """The other way round: what each released tensor is made of."""
    sources = {}
    # In the order of the thirds, which is that of query, key and value
    for name in sorted(released, key=lambda name: released[name][1] or 0):
        sources.setdefault(released[name][0], Source([])).names.append(name)
    return sources


def load_tensors(files: dict[str, tuple[Path, torch.Tensor]]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (path, _) in files.items():
        with safe_open(path, framework="pt") as file:
            tensors[name] = file.get_tensor(name)
    return tensors


def write_weights(
    folder: Path, sources: dict[str, Source], files: dict[str, tuple[Path, torch.Tensor]], max_shard_size: int | str
) -> None:
    """
    Writes tensors under new names, one file after the other.

    Args:
        folder: the folder to write to.
        sources: what each tensor is made of, by its new name.
        files: by its old name, each tensor's file and the tensor on the meta device, see [`read_headers`].
        max_shard_size: size of the largest file.
    """
    # On the meta device, so the shards are planned before any tensor is read
    tensors = {name: source.build(lambda old: files[old][1]) for name, source in sources.items()}
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for filename, names in tqdm(split.filename_to_tensors.items(), desc="Writing model shards"):
        # safetensors maps tensors into memory. What is read of them stays there until their files are closed, so they
        # are closed after each shard
        with ExitStack() as stack:
            opened = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in {files[old][0] for name in names for old in sources[name].names}
            }
            old_tensors = {old: opened[files[old][0]].get_tensor(old) for name in names for old in sources[name].names}
            shard = {name: sources[name].build(old_tensors.__getitem__) for name in names}
            save_file(shard, folder / filename, metadata={"format": "pt"})
            # These names would keep the shard in memory until the next one is complete
            del shard, old_tensors
    if split.is_sharded:
        total_parameters = sum(tensor.numel() for tensor in tensors.values())
        metadata = {"total_parameters": total_parameters, **split.metadata}
        write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": metadata, "weight_map": split.tensor_to_filename})


def copy_companions(folder: Path, target: Path) -> None:
    """Copies the tokenizer, the chat template and the processor with its codec and its code."""
    paths = [folder / name for name in COMPANION_FILES if (folder / name).is_file()]
    if folder / PROCESSOR_NAME in paths:
        auto_map = read_json(folder / PROCESSOR_NAME).get("auto_map", {})
        # The processor's code, and what this code imports
        for module_name in {reference.split(".")[0] for reference in auto_map.values()}:
            module = folder / f"{module_name}.py"
            if module.is_file():
                paths += [module, *map(Path, get_relative_import_files(module))]
    for path in paths:
        shutil.copyfile(path, target / path.name)
    for name in COMPANION_FOLDERS:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, target / name)


def copy_sensevoice(sensevoice: Path, target: Path) -> None:
    """Copies what FunASR reads of a folder, but for weights."""
    target.mkdir(exist_ok=True)
    for pattern in SENSEVOICE_FILES:
        for path in sensevoice.glob(pattern):
            shutil.copyfile(path, target / path.name)


def main(argv: list[str] | None = None) -> int:
    """
    Runs the command.

    Returns:
        `int`: 0, or 1 where it failed, after one line on the standard error that says why.
    """
    return run_command(convert_as_told, PROG, argv)


def convert_as_told(argv: list[str] | None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", required=True, help="folder or Hub id of the checkpoint")
    parser.add_argument("--output_dir", required=True, help="folder to write to, which does not exist or is empty")
    parser.add_argument(
        "--sensevoice_dir",
        help="folder or Hub id with config.yaml and am.mvn, for Plus checkpoints without them, such as "
        "FunAudioLLM/SenseVoiceSmall",
    )
    parser.add_argument("--to_released", action="store_true", help="from this package's layout to the released one")
    parser.add_argument(
        "--max_shard_size",
        default="2GB",
        help="size of the largest file of weights, and the memory that it takes to write it (default: 2GB)",
    )
    args = parser.parse_args(argv)
    folder = convert(args.input_dir, args.output_dir, args.to_released, args.max_shard_size, args.sensevoice_dir)
    if not args.to_released:
        # The card has to say what the model was made of and whose licence it has, which no file here does
        origin = "REPO" if is_path(args.input_dir) else args.input_dir
        print(
            f"{folder} is converted. These write its card, with the checkpoint's own licence, and publish it:\n"
            f"vita-audio card {folder} --converted_from {origin} --license LICENSE\n"
            f"vita-audio push {folder} USER/NAME"
        )


if __name__ == "__main__":
    sys.exit(main())
