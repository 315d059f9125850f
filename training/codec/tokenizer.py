# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a speech tokenizer that starts from Whisper tiny.en on a rendered corpus.

    accelerate launch --config_file training/configs/accelerate/cpu.yaml \\
        -m training.codec.tokenizer --config training/configs/mini/tokenizer.yaml

Started again with the same `output_dir` it goes on from the newest checkpoint. It makes, in `output_dir/codec`,
a codec that hears and cannot speak yet: `training.codec.decoder` trains its voice.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import jiwer
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hub_cards.command_line import run_command
from processing.configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.checkpoints import (
    CompleteCheckpointsMixin,
    describe_arguments,
    describe_machine,
    describe_settings,
    last_complete_checkpoint,
)
from training.sampling import LikeLengthSampler
from training.settings import checking_settings
from training.storage import round_to_half
from training.train import run_with_settings

from .recordings import read_clips
from .tokenizer_clips import TokenizerClips, read_phonemes
from .tokenizer_model import Glm4VoiceTokenizerForPreTraining
from .whisper import SIZES, encode_unpadded, start_from_whisper, whisper_encoder


PROG = "training.codec.tokenizer"
PHONEMES_NAME = "phonemes.json"  # in every checkpoint: what the reader writes, in the order of its outputs
# Splits of the corpus on which phonemes are scored, and how many clips of each
SCORED_SPLITS, SCORED_CLIPS = ("test", "test_voice"), 200
# Stands for the space between two words where phonemes are put into a row
WORD_BREAK = "|"


@dataclass
class TokenizerArguments:
    corpus_dir: str = field(metadata={"help": "Folder that `training.corpus.render` wrote."})
    levels: list[int] = field(
        default_factory=lambda: [3] * 7,
        metadata={"help": "Levels of each dimension of the codebook, which is a grid; their product is its size."},
    )
    max_seconds: float = field(default=8.0, metadata={"help": "Longer clips are left out."})
    num_clips: int | None = field(
        default=None,
        metadata={"help": "How many clips are read, the first by their ids, which are hashes; all by default."},
    )
    max_clips_of_voice: int | None = field(
        default=None,
        metadata={
            "help": "Of a voice that has more clips, so many are read; all by default. Codes are for all voices."
        },
    )
    quantize_after: int = field(default=400, metadata={"help": "Steps without quantisation."})
    distillation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the loss on Whisper's states beside that on phonemes."}
    )
    encoder_learning_rate_multiplier: float = field(
        default=0.2, metadata={"help": "Factor by which the learning rate of Whisper's weights differs."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads for torch; all by default."})

    def __post_init__(self):
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"`levels` must be 2 or more in each dimension, got {self.levels}.")
        for name in ("num_clips", "max_clips_of_voice"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")


class QuantizationStart(TrainerCallback):
    """Trains without quantisation at first."""

    def __init__(self, first_step: int):
        self.first_step = first_step

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Glm4VoiceTokenizerForPreTraining | None = None,
        **kwargs,
    ):
        # Checkpoints do not have this flag, so every step sets it, in a run that goes on as well.
        model.is_quantizing = state.global_step >= self.first_step


class TokenizerTrainer(CompleteCheckpointsMixin, Trainer):
    """
    Batches clips of like length, has a learning rate for what Whisper knows already, logs the parts of the loss beside
    their sum, and scores phonemes.
    """

    def __init__(self, arguments: TokenizerArguments, teacher: WhisperEncoder, **kwargs):
        super().__init__(**kwargs)
        self.arguments, self.teacher = arguments, teacher.to(self.args.device)

    def describe_run(self) -> dict:
        settings = describe_arguments(self.arguments) | describe_settings(self.args)
        return {"settings": settings, **describe_machine(self.args)}

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LikeLengthSampler:
        return LikeLengthSampler([round(100 * clip["duration"]) for clip in self.train_dataset.clips], self)

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        if self.optimizer is None:
            super().create_optimizer(*args, **kwargs)
            multiplier = self.arguments.encoder_learning_rate_multiplier
            known = {id(p) for name, p in self.model.named_parameters() if is_of_whisper(name)}
            for group in list(self.optimizer.param_groups):
                parameters = group["params"]
                group["params"] = [parameter for parameter in parameters if id(parameter) not in known]
                of_whisper = [parameter for parameter in parameters if id(parameter) in known]
                self.optimizer.add_param_group({**group, "params": of_whisper, "lr": group["lr"] * multiplier})
            self.optimizer.param_groups = [group for group in self.optimizer.param_groups if group["params"]]
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ):
        # As in `Trainer`, with the teacher's targets, and the parts of the loss are kept for the next log.
        features = inputs.pop("teacher_features")
        with torch.no_grad():
            teacher_states = encode_unpadded(self.teacher, features, inputs["attention_mask"])
        outputs = model(**inputs, teacher_states=teacher_states)
        self.loss_parts = {name: value for name, value in outputs.items() if name.endswith(("_loss", "_codes"))}
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None):
        # The summary at the end of a run has no `loss`, and so no parts of it.
        if "loss" in logs:
            logs |= {name: round(value.item(), 4) for name, value in self.loss_parts.items()}
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Phoneme error rates, and how many codes are in use, of each split of the evaluation's clips."""
        self.model.eval()
        metrics = {}
        for name, clips in self.eval_dataset.items():
            codes, references, hypotheses = set(), [], []
            for index in range(len(clips)):
                batch = self._prepare_inputs(clips.collate([clips[index]]))
                inputs = [batch[key] for key in ("input_features", "attention_mask", "labels")]
                written, used = read_phoneme_ids(self.model, *inputs[:2])
                codes |= used
                references.append(join_phonemes(inputs[2][0].tolist(), clips.phonemes))
                hypotheses.append(join_phonemes(written, clips.phonemes))
            metrics[f"eval_{name}_phoneme_error_rate"] = jiwer.wer(references, hypotheses)
            metrics[f"eval_{name}_used_codes"] = len(codes)
        self.model.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        super()._save(output_dir, state_dict)
        # All processes come here, and one writes.
        if self.args.should_save:
            path = Path(output_dir or self.args.output_dir) / PHONEMES_NAME
            path.write_text(json.dumps(self.train_dataset.phonemes, ensure_ascii=False) + "\n", encoding="utf-8")


