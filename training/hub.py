# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pushing of whole repositories (model, processor, codec, code and card) by the arguments of transformers' `Trainer`.
"""

import copy
import dataclasses
import filecmp
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from accelerate.logging import get_logger
from huggingface_hub import HfApi, snapshot_download
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import cached_file

from hub_cards.command_line import is_path
from hub_cards.model_card import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    BENCHMARKS_FILE,
    CARD_FILE,
    RESULTS_FILE,
    RESULTS_PICTURE,
    TRAINER_STATE_FILE,
    TRAINING_RECORD_FILE,
    is_ours,
    metadata_of,
    read_json,
    write_model_card,
)
from hub_cards.push import (
    COMPLETE_FILE,
    PushError,
    call_hub,
    check_branch,
    create_repository,
    default_revisions,
    push_folder,
)
from modeling_vita_audio.saving_vita_audio import put_in_place

from .checkpoints import check_optimizer_state, describe_machine, describe_settings


logger = get_logger(__name__)

# All processes of a run save into it together, so its name has no process in it, unlike those of `replaced_whole`
UNFINISHED_FOLDER = "unfinished"
# Folders of files that are being pushed; hidden, and beside the checkpoints, because links do not reach other disks.
STAGING_PREFIX = ".push-"
# As transformers' `Trainer` names it on the Hub
LAST_CHECKPOINT = "last-checkpoint"
LINKED_SUFFIXES = {".safetensors", ".pt", ".pth"}


def place_of(name_or_path: str, revision: str | None = None) -> dict:
    """
    `repo_id` and `revision` of something on the Hub; of a file or folder here its name, without the rest of the path.
    """
    if os.path.exists(name_or_path):
        return {"folder": Path(name_or_path).resolve().name}
    return {"repo_id": name_or_path, "revision": revision}


def describe_start(name_or_path: str | None, revision: str | None = None) -> dict:
    """
    Describes the model that a run starts from, for the run's record.

    Args:
        name_or_path: folder or Hub id of the stage before or of a language model; None for random weights.
        revision: of the Hub id.

    Returns:
        `dict`: `starts_from`, a place or None; `stages`, the places of the stages before; `base_model`, the Hub id of
        the language model that the first of them started from, or None; and `license` and `language`, if its card has
        them.
    """
    if name_or_path is None:
        return {"starts_from": None, "stages": [], "base_model": None}

    def find(file: str) -> Path:
        # A record that lacks some entries is better than no run. So a card or record that is missing, or cannot be
        # fetched, is no error.
        path = cached_file(
            name_or_path,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        # It stands for a file that is missing: it is no regular file, so the readers below take it for none.
        return Path(path or os.devnull)

    place = place_of(name_or_path, revision)
    card = metadata_of(find(CARD_FILE))
    start = {key: card[key] for key in ("license", "language") if key in card}
    record = read_json(find(TRAINING_RECORD_FILE))
    # Each of our stages writes a record. A model without one was made by somebody else and is the base of all stages.
    if record is None:
        return start | {"starts_from": place, "stages": [], "base_model": place.get("repo_id")}
    # A folder that was pushed is named by its place on the Hub, which readers of the card can find.
    if "folder" in place and record.get("repo_id"):
        place = {key: record[key] for key in ("repo_id", "revision")}
    stages = [*record["stages"], {"stage": record["stage"], **place}]
    return start | {"starts_from": place, "stages": stages, "base_model": record["base_model"]}


def hub_revision(args: TrainingArguments) -> str:
    """The branch that a run pushes to while it goes on."""
    return args.hub_revision or default_revisions({"stage": args.stage})[0]


def create_repository_of(args: TrainingArguments) -> None:
    """
    Creates the repository that a run will be pushed to, before the work, because the Hub would refuse at the end what
    it refuses now. Does nothing for a run that is not pushed.
    """
    if args.push_to_hub and args.process_index == 0:
        check_branch(args.hub_revision)
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        create_repository(name, args.hub_private_repo, HfApi(token=args.hub_token))


def find_checkpoint(name_or_path: str, revision: str, token: str | None = None) -> str:
    """
    The checkpoint that a run goes on from.

    Args:
        name_or_path: a folder; or a Hub id, or `ID@REVISION`, to which `hub_strategy` `checkpoint` or
            `all_checkpoints` has pushed one.
        revision: of a Hub id without one.
        token: token of the Hub; by default that of the environment.

    Raises:
        FileNotFoundError: there is no such folder, and the name is no Hub id.
        ValueError: the folder has no optimizer state, or the repository has no checkpoint.
        PushError: there is no such repository or revision.
    """
    if is_path(name_or_path):
        check_optimizer_state(name_or_path)
        return name_or_path
    repo_id, _, given_revision = name_or_path.partition("@")
    revision = given_revision or revision
    api = HfApi(token=token)
    files = call_hub(lambda: api.list_repo_files(repo_id, revision=revision), repo_id, api)
    steps = {}
    for file in files:
        if match := re.match(rf"({LAST_CHECKPOINT}|{PREFIX_CHECKPOINT_DIR}-(\d+))/trainer_state\.json", file):
            # `last-checkpoint` has no number, so a numbered one goes before it.
            steps[int(match[2] or 0)] = match[1]
    if not steps:
        raise ValueError(
            f"{repo_id} at {revision} has no checkpoint to go on from; `hub_strategy: checkpoint` pushes one."
        )
    folder = steps[max(steps)]
    root = call_hub(
        lambda: snapshot_download(repo_id, revision=revision, allow_patterns=f"{folder}/*", token=token), repo_id, api
    )
    return os.path.join(root, folder)


def link_or_copy(source: str, target: str) -> None:
    """Links large files, which are never changed, if the disk can do that, and copies the others."""
    try:
        if Path(source).suffix in LINKED_SUFFIXES:
            os.link(source, target)
            return
    except OSError:
        pass
    shutil.copy2(source, target)


def drop_outdated_results(new: Path, old: Path) -> None:
    """Deletes the measured results from the folder `old` of a model, if the weights in `new` are other ones."""
    weights = [path.name for path in new.glob("*.safetensors")]
    # `shallow` would take files of the same size and time for equal without reading them.
    equal, _, _ = filecmp.cmpfiles(new, old, weights, shallow=False)
    outdated = [old / name for name in (RESULTS_FILE, RESULTS_PICTURE, BENCHMARKS_FILE) if (old / name).is_file()]
    if outdated and len(equal) < len(weights):
        logger.warning(f"Deleting {', '.join(map(str, outdated))}: the weights are others now.")
        for path in outdated:
            path.unlink()


def drop_other_weights(new: Path, old: Path) -> None:
    """
    Deletes a whole model from the folder `old` where `new` is an adapter, or the adapter where `new` is a whole model:
    who loads a folder with both would get a mixture.
    """
    is_adapter = (new / ADAPTER_CONFIG_FILE).is_file()
    for pattern in ("model*.safetensors*",) if is_adapter else (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        for path in old.glob(pattern):
            path.unlink()


def save_state_without_folders(state: TrainerState, path: Path) -> None:
    """Writes a trainer's state in which the best checkpoint has its name alone, not the folders that it is in here."""
    best = state.best_model_checkpoint
    dataclasses.replace(state, best_model_checkpoint=best and Path(best).name).save_to_json(str(path))


