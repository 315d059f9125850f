# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints count only if they are whole: a run that was killed while it saved goes on from the one before."""

import dataclasses
import json
import math
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, sort_checkpoints

from hub_cards.command_line import naming
from hub_cards.model_card import TRAINING_RECORD_FILE, read_json
from hub_cards.push import COMPLETE_FILE


# Of a group of parameters, what a run may change where it goes on. All else in it is the optimizer's own state.
GROUP_SETTINGS = ("initial_lr", "weight_decay", "betas", "eps")
# The settings that a record and its card show. No others are shown, because among them are tokens and paths of this
# machine.
RECORDED_SETTINGS = (
    "learning_rate",
    "mctp_learning_rate_multiplier",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "max_length",
    "packing",
    "bf16",
    "fp16",
    "gradient_checkpointing",
    "num_mctp_modules",
    "interleave_pattern",
    "num_generations",
    "max_completion_length",
    "temperature",
    "seed",
)
# Further settings that change the weights. They are recorded if they are not the default ones.
RARE_SETTINGS = (
    "mctp_loss_weight",
    "heard_code_noise",
    "mctp_detach",
    "beta",
    "epsilon",
    "epsilon_high",
    "loss_type",
    "num_iterations",
    "scale_rewards",
    "top_p",
    "reward_weights",
    "adam_epsilon",
    "lr_scheduler_kwargs",
    "optim_args",
    "neftune_noise_alpha",
    "data_seed",
    "shuffle_dataset",
    "dataloader_drop_last",
    "average_tokens_across_devices",
    "train_sampling_strategy",
    "pad_to_multiple_of",
    "load_best_model_at_end",
    "metric_for_best_model",
)
# Optimizers whose moments have the shapes of the weights.
PLAIN_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
# Entries of a record that say how the model is shown, and not how it was made
FOR_THE_CARD_ALONE = ("repo_id", "revision", "license", "language")
# Entries that are the same in all records of a run, unless its settings were changed
COMPARED_ENTRIES = (
    *("stage", "starts_from", "dataset", "tasks", "num_examples", "dtype", "text_vocab_size", "codec"),
    *("interleave_tts", "num_disturbed_copies", "rewards", "recognizer"),
)


def describe_settings(args: TrainingArguments) -> dict:
    """The arguments that make the weights, for the record of a run."""
    settings = args.to_dict()
    # Only one of the two says how long the run is.
    del settings["num_train_epochs" if args.max_steps > 0 else "max_steps"]
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    names = [*RECORDED_SETTINGS, *(name for name in RARE_SETTINGS if getattr(args, name, None) != defaults.get(name))]
    return {name: settings[name] for name in names if settings.get(name) is not None}


def describe_arguments(arguments: Any) -> dict:
    """The arguments of a script that the weights depend on. Folders are given by their names, without their paths."""
    settings = {name: value for name, value in vars(arguments).items() if name != "num_threads" and value is not None}
    for name in ("corpus_dir", "codec_name_or_path"):
        if name in settings:
            settings[name] = Path(settings[name]).resolve().name
    return settings


def describe_machine(args: TrainingArguments) -> dict:
    """The hardware and the versions that a run uses, for its record."""
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    versions = {module.__name__: module.__version__ for module in (transformers, trl, datasets, torch)}
    return {
        "hardware": {"device": name, "processes": args.world_size},
        "versions": versions | {"python": platform.python_version()},
    }


def describe_changes(old: dict, new: dict) -> list[str]:
    """The differences between two records of a run, such as "learning_rate from 0.001 to 0.0005"."""
    # The old record was read from JSON, so tuples are lists there.
    new = json.loads(json.dumps(new))
    # The checkpoint has no record, so nothing is known to have changed.
    if "settings" not in old:
        return []
    pairs = [(name, old.get(name), new.get(name)) for name in COMPARED_ENTRIES]
    names = dict.fromkeys([*old["settings"], *new["settings"]])
    pairs += [(name, old["settings"].get(name), new["settings"].get(name)) for name in names]
    return [f"{name} from {was} to {is_now}" for name, was, is_now in pairs if was != is_now]


def read_state(checkpoint: str | os.PathLike) -> TrainerState:
    """
    Raises:
        ValueError: the folder has no state of a trainer, or a malformed one.
    """
    path = Path(checkpoint, TRAINER_STATE_NAME)
    state = read_json(path)
    if state is None:
        raise ValueError(f"There is no {path}, so no run can go on from there.")
    with naming(str(path)):
        return TrainerState(**state)