def is_of_whisper(name: str) -> bool:
    return name.startswith("tokenizer.") and not name.startswith("tokenizer.projection.")


def read_phoneme_ids(
    model: Glm4VoiceTokenizerForPreTraining, input_features: torch.FloatTensor, attention_mask: torch.Tensor
) -> tuple[list[int], set[int]]:
    """Ids of the phonemes that one clip's codes are read as, from 1 on, and the different codes."""
    codes, mask, _ = model.tokenizer(input_features, attention_mask)
    logits, _ = model.reader(model.tokenizer.codebook(codes), mask)
    # CTC: what is written in two steps after one another is one phoneme
    ids = torch.unique_consecutive(logits[0].argmax(-1)).tolist()
    return [number for number in ids if number], set(codes[mask].tolist())


def join_phonemes(ids: Iterable[int], phonemes: list[str]) -> str:
    return " ".join(phonemes[number - 1].replace(" ", WORD_BREAK) for number in ids)


def limit_voices(clips: list[dict], max_clips: int | None) -> list[dict]:
    """`clips` without those of a voice behind its first `max_clips`."""
    counts: Counter[str] = Counter()
    kept = []
    for clip in clips:
        counts[clip["voice"]] += 1
        if max_clips is None or counts[clip["voice"]] <= max_clips:
            kept.append(clip)
    return kept


def main(argv: list[str] | None = None) -> None:
    run_with_settings((TokenizerArguments, TrainingArguments), PROG, argv, run)


def run(args: TokenizerArguments, training_args: TrainingArguments) -> None:
    corpus_dir = Path(args.corpus_dir)
    clips = sorted(read_clips(corpus_dir, args.max_seconds), key=lambda clip: clip["id"])
    clips = limit_voices(clips, args.max_clips_of_voice)[: args.num_clips]
    phonemes = read_phonemes(clips)
    config = Glm4VoiceTokenizerConfig(**SIZES, codebook_size=prod(args.levels), latent_dim=len(args.levels))
    teacher = whisper_encoder()
    model = Glm4VoiceTokenizerForPreTraining(
        config, args.levels, len(phonemes), teacher.config.d_model, args.distillation_weight
    )
    start_from_whisper(model.tokenizer)
    scored = {}
    for split in SCORED_SPLITS:
        # The order of a corpus is by voices and texts, so the clips are taken from all over it
        rows = [clip for clip in read_clips(corpus_dir, args.max_seconds, split) if clip["phonemes"]]
        rows = rows[:: max(1, len(rows) // SCORED_CLIPS)]
        scored[split] = TokenizerClips(corpus_dir, rows, phonemes, config.num_mel_bins, is_disturbed=False)
    dataset = TokenizerClips(corpus_dir, clips, phonemes, config.num_mel_bins)
    Path(training_args.output_dir).mkdir(parents=True, exist_ok=True)
    # `Trainer` would drop what `forward` does not name, which the collator needs.
    training_args.remove_unused_columns = False
    with checking_settings():
        trainer = TokenizerTrainer(
            model=model,
            args=training_args,
            train_dataset=dataset,
            eval_dataset=scored,
            data_collator=dataset.collate,
            callbacks=[QuantizationStart(args.quantize_after)],
            teacher=teacher,
            arguments=args,
        )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(training_args.output_dir))
    if trainer.is_world_process_zero():
        # the smallest decoder that there is: `training.codec.decoder` makes one of its own size
        small = {"codebook_dim": 1, "decoder_hidden_sizes": [1, 1], "decoder_depths": [0, 0]}
        config.architectures = None  # its checkpoints name the class that trained it
        codec_config = VitaAudioCodecConfig(codebook_size=config.codebook_size, tokenizer_config=config, **small)
        codec = VitaAudioCodec(codec_config)
        codec.tokenizer.load_state_dict(model.tokenizer.state_dict())
        # the codes that a language model is trained on must be those of the codec that is shipped
        round_to_half(codec).save_pretrained(f"{training_args.output_dir}/codec")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
