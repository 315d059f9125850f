# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What of a model has room on GPUs, by its sizes alone; nothing is run.

    python -m benchmarks.vllm_sizes

prints, for the released 7B models or a folder, the memory of the weights and of the keys and values on each GPU, and
how many conversations they leave room for.
"""

import argparse
import sys
from dataclasses import dataclass

import torch

from hub_cards.command_line import ArgumentParser, run_command
from modeling_vita_audio import VitaAudioConfig, VitaAudioForConditionalGeneration


# bfloat16
BYTES_PER_NUMBER = 2

# What vLLM takes of a GPU by default, and what it needs there besides weights and cache for a model of this size
SHARE_OF_MEMORY = 0.9
OTHER_BYTES = 2 * 2**30

# A conversation of a few turns: about two minutes of speech with its text
TOKENS_PER_CONVERSATION = 2048


@dataclass(frozen=True)
class Sizes:
    """In bytes, on each of the GPUs that share a model."""

    weights: int
    keys_and_values_per_token: int

    def num_tokens(self, memory_bytes: float) -> int:
        """How many tokens the cache has room for; 0 where not even the weights have."""
        room = SHARE_OF_MEMORY * memory_bytes - OTHER_BYTES - self.weights
        return max(int(room // self.keys_and_values_per_token), 0)


def sizes_of(config: VitaAudioConfig, num_gpus: int) -> Sizes:
    """
    Of a model that `num_gpus` GPUs share (`tensor_parallel_size`).

    Raises:
        ValueError: vLLM cannot share the model's attention heads or layers out to so many.
    """
    text_config = config.text_config
    num_key_value_heads = text_config.num_key_value_heads
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(text_config, name) % num_gpus:
            raise ValueError(f"{num_gpus} GPUs cannot share a model of {getattr(text_config, name)} `{name}`.")
    if num_key_value_heads % num_gpus and num_gpus % num_key_value_heads:
        raise ValueError(f"{num_gpus} GPUs cannot share a model of {num_key_value_heads} `num_key_value_heads`.")
    with torch.device("meta"):
        model = VitaAudioForConditionalGeneration(config)
    shared = whole = 0
    for name, parameter in model.named_parameters():
        # norms and the projections of the modules are on each GPU
        if parameter.ndim == 1 or ".proj." in name:
            whole += parameter.numel()
        else:
            shared += parameter.numel()
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    # a GPU has one head at least
    num_heads = max(num_key_value_heads // num_gpus, 1)
    num_layers = text_config.num_hidden_layers + config.num_mctp_modules
    return Sizes(
        weights=BYTES_PER_NUMBER * (whole + shared // num_gpus),
        keys_and_values_per_token=BYTES_PER_NUMBER * 2 * num_layers * num_heads * head_dim,
    )


def sizes_table(config: VitaAudioConfig, gigabytes: list[int], nums_gpus: list[int]) -> str:
    """Markdown."""
    lines = [
        "| GPUs for one engine | weights on each | keys and values of a token, on each | "
        + " | ".join(f"conversations, GPUs of {memory} GB" for memory in gigabytes)
        + " |",
        "|---" * (3 + len(gigabytes)) + "|",
    ]
    for num_gpus in nums_gpus:
        sizes = sizes_of(config, num_gpus)
        conversations = [sizes.num_tokens(memory * 1e9) // TOKENS_PER_CONVERSATION for memory in gigabytes]
        lines.append(
            f"| {num_gpus} | {sizes.weights / 1e9:.1f} GB | {sizes.keys_and_values_per_token / 1024:.0f} KiB | "
            + " | ".join(str(number) if number else "none" for number in conversations)
            + " |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_command(run, "benchmarks.vllm_sizes", sys.argv[1:] if argv is None else argv)


def run(argv: list[str]) -> int:
    parser = ArgumentParser(
        prog="benchmarks.vllm_sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or Hub id (default: the sizes of the released 7B models)")
    parser.add_argument("--gigabytes", type=int, nargs="+", default=[24, 48, 80, 141], help="memory of a GPU")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4], help="that share a model")
    args = parser.parse_args(argv)
    config = VitaAudioConfig() if args.model is None else VitaAudioConfig.from_pretrained(args.model)
    print(sizes_table(config, args.gigabytes, args.gpus))
    return 0


if __name__ == "__main__":
    sys.exit(main())
