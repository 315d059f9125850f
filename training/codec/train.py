# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the compact codec on a rendered corpus.

    python -m training.codec.train --config training/configs/mini/codec.yaml

`accelerate launch` runs it on several processes. Started again with the same `output_dir` it goes on from the newest
checkpoint. The trained codec is in `output_dir/codec`, loadable with `VitaAudioCodec.from_pretrained`.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from hub_cards.command_line import naming, no_empty_folder, run_command
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from training.checkpoints import (
    CompleteCheckpointsMixin,
    describe_arguments,
    describe_machine,
    describe_settings,
    last_complete_checkpoint,
)
from training.settings import checking_settings, parse_settings, read_mapping
from training.storage import round_to_half

from .clips import CodecClips
from .pretraining import VitaAudioCodecForPreTraining


PROG = "training.codec.train"
PHONEMES_NAME = "phonemes.json"  # in every checkpoint: what the phoneme head reads, in the order of its outputs


@dataclass
class CodecArguments:
    corpus_dir: str = field(metadata={"help": "Folder that `training.corpus.render` wrote."})
    default_voice: str = field(metadata={"help": "The voice that `decode` speaks with by default."})
    voices: list[str] | None = field(
        default=None, metadata={"help": "Voices to learn and to decode with; all of the corpus by default."}
    )
    disturb_inputs: bool = field(
        default=True,
        metadata={"help": "Whether what is encoded has other voices, microphones, rooms and noise than its target."},
    )
    phoneme_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the CTC loss on the codes."})
    quantize_after: int | None = field(
        default=None,
        metadata={
            "help": "Steps without quantization. Then the codebook is set to the latents' clusters. By default 600, "
            "but a codebook that a run started with is kept."
        },
    )
    codec_config: dict | str | None = field(
        default=None, metadata={"help": "Arguments of `VitaAudioCodecConfig` other than the defaults."}
    )
    warm_start_from: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint of another run, maybe with other voices and phonemes, to start from; everything is "
            "trained."
        },
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads for torch; all by default."})


class VitaAudioCodecTrainer(CompleteCheckpointsMixin, Trainer):
    """Batches clips of like length, logs the parts of the loss beside their sum, and saves the phonemes' symbols."""

    origin: dict = {}  # other settings that make the weights

    def describe_run(self) -> dict:
        return {"settings": self.origin | describe_settings(self.args), **describe_machine(self.args)}

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        lengths = [round(100 * clip["duration"]) for clip in self.train_dataset.clips]
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths)

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ):
        # As in `Trainer`, but the parts of the loss are kept for the next log.
        outputs = model(**inputs)
        self.loss_parts = {name: value for name, value in outputs.items() if name != "loss"}
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        super()._save(output_dir, state_dict)
        # All processes come here, and one writes.
        if not self.args.should_save:
            return
        path = Path(output_dir or self.args.output_dir) / PHONEMES_NAME
        path.write_text(json.dumps(self.train_dataset.phonemes, ensure_ascii=False) + "\n", encoding="utf-8")

    def log(self, logs: dict[str, float], start_time: float | None = None):
        # The summary at the end of a run has no `loss`, and so no parts of it.
        if "loss" in logs:
            logs |= {name: round(value.item(), 4) for name, value in self.loss_parts.items()}
        super().log(logs, start_time)


class QuantizationStart(TrainerCallback):
    """Trains without quantization at first, then clusters the latents of some batches into the codebook."""

    def __init__(self, clips: CodecClips, first_step: int):
        self.clips, self.first_step = clips, first_step

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: VitaAudioCodecForPreTraining | None = None,
        **kwargs,
    ):
        # Checkpoints do not have this flag, so every step sets it, in a run that goes on as well.
        model.is_quantizing = state.global_step >= self.first_step
        if state.global_step == self.first_step:
            model.initialize_codebook(tqdm(self._batches(args.train_batch_size), desc="Clustering latents"))
            # every process has clustered other clips
            weight = model.codec.quantizer.codebook.weight
            weight.data = broadcast(weight.data)

    def _batches(self, batch_size: int) -> Iterator[dict]:
        while True:
            yield self.clips.collate([self.clips[int(i)] for i in torch.randint(len(self.clips), (batch_size,))])


def measure_voice_pitch(clips: CodecClips, per_voice: int = 40) -> torch.Tensor:
    """Mean over clips of their median log pitch, for each voice, in log Hz."""
    of_voice = {voice: [] for voice in clips.voices}
    for index, clip in enumerate(tqdm(clips.clips, desc="Measuring the pitch of voices")):
        # Clips at another rate have another pitch than their voice.
        if len(of_voice[clip["voice"]]) < per_voice and (item := clips[index])["is_reconstructed"]:
            of_voice[clip["voice"]].append(item["median_log_f0"])
    # 110 Hz is what the codec starts with; a voice without clips keeps it.
    return torch.tensor([sum(medians) / len(medians) if medians else math.log(110) for medians in of_voice.values()])


def check_checkpoint(checkpoint: Path, names: Iterable[str]) -> None:
    """Raises FileNotFoundError where one of the files `names` is not in the folder."""
    for name in names:
        if not (checkpoint / name).is_file():
            raise FileNotFoundError(f"`{checkpoint}` is no checkpoint of a codec's training: it has no {name}.")


