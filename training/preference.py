# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Tunes a trained model on what is heard of its answers: TRL's `GRPOTrainer` with rewards of speech.

    python -m training.preference --config training/configs/mini/preference.yaml

The model answers each question several times. A recogniser writes down what it said, and answers that are rewarded
more than the others of their question become more likely. The MCTP modules learn from the same answers what the
language model now writes. A run that was stopped goes on where it was when the command is started again.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from torch import nn
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from hub_cards.command_line import check_place, name_as_typed, naming, run_command
from hub_cards.corpus_rows import count_marks
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from processing.conversation_vita_audio import AUDIO_MARK, split_at_marks

from .checkpoints import CompleteCheckpointsMixin
from .conversations import load_conversations
from .data import SpeechCodeCache, hash_audios
from .evaluation.normalizers import CORPUS, find_normalizer
from .evaluation.recognition import load_recognizer
from .hub import HubMixin, create_repository_of, describe_start, place_of
from .rewards import REWARDS
from .settings import checking_settings
from .train import check_has_codec, find_start, run_with_settings


logger = get_logger(__name__)

PROG = "training.preference"

# Settings of `GRPOConfig` that would have no effect here: the values that are accepted, and why others are not
ANSWERS_ARE_OURS = "answers are written by the model's own `generate`, several tokens a forward"
REFUSED_SETTINGS = {
    "use_vllm": (False, ANSWERS_ARE_OURS),
    "use_transformers_continuous_batching": (False, ANSWERS_ARE_OURS),
    "model_init_kwargs": (None, "the trainer gets a model that is loaded already"),
}


