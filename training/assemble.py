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
from hub_cards.command_line import ArgumentParser, naming, parse_tolerance, run_command
from hub_cards.model_card import SAMPLE_QUESTION, TRAINER_STATE_FILE, TRAINING_RECORD_FILE, write_model_card
from modeling_vita_audio.saving_vita_audio import replaced_whole
from processing.audio_vita_audio import load_audio
from processing.export import export_repository

from .storage import round_to_half


PROG = "training.assemble"


def assemble(
    model_dir: Path, sample_question: Path, output_dir: Path, mctp_verify: float | list[float] | None = None
) -> None:
    """
    Replaces `output_dir` by a complete repository of the model.

    Args:
        model_dir: folder of a trained stage, with its processor.
        sample_question: recording that the command line answers by default.
        output_dir: folder of the checkpoint. What is in it stays until the new one is whole.
        mctp_verify: what `generate` takes by default; the stage's own by default.

    Raises:
        FileNotFoundError: there is no folder `model_dir`.
        ValueError: its processor has no codec, or the recording cannot be read.
    """
    # Only a check: a bad recording is an error before the model is loaded.
    load_audio(str(sample_question), 16000)
    if not model_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {model_dir}.")
    with naming(f"The model {model_dir}"):
        model = modeling_vita_audio.VitaAudioForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
        processor = processing.VitaAudioProcessor.from_pretrained(model_dir)
    if processor.audio_tokenizer is None:
        raise ValueError(f"The processor of {model_dir} has no speech codec.")
    if mctp_verify is not None:
        model.generation_config.mctp_verify = mctp_verify
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


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained stage")
    parser.add_argument("--sample_question", type=Path, required=True, help="WAV file of a spoken question")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--mctp_verify",
        metavar="TOLERANCE",
        type=parse_tolerance,
        help="what `generate` does by default with what modules write, such as 0.5,0 for text and speech",
    )
    args = parser.parse_args(argv)
    assemble(args.model, args.sample_question, args.output_dir, args.mctp_verify)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
