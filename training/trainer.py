# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The four training stages as one trainer, built on TRL's `SFTTrainer`."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from trl import SFTConfig, SFTTrainer

from hub_cards.command_line import naming
from hub_cards.stages import STAGES
from modeling_vita_audio import MCTP_MODES, VitaAudioForConditionalGeneration

from .checkpoints import CompleteCheckpointsMixin
from .collator import PackedRowsCollator
from .conversations import list_lengths
from .hub import HubMixin


ITS_OWN_LOSS = "the loss is the model's own, of the language model and of the MCTP modules"
EXAMPLES_ARE_MADE = "the examples that are trained on have their ids and labels already"

# Settings of `SFTConfig` that would have no effect here: the values that are taken, and why no others are
REFUSED_SETTINGS = {
    "label_smoothing_factor": ((0.0,), ITS_OWN_LOSS),
    "loss_type": (("nll",), ITS_OWN_LOSS),
    "router_aux_loss_coef": ((None, 0.0), ITS_OWN_LOSS),
    "use_liger_kernel": ((False,), "Liger has no kernels for this model"),
    "liger_kernel_config": ((None,), "Liger has no kernels for this model"),
    "use_cache": ((False, None), "training has no use for a cache"),
    "model_init_kwargs": ((None,), "the model is there already"),
    "chat_template_path": ((None,), EXAMPLES_ARE_MADE),
    "dataset_text_field": (("text",), EXAMPLES_ARE_MADE),
    "dataset_kwargs": ((None,), EXAMPLES_ARE_MADE),
    "completion_only_loss": ((None,), "the loss is on what the assistant writes, always"),
    "assistant_only_loss": ((False,), "the loss is on what the assistant writes, always"),
    "truncation_mode": (("keep_start",), "examples that are too long are left out, not cut off"),
    "packing_strategy": (("bfd", "bfd_split"), "samples may not be cut in two, nor attend to one another"),
    "do_predict": ((False,), "there is nothing to predict; `vita-audio evaluate` scores a model"),
}


# Arguments of `SFTTrainer`, likewise
REFUSED_ARGUMENTS = {
    "compute_loss_func": ITS_OWN_LOSS,
    "formatting_func": EXAMPLES_ARE_MADE,
    "quantization_config": "the model is there already",
    "data_collator": "packed rows need a collator of their own",
    "peft_config": "adapters are not trained here yet",
}