def warm_start(model: VitaAudioCodecForPreTraining, checkpoint: str | Path, phonemes: list[str]) -> list[str]:
    """
    Loads what a checkpoint of another run has and `model` can use: voices by their names, phonemes by their symbols,
    all else by name and shape. New voices start as the mean of the old ones.

    Returns:
        Names of the tensors of `model` that the checkpoint has nothing for.

    Raises:
        FileNotFoundError: where `checkpoint` is no checkpoint.
        ValueError: it is broken.
    """
    checkpoint = Path(checkpoint)
    check_checkpoint(checkpoint, ("config.json", "model.safetensors"))
    with naming(f"The checkpoint {checkpoint}"):
        return load_fitting(model, checkpoint, phonemes)


def load_fitting(model: VitaAudioCodecForPreTraining, checkpoint: Path, phonemes: list[str]) -> list[str]:
    old = load_file(checkpoint / "model.safetensors")
    old_voices = VitaAudioCodecConfig.from_pretrained(checkpoint).voice_names
    new_voices = model.config.voice_names
    shared = [voice for voice in new_voices if voice in old_voices]
    state = model.state_dict()
    for name in ("codec.decoder.voice_embedding.weight", "codec.voice_log_f0"):
        rows = old[name].mean(0, keepdim=True).repeat(len(new_voices), *[1] * (old[name].ndim - 1))
        rows[[new_voices.index(voice) for voice in shared]] = old[name][[old_voices.index(voice) for voice in shared]]
        old[name] = rows
    if (checkpoint / PHONEMES_NAME).is_file():
        # the first output is the blank; there is a set of outputs for each CTC step of a code
        old_symbols = [None, *json.loads((checkpoint / PHONEMES_NAME).read_text(encoding="utf-8"))]
        new_symbols = [None, *phonemes]
        kept = [symbol for symbol in new_symbols if symbol in old_symbols]
        for name in ("phoneme_head.out_proj.weight", "phoneme_head.out_proj.bias"):
            rows = state[name].unflatten(0, (-1, len(new_symbols))).clone()
            old_rows = old[name].unflatten(0, (-1, len(old_symbols)))
            rows[:, [new_symbols.index(symbol) for symbol in kept]] = old_rows[
                :, [old_symbols.index(symbol) for symbol in kept]
            ]
            old[name] = rows.flatten(0, 1)
    else:
        # outputs of as many phonemes need not be those of the same ones
        old = {name: tensor for name, tensor in old.items() if not name.startswith("phoneme_head.out_proj")}
    # Tensors of other shapes, which a model of other sizes has, stay as they were initialized.
    fitting = {name: old[name] for name in state if name in old and old[name].shape == state[name].shape}
    model.load_state_dict(fitting, strict=False)
    return [name for name in state if name not in fitting]


def main(argv: list[str] | None = None) -> None:
    codec_args, training_args = parse_settings((CodecArguments, TrainingArguments), PROG, argv)
    if codec_args.num_threads is not None:
        torch.set_num_threads(codec_args.num_threads)
    with no_empty_folder(training_args.output_dir):
        run(codec_args, training_args)


def run(codec_args: CodecArguments, training_args: TrainingArguments) -> None:
    torch.manual_seed(training_args.seed)
    with naming("What `codec_config` says"):
        config = VitaAudioCodecConfig(**(read_mapping(codec_args.codec_config, "codec_config") or {}))
    clips = CodecClips(
        codec_args.corpus_dir, config, codec_args.default_voice, codec_args.voices, codec_args.disturb_inputs
    )
    config.num_voices, config.voice_names = len(clips.voices), clips.voices
    model = VitaAudioCodecForPreTraining(config, len(clips.phonemes), codec_args.phoneme_loss_weight)
    has_codes, callbacks, quantize_after = False, [], codec_args.quantize_after
    if codec_args.warm_start_from is not None:
        new = warm_start(model, codec_args.warm_start_from, clips.phonemes)
        print(f"Started from {codec_args.warm_start_from}; new: {', '.join(new) or 'nothing'}.")
        has_codes = "codec.quantizer.codebook.weight" not in new
    if quantize_after is None and not has_codes:
        quantize_after = 600
    if quantize_after is not None:
        callbacks.append(QuantizationStart(clips, quantize_after))
    Path(training_args.output_dir).mkdir(parents=True, exist_ok=True)
    checkpoint = last_complete_checkpoint(training_args.output_dir)
    # A checkpoint has these pitches already.
    if checkpoint is None:
        model.codec.voice_log_f0.data = measure_voice_pitch(clips)
    # `Trainer` would drop what `forward` does not name, such as `waveform`, which the collator needs.
    training_args.remove_unused_columns = False
    with checking_settings():
        trainer = VitaAudioCodecTrainer(
            model=model, args=training_args, train_dataset=clips, data_collator=clips.collate, callbacks=callbacks
        )
    trainer.origin = describe_arguments(codec_args)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        # the codes that a language model is trained on must be those of the codec that is shipped
        round_to_half(model.codec).save_pretrained(f"{training_args.output_dir}/codec")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
