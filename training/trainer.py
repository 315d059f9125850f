# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The four training stages as one trainer, built on TRL's `SFTTrainer`."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer
from transformers.utils import ModelOutput
from trl import SFTConfig, SFTTrainer

from hub_cards.command_line import naming
from hub_cards.stages import STAGES
from modeling_vita_audio import MCTP_MODES, VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor

from .adapters import (
    adapt_to_stage,
    check_trained_parts,
    describe_adapter,
    name_base,
    save_adapter,
    train_in_float32,
)
from .checkpoints import CompleteCheckpointsMixin
from .code_noise import CodeNoise, codebook_of
from .collator import PackedRowsCollator
from .conversations import list_lengths
from .hub import HubMixin
from .liger import check_liger, use_liger
from .sampling import LikeLengthSampler
from .speech_input import SpeechInput, SpeechInputCollator


MODEL_HAS_LOSS = "the model computes its own loss, of the language model and of the MCTP modules"
MODEL_IS_LOADED = "the trainer gets a model that is loaded already"
EXAMPLES_ARE_MADE = "the trainer gets examples that have their ids and labels already"

# Settings of `SFTConfig` that would have no effect here: the values that are accepted, and why others are not
REFUSED_SETTINGS = {
    "label_smoothing_factor": ((0.0,), MODEL_HAS_LOSS),
    "loss_type": (("nll",), MODEL_HAS_LOSS),
    "router_aux_loss_coef": ((None, 0.0), MODEL_HAS_LOSS),
    "use_cache": ((False, None), "a cache is of no use in training"),
    "model_init_kwargs": ((None,), MODEL_IS_LOADED),
    "chat_template_path": ((None,), EXAMPLES_ARE_MADE),
    "dataset_text_field": (("text",), EXAMPLES_ARE_MADE),
    "dataset_kwargs": ((None,), EXAMPLES_ARE_MADE),
    "completion_only_loss": ((None,), "the loss is always on what the assistant writes"),
    "assistant_only_loss": ((False,), "the loss is always on what the assistant writes"),
    "truncation_mode": (("keep_start",), "examples that are too long are left out, not cut off"),
    # `bfd_split` cuts only rows that are longer than `max_length`, and those are refused.
    "packing_strategy": (("bfd", "bfd_split"), "samples may not be cut in two, nor attend to one another"),
    "do_predict": ((False,), "this trainer predicts nothing; `vita-audio evaluate` scores a model"),
}


# Arguments of `SFTTrainer` that would have no effect here, and why
REFUSED_ARGUMENTS = {
    "compute_loss_func": MODEL_HAS_LOSS,
    "formatting_func": EXAMPLES_ARE_MADE,
    "quantization_config": MODEL_IS_LOADED,
    "data_collator": "packed rows need a collator of their own",
}