@dataclass
class VitaAudioSFTConfig(SFTConfig):
    r"""
    Configuration of [`VitaAudioSFTTrainer`]: that of [`~trl.SFTConfig`], and what is listed here. The settings of the
    paper are in `training/configs/paper_7b`. Settings that would have no effect are refused, see `REFUSED_SETTINGS`.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]: `packing=True`, `shuffle_dataset=True`,
    > `prediction_loss_only=True` and `ddp_find_unused_parameters=False`.
    """

    stage: int = field(
        default=1,
        metadata={
            "help": "Training stage. 1: the whole language model, no MCTP modules. 2: the first MCTP module only. 3: all MCTP "
            "modules only. 4: everything. The losses are those of what is trained.",
            "choices": sorted(STAGES),
        },
    )
    num_mctp_modules: int = field(
        default=10, metadata={"help": "Number of MCTP modules in stages 3 and 4. A model with fewer grows to it."}
    )
    mctp_learning_rate_multiplier: float = field(
        default=1.0, metadata={"help": "The learning rate of the MCTP modules is this times `learning_rate`."}
    )
    mctp_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the mean of the MCTP modules' losses beside the language model's."}
    )
    interleave_pattern: list[int] | None = field(
        default=None,
        metadata={
            "help": "Text and speech tokens of each chunk of an interleaved answer, also the default decoding schedule of "
            "the trained model. By default the processor's, which is `1 10 4 10` if it was not changed."
        },
    )

    packing: bool = field(
        default=True,
        metadata={
            "help": "Whether to pack samples into rows of at most `max_length` tokens. Nothing crosses a sample."
        },
    )
    shuffle_dataset: bool = field(
        default=True, metadata={"help": "Whether to shuffle the samples before they are packed."}
    )
    prediction_loss_only: bool = field(
        default=True, metadata={"help": "When performing evaluation, only returns the losses."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={
            "help": "The `find_unused_parameters` of distributed data parallel training. Every stage uses all it trains."
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
        for name, (accepted, reason) in REFUSED_SETTINGS.items():
            # one that a release of TRL or transformers does not have is refused there
            if (value := getattr(self, name, accepted[0])) not in accepted:
                raise ValueError(f"`{name}={value!r}` is refused, as it would have no effect: {reason}.")
        if self.do_eval and self.eval_strategy == "no":
            raise ValueError('`do_eval` has no effect without an `eval_strategy`, such as "steps".')


def prepare_model_for_stage(model: VitaAudioForConditionalGeneration, stage: int, num_mctp_modules: int) -> None:
    """
    Gives the model the MCTP modules of a stage and freezes what the stage does not train.

    Raises:
        ValueError: the model has more modules than the stage.
    """
    plan = STAGES[stage]
    num_modules = num_mctp_modules if plan.max_modules is None else plan.max_modules
    if model.config.num_mctp_modules > num_modules:
        raise ValueError(
            f"The model has {model.config.num_mctp_modules} MCTP modules, but stage {stage} is for {num_modules}. It starts "
            "from the model of the stage before."
        )
    model.grow_mctp_modules(num_modules)
    model.requires_grad_(plan.trains_language_model)
    model.model.mctp_modules.requires_grad_(plan.trains_mctp_modules)


def has_flash_attention(model: VitaAudioForConditionalGeneration) -> bool:
    return "flash" in model.config._attn_implementation


class VitaAudioSFTTrainer(CompleteCheckpointsMixin, HubMixin, SFTTrainer):
    """
    Trains one stage of a [`VitaAudioForConditionalGeneration`]. How it is pushed to the Hub, see [`~training.hub.HubMixin`].

    Args:
        model ([`VitaAudioForConditionalGeneration`]): the model of the stage before. MCTP modules are added to it.
        args ([`VitaAudioSFTConfig`]): the stage and its settings.
        kwargs: as of [`~trl.SFTTrainer`]; the datasets are those of [`~training.data.build_training_dataset`].

    Raises:
        ValueError: an argument would have no effect.
        TypeError: `model` is another model.
    """

    _tag_names = ["trl", "sft", "vita-audio"]

    def __init__(self, model: VitaAudioForConditionalGeneration, args: VitaAudioSFTConfig, **kwargs):
        self._check_arguments(model, args, **kwargs)
        prepare_model_for_stage(model, args.stage, args.num_mctp_modules)
        super().__init__(model=model, args=args, **kwargs)
        if not has_flash_attention(model):
            self.data_collator = PackedRowsCollator(
                pad_token_id=self._tokenizer.pad_token_id, pad_to_multiple_of=args.pad_to_multiple_of
            )
        layout = list(self.processing_class.interleave_pattern)
        model.config.interleave_pattern = layout
        # The layout is also the default schedule of decoding, once the model has the modules for it
        mode = next((name for name, schedule in MCTP_MODES.items() if schedule == layout), layout)
        model.generation_config.mctp_mode = mode if max(layout[1::2]) <= model.config.num_mctp_modules else "vanilla"

    def _check_arguments(self, model, args: VitaAudioSFTConfig, **kwargs) -> None:
        if not isinstance(model, VitaAudioForConditionalGeneration):
            raise TypeError(
                f"`model` must be a VitaAudioForConditionalGeneration, got a {type(model).__name__}. Adapters (PEFT) are not "
                "trained here yet."
            )
        for name, reason in REFUSED_ARGUMENTS.items():
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` is refused, as it would have no effect: {reason}.")
        for name in ("compute_metrics", "preprocess_logits_for_metrics"):
            if kwargs.get(name) is not None and args.prediction_loss_only:
                raise ValueError(f"`{name}` has no effect without `prediction_loss_only=False`.")
        if (kwargs.get("optimizers") or (None,))[0] is not None and args.mctp_learning_rate_multiplier != 1:
            raise ValueError("`mctp_learning_rate_multiplier` has no effect on an optimizer that is there already.")
        if args.padding_free and not has_flash_attention(model):
            raise ValueError(
                "`padding_free=True` has an effect with flash attention alone; set it as `attn_implementation`, or leave it out."
            )
        asked, made_with = args.interleave_pattern, kwargs["processing_class"].interleave_pattern
        if asked is not None and list(asked) != made_with:
            raise ValueError(
                f"`interleave_pattern` is {list(asked)}, but the processor, with which the examples were made, has {made_with}."
            )
        if asked is None and model.config.interleave_pattern not in (None, made_with):
            raise ValueError(
                f"The model was trained with the `interleave_pattern` {model.config.interleave_pattern}, but the "
                f"processor, with which the examples were made, has {made_with}. Set `interleave_pattern` to train another "
                "layout."
            )
        for name in ("train_dataset", "eval_dataset"):
            datasets = kwargs.get(name)
            for dataset in datasets.values() if isinstance(datasets, dict) else filter(None, [datasets]):
                if not {"input_ids", "labels"} <= set(dataset.column_names or ()):
                    raise ValueError(
                        f"`{name}` must have the columns `input_ids` and `labels`, as `build_training_dataset` makes them of "
                        f"conversations; it has {dataset.column_names}."
                    )
                if (
                    args.max_length is not None
                    and (longest := max(list_lengths(dataset, "input_ids"))) > args.max_length
                ):
                    raise ValueError(
                        f"`{name}` has a row of {longest} tokens, more than `max_length` = {args.max_length}, and rows are not cut; "
                        "`build_training_dataset` with this `max_length` leaves it out."
                    )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As [`Trainer.create_optimizer`], with groups of their own for the MCTP modules."""
        if self.optimizer is None:
            with naming("What `optim`, `optim_args` and the other settings of the optimizer say"):
                super().create_optimizer(model)
            named_parameters = (self.model if model is None else model).named_parameters()
            of_modules = {id(parameter) for name, parameter in named_parameters if "mctp_modules." in name}
            for group in list(self.optimizer.param_groups):
                parameters = group["params"]
                group["params"] = [parameter for parameter in parameters if id(parameter) not in of_modules]
                module_parameters = [parameter for parameter in parameters if id(parameter) in of_modules]
                learning_rate = group["lr"] * self.args.mctp_learning_rate_multiplier
                self.optimizer.add_param_group({**group, "params": module_parameters, "lr": learning_rate})
            # the first group's rate is the one that is logged
            self.optimizer.param_groups = [group for group in self.optimizer.param_groups if group["params"]]
        return self.optimizer

    def create_scheduler(self, *args, **kwargs):
        with naming("What `lr_scheduler_type` and `lr_scheduler_kwargs` say"):
            return super().create_scheduler(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # TRL's own loss knows of one head and no modules; the model's is the loss, as `Trainer` takes it
        inputs |= {
            "use_cache": False,
            "skip_logits": not return_outputs,
            "lm_loss_weight": float(STAGES[self.args.stage].trains_language_model),
            "mctp_loss_weight": self.args.mctp_loss_weight,
        }
        loss, outputs = Trainer.compute_loss(
            self, model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        self._log_losses(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _log_losses(self, outputs, num_items_in_batch) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        losses = {} if outputs.lm_loss is None else {"lm_loss": outputs.lm_loss}
        if outputs.mctp_losses is not None:
            losses |= {f"mctp_loss_{k}": loss for k, loss in enumerate(outputs.mctp_losses, start=1)}
        values = torch.stack(list(losses.values())).detach()
        if num_items_in_batch is not None:
            # shares of a mean over all batches of the step, in all processes
            values = values * self.accelerator.num_processes * self.current_gradient_accumulation_steps
        for name, value in zip(losses, self.accelerator.reduce(values, "mean").tolist()):
            metrics[name].append(value)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        super()._save(output_dir, state_dict)
        # pickled, with the Hub's token and this machine's paths in it
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)
