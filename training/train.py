# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains one stage.

    python -m training.train --config training/configs/mini/stage1.yaml [--learning_rate 1e-3 ...]
    accelerate launch --config_file training/configs/accelerate/fsdp.yaml -m training.train --config ...

A run that was stopped goes on where it was when the command is started again. At the end, `output_dir` is a complete
repository: the trained model, its processor, their code, the record of the run, the curves of its losses and the card.
The next stage takes the model from there or, if `push_to_hub` has sent it (see `training.hub`), from the Hub:

    ... --stage 1 --push_to_hub --hub_model_id user/name
    ... --stage 2 --push_to_hub --hub_model_id user/name --model_name_or_path user/name --model_revision stage1
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, TrainingArguments, set_seed
from trl import ModelConfig, get_peft_config, get_quantization_config

from hub_cards.command_line import check_place, name_as_typed, naming, no_empty_folder, run_command
from hub_cards.model_card import ADAPTER_CONFIG_FILE, TRAINING_RECORD_FILE, read_json
from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.adapters_vita_audio import find_adapter
from processing import VitaAudioProcessor
from processing.codec_vita_audio import SpeechCodec, check_codec
from processing.export import export_repository
from processing.interleaving_vita_audio import check_interleave_pattern

from .adapters import adapt_to_stage
from .checkpoints import incomplete_checkpoints, last_complete_checkpoint
from .code_noise import codebook_of
from .conversations import conversation_texts, load_conversations
from .data import build_training_dataset
from .hub import create_repository_of, describe_start, find_checkpoint, hub_revision, place_of
from .initialize import build_from_language_model, build_from_nothing
from .settings import checking_settings, parse_settings, read_mapping
from .sharding import loading_whole_weights
from .speech_input import SpeechInput, load_sensevoice
from .temporary import disable_caching
from .trainer import VitaAudioSFTConfig, VitaAudioSFTTrainer, check_can_train, num_modules_of_stage


PROG = "training.train"
# In `output_dir`, where the adapters are for a model that the run itself has built
BASE_FOLDER = "base"
# What the settings of adapters are called in PEFT, where a checkpoint may have another value
ADAPTER_SETTINGS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
# Entries of a language model's configuration that are no sizes of it: loading and training set them.
NO_SIZES = {
    "vocab_size",
    "dtype",
    "use_cache",
    "transformers_version",
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}


# Settings of `ModelConfig` that have an effect only where another one is set
ONLY_WITH = {
    "use_peft": ("lora_", "use_rslora", "use_dora", "load_in_4bit", "load_in_8bit"),
    "load_in_4bit": ("bnb_4bit_", "use_bnb_nested_quant"),
}