@dataclass
class VitaAudioSFTConfig(SFTConfig):
    r"""
    Configuration of [`VitaAudioSFTTrainer`]: the settings of [`~trl.SFTConfig`], and those that are listed here. The
    settings of the paper are in `training/configs/paper_7b`. Settings that would have no effect are refused, see
    `REFUSED_SETTINGS`.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]: `packing=True`, `shuffle_dataset=True`,
    > `prediction_loss_only=True` and `ddp_find_unused_parameters=False`.
    """

    stage: int = field(
        default=1,
        metadata={
            "help": f"Training stage: {', '.join(f'{number} {stage.name}' for number, stage in STAGES.items())}.",
            "choices": sorted(STAGES),
        },
    )
    # As in the paper (arXiv 2505.03739). Ten modules write the eight codes of a chunk and its two delimiters.
    num_mctp_modules: int = field(
        default=10, metadata={"help": "Number of MCTP modules in stages 3 and 4. A model with fewer gets new ones."}
    )
    # The paper has 10 in stage 4 alone, where modules and language model are trained together.
    mctp_learning_rate_multiplier: float = field(
        default=1.0,
        metadata={"help": "Factor by which the learning rate of the MCTP modules differs from `learning_rate`."},
    )
    mctp_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the mean of the MCTP modules' losses beside the language model's."}
    )
    mctp_detach: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the MCTP modules' losses reach nothing but the modules, the head and the final norm. By "
            "default they do so in models that hear by features, as the original has it."
        },
    )
    heard_code_noise: float = field(
        default=0.0,
        metadata={
            "help": "Share of the speech codes in users' turns that become near ones in training, anew in each step, "
            "so that the model also understands voices that the codec's tokenizer knows less well."
        },
    )
    interleave_pattern: list[int] | None = field(
        default=None,
        metadata={
            "help": "Text and speech tokens of each chunk of an interleaved answer, also the default decoding "
            "schedule of the trained model. By default the processor's, which is `1 10 4 10` if it was not changed."
        },
    )

    train_new_modules_whole: bool = field(
        default=True,
        metadata={
            "help": "Whether MCTP modules that a stage adds are trained whole where the others get adapters. "
            "Otherwise they get adapters, too, which takes less memory, and needs a module that they are copies of."
        },
    )

    peft_float32: bool = field(
        default=True,
        metadata={
            "help": "Whether all that is trained beside or with adapters is in float32, whatever type the model has. "
            "In half precision an optimizer's small steps are rounded away."
        },
    )

    # The paper packs its samples; TRL does not by default.
    packing: bool = field(
        default=True,
        metadata={
            "help": "Whether to pack samples into rows of at most `max_length` tokens. Samples do not attend to one "
            "another."
        },
    )
    # Conversations come task after task, so they are mixed before they share rows.
    shuffle_dataset: bool = field(
        default=True, metadata={"help": "Whether to shuffle the samples before they are packed."}
    )
    # Otherwise `Trainer` gathers the logits of all positions over the whole vocabulary, which nothing here reads.
    prediction_loss_only: bool = field(
        default=True, metadata={"help": "When performing evaluation, only returns the losses."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={
            "help": "The `find_unused_parameters` of distributed data parallel training: every stage uses all "
            "parameters that it trains."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"`stage` must be one of {sorted(STAGES)}, got {self.stage}.")
        if self.num_mctp_modules < 1:
            raise ValueError(f"`num_mctp_modules` must be 1 or more, got {self.num_mctp_modules}.")
        for name in ("mctp_learning_rate_multiplier", "mctp_loss_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not 0 <= self.heard_code_noise < 1:
            raise ValueError(f"`heard_code_noise` must be at least 0 and below 1, got {self.heard_code_noise}.")
        if self.liger_kernel_config is not None and not self.use_liger_kernel:
            raise ValueError("`liger_kernel_config` has no effect without `use_liger_kernel`.")
        for name, (accepted, reason) in REFUSED_SETTINGS.items():
            # a setting that this release of TRL or transformers does not have counts as accepted
            if (value := getattr(self, name, accepted[0])) not in accepted:
                raise ValueError(f"`{name}={value!r}` is refused, as it would have no effect: {reason}.")
        if self.do_eval and self.eval_strategy == "no":
            raise ValueError('`do_eval` has no effect without an `eval_strategy`, such as "steps".')


def num_modules_of_stage(stage: int, num_mctp_modules: int) -> int:
    """How many MCTP modules a model has in a stage, where the settings say `num_mctp_modules`."""
    max_modules = STAGES[stage].max_modules
    return num_mctp_modules if max_modules is None else max_modules


def check_can_train(model: VitaAudioForConditionalGeneration, args: VitaAudioSFTConfig) -> None:
    """
    What can be said of a model and the settings before there are examples, which take long to make.

    Raises:
        ValueError: the model cannot have the modules of the stage, or a setting has no effect or cannot run.
        ImportError: a package is missing.
    """
    check_can_grow(model, args.stage, args.num_mctp_modules)
    if args.padding_free and not has_flash_attention(model):
        raise ValueError(
            "`padding_free=True` has an effect with flash attention alone; set it as `attn_implementation`, or leave "
            "it out."
        )
    if args.use_liger_kernel:
        check_liger(args.device, args.liger_kernel_config)


def check_can_grow(model: VitaAudioForConditionalGeneration, stage: int, num_mctp_modules: int) -> None:
    """
    Raises:
        ValueError: the model has more modules than the stage, or is quantised and lacks some.
    """
    num_modules = num_modules_of_stage(stage, num_mctp_modules)
    if model.config.num_mctp_modules > num_modules:
        raise ValueError(
            f"The model has {model.config.num_mctp_modules} MCTP modules, but stage {stage} is for {num_modules}. It "
            "starts from the model of the stage before."
        )
    if model.config.num_mctp_modules < num_modules and not model.can_copy_layers():
        raise ValueError(
            f"Stage {stage} adds MCTP modules, which begin as copies of layers, and quantised layers cannot be "
            "copied: train this stage without quantisation."
        )


def grow_for_stage(model: VitaAudioForConditionalGeneration, stage: int, num_mctp_modules: int) -> None:
    """Gives the model the MCTP modules of a stage. Raises as [`check_can_grow`]."""
    check_can_grow(model, stage, num_mctp_modules)
    model.grow_mctp_modules(num_modules_of_stage(stage, num_mctp_modules))


def prepare_model_for_stage(model: VitaAudioForConditionalGeneration, stage: int, num_mctp_modules: int) -> None:
    """Gives a model the MCTP modules of a stage, as [`grow_for_stage`], and freezes what the stage does not train."""
    plan = STAGES[stage]
    grow_for_stage(model, stage, num_mctp_modules)
    # The modules are a part of the model, so what holds for them is set last.
    model.requires_grad_(plan.trains_language_model)
    model.model.mctp_modules.requires_grad_(plan.trains_mctp_modules)
    if model.config.audio_config is not None:
        # SenseVoice hears well as it is; the projector learns with the language model
        model.model.audio_tower.requires_grad_(False)


def check_has_modules(model: VitaAudioForConditionalGeneration, args: VitaAudioSFTConfig) -> None:
    """
    Raises:
        ValueError: the model has not the MCTP modules of the stage, and has an adapter, so that none can be added.
    """
    num_modules = num_modules_of_stage(args.stage, args.num_mctp_modules)
    if model.config.num_mctp_modules != num_modules:
        raise ValueError(
            f"The PeftModel has {model.config.num_mctp_modules} MCTP modules, but stage {args.stage} is for "
            f"{num_modules}: call `grow_mctp_modules` before the adapter is made, or give `peft_config` instead."
        )


def leave_as_it_is() -> None:
    pass


def has_flash_attention(model: VitaAudioForConditionalGeneration) -> bool:
    # It is in `flash_attention_2`, `flash_attention_3` and the names of such kernels on the Hub.
    return "flash" in model.config._attn_implementation


class VitaAudioSFTTrainer(CompleteCheckpointsMixin, HubMixin, SFTTrainer):
    """
    Trains one stage of a [`VitaAudioForConditionalGeneration`]. [`~training.hub.HubMixin`] says how it is pushed to
    the Hub.

    What it uses of [`~trl.SFTTrainer`]:

    - shuffling and packing of the examples (`shuffle_dataset`, `packing`, `packing_strategy`, `eval_packing`);
    - the batches for flash attention, which are one row without padding, and the base class of our collator for
      others;
    - the columns that the batches need beside those of the model's `forward`, such as `seq_lengths`;
    - the pad and end tokens, which it writes into the configurations of tokenizer and model (`pad_token`,
      `eos_token`);
    - the means of the losses from one log to the next;
    - its arguments, settings and defaults, so that whoever knows TRL knows this trainer.

    What it does not use: tokenization and chat templates, because speech codes are made before, see
    [`~training.data.build_training_dataset`]; and the loss, which knows one head and no MCTP modules.

    Args:
        model ([`VitaAudioForConditionalGeneration`]): the model of the stage before. MCTP modules are added to it.
            Or a `PeftModel` of it, which has the modules of the stage already, and whose adapter is trained.
        args ([`VitaAudioSFTConfig`]): the stage and its settings.
        speech_input ([`~training.speech_input.SpeechInput`], *optional*): of a model that hears by features, the
            audios in its examples, as [`~training.data.build_training_dataset`] has filled it.
        peft_config (`LoraConfig`, *optional*): trains adapters instead of the weights, of the linear layers that the
            stage trains. MCTP modules that the stage adds are trained whole, as are `modules_to_save`.
        kwargs: those of [`~trl.SFTTrainer`]; the datasets are made by [`~training.data.build_training_dataset`].

    Raises:
        ValueError: an argument would have no effect, or an adapter would train what the stage leaves alone.
        TypeError: `model` or `peft_config` is of another class.
    """

    _tag_names = ["trl", "sft", "vita-audio"]

    def __init__(
        self,
        model: VitaAudioForConditionalGeneration | PeftModel,
        args: VitaAudioSFTConfig,
        speech_input: SpeechInput | None = None,
        peft_config: LoraConfig | None = None,
        **kwargs,
    ):
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        if kwargs.get("processing_class") is None and isinstance(base, VitaAudioForConditionalGeneration):
            # As TRL does
            kwargs["processing_class"] = VitaAudioProcessor.from_pretrained(base.name_or_path)
        self._check_arguments(base, args, **kwargs)
        if not isinstance(model, PeftModel):
            check_can_train(base, args)
        if args.use_liger_kernel:
            # TRL's own switch would replace other parts, and warns that it will go
            args = copy.copy(args)
            args.use_liger_kernel, args.liger_kernel_config = False, None
            use_liger(base)
        if (speech_input is None) != (base.config.audio_config is None):
            raise ValueError("`speech_input` is needed for models that hear by features, and for no others.")
        # New modules are added first, because the base class moves the model to its device.
        if isinstance(model, PeftModel):
            check_has_modules(base, args)
            check_trained_parts(model, args.stage)
        elif peft_config is not None:
            num_modules_before = base.config.num_mctp_modules
            grow_for_stage(base, args.stage, args.num_mctp_modules)
            peft_config = adapt_to_stage(
                peft_config,
                base,
                args.stage,
                num_modules_before,
                base.config.num_mctp_modules,
                args.train_new_modules_whole,
            )
        else:
            prepare_model_for_stage(base, args.stage, args.num_mctp_modules)
        if (isinstance(model, PeftModel) or peft_config is not None) and not STAGES[args.stage].trains_language_model:
            # PEFT, TRL and transformers let the embeddings have gradients, for the sake of checkpoints in what is
            # adapted. Here they would lead back through a language model in which nothing is trained.
            base.enable_input_require_grads = leave_as_it_is
        super().__init__(model=model, args=args, peft_config=peft_config, **kwargs)
        if isinstance(self.model, PeftModel):
            check_trained_parts(self.model, args.stage)
            name_base(self.model)
            if args.peft_float32:
                train_in_float32(self.model)
        if not has_flash_attention(base):
            # SFTTrainer's batches are one long row, in which other attention than flash would need the square of its
            # length.
            self.data_collator = PackedRowsCollator(
                pad_token_id=self._tokenizer.pad_token_id, pad_to_multiple_of=args.pad_to_multiple_of
            )
        self.code_noise = None
        if args.heard_code_noise > 0:
            codebook = codebook_of(self.processing_class)
            self.code_noise = CodeNoise(codebook, base.config.speech_token_offset, args.heard_code_noise)
        if speech_input is not None:
            self.data_collator = SpeechInputCollator(self.data_collator, speech_input)
        layout = list(self.processing_class.interleave_pattern)
        base.config.interleave_pattern = layout
        # The layout is also the default schedule of decoding, once the model has the modules for it
        mode = next((name for name, schedule in MCTP_MODES.items() if schedule == layout), layout)
        base.generation_config.mctp_mode = mode if max(layout[1::2]) <= base.config.num_mctp_modules else "vanilla"

    def _check_arguments(self, model: Any, args: VitaAudioSFTConfig, **kwargs) -> None:
        if not isinstance(model, VitaAudioForConditionalGeneration):
            raise TypeError(
                f"`model` must be a VitaAudioForConditionalGeneration, or a PeftModel of one, got a "
                f"{type(model).__name__}."
            )
        for name, reason in REFUSED_ARGUMENTS.items():
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is refused, as it would have no effect: {reason}.")
        for name in ("compute_metrics", "preprocess_logits_for_metrics"):
            if kwargs.get(name) is not None and args.prediction_loss_only:
                raise ValueError(f"`{name}` has no effect without `prediction_loss_only=False`.")
        if (kwargs.get("optimizers") or (None,))[0] is not None and args.mctp_learning_rate_multiplier != 1:
            raise ValueError("`mctp_learning_rate_multiplier` has no effect on an optimizer that is there already.")
        # The layout is in the examples already, so a setting cannot change it any more.
        asked, made_with = args.interleave_pattern, kwargs["processing_class"].interleave_pattern
        if asked is not None and list(asked) != made_with:
            raise ValueError(
                f"`interleave_pattern` is {list(asked)}, but the processor, with which the examples were made, "
                f"has {made_with}."
            )
        if asked is None and model.config.interleave_pattern not in (None, made_with):
            raise ValueError(
                f"The model was trained with the `interleave_pattern` {model.config.interleave_pattern}, but the "
                f"processor, with which the examples were made, has {made_with}. Set `interleave_pattern` to "
                "train another layout."
            )
        for name in ("train_dataset", "eval_dataset"):
            datasets = kwargs.get(name)
            for dataset in datasets.values() if isinstance(datasets, dict) else filter(None, [datasets]):
                if not {"input_ids", "labels"} <= set(dataset.column_names or ()):
                    raise ValueError(
                        f"`{name}` must have the columns `input_ids` and `labels`, as `build_training_dataset` makes "
                        f"them of conversations; it has {dataset.column_names}."
                    )
                # `SFTTrainer` would cut such rows off, and an example without its end teaches the model to never stop.
                if (
                    args.max_length is not None
                    and (longest := max(list_lengths(dataset, "input_ids"))) > args.max_length
                ):
                    raise ValueError(
                        f"`{name}` has a row of {longest} tokens, more than `max_length` = {args.max_length}, and "
                        "rows are not cut; `build_training_dataset` with this `max_length` leaves it out."
                    )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # That of transformers has other batches where a run goes on
        return LikeLengthSampler(list_lengths(self.train_dataset, "input_ids"), self)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """
        As [`Trainer.create_optimizer`], with separate groups of parameters for the MCTP modules and their learning
        rate.
        """
        if self.optimizer is None:
            with naming("What `optim`, `optim_args` and the other settings of the optimizer say"):
                super().create_optimizer(model)
            named_parameters = (self.model if model is None else model).named_parameters()
            of_modules = {id(parameter) for name, parameter in named_parameters if "mctp_modules." in name}
            # `Trainer` makes a group with weight decay and one without. Each of them is divided here, by identity,
            # because groups do not keep the names of parameters.
            for group in list(self.optimizer.param_groups):
                parameters = group["params"]
                group["params"] = [parameter for parameter in parameters if id(parameter) not in of_modules]
                module_parameters = [parameter for parameter in parameters if id(parameter) in of_modules]
                learning_rate = group["lr"] * self.args.mctp_learning_rate_multiplier
                self.optimizer.add_param_group({**group, "params": module_parameters, "lr": learning_rate})
            # Empty groups go, because the learning rate that is logged is that of the first group.
            self.optimizer.param_groups = [group for group in self.optimizer.param_groups if group["params"]]
        return self.optimizer

    def create_scheduler(self, *args, **kwargs):
        with naming("What `lr_scheduler_type` and `lr_scheduler_kwargs` say"):
            return super().create_scheduler(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ):
        # `Trainer` takes the loss that the model returns. SFTTrainer would compute one of its own, of one head and no
        # modules.
        # Where the language model is frozen, its loss has no weight. Logits are made only where they are asked for,
        # because the loss does not need all of them.
        inputs |= {
            "use_cache": False,
            "skip_logits": not return_outputs,
            "lm_loss_weight": float(STAGES[self.args.stage].trains_language_model),
            "mctp_loss_weight": self.args.mctp_loss_weight,
            "mctp_detach": self.args.mctp_detach,
        }
        if self.code_noise is not None and model.training:
            inputs["input_ids"] = self.code_noise(inputs["input_ids"], inputs["labels"])
        # The outputs are always needed, because they have the parts of the loss, which are logged.
        loss, outputs = Trainer.compute_loss(
            self, model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        self._log_losses(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _log_losses(self, outputs: ModelOutput, num_items_in_batch: torch.Tensor | int | None) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        losses = {} if outputs.lm_loss is None else {"lm_loss": outputs.lm_loss}
        if outputs.mctp_losses is not None:
            losses |= {f"mctp_loss_{k}": loss for k, loss in enumerate(outputs.mctp_losses, start=1)}
        # They are stacked, so that the processes wait for one another once and not for each loss.
        values = torch.stack(list(losses.values())).detach()
        if num_items_in_batch is not None:
            # With `num_items_in_batch` a loss is a share of the mean over all batches of the step: in all processes if
            # their tokens are counted together, as they are by default.
            values = values * self.current_gradient_accumulation_steps
            if self.args.average_tokens_across_devices:
                values = values * self.accelerator.num_processes
        for name, value in zip(losses, self.accelerator.reduce(values, "mean").tolist()):
            metrics[name].append(value)

    def describe_run(self) -> dict:
        record = super().describe_run()
        if isinstance(self.model, PeftModel):
            record["settings"] |= describe_adapter(self.model)
        return record

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        if isinstance(self.model, PeftModel) and self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_adapter(self.model, folder, state_dict=state_dict)
            self.processing_class.save_pretrained(folder)
            return
        super()._save(output_dir, state_dict)