class PushCallback(TrainerCallback):
    """
    Pushes each checkpoint in the background, as [`HubMixin`] says. What fails is a warning, and the run goes on.

    Args:
        repo_id: where to; None for a run that is not pushed.
        strategy ([`HubStrategy`]): what of a checkpoint is pushed.
    """

    def __init__(self, repo_id: str | None, strategy: HubStrategy):
        self.repo_id, self.strategy = repo_id, strategy
        self.push_in_progress: Future | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if state.is_world_process_zero:
            # of a run that was killed during a push
            for leftover in Path(args.output_dir).glob(f"{STAGING_PREFIX}*"):
                shutil.rmtree(leftover)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.repo_id is None or self.strategy == HubStrategy.END or not state.is_world_process_zero:
            return
        # As in `Trainer`: a checkpoint is passed over while the one before it is still being sent.
        if self.push_in_progress is not None and not self.push_in_progress.done() and not args.hub_always_push:
            return
        self.wait()
        step = state.global_step
        checkpoint = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        # The files are linked into another folder, because the checkpoint may be deleted before all of it is sent.
        staging = Path(args.output_dir) / f"{STAGING_PREFIX}{step}"
        shutil.rmtree(staging, ignore_errors=True)
        # Pickles are left out of the model, because only a run that goes on needs them: the optimizer's state is one.
        leave_out = shutil.ignore_patterns("*.pt", "*.pth", "*.bin", "*.tmp", CARD_FILE, COMPLETE_FILE)
        shutil.copytree(checkpoint, staging, copy_function=link_or_copy, ignore=leave_out)
        save_state_without_folders(state, staging / TRAINER_STATE_FILE)
        with_checkpoints = self.strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        if with_checkpoints:
            name = LAST_CHECKPOINT if self.strategy == HubStrategy.CHECKPOINT else checkpoint.name
            shutil.copytree(checkpoint, staging / name, copy_function=link_or_copy)

        def push() -> None:
            try:
                push_folder(
                    staging,
                    self.repo_id,
                    revision=hub_revision(args),
                    commit_message=f"Stage {args.stage}, training in progress, step {step}",
                    with_checkpoints=with_checkpoints,
                    api=HfApi(token=args.hub_token),
                )
            except (OSError, ValueError) as error:
                logger.warning(f"Step {step} was not pushed, and the run goes on: {error}")
            finally:
                shutil.rmtree(staging, ignore_errors=True)

        self.start(push)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.wait()

    def start(self, push: Callable[[], str | None]) -> Future:
        executor = ThreadPoolExecutor(max_workers=1)
        self.push_in_progress = executor.submit(push)
        # The thread ends when its push has, and nobody waits here.
        executor.shutdown(wait=False)
        return self.push_in_progress

    def wait(self) -> None:
        """Waits for the push in progress to end, well or not: two at once would be in each other's way."""
        if self.push_in_progress is not None and not self.push_in_progress.done():
            logger.info("Waiting for the push of a checkpoint to end.")
            # It waits as `result` does, but raises nothing.
            self.push_in_progress.exception()


