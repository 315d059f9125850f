# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that count only when they are whole: a run that is killed while it saves goes on from the one before."""

import math
import os
import re
import shutil
from pathlib import Path

from accelerate.logging import get_logger
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints


logger = get_logger(__name__)

# Written last into a checkpoint's folder: without it, the checkpoint is not whole.
COMPLETE_FILE = "complete"


def check_optimizer_state(checkpoint: str | os.PathLike) -> None:
    """
    Raises:
        FileNotFoundError: `checkpoint` is no folder.
        ValueError: it has no optimizer state, with which a run would go on at a new start of its learning rate.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint {folder} to resume from.")
    # of FSDP and DeepSpeed, too
    if not any(any(folder.glob(pattern)) for pattern in ("optimizer*", "global_step*")):
        raise ValueError(
            f"{folder} has no state of the optimizer and the learning rate (`save_only_model`, or no checkpoint at all), so no run "
            "can go on from it. To start a new one from its weights, give it as `model_name_or_path`, with another `output_dir`."
        )


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint in `output_dir` that was written to its end, or None."""
    steps = {}
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
        if match and (path / COMPLETE_FILE).is_file():
            steps[int(match[1])] = str(path)
    return steps[max(steps)] if steps else None


class CompleteCheckpointsMixin:
    """For a [`~transformers.Trainer`]: marks the checkpoints that are whole, and starts again from these alone."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """
        As [`Trainer.train`]; with `resume_from_checkpoint=True` a checkpoint that is not whole is passed over. One that is not
        there, or that has no state of the optimizer, is refused. From one of the last step, nothing is trained any more.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir}.")
        if resume_from_checkpoint:
            check_optimizer_state(resume_from_checkpoint)
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            if state.global_step >= self.num_planned_steps():
                return self._end_at(resume_from_checkpoint, state)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def num_planned_steps(self) -> int:
        """Optimisation steps of the whole run, as [`Trainer`] counts them."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        num_batches = len(self.get_train_dataloader())
        steps_per_epoch = max(math.ceil(num_batches / self.args.gradient_accumulation_steps), 1)
        return math.ceil(self.args.num_train_epochs * steps_per_epoch)

    def _end_at(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        """The end of a run whose last step is done: [`Trainer`] would take one more where that is in the midst of an epoch."""
        logger.info(f"The run is over since step {state.global_step}: nothing is trained any more.")
        record = Path(self.args.output_dir, TRAINER_STATE_NAME)
        if (
            record.is_file()
            and (finished := TrainerState.load_from_json(str(record))).global_step == state.global_step
        ):
            # with the summary of the whole run
            state.log_history = finished.log_history
        self.state = state
        self._load_from_checkpoint(checkpoint)
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(state.global_step, math.nan, {})

    def _save_checkpoint(self, model, trial):
        run_dir = self._get_output_dir(trial=trial)
        folder = Path(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        complete = folder / COMPLETE_FILE
        # there is one where a run went back to an earlier checkpoint
        if self.args.should_save:
            complete.unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        # the older ones stay until this one is whole
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                complete.touch()
        finally:
            self.args.save_total_limit = limit
            if self.args.should_save and not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