def check_optimizer_state(checkpoint: str | os.PathLike) -> None:
    """
    Raises:
        FileNotFoundError: `checkpoint` is no folder.
        ValueError: the checkpoint has no optimizer state, without which the learning rate would start again from the
            beginning; or its trainer state is malformed.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint {folder} to resume from.")
    # FSDP and DeepSpeed have other names for it.
    has_optimizer = any(any(folder.glob(pattern)) for pattern in ("optimizer*", "global_step*"))
    if not has_optimizer or not (folder / SCHEDULER_NAME).is_file():
        raise ValueError(
            f"{folder} has no state of the optimizer and the learning rate (`save_only_model`, or no checkpoint at "
            "all), so no run can go on from it. To start a new one from its weights, give it as "
            "`model_name_or_path`, with another `output_dir`."
        )
    read_state(folder)


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    The newest checkpoint in `output_dir` that was written to its end, or None. By time before by step, because a run
    that went back to an earlier checkpoint counts from there again.
    """
    complete = [path for path in checkpoints_in(output_dir) if (path / COMPLETE_FILE).is_file()]
    newest = max(complete, key=lambda path: ((path / COMPLETE_FILE).stat().st_mtime_ns, step_of(path)), default=None)
    return None if newest is None else str(newest)


def incomplete_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Checkpoints that no run goes on from by itself: a kill has left them, or another trainer has made them."""
    return [path for path in checkpoints_in(output_dir) if not (path / COMPLETE_FILE).is_file()]


def checkpoints_in(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints of a run. A folder that was renamed, such as `checkpoint-12-old`, is none."""
    paths = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return [path for path in paths if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", path.name)]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class CompleteCheckpointsMixin:
    """
    For a [`~transformers.Trainer`] with a method `describe_run`: marks the checkpoints that are whole, adds the record
    of the run to them, and resumes from these checkpoints alone.

    Attributes:
        past (`dict`): the record of the run up to the checkpoint that it goes on from.
        is_finished (`bool`): whether nothing was trained, because the run was over before.
    """

    past: dict = {}
    is_finished = False
    # `save_total_limit`, which `Trainer` itself does not see in a training
    num_kept: int | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """
        As [`Trainer.train`], with these differences: `resume_from_checkpoint=True` passes over checkpoints that are
        not whole. A checkpoint that does not exist, or has no state of the optimizer, is refused. From a checkpoint of
        the last step, nothing is trained. A line says whether the run goes on or is over, and which settings have
        changed.

        Raises:
            ValueError: a checkpoint is broken, or the run is over and was made with other settings.
        """
        self.num_kept = self.args.save_total_limit
        # `Trainer` would take the newest checkpoint, whole or not.
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir}.")
        if resume_from_checkpoint:
            check_optimizer_state(resume_from_checkpoint)
            state, planned = read_state(resume_from_checkpoint), self.num_planned_steps()
            self.past = read_json(Path(resume_from_checkpoint, TRAINING_RECORD_FILE)) or {}
            changes = describe_changes(self.past, self.describe_run())
            # Nothing is left to train: the run is over, or has done more steps than are asked for now.
            if state.global_step >= planned:
                if changes and state.global_step < state.max_steps:
                    raise ValueError(
                        f"The run in {self.args.output_dir} was stopped after step {state.global_step} of "
                        f"{state.max_steps}, and {planned} are asked for: ask for more than {state.global_step}, or "
                        "give another `output_dir`."
                    )
                if changes:
                    raise ValueError(
                        f"The run in {self.args.output_dir} is over since step {state.global_step}, and its weights "
                        f"were made with other settings: {', '.join(changes)}. To train with the new ones, give "
                        "another `output_dir`."
                    )
                self.accelerator.print(
                    f"The run in {self.args.output_dir} is over since step {state.global_step}: nothing is trained."
                )
                self.is_finished = True
                return self._end_at(resume_from_checkpoint, state)
            now = f" Changed from here on: {', '.join(changes)}." if changes else ""
            self.accelerator.print(
                f"Going on from {resume_from_checkpoint}, after step {state.global_step} of {planned}.{now}"
            )
            if changes:
                changed = {"step": state.global_step, "settings": changes}
                self.past = self.past | {"changes": [*self.past.get("changes", []), changed]}
        # `Trainer` would delete older checkpoints before the next one is whole, and in the end the newest one
        self.args.save_total_limit = None
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.args.save_total_limit = self.num_kept

    def complete_record(self) -> dict:
        """The record of the run, with the changes of its settings on the way: all that made the weights."""
        record = self.describe_run()
        if self.is_finished:
            # The settings that were given now made no weights; those for the card are taken.
            return record | {name: value for name, value in self.past.items() if name not in FOR_THE_CARD_ALONE}
        return record | ({"changes": self.past["changes"]} if "changes" in self.past else {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None):
        with naming(
            f"The weights in {resume_from_checkpoint} (for a model of other sizes, give another `output_dir`)"
        ):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        with naming(f"The state of the optimizer in {checkpoint} (optimizer.pt, scheduler.pt)"):
            groups = self.optimizer.param_groups
            settings = [{name: group[name] for name in GROUP_SETTINGS if name in group} for group in groups]
            base_lrs = getattr(self.lr_scheduler, "base_lrs", None)
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None and not self.is_deepspeed_enabled:
                self._keep_settings(settings, base_lrs)
            # torch would notice wrong shapes in the first step only, and with a message that names no file.
            if checkpoint is not None and self.args.optim in PLAIN_OPTIMIZERS and not self.is_deepspeed_enabled:
                for parameter, state in self.optimizer.state.items():
                    for name in ("exp_avg", "exp_avg_sq"):
                        if (value := state[name]).shape != parameter.shape:
                            raise ValueError(f"{name} of the shape {value.shape} for weights of {parameter.shape}")

    def _keep_settings(self, settings: list[dict], base_lrs: list[float] | None) -> None:
        """
        Gives the optimizer the settings of this run, where those of the checkpoint have come with its state.

        Args:
            settings: of each group of parameters.
            base_lrs: the learning rates of the groups, which the schedule multiplies.
        """
        for group, of_group in zip(self.optimizer.param_groups, settings, strict=True):
            group |= of_group
        if isinstance(self.lr_scheduler, LambdaLR):
            self.lr_scheduler.base_lrs = base_lrs
            for group, lr in zip(self.optimizer.param_groups, self.lr_scheduler.get_lr(), strict=True):
                group["lr"] = lr
            self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _load_rng_state(self, checkpoint: str | None):
        with naming(f"The state of the random numbers in {checkpoint} (rng_state*.pth)"):
            super()._load_rng_state(checkpoint)

    def num_planned_steps(self) -> int:
        """Optimisation steps of the whole run, as [`Trainer`] counts them."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        # The loader has been prepared for several processes, so these are the batches of one of them.
        num_batches = len(self.get_train_dataloader())
        steps_per_epoch = max(math.ceil(num_batches / self.args.gradient_accumulation_steps), 1)
        return math.ceil(self.args.num_train_epochs * steps_per_epoch)

    def _end_at(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        """
        Ends a run whose last step is done. [`Trainer`] would take one more step if that is in the middle of an epoch.
        """
        record = Path(self.args.output_dir, TRAINER_STATE_NAME)
        if record.is_file() and (finished := read_state(self.args.output_dir)).global_step == state.global_step:
            # The state in `output_dir` has the summary of the whole run, which the checkpoint lacks.
            state.log_history = finished.log_history
        best = state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():
            # It has the folders of where the run was, which may have been moved
            state.best_model_checkpoint = str(Path(self.args.output_dir, Path(best).name))
        self.state = state
        # A run that was killed after its last checkpoint has not deleted older ones.
        self._delete_old_checkpoints(self.args.output_dir)
        self._load_from_checkpoint(checkpoint)
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        # Nothing was trained, so there is no loss.
        return TrainOutput(state.global_step, math.nan, {})

    def _save_checkpoint(self, model: nn.Module, trial: Any):
        run_dir = self._get_output_dir(trial=trial)
        folder = Path(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        complete = folder / COMPLETE_FILE
        # The folder exists already if the run went back to an earlier checkpoint.
        if self.args.should_save:
            complete.unlink(missing_ok=True)
        # No process may write into the folder while it still counts as whole.
        self.accelerator.wait_for_everyone()
        try:
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                record = json.dumps(self.complete_record(), indent=2)
                (folder / TRAINING_RECORD_FILE).write_text(record + "\n", encoding="utf-8")
            super()._save_checkpoint(model, trial)
            # Every process writes its own state of random numbers into the folder, some also a part of the weights.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                complete.touch()
        finally:
            # What is not whole, as on a full disk, would only take the room of the next checkpoint.
            if self.args.should_save and not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
        self._delete_old_checkpoints(run_dir)

    def _delete_old_checkpoints(self, run_dir: str) -> None:
        """
        Keeps `save_total_limit` checkpoints. Those that a killed run has written or deleted in part do not count, and
        those of other trainers are left alone.
        """
        limit = self.num_kept
        if not self.args.should_save or limit is None or limit <= 0:
            return
        for path in incomplete_checkpoints(run_dir):
            if (path / TRAINING_RECORD_FILE).is_file():
                shutil.rmtree(path, ignore_errors=True)
        best = self.state.best_model_checkpoint and str(Path(self.state.best_model_checkpoint))
        names = {path.name for path in checkpoints_in(run_dir) if (path / COMPLETE_FILE).is_file()}
        # By time, see `last_complete_checkpoint`
        checkpoints = sort_checkpoints(run_dir, use_mtime=True, best_model_checkpoint=best)
        checkpoints = [path for path in checkpoints if Path(path).name in names]
        # The best and the newest checkpoint stay, whatever the limit is.
        for path in checkpoints[: -max(limit, len({best, *checkpoints[-1:]} - {None}))]:
            # Without this file it does not count, even if its deletion is interrupted.
            Path(path, COMPLETE_FILE).unlink()
            shutil.rmtree(path, ignore_errors=True)