@dataclass
class VitaAudioGRPOConfig(GRPOConfig):
    r"""
    Configuration of [`VitaAudioGRPOTrainer`]: the settings of [`~trl.GRPOConfig`], and those that are listed here.

    > [!NOTE]
    > These parameters have default values different from [`~trl.GRPOConfig`]: `max_grad_norm=0.2`, because a step
    > follows few answers and must not lead far from what the stages taught, and `ddp_find_unused_parameters=False`,
    > because all parameters are used, and the loss runs the model twice, which the search for others does not allow.
    """

    rewards: list[str] = field(
        default_factory=lambda: list(REWARDS),
        metadata={"help": f"Rewards that are added up, with `reward_weights`, of {', '.join(REWARDS)}."},
    )
    mctp_loss_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the mean of the MCTP modules' losses on the answers, beside the policy's."},
    )
    max_grad_norm: float = field(default=0.2, metadata={"help": "Maximum norm of the gradients."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether processes look for parameters that a step leaves out."}
    )

    def __post_init__(self):
        super().__post_init__()
        if unknown := [name for name in self.rewards if name not in REWARDS]:
            raise ValueError(f"Unknown reward {unknown[0]!r:.100}; `rewards` are of {', '.join(REWARDS)}.")
        for name in ("mctp_loss_weight", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        for name, (accepted, reason) in REFUSED_SETTINGS.items():
            if (value := getattr(self, name, accepted)) != accepted:
                raise ValueError(f"`{name}={value!r}` is refused, as it would have no effect: {reason}.")

    @property
    def stage(self) -> int:
        """The stage that is tuned further: the one that has learnt to answer."""
        return 4


def build_preference_dataset(conversations: Dataset, processor: VitaAudioProcessor, cache_dir: str) -> Dataset:
    """
    Turns conversations with a spoken last turn into questions whose answers are rewarded.

    Args:
        conversations ([`Dataset`]): from [`~training.conversations.load_conversations`].
        processor ([`VitaAudioProcessor`]): with its codec.
        cache_dir: where speech codes are kept, see [`~training.data.SpeechCodeCache`].

    Returns:
        [`Dataset`] with the columns `prompt`, the ids of the turns before the last one, and `reference`, the text that
        is to be heard. Conversations without words there are left out.

    Raises:
        ValueError: the processor hears by features; or no conversation ends with a spoken turn.
    """
    if processor.hears_features:
        raise ValueError(
            "Models that hear by features are not tuned here: GRPOTrainer hands only ids to the model. Train them "
            "with `training.train`."
        )
    are_spoken = [AUDIO_MARK in messages[-1]["content"] for messages in conversations["messages"]]
    if not any(are_spoken):
        raise ValueError("No conversation ends with a spoken turn of the assistant, so there is nothing to reward.")
    normalize = find_normalizer(CORPUS)
    have_words = [bool(normalize(reference)) for reference in conversations["reference"]]
    fitting = [index for index, is_fitting in enumerate(zip(are_spoken, have_words)) if all(is_fitting)]
    if not fitting:
        raise ValueError(
            "No spoken turn at the end of a conversation says in words what is to be heard: write them beside its "
            "audio, or as the `reference` of the row."
        )
    if len(fitting) < sum(are_spoken):
        logger.warning(f"{sum(are_spoken) - len(fitting)} conversations have no words to be heard, and are left out.")
    conversations = conversations.select(fitting)
    questions = [messages[:-1] for messages in conversations["messages"]]
    keys, sizes, places = hash_audios(conversations)
    keys = [row[: count_marks(messages)] for row, messages in zip(keys, questions)]
    cache = SpeechCodeCache(cache_dir, processor.audio_tokenizer)
    asked = {key: sizes[key] for row in keys for key in row}
    cache.encode(asked, lambda key: conversations[places[key][0]]["audios"][places[key][1]], processor)
    prompts = []
    for messages, row in zip(questions, keys):
        codes = [cache.codes[key].tolist() for key in row]
        prompts.append(processor.build_prompt(split_at_marks(messages, codes))["input_ids"][0].tolist())
    return Dataset.from_dict({"prompt": prompts, "reference": conversations["reference"]})


class VitaAudioGRPOTrainer(CompleteCheckpointsMixin, HubMixin, GRPOTrainer):
    """
    Tunes a [`VitaAudioForConditionalGeneration`] by the rewards of its spoken answers.

    Answers are sampled by the model's own decoding mode, verified, which has the distribution of the language model
    alone and takes fewer forwards.

    Args:
        model ([`VitaAudioForConditionalGeneration`]): a model of stage 4.
        args ([`VitaAudioGRPOConfig`]): the settings.
        processor ([`VitaAudioProcessor`]): with its codec.
        recognizer: called with a waveform and its sampling rate in Hz it gives the text, as those of
            [`~training.evaluation.recognition.load_recognizer`]. To be fair, it is another one than the judge of the
            results.
        kwargs: those of [`~trl.GRPOTrainer`]; the datasets are made by [`build_preference_dataset`]. By default
            `reward_funcs` are those that `args.rewards` names; each is called with `reference`, `text`, `transcript`
            and `seconds`, lists of one element per answer, see [`training.rewards`].
    """

    _tag_names = ["trl", "grpo", "vita-audio"]

    def __init__(
        self,
        model: VitaAudioForConditionalGeneration,
        args: VitaAudioGRPOConfig,
        processor: VitaAudioProcessor,
        recognizer: Callable,
        **kwargs,
    ):
        self.recognizer = recognizer
        kwargs.setdefault("reward_funcs", [REWARDS[name] for name in args.rewards])
        # With a processor, GRPOTrainer takes the model for one that sees images
        super().__init__(
            model=model, args=args, processing_class=processor.tokenizer, rollout_func=self._roll_out, **kwargs
        )
        # Answers need all of it, and checkpoints get it
        self.processing_class = processor
        self.generation_config.mctp_mode = model.generation_config.mctp_mode
        self.generation_config.mctp_verify = True

    @torch.no_grad()
    def _roll_out(self, prompts: list[list[int]], trainer: GRPOTrainer) -> dict:
        """Answers the prompts, and adds what a recogniser hears in the answers, as `rollout_func` has it."""
        inputs = self._tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        inputs = inputs.to(self.accelerator.device)
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            sequences = model.generate(**inputs, generation_config=self.generation_config)
        answers = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        answers = [self._up_to_the_end(row) for row in answers]
        spoken = self.processing_class.post_process_generation(answers)
        rate = self.processing_class.output_sampling_rate
        waveforms = self.processing_class.decode_audio([answer["audio_codes"] for answer in spoken])
        return {
            "prompt_ids": prompts,
            "completion_ids": answers,
            # None are needed, because the answers come from the weights that are trained
            "logprobs": None,
            "text": [answer["text"] for answer in spoken],
            "transcript": [self.recognizer(waveform, rate) if len(waveform) else "" for waveform in waveforms],
            "seconds": [len(waveform) / rate for waveform in waveforms],
        }

    def _up_to_the_end(self, answer: list[int]) -> list[int]:
        """The ids up to the first that ends an answer, and with it; rows of a batch go on with padding."""
        for place, token_id in enumerate(answer):
            if token_id in self.eos_token_ids:
                return answer[: place + 1]
        return answer

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args, **kwargs):
        # The model refuses trainers that leave its modules out unless they say so; these learn in `_compute_loss`
        return super()._get_per_token_logps_and_entropies(
            partial(model, output_mctp_hidden_states=False), *args, **kwargs
        )

    def _compute_loss(self, model: nn.Module, inputs: dict) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        if self.accelerator.unwrap_model(model).config.num_mctp_modules == 0:
            return loss
        labels = torch.where(inputs["completion_mask"].bool(), inputs["completion_ids"], -100)
        with self.accelerator.autocast():
            outputs = model(
                input_ids=torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                labels=torch.cat([torch.full_like(inputs["prompt_ids"], -100), labels], dim=1),
                use_cache=False,
                skip_logits=True,
                lm_loss_weight=0.0,
                mctp_loss_weight=self.args.mctp_loss_weight,
                # The modules follow the language model, whose layers learn by the rewards alone. The head and the norm
                # before it, which they share, learn by both
                mctp_detach=True,
            )
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["mctp_loss"].append(self.accelerator.reduce(outputs.loss.detach(), "mean").item())
        return loss + outputs.loss / self.current_gradient_accumulation_steps

    def describe_run(self) -> dict:
        return super().describe_run() | {"rewards": self.reward_func_names}


@dataclass
class VitaAudioPreferenceArguments:
    """What is tuned, and on what."""

    dataset_name: str = field(
        metadata={"help": "Conversations, as for `training.train`; those whose last turn is spoken are taken."}
    )
    model_name_or_path: str = field(metadata={"help": "Model of stage 4: a folder or Hub id."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of it on the Hub."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to tune on."})
    tasks: list[str] | None = field(default=None, metadata={"help": "Tasks to tune on; all by default."})
    code_cache_dir: str = field(default="runs/codes", metadata={"help": "Folder that keeps speech codes."})
    recognizer: str = field(
        default="whisper-tiny.en",
        metadata={"help": "Recogniser that hears the answers, as of `vita-audio evaluate`; not the judge of results."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "`sdpa` (default), `flash_attention_2`, `flash_attention_3` or `eager`."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch; all by default."})


def main(argv: list[str] | None = None) -> None:
    """
    Tunes a model.

    Args:
        argv: `--config FILE.yaml` and settings that override it; the process's arguments by default.
    """
    run_with_settings(
        (VitaAudioPreferenceArguments, VitaAudioGRPOConfig), name_as_typed("preference", PROG), argv, run
    )


def run(script_args: VitaAudioPreferenceArguments, training_args: VitaAudioGRPOConfig) -> None:
    if training_args.beta and script_args.model_revision is not None:
        raise ValueError(
            "`beta` needs the start as a reference, which TRL loads without `model_revision`: save that revision in a "
            "folder, and give it as `model_name_or_path`."
        )
    create_repository_of(training_args)
    checkpoint = find_start(training_args)
    conversations = load_conversations(
        script_args.dataset_name, script_args.dataset_train_split, script_args.tasks, script_args.code_cache_dir
    )
    name_or_path, revision = script_args.model_name_or_path, script_args.model_revision
    check_place(name_or_path)
    kwargs = {"revision": revision, "trust_remote_code": training_args.trust_remote_code}
    with naming(f"The model {name_or_path}"):
        processor = VitaAudioProcessor.from_pretrained(name_or_path, **kwargs)
        check_has_codec(processor, name_or_path)
        model = VitaAudioForConditionalGeneration.from_pretrained(
            name_or_path, revision=revision, dtype=torch.float32, attn_implementation=script_args.attn_implementation
        )
    recognizer = load_recognizer(script_args.recognizer)
    examples = build_preference_dataset(conversations, processor, script_args.code_cache_dir)
    with checking_settings():
        trainer = VitaAudioGRPOTrainer(
            model=model, args=training_args, processor=processor, recognizer=recognizer, train_dataset=examples
        )
    trainer.origin = {
        **describe_start(name_or_path, revision),
        "dataset": place_of(script_args.dataset_name),
        "tasks": script_args.tasks,
        "num_examples": len(examples),
        "recognizer": recognizer.name,
    }
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.end_with_repository("The tuned model")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
