# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the encoder or the decoder of a trained codec further, or both, while its codes keep their meaning.

    python -m training.codec.tune --config training/configs/mini/codec_encoder.yaml
    python -m training.codec.tune --config training/configs/mini/codec_decoder.yaml
    python -m training.codec.tune --config training/configs/mini/codec_joint.yaml
    python -m training.codec.tune --config training/configs/mini/codec_answers.yaml

`accelerate launch` runs it on several processes. Started again with the same `output_dir` it goes on from the newest
checkpoint. The codec is in `output_dir/codec`; after its decoder was tuned it speaks in the default voice alone.
Targets are computed first and kept in `output_dir/prepared`.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from hub_cards.command_line import check_place, naming, no_empty_folder, run_command
from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.checkpoints import describe_arguments, last_complete_checkpoint
from training.settings import checking_settings, parse_settings
from training.storage import round_to_half

from .clips import read_answers
from .recordings import read_clips
from .train import PHONEMES_NAME, VitaAudioCodecTrainer, check_checkpoint
from .tuning import PARTS, TuningClips, VitaAudioCodecForTuning


PROG = "training.codec.tune"
PREPARED_NAME = "prepared"  # folder of targets in a run's own


@dataclass
class TuningArguments:
    corpus_dir: str = field(metadata={"help": "Folder that `training.corpus.render` wrote."})
    default_voice: str = field(metadata={"help": "The voice whose codes are kept."})
    parts: list[str] = field(metadata={"help": f"What is trained: {', '.join(PARTS)} or both."})
    start_from: str = field(metadata={"help": "Checkpoint of `training.codec.train` or of this script."})
    codes_of: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the codec, with the same codebook, whose codes are kept: the one a language model was "
            "trained with. Those of `start_from` by default."
        },
    )
    answer_times: int = field(
        default=1, metadata={"help": "How often clips are drawn that answer questions, against others."}
    )
    decoder_depths: list[int] | None = field(
        default=None,
        metadata={
            "help": "Blocks in the decoder's two stages, for a decoder with new ones behind those it started with."
        },
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads for torch; all by default."})


def load_checkpoint(
    checkpoint: Path, parts: list[str], default_voice: str, decoder_depths: list[int] | None = None
) -> tuple[VitaAudioCodecForTuning, list[str]]:
    """
    The model that trains `parts` with the weights of `checkpoint`, and the symbols of its phonemes.

    Raises:
        ValueError: it has not the default voice, more blocks than `decoder_depths`, or no phoneme head.
    """
    with naming(f"The checkpoint {checkpoint}"):
        config = VitaAudioCodecConfig.from_pretrained(checkpoint)
        phonemes = json.loads((checkpoint / PHONEMES_NAME).read_text(encoding="utf-8"))
        weights = load_file(checkpoint / "model.safetensors")
    if default_voice not in config.voice_names:
        raise ValueError(f"The codec in `{checkpoint}` has no voice {default_voice}, but {config.voice_names}.")
    if "decoder" in parts:
        # A decoder is tuned in the default voice alone, so it loses the others.
        voice = config.voice_names.index(default_voice)
        for name in ("codec.decoder.voice_embedding.weight", "codec.voice_log_f0"):
            weights[name] = weights[name][voice : voice + 1]
        config.num_voices, config.voice_names = 1, [default_voice]
        depths = decoder_depths or config.decoder_depths
        if any(new < old for new, old in zip(depths, config.decoder_depths, strict=True)):
            raise ValueError(f"`decoder_depths` must be at least {config.decoder_depths} each, got {depths}.")
        config.decoder_depths = depths
    model = VitaAudioCodecForTuning(config, len(phonemes), parts)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    # the decoder's are the new blocks
    if lacking := [name for name in missing if not name.startswith("codec.decoder.")]:
        raise ValueError(f"The codec in `{checkpoint}` cannot be trained further: it has no {', '.join(lacking)}.")
    return model, phonemes


def main(argv: list[str] | None = None) -> None:
    tuning_args, training_args = parse_settings((TuningArguments, TrainingArguments), PROG, argv)
    if not set() < set(tuning_args.parts) <= set(PARTS):
        raise ValueError(f"`parts` must be some of {', '.join(PARTS)}, got {tuning_args.parts}.")
    if tuning_args.num_threads is not None:
        torch.set_num_threads(tuning_args.num_threads)
    with no_empty_folder(training_args.output_dir):
        run(tuning_args, training_args)


def run(tuning_args: TuningArguments, training_args: TrainingArguments) -> None:
    torch.manual_seed(training_args.seed)
    corpus_dir, checkpoint = Path(tuning_args.corpus_dir), Path(tuning_args.start_from)
    check_checkpoint(checkpoint, ("config.json", "model.safetensors", PHONEMES_NAME))
    model, phonemes = load_checkpoint(
        checkpoint, tuning_args.parts, tuning_args.default_voice, tuning_args.decoder_depths
    )
    target_codec = model.codec
    if tuning_args.codes_of is not None:
        check_place(tuning_args.codes_of)
        with naming(f"The codec {tuning_args.codes_of}"):
            target_codec = VitaAudioCodec.from_pretrained(tuning_args.codes_of, dtype=torch.float32)
        codebooks = [codec.quantizer.codebook.weight for codec in (target_codec, model.codec)]
        # stored codecs are rounded to half precision
        if codebooks[0].shape != codebooks[1].shape or not torch.allclose(*codebooks, atol=1e-3):
            raise ValueError(f"`codes_of`, `{tuning_args.codes_of}`, has another codebook than `{checkpoint}`.")
    clips = read_clips(corpus_dir)
    if unknown := sorted({phoneme for clip in clips for phoneme in clip["phonemes"]} - set(phonemes)):
        raise ValueError(f"The codec in `{checkpoint}` does not know the corpus's phonemes {' '.join(unknown)}.")
    # the codes to be kept are those before this run, resumed or not
    dataset = TuningClips(
        corpus_dir,
        Path(training_args.output_dir) / PREPARED_NAME,
        target_codec,
        clips,
        tuning_args.default_voice,
        phonemes,
        # Only an encoder has to learn to hear through noise. A decoder alone gets the codes of clean speech.
        is_disturbed="encoder" in tuning_args.parts,
        answers=read_answers(corpus_dir) if tuning_args.answer_times > 1 else (),
        answer_times=tuning_args.answer_times,
    )
    # The other processes then find all targets on disk.
    with training_args.main_process_first(desc="preparing clips"):
        dataset.prepare()
    # `Trainer` would drop what `forward` does not name, such as `waveform`, which the collator needs.
    training_args.remove_unused_columns = False
    with checking_settings():
        trainer = VitaAudioCodecTrainer(
            model=model, args=training_args, train_dataset=dataset, data_collator=dataset.collate
        )
    trainer.origin = describe_arguments(tuning_args)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(training_args.output_dir))
    if trainer.is_world_process_zero():
        round_to_half(model.codec).save_pretrained(f"{training_args.output_dir}/codec")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