# By keyword alone, because those of the base class have defaults
@dataclass(kw_only=True)
class VitaAudioScriptArguments(ModelConfig):
    """
    What is trained, and on what. The settings of adapters (`use_peft`, `lora_r`, `load_in_4bit`, ...) are TRL's.
    """

    dataset_name: str = field(
        metadata={
            "help": "Conversations: a JSON-lines file, a folder with `conversations.jsonl`, or a dataset of "
            "`datasets` with the columns `messages` and `audios`, or `audio` and `transcription`, as of a folder with "
            "`metadata.csv`."
        }
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split to evaluate on, if `eval_strategy` is not `no`."}
    )
    tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tasks to train on, by the field `task` or the form of the conversations; all by default. A task "
            "that is named twice is trained twice."
        },
    )
    code_cache_dir: str = field(
        default="runs/codes",
        metadata={"help": "Folder that keeps speech codes, so that each clip is encoded once by each codec."},
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model to start from: the `output_dir` or Hub id of the stage before or, for stage 1, a language "
            "model of transformers such as `Qwen/Qwen2.5-7B-Instruct`. Without it, stage 1 starts from nothing with "
            "`text_config`."
        },
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of `model_name_or_path` on the Hub, such as `stage1`."},
    )
    codec_name_or_path: str | None = field(
        default=None, metadata={"help": "Speech codec that stage 1 puts into the processor. Later stages keep theirs."}
    )
    text_config: dict | str | None = field(
        default=None, metadata={"help": "Configuration of the language model, for a start from nothing."}
    )
    audio_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Configuration of a new encoder, for a start from nothing of a model that hears by features "
            "(VITA-Audio-Plus) instead of codes."
        },
    )
    sensevoice_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Encoder of a model that hears by features, for stage 1: a folder or Hub id with config.yaml, "
            "am.mvn and model.pt, such as `FunAudioLLM/SenseVoiceSmall`."
        },
    )
    interleave_tts: bool = field(
        default=False,
        metadata={
            "help": "Whether the assistant writes a text that it is to read aloud before its speech, interleaved as "
            "in its answers, as the original trains it. It is the text behind TTS_PROMPT in the user's turn; answers "
            "to other instructions stay speech alone."
        },
    )
    num_disturbed_copies: int = field(
        default=0,
        metadata={
            "help": "How many more times the conversations with users' recordings are trained on in each epoch, each "
            "time in other voices and places: tempo, pitch, rooms, telephones and noise."
        },
    )
    # With about 1000 tokens the words of a small domain are mostly single tokens.
    text_vocab_size: int = field(
        default=1000,
        metadata={"help": "Size of the tokenizer trained for a start from nothing, without speech tokens."},
    )
    # float32, because bfloat16 weights would round the small updates of an optimizer away.
    dtype: str = field(
        default="float32", metadata={"help": "Type of the weights in memory, in which the optimizer updates them."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "`sdpa` (default), `flash_attention_2`, `flash_attention_3` or `eager`."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch; all by default."})
    license: str | None = field(
        default=None,
        metadata={"help": "Licence on the model's card; by default that of the model that the run starts from."},
    )
    language: list[str] | None = field(
        default=None,
        metadata={
            "help": "Languages on the model's card, such as `en`; by default those of the model it starts from."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_adapter()
        self.text_config = read_mapping(self.text_config, "text_config")
        self.audio_config = read_mapping(self.audio_config, "audio_config")
        if self.audio_config is not None and self.text_config is None:
            raise ValueError("`audio_config` is for a start from nothing, and has no effect without `text_config`.")
        if self.audio_config is not None and self.sensevoice_name_or_path is not None:
            raise ValueError("`audio_config` has no effect beside `sensevoice_name_or_path`, which has an encoder.")
        if self.model_name_or_path is None and self.text_config is None:
            raise ValueError("Give a `model_name_or_path` to start from, or a `text_config` to start from nothing.")
        if self.model_name_or_path is not None and self.text_config is not None:
            raise ValueError(
                "`text_config` is for a start from nothing, and has no effect beside a `model_name_or_path`."
            )
        if self.model_revision is not None and (
            self.model_name_or_path is None or os.path.isdir(self.model_name_or_path)
        ):
            raise ValueError(
                "`model_revision` is of a `model_name_or_path` on the Hub, and has no effect without one."
            )
        # A larger vocabulary than this is a mistake, and its embeddings would fill the memory.
        if not 1 <= self.text_vocab_size <= 2**20:
            raise ValueError(f"`text_vocab_size` must be between 1 and {2**20}, got {self.text_vocab_size}.")
        if self.num_disturbed_copies < 0:
            raise ValueError(f"`num_disturbed_copies` must be at least 0, got {self.num_disturbed_copies}.")
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"`dtype` must be a type of torch such as float32 or bfloat16, got {self.dtype!r:.200}.")

    def check_adapter(self) -> None:
        """
        Raises:
            ValueError: a setting of adapters would have no effect.
        """
        for switch, beginnings in ONLY_WITH.items():
            for setting in dataclasses.fields(ModelConfig):
                value = getattr(self, setting.name)
                if setting.name.startswith(beginnings) and value != setting.default and not getattr(self, switch):
                    raise ValueError(f"`{setting.name}={value!r}` has no effect without `{switch}`.")
        if self.lora_task_type != "CAUSAL_LM":
            raise ValueError(f"`lora_task_type` must be 'CAUSAL_LM', got {self.lora_task_type!r}.")
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` must be at least 0 and below 1, got {self.lora_dropout}.")
        if self.lora_target_parameters is not None:
            raise ValueError("`lora_target_parameters` is refused: adapters are those of linear layers.")
        if self.use_peft and self.model_name_or_path is None:
            raise ValueError("`use_peft` needs a `model_name_or_path`: random weights are trained whole.")


def load_model_and_processor(
    script_args: VitaAudioScriptArguments,
    training_args: VitaAudioSFTConfig,
    conversations: datasets.Dataset,
    checkpoint: str | None,
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    Loads the model that the stage starts from, or the checkpoint that the run goes on from. The checkpoint comes
    first, because a tokenizer that is trained anew would be another one if the conversations have changed.

    Raises:
        ValueError: stage 1 has no codec, or another stage starts from a model that is not ours.
        OSError: there is no such model or revision.
    """
    stage, trust = training_args.stage, {"trust_remote_code": training_args.trust_remote_code}
    model_kwargs = {"dtype": getattr(torch, script_args.dtype)}
    if (quantization_config := get_quantization_config(script_args)) is not None:
        model_kwargs["quantization_config"] = quantization_config
    if script_args.attn_implementation is not None:
        model_kwargs["attn_implementation"] = script_args.attn_implementation
    name_or_path, revision = script_args.model_name_or_path, script_args.model_revision
    # A checkpoint of FSDP or DeepSpeed may have shards of another form. Then the model is built as for a new run, and
    # the trainer loads the shards.
    if checkpoint is not None and any(Path(checkpoint).glob("model*.safetensors")):
        check_sizes(script_args, training_args, checkpoint)
        name_or_path, revision = checkpoint, None
    # The weights of an adapter's checkpoint come with the trainer. They are for the model that the run started from.
    elif checkpoint is not None and Path(checkpoint, ADAPTER_CONFIG_FILE).is_file():
        check_sizes(script_args, training_args, checkpoint)
        if (made := Path(training_args.output_dir, BASE_FOLDER)).is_dir():
            name_or_path, revision = str(made), None
    model_kwargs["revision"] = revision
    if name_or_path is not None:
        check_place(name_or_path)
        with naming(f"The configuration of the model {name_or_path}"):
            config = AutoConfig.from_pretrained(name_or_path, revision=revision, **trust)
        # A model of ours brings its processor, with the tokenizer and the codec that it was trained with.
        if config.model_type == VitaAudioConfig.model_type:
            # A run of stage 1 that goes on has a model of ours in its checkpoint, and its settings still name
            # the codec. So only the model that a new run starts from is looked at.
            if script_args.codec_name_or_path is not None and name_or_path == script_args.model_name_or_path:
                raise ValueError(
                    f"`codec_name_or_path` has no effect: {name_or_path} has a processor with the codec that it was "
                    "trained with."
                )
            if script_args.sensevoice_name_or_path is not None and name_or_path == script_args.model_name_or_path:
                raise ValueError(
                    f"`sensevoice_name_or_path` has no effect: {name_or_path} has the ears that it was trained with."
                )
            if quantization_config is not None and find_adapter(name_or_path, revision=revision) is not None:
                raise ValueError(
                    f"{name_or_path} is an adapter, which cannot be put into quantised weights; `vita-audio merge` "
                    "writes a whole model of it to start from."
                )
            num_modules = num_modules_of_stage(training_args.stage, training_args.num_mctp_modules)
            if quantization_config is not None and config.num_mctp_modules < num_modules:
                # New modules begin as copies of those that are there, which therefore stay as they are
                quantization_config.llm_int8_skip_modules = ["lm_head", "model.mctp_modules"]
            with naming(f"The model {name_or_path}"):
                processor = VitaAudioProcessor.from_pretrained(name_or_path, revision=revision, **trust)
                model = VitaAudioForConditionalGeneration.from_pretrained(name_or_path, **model_kwargs)
            check_has_codec(processor, name_or_path)
            return model, processor
        if stage > 1:
            raise ValueError(
                f"Stage {stage} starts from the model of the stage before, but {name_or_path} has a model of the type "
                f"{config.model_type!r}."
            )

    if script_args.codec_name_or_path is None:
        raise ValueError("Stage 1 needs a speech codec: give its `codec_name_or_path`.")
    codec = load_codec(script_args.codec_name_or_path, **trust)
    sensevoice = None
    if script_args.sensevoice_name_or_path is not None:
        check_place(script_args.sensevoice_name_or_path)
        sensevoice = load_sensevoice(script_args.sensevoice_name_or_path)
    if name_or_path is not None:
        # quantised only once the vocabulary has its new embeddings
        kwargs = {name: value for name, value in model_kwargs.items() if name != "quantization_config"}
        with naming(f"The language model {name_or_path}"):
            model, processor = build_from_language_model(name_or_path, codec, sensevoice, **trust, **kwargs)
        if script_args.use_peft:
            folder = write_base(model, processor, training_args)
            model = VitaAudioForConditionalGeneration.from_pretrained(folder, **model_kwargs | {"revision": None})
        return model, processor
    with naming("What `text_config` or `text_vocab_size` says"):
        model, processor = build_from_nothing(
            script_args.text_config,
            conversation_texts(conversations),
            script_args.text_vocab_size,
            codec,
            script_args.attn_implementation,
            script_args.audio_config,
            sensevoice,
        )
    # The constructor made float32 weights, because unlike `from_pretrained` it takes no `dtype`.
    return model.to(model_kwargs["dtype"]), processor


def check_has_codec(processor: VitaAudioProcessor, name_or_path: str) -> None:
    if processor.audio_tokenizer is None:
        raise ValueError(
            f"The processor of {name_or_path} has no speech codec: `vita-audio export --codec` puts one into it."
        )


def check_can_push_adapter(name_or_path: str, revision: str | None) -> None:
    """
    Raises:
        ValueError: an adapter for this model could not be pushed, because others do not have the model.
    """
    where = None
    if Path(name_or_path).is_dir():
        where = "is a folder here"
    elif PreTrainedConfig.get_config_dict(name_or_path, revision=revision)[0].get("model_type") != "vita_audio":
        where = "is a language model, of which the run makes a model of its own"
    if where is not None:
        raise ValueError(
            f"`push_to_hub` with `use_peft` is for adapters of a model on the Hub, but {name_or_path} {where}. Push "
            "the model first (`vita-audio push`) and start from there; or train without `push_to_hub`, and push what "
            "`vita-audio merge` makes of the adapter."
        )


def write_base(
    model: VitaAudioForConditionalGeneration, processor: VitaAudioProcessor, training_args: VitaAudioSFTConfig
) -> Path:
    """
    Writes what was built from a language model into a folder in `output_dir`: adapters are for this model, with its
    new embeddings, and not for the language model alone.
    """
    folder = Path(training_args.output_dir, BASE_FOLDER)
    with training_args.main_process_first(desc="writing the model that adapters are for"):
        if training_args.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            export_repository(model, processor, folder)
    return folder


def check_sizes(script_args: VitaAudioScriptArguments, training_args: VitaAudioSFTConfig, checkpoint: str) -> None:
    """
    Raises:
        ValueError: the settings ask for another model than the checkpoint's, with which the run would silently go on.
    """
    record = read_json(Path(checkpoint, TRAINING_RECORD_FILE)) or {}
    with naming(f"The configuration of the checkpoint {checkpoint}"):
        config = AutoConfig.from_pretrained(checkpoint)
    num_modules = num_modules_of_stage(training_args.stage, training_args.num_mctp_modules)
    # In each pair: what the checkpoint has, and what the settings ask for
    pairs = {
        "stage": (record.get("stage", training_args.stage), training_args.stage),
        "num_mctp_modules": (config.num_mctp_modules, num_modules),
        "use_peft": (Path(checkpoint, ADAPTER_CONFIG_FILE).is_file(), script_args.use_peft),
    }
    if pairs["use_peft"] == (True, True):
        # An adapter is for the model that it was made for
        starts_from = describe_start(script_args.model_name_or_path, script_args.model_revision)["starts_from"]
        pairs["starts_from"] = (record.get("starts_from", starts_from), starts_from)
        adapter = read_json(Path(checkpoint, ADAPTER_CONFIG_FILE))
        pairs |= {name: (adapter.get(key), getattr(script_args, name)) for name, key in ADAPTER_SETTINGS.items()}
    if script_args.text_config is not None:
        with naming("What `text_config` says"):
            # `for_model` needs a `model_type`, which `text_config` may leave out.
            start = AutoConfig.for_model(**{"model_type": config.text_config.model_type} | script_args.text_config)
        # The size of the tokenizer does not say which size was asked for: it is smaller where the texts have too few
        # pairs to merge.
        if "text_vocab_size" in record:
            pairs["text_vocab_size"] = (record["text_vocab_size"], script_args.text_vocab_size)
    else:
        try:
            start = AutoConfig.from_pretrained(
                script_args.model_name_or_path,
                revision=script_args.model_revision,
                trust_remote_code=training_args.trust_remote_code,
            ).get_text_config()
        except OSError:
            # A run goes on from its checkpoint, even if the model that it started from is gone.
            start = config.text_config
    sizes, new_sizes = config.text_config.to_dict(), start.to_dict()
    names = sizes.keys() & new_sizes.keys() - NO_SIZES
    pairs |= {name: (sizes[name], new_sizes[name]) for name in sorted(names)}
    if differences := [f"{name} {old}, not {new}" for name, (old, new) in pairs.items() if old != new]:
        raise ValueError(
            f"The run in {training_args.output_dir} would go on from {checkpoint}, whose model has "
            f"{'; '.join(differences)}. Start a new run in another `output_dir`, or give the settings that this one "
            "had."
        )


def load_codec(name_or_path: str, trust_remote_code: bool) -> SpeechCodec:
    """
    Raises:
        OSError: there is no such model.
        TypeError: it is no speech codec.
    """
    check_place(name_or_path)
    with naming(f"The speech codec {name_or_path}"):
        codec = AutoModel.from_pretrained(name_or_path, trust_remote_code=trust_remote_code).eval()
    check_codec(codec, f"`codec_name_or_path`, {name_or_path},")
    return codec


def describe_origin(script_args: VitaAudioScriptArguments, num_examples: int) -> dict:
    """The entries of the run's record that say what it started from and was trained on."""
    origin = {
        **describe_start(script_args.model_name_or_path, script_args.model_revision),
        "dataset": place_of(script_args.dataset_name),
        "tasks": script_args.tasks,
        "num_examples": num_examples,
        "dtype": script_args.dtype,
    }
    if script_args.codec_name_or_path is not None:
        origin["codec"] = place_of(script_args.codec_name_or_path)
    if script_args.text_config is not None:
        origin["text_vocab_size"] = script_args.text_vocab_size
    if script_args.interleave_tts:
        origin["interleave_tts"] = True
    if script_args.num_disturbed_copies:
        origin["num_disturbed_copies"] = script_args.num_disturbed_copies
    given = {"license": script_args.license, "language": script_args.language}
    return origin | {name: value for name, value in given.items() if value is not None}


def find_start(training_args: VitaAudioSFTConfig) -> str | None:
    """
    The checkpoint that the run goes on from: the one asked for, or the newest in `output_dir`; None for a new run.
    """
    asked = training_args.resume_from_checkpoint
    if str(asked).lower() == "false":
        raise ValueError(
            "`resume_from_checkpoint` is a folder, or true; a run goes on from its newest checkpoint by itself. To "
            "begin anew, give another `output_dir`."
        )
    # transformers takes this setting for a text, so from the command line True comes as "True".
    if str(asked).lower() in ("none", "true"):
        checkpoint = last_complete_checkpoint(training_args.output_dir)
        others = sorted(path.name for path in incomplete_checkpoints(training_args.output_dir))
        if checkpoint is None and asked is None and others and training_args.process_index == 0:
            print(
                f"{training_args.output_dir} has {', '.join(others)}, which no run of ours has written to its end, so "
                "this one begins anew. `resume_from_checkpoint` with its folder goes on from one all the same."
            )
        if checkpoint is None and asked is not None:
            raise FileNotFoundError(f"There is no complete checkpoint in {training_args.output_dir} to resume from.")
    else:
        checkpoint = str(asked)
    if checkpoint is None:
        return None
    return find_checkpoint(checkpoint, hub_revision(training_args), training_args.hub_token)


def main(argv: list[str] | None = None) -> None:
    """
    Trains one stage.

    Args:
        argv: `--config FILE.yaml` and settings that override it; the process's arguments by default.
    """
    run_with_settings((VitaAudioScriptArguments, VitaAudioSFTConfig), name_as_typed("train", PROG), argv, run)


def run_with_settings(
    kinds: tuple[type, type], prog: str, argv: list[str] | None, run: Callable[[Any, TrainingArguments], None]
) -> None:
    """
    Runs a training by its settings.

    Args:
        kinds: the dataclasses of the settings; the first has `num_threads`, the second is of [`TrainingArguments`].
        prog: name of the command.
        argv: `--config FILE.yaml` and settings that override it; the process's arguments by default.
        run: is called with an instance of each of `kinds`.
    """
    script_args, training_args = parse_settings(kinds, prog, argv)
    if script_args.num_threads is not None:
        torch.set_num_threads(script_args.num_threads)
    # The trainer sets the seed as well, but only after the weights of a start from nothing are drawn.
    with checking_settings():
        set_seed(training_args.seed)
    # Examples are made anew in every run, under a random fingerprint. So `datasets` would never find again what it
    # caches.
    disable_caching()
    with no_empty_folder(training_args.output_dir):
        run(script_args, training_args)


def run(script_args: VitaAudioScriptArguments, training_args: VitaAudioSFTConfig) -> None:
    if training_args.push_to_hub and script_args.use_peft:
        check_can_push_adapter(script_args.model_name_or_path, script_args.model_revision)
    create_repository_of(training_args)
    checkpoint = find_start(training_args)

    def load_split(split: str) -> datasets.Dataset:
        # The other processes find in the cache what the main process has read.
        with training_args.main_process_first(desc="reading conversations"):
            return load_conversations(script_args.dataset_name, split, script_args.tasks, script_args.code_cache_dir)

    conversations = {"train": load_split(script_args.dataset_train_split)}
    if training_args.eval_strategy != "no":
        conversations["test"] = load_split(script_args.dataset_test_split)
    with loading_whole_weights(training_args):
        model, processor = load_model_and_processor(script_args, training_args, conversations["train"], checkpoint)
    check_can_train(model, training_args)
    if script_args.use_peft:
        num_modules = num_modules_of_stage(training_args.stage, training_args.num_mctp_modules)
        # The trainer does so again; here it is for the errors, before speech is encoded
        adapt_to_stage(
            get_peft_config(script_args),
            model,
            training_args.stage,
            model.config.num_mctp_modules,
            num_modules,
            training_args.train_new_modules_whole,
        )
    if training_args.heard_code_noise > 0:
        codebook_of(processor)
    # The processor makes the examples, so it gets the layout before they are made.
    if training_args.interleave_pattern is not None:
        check_interleave_pattern(training_args.interleave_pattern)
        processor.interleave_pattern = training_args.interleave_pattern
    if training_args.max_length is not None:
        # The pipeline warns of conversations that are longer than the model was trained on.
        processor.tokenizer.model_max_length = training_args.max_length

    codec = processor.audio_tokenizer.to(training_args.device)
    speech_input = SpeechInput(processor) if processor.hears_features else None
    examples = {
        name: build_training_dataset(
            split,
            processor,
            script_args.code_cache_dir,
            training_args.max_length,
            training_args.dataset_num_proc,
            speech_input,
            script_args.interleave_tts,
            # held-out conversations are heard as they were recorded
            script_args.num_disturbed_copies if name == "train" else 0,
        )
        for name, split in conversations.items()
    }
    # Training needs the codes alone. So the codec leaves its memory on the device to the model.
    codec.to("cpu")

    # The constructors of transformers and TRL check settings, too.
    with checking_settings():
        trainer = VitaAudioSFTTrainer(
            model=model,
            args=training_args,
            train_dataset=examples["train"],
            eval_dataset=examples.get("test"),
            processing_class=processor,
            speech_input=speech_input,
            peft_config=get_peft_config(script_args),
        )
    trainer.origin = describe_origin(script_args, len(examples["train"]))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.end_with_repository(f"The model of stage {training_args.stage}")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
