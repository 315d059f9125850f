# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a token costs late in a long answer, against one at its start, in every mode.

    python -m benchmarks.length_speed --output_dir benchmarks/results/cpu [--readme README.md]

The tokens that an answer has so far are given as a part of the prompt, because what a token costs depends on how many
there are, not on which. Its start, its middle and its end take turns, so that other work of the machine slows all of
them alike.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from hub_cards.command_line import ArgumentParser
from modeling_vita_audio import MCTP_MODES, VitaAudioForConditionalGeneration
from training.evaluation.report import fill_section, plt, write_atomically

from .decode_speed import NUM_PROMPT_TOKENS, OneToken
from .measuring import add_output_dir, describe_machine, name_machine


# How many tokens an answer has when its next ones are measured; the first is the start
PLACES = (0, 1000, 4000)
# Whole rounds of every mode: turbo writes 11 tokens in each, boost and balance 14
NUM_TOKENS = 308
# Only after so many has every module read the prompt: in balance the last one has its first turn at token 30
NUM_WARM_UP_TOKENS = 44


class TokenTimes(BaseStreamer):
    """Notes when each token has been written; the prompt comes first."""

    def __init__(self):
        self.times = []

    def put(self, value: torch.LongTensor) -> None:
        # The tokens have come to the CPU, so a GPU has finished them
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def measured_rows(model: VitaAudioForConditionalGeneration) -> dict[str, dict]:
    """What is measured: names, and for each the arguments of `generate`."""
    # Checked drafts of prompts that mean nothing would be rejected by chance
    table = {mode: {"mctp_mode": mode, "mctp_verify": False} for mode in MCTP_MODES}
    # With only one token to choose every draft is right, so the drafts are as many everywhere
    one_token = LogitsProcessorList([OneToken(model.config.speech_token_offset)])
    for mode in ("boost", "turbo"):
        table[f"{mode}, lossless"] = {"mctp_mode": mode, "mctp_verify": True, "logits_processor": one_token}
    return table


def seconds_per_token(model: VitaAudioForConditionalGeneration, num_written: int, num_tokens: int, **kwargs) -> float:
    """What one of the next tokens costs when an answer has `num_written` tokens."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.text_config.vocab_size
    prompt = torch.randint(vocab_size, (1, NUM_PROMPT_TOKENS + num_written), generator=generator).to(model.device)
    streamer = TokenTimes()
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NUM_WARM_UP_TOKENS + num_tokens,
        do_sample=False,
        # No run may end early
        eos_token_id=None,
        pad_token_id=0,
        streamer=streamer,
        **kwargs,
    )
    return (streamer.times[NUM_WARM_UP_TOKENS + num_tokens] - streamer.times[NUM_WARM_UP_TOKENS]) / num_tokens


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict:
    device = torch.device(args.device)
    model = VitaAudioForConditionalGeneration.from_pretrained(args.model).to(device)
    # Speed does not depend on whether the model was trained with so many positions
    model.config.text_config.max_position_embeddings = 2 * PLACES[-1]
    table = measured_rows(model)
    runs = {name: {place: [] for place in PLACES} for name in table}
    with tqdm(total=(args.rounds + 1) * len(table) * len(PLACES), desc="Decoding") as progress:
        for name, kwargs in table.items():
            for round_index in range(args.rounds + 1):
                for place in PLACES:
                    seconds = seconds_per_token(model, place, args.num_tokens, **kwargs)
                    # The first round warms up
                    if round_index > 0:
                        runs[name][place].append(seconds)
                    progress.update()
    rows = {}
    for name, of_places in runs.items():
        medians = {place: statistics.median(seconds) for place, seconds in of_places.items()}
        rows[name] = {
            "seconds_per_token": medians,
            "ratios": {place: seconds / medians[PLACES[0]] for place, seconds in medians.items()},
        }
    return {
        **describe_machine(device),
        "model": Path(args.model).name,
        "num_tokens": args.num_tokens,
        "rounds": args.rounds,
        "rows": rows,
    }


def speed_table(results: dict) -> str:
    """Markdown, a row for each mode."""
    heads = " | ".join(f"after {place} new tokens" for place in PLACES[1:])
    lines = [
        f"What a token costs, {results['model']}, {name_machine(results)}; medians of {results['rounds']} runs of "
        f"{results['num_tokens']} tokens. Later tokens as multiples of one at the start.",
        "",
        f"| | at the start | {heads} |",
        "|---" * (1 + len(PLACES)) + "|",
    ]
    for name, row in results["rows"].items():
        ratios = " | ".join(f"{row['ratios'][place]:.2f}" for place in PLACES[1:])
        lines.append(f"| {name} | {1000 * row['seconds_per_token'][PLACES[0]]:.2f} ms | {ratios} |")
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Bars of the ratios, a group for each mode."""
    names = list(results["rows"])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    width = 0.8 / len(PLACES[1:])
    for index, place in enumerate(PLACES[1:]):
        heights = [results["rows"][name]["ratios"][place] for name in names]
        positions = [position + index * width for position in range(len(names))]
        axes.bar(positions, heights, width, label=f"after {place} new tokens")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks([position + 0.4 - width / 2 for position in range(len(names))], names, rotation=20)
    axes.set(ylabel="cost of a token against the start")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pretrained/vita-audio-mini", help="A folder with a model.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--num_tokens", type=int, default=NUM_TOKENS, help="Measured at each place.")
    parser.add_argument("--rounds", type=int, default=3, help="Measured runs at each place; one more warms up.")
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads.")
    add_output_dir(parser, "length_speed.json and length_speed.png")
    parser.add_argument("--readme", type=Path, default=None, help="README whose section on length is filled in.")
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.num_threads)
    results = measure(args)
    write_atomically(args.output_dir / "length_speed.json", json.dumps(results, indent=2) + "\n")
    plot(results, args.output_dir / "length_speed.png")
    print(speed_table(results))
    if args.readme is not None:
        fill_section(args.readme, "length speed", speed_table(results))


if __name__ == "__main__":
    main()
