# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the decoder of a codec, whose encoder and codes are fixed, on one voice.

    python -m training.codec.decoder --config training/configs/mini/decoder.yaml

First the distance of spectra and pitch is made small, and that of what Whisper hears; then discriminators have their
say as well. `accelerate launch` runs it on several processes. Started again with the same `output_dir` it goes on from
the newest checkpoint. The codec is in `output_dir/codec`; codes and pitch of the voice are computed first and kept in
`output_dir/prepared`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from hub_cards.command_line import check_place, naming, run_command
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
from training.settings import checking_settings, read_mapping
from training.storage import round_to_half
from training.train import run_with_settings

from .adversary import Adversary
from .decoder_model import VitaAudioCodecForDecoderTraining
from .listener import Listener
from .voice_clips import VoiceClips
from .whisper import whisper_encoder


PROG = "training.codec.decoder"
PREPARED_NAME = "prepared"  # folder of codes and pitch in a run's own
# Parts of a codec that are new and random; the others are taken as they are.
TRAINED = ("decoder.", "vocoder.", "quantizer.", "voice_log_f0")
# Of what the decoder reads of a tokenizer's grid, how much is of no place in it
CODEBOOK_NOISE = 0.1


@dataclass
class DecoderArguments:
    corpus_dir: str = field(metadata={"help": "Folder that `training.corpus.render` wrote."})
    codec_name_or_path: str = field(metadata={"help": "Folder of the codec whose encoder and codes are taken."})
    default_voice: str = field(metadata={"help": "The voice to speak with."})
    decoder_config: dict | str | None = field(
        default=None, metadata={"help": "Arguments of `VitaAudioCodecConfig` that the decoder has another value of."}
    )
    adversarial_after: int = field(default=3000, metadata={"help": "Steps before the discriminators begin."})
    adversarial_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of the discriminators' verdict beside the other losses."},
    )
    discriminator_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak for the discriminators; it rises and falls as the decoder's does."}
    )
    recognition_weight: float = field(
        default=1.0, metadata={"help": "Weight of how differently Whisper hears the speech, beside the other losses."}
    )
    max_seconds: float = field(default=6.0, metadata={"help": "Longer clips are left out."})
    piece_seconds: float = field(
        default=1.0, metadata={"help": "Length of the piece of each clip that is spoken and compared in a step."}
    )
    code_error_share: float = field(
        default=0.02, metadata={"help": "Share of the codes that are replaced, as a language model errs."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads for torch; all by default."})


class DecoderTrainer(CompleteCheckpointsMixin, Trainer):
    """Trains decoder and discriminators by turns within each step, and logs the mean of each part of the loss."""

    def __init__(self, arguments: DecoderArguments, **kwargs):
        super().__init__(**kwargs)
        self.arguments = arguments
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        self.listener = Listener(whisper_encoder()).to(self.args.device)
        self.adversary = Adversary(arguments.discriminator_learning_rate, betas, self.accelerator)
        self.loss_parts: dict[str, list[torch.Tensor]] = {}  # since the last log

    def describe_run(self) -> dict:
        settings = describe_arguments(self.arguments) | describe_settings(self.args)
        return {"settings": settings, **describe_machine(self.args)}

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LikeLengthSampler:
        return LikeLengthSampler([round(100 * clip["duration"]) for clip in self.train_dataset.clips], self)

    @property
    def is_adversarial(self) -> bool:
        return self.state.global_step >= self.arguments.adversarial_after

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ):
        outputs = model(**inputs)
        recognition = self.listener(outputs.audio_values, outputs.target_values)
        loss = outputs.loss + self.arguments.recognition_weight * recognition
        parts = {name: outputs[name] for name in ("spectral_loss", "mel_loss", "pitch_loss")}
        parts["recognition_loss"] = recognition.detach()
        if self.is_adversarial:
            verdict, of_adversary = self.adversary.judge(
                outputs.audio_values,
                outputs.target_values,
                self.arguments.adversarial_weight,
                self.current_gradient_accumulation_steps,
            )
            loss, parts = loss + verdict, parts | of_adversary
        for name, value in parts.items():
            self.loss_parts.setdefault(name, []).append(value)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.is_adversarial and self.accelerator.sync_gradients:
            share = self.lr_scheduler.get_last_lr()[0] / self.args.learning_rate
            self.adversary.step(share, self.args.max_grad_norm)
        return loss

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.adversary.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.adversary.load(checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None):
        # The summary at the end of a run has no `loss`, and so no parts of it.
        if "loss" in logs:
            logs |= {name: round(torch.stack(values).mean().item(), 4) for name, values in self.loss_parts.items()}
            self.loss_parts.clear()
        super().log(logs, start_time)


def load_codec(codec_name_or_path: str, default_voice: str, decoder_config: dict) -> VitaAudioCodec:
    """
    The codec of a folder with a new decoder, random so far, of one voice.

    Raises:
        ValueError: `decoder_config` has something that a codec has not, or that does not fit the codec's encoder.
    """
    check_place(codec_name_or_path)
    with naming(f"The codec {codec_name_or_path}"):
        old = VitaAudioCodec.from_pretrained(codec_name_or_path, dtype=torch.float32)
    settings = old.config.to_dict()
    if unknown := sorted(decoder_config.keys() - settings.keys()):
        raise ValueError(f"`decoder_config` has {', '.join(unknown)}, which no codec has.")
    with naming("What `decoder_config` says"):
        config = VitaAudioCodecConfig(**settings | decoder_config | {"num_voices": 1, "voice_names": [default_voice]})
        codec = VitaAudioCodec(config)
        kept = {name: tensor for name, tensor in old.state_dict().items() if not name.startswith(TRAINED)}
        missing, unexpected = codec.load_state_dict(kept, strict=False)
    if wrong := [name for name in (*missing, *unexpected) if not name.startswith(TRAINED)]:
        raise ValueError(f"`decoder_config` does not fit the encoder of {codec_name_or_path}: {wrong!s:.200}.")
    if config.tokenizer_config.latent_dim:
        # Codes that are neighbours in the grid sound alike, so the decoder reads them as neighbours, rare ones as well
        grid = codec.tokenizer.codebook.weight
        vectors = grid @ torch.randn(grid.shape[1], config.codebook_dim)
        codec.quantizer.codebook.weight.data = vectors + CODEBOOK_NOISE * torch.randn_like(vectors)
    return codec


def main(argv: list[str] | None = None) -> None:
    run_with_settings((DecoderArguments, TrainingArguments), PROG, argv, run)


def run(decoder_args: DecoderArguments, training_args: TrainingArguments) -> None:
    codec = load_codec(
        decoder_args.codec_name_or_path,
        decoder_args.default_voice,
        read_mapping(decoder_args.decoder_config, "decoder_config") or {},
    )
    folder = Path(training_args.output_dir, PREPARED_NAME)
    clips = VoiceClips(
        Path(decoder_args.corpus_dir), folder, codec.eval(), decoder_args.default_voice, decoder_args.max_seconds
    )
    # The other processes then find all of it on disk.
    with training_args.main_process_first(desc="computing codes and pitch"):
        clips.prepare()
    codec.voice_log_f0.data.fill_(clips.mean_log_f0())
    model = VitaAudioCodecForDecoderTraining(codec, decoder_args.piece_seconds, decoder_args.code_error_share)
    # `Trainer` would drop what `forward` does not name, such as `waveform`, which the collator needs.
    training_args.remove_unused_columns = False
    with checking_settings():
        trainer = DecoderTrainer(
            decoder_args, model=model, args=training_args, train_dataset=clips, data_collator=clips.collate
        )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(training_args.output_dir))
    if trainer.is_world_process_zero():
        round_to_half(codec).save_pretrained(f"{training_args.output_dir}/codec")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