class HubMixin:
    r"""
    For a trainer with complete checkpoints whose `args` have a `stage`: pushes whole repositories. `push_to_hub`,
    `hub_model_id`, `hub_strategy`, `hub_token`, `hub_private_repo` and `hub_always_push` mean what they mean for
    [`~transformers.Trainer`].

    Pushes go to the branch `hub_revision`. Without one they go to `stage1` to `stage4` and, at the end of the run, to
    the main branch as well, which therefore has the newest model that was trained to its end.

    If a push in the middle of a run fails, a warning says so. The push at the end comes after the model is whole in
    `output_dir`; if it fails, [`PushError`] says what to type to repeat it.

    Attributes:
        origin (`dict`): entries of the record that the trainer cannot know: those of [`describe_start`], `dataset`,
            `tasks`, `num_examples`, `license` and `language`.
    """

    origin: dict = {}

    def __init__(self, *, args: TrainingArguments, **kwargs):
        # A copy, so that the caller's arguments stay as they were given.
        strategy, args = args.hub_strategy, copy.copy(args)
        # With this strategy, `Trainer` itself pushes nothing in the middle of a run: it would send pickles, and no
        # codec. The callback pushes instead.
        args.hub_strategy = HubStrategy.END
        super().__init__(args=args, **kwargs)
        self.pushes = PushCallback(self.hub_model_id, strategy)
        self.add_callback(self.pushes)

    def create_model_card(self, *args, **kwargs) -> None:
        """Does nothing. TRL calls this at every checkpoint, but our card is written for a whole repository."""

    def describe_run(self) -> dict:
        """The record of the run, from which the card is written."""
        return {
            "stage": self.args.stage,
            "repo_id": self.hub_model_id,
            "revision": hub_revision(self.args) if self.hub_model_id else None,
            **self.origin,
            "settings": describe_settings(self.args),
            **describe_machine(self.args),
        }

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        super()._save(output_dir, state_dict)
        # It is a pickle, and has the Hub's token and this machine's paths in it.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def save_repository(self) -> None:
        """Writes the complete repository into a folder in `output_dir`, and then moves it up, the weights last."""
        output_dir = Path(self.args.output_dir)
        unfinished = output_dir / UNFINISHED_FOLDER
        try:
            if self.is_finished and self.is_deepspeed_enabled:
                # Nothing was trained, so there is no engine, whose `save_checkpoint` `save_model` would call
                if self.args.should_save:
                    self._save(str(unfinished))
            else:
                # Without `_internal_call`, `save_model` itself would push.
                self.save_model(str(unfinished), _internal_call=True)
            if self.is_world_process_zero():
                record = json.dumps(self.complete_record(), indent=2)
                (unfinished / TRAINING_RECORD_FILE).write_text(record + "\n", encoding="utf-8")
                save_state_without_folders(self.state, unfinished / TRAINER_STATE_FILE)
                drop_outdated_results(unfinished, output_dir)
                drop_other_weights(unfinished, output_dir)
                put_in_place(unfinished, output_dir)
                if is_ours(output_dir / CARD_FILE):
                    write_model_card(output_dir)
        finally:
            if self.is_world_process_zero():
                shutil.rmtree(unfinished, ignore_errors=True)
        # No process goes on, maybe to its end, before the folder is whole.
        self.accelerator.wait_for_everyone()

    def end_with_repository(self, name: str) -> None:
        """
        The end of a run: saves the complete repository, pushes it where `push_to_hub` says so, prints where it is, and
        ends the processes.

        Args:
            name: what the repository is called in what is printed.
        """
        place = self.args.output_dir
        try:
            if self.args.push_to_hub:
                place += f" and at {self.push_to_hub()}"
            else:
                self.save_repository()
            self.accelerator.print(f"{name} is in {place}.")
        finally:
            # This ends the process group, so it comes after all that the processes do together.
            self.end()

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | Future | None:
        """
        Saves the complete repository into `output_dir` and pushes it. Replaces that of [`~transformers.Trainer`],
        which sends neither the code, nor the codec, nor our card.

        Args:
            commit_message: by default, the end of the stage.
            blocking: whether to return when all is pushed.
            token, revision, private: by default `hub_token`, `hub_revision` and `hub_private_repo`.

        Returns:
            `str`: URL of the commit or, not blocking, a [`Future`] of it; None in all but the main process.

        Raises:
            PushError: the Hub refused, or could not be reached; the model is whole in `output_dir`.
        """
        api = HfApi(token=token or self.args.hub_token)
        # `Trainer` has created the repository if the run was to be pushed from the start.
        if self.hub_model_id is None and self.is_world_process_zero():
            name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            self.hub_model_id = create_repository(
                name, self.args.hub_private_repo if private is None else private, api
            )
        self.pushes.wait()
        self.save_repository()
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)

        def push() -> str:
            try:
                return push_folder(
                    self.args.output_dir,
                    self.hub_model_id,
                    revision=revision or self.args.hub_revision,
                    commit_message=commit_message or f"Stage {self.args.stage}",
                    api=api,
                )
            except (PushError, ValueError) as error:
                branch = f" --revision {self.args.hub_revision}" if self.args.hub_revision else ""
                raise PushError(
                    f"{error} The model is whole in {self.args.output_dir}; push it again with: "
                    f"vita-audio push {self.args.output_dir} {self.hub_model_id}{branch}"
                ) from error

        return push() if blocking else self.pushes.start(push)
