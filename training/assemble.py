# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the small checkpoint of this repository from a trained stage: half precision, without code files.

    python -m training.assemble --model runs/mini/stage4 --sample_question question.wav \\
        --output_dir pretrained/vita-audio-mini
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch

import modeling_vita_audio
import processing
from hub_cards.command_line import ArgumentParser, naming, run_command
from hub_cards.model_card import SAMPLE_QUESTION, TRAINER_STATE_FILE, TRAINING_RECORD_FILE, write_model_card
from modeling_vita_audio.saving_vita_audio import replaced_whole
from processing.audio_vita_audio import load_audio
from processing.export import export_repository
from processing.modeling_vita_audio_codec import VitaAudioCodec

from .storage import round_to_half


PROG = "training.assemble"


def assemble(model_dir: Path, sample_question: Path, output_dir: Path, codec_dir: Path | None = None) -> None:
    """
    Replaces `output_dir` by a complete repository of the model.

    Args:
        model_dir: folder of a trained stage, with its processor.
        sample_question: recording that the command line answers by default.
        output_dir: folder of the checkpoint. What is in it stays until the new one is whole.
        codec_dir: a codec to ship in place of the processor's: one that writes the same codes and speaks better.

    Raises:
        ValueError: the codec in `codec_dir` has another codebook than the one that the model was trained with.
    """
    # Only a check: a bad recording is an error before the model is loaded.
    load_audio(str(sample_question), 16000)
    for folder in filter(None, (model_dir, codec_dir)):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    with naming(f"The model {model_dir}"):
        model = modeling_vita_audio.VitaAudioForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
        processor = processing.VitaAudioProcessor.from_pretrained(model_dir)
    if processor.audio_tokenizer is None:
        raise ValueError(f"The processor of {model_dir} has no speech codec.")
    if codec_dir is not None:
        with naming(f"The codec {codec_dir}"):
            codec = VitaAudioCodec.from_pretrained(codec_dir)
        theirs, ours = codebook_of(codec), codebook_of(processor.audio_tokenizer)
        if theirs.keys() != ours.keys() or not all(tensor.equal(ours[name]) for name, tensor in theirs.items()):
            raise ValueError(f"{codec_dir} has another codebook than the codec that the model was trained with.")
        processor.audio_tokenizer = codec
    round_to_half(model)
    round_to_half(processor.audio_tokenizer)

    output_dir.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replaced_whole(output_dir) as unfinished:
        export_repository(model, processor, unfinished)
        # `setup.py` adds the code files, which have their one source in this repository.
        for path in unfinished.glob("*.py"):
            path.unlink()
        shutil.copyfile(sample_question, unfinished / SAMPLE_QUESTION)
        for name in (TRAINING_RECORD_FILE, TRAINER_STATE_FILE):
            if (model_dir / name).is_file():
                shutil.copyfile(model_dir / name, unfinished / name)
    # `vita-audio card` writes it again when there are results.
    write_model_card(output_dir)


def codebook_of(codec: VitaAudioCodec) -> dict[str, torch.Tensor]:
    """What gives a codec's codes their meaning: the model's speech tokens are places in the codebook."""
    # The grid of a tokenizer is that of all others; what its places are is in the encoder alone
    return (codec.quantizer if codec.config.tokenizer_config is None else codec.tokenizer).state_dict()


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained stage")
    parser.add_argument("--sample_question", type=Path, required=True, help="WAV file of a spoken question")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--codec", type=Path, help="codec with the same codebook to ship in place of the stage's")
    args = parser.parse_args(argv)
    assemble(args.model, args.sample_question, args.output_dir, args.codec)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
