# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of decoding at a published model's shape, not what it says, which `training.evaluation` scores.

    python -m benchmarks.decode_speed --output_dir benchmarks/results/cpu [--readme README.md]

It times every mode next to transformers' own Qwen2 and to what the memory allows, in one run; with `--quantization
int8 int4`, vanilla and boost with weights of 8 and 4 bits next to those of `--dtype`; with `--static_cache`, a few
modes without and with `cache_implementation="static"`. With `--results` it measures nothing, and shows what was
measured on another machine, such as by `.ci/gpu`.

The weights are random, because speed does not depend on them. Only that of the lossless mode does, so its two ends are
measured: no draft is right, and all drafts are. The rows take turns, so that other work of the machine slows all of
them.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoConfig, LogitsProcessor, LogitsProcessorList, Qwen2ForCausalLM
from transformers.generation.streamers import BaseStreamer

from hub_cards.command_line import ArgumentParser
from modeling_vita_audio import MCTP_MODES, VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.quantization_vita_audio import QUANTIZATIONS, as_quantization_config, quantize
from training.evaluation.report import fill_section, plt, write_atomically

from .measuring import PeakMemory, add_output_dir, describe_machine, name_machine, now, seconds_of


# Qwen2.5's published shapes
SHAPES = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}
# that of the released checkpoints VITA-Audio-Boost and -Balance, with their speech tokens
VOCAB_SIZE = 168072
# the paper (arXiv 2505.03739) measures its first chunk after a prompt of this length
NUM_PROMPT_TOKENS = 32
BASELINE = "vanilla"


class FirstChunk(BaseStreamer):
    """Notes when the first token of the language model and ten more have been written."""

    def __init__(self):
        self.num_tokens, self.time = -1, None  # the prompt comes first

    def put(self, value: torch.LongTensor) -> None:
        self.num_tokens += 1
        # boost and turbo write so many after one forward of the language model; the tokens have come to the CPU, so
        # the GPU has finished them, and the clock need not wait for it
        if self.num_tokens == 11:
            self.time = time.perf_counter()

    def end(self) -> None:
        pass


class OneToken(LogitsProcessor):
    """Leaves only one token to choose."""

    def __init__(self, token_id: int):
        self.token_id = token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, self.token_id] = 0
        return only


def build_models(
    shape: str, device: torch.device, dtype: torch.dtype
) -> tuple[VitaAudioForConditionalGeneration, Qwen2ForCausalLM]:
    """Our model with random weights at a shape, and transformers' Qwen2 with the same weights, not copied."""
    if shape in SHAPES:
        text_config = {"model_type": "qwen2", "vocab_size": VOCAB_SIZE, "tie_word_embeddings": False, **SHAPES[shape]}
        config = VitaAudioConfig(text_config=text_config)
    else:
        config = AutoConfig.from_pretrained(shape)
    torch.manual_seed(0)
    # the model is made where it is used, which spares the CPU's memory and a copy
    with device:
        model = VitaAudioForConditionalGeneration(config).to(dtype).eval()
    # on `meta` it gets no memory for weights of its own, because those of our model replace them
    with torch.device("meta"):
        qwen2 = Qwen2ForCausalLM(config.text_config).eval()
    qwen2.model, qwen2.lm_head = model.model.language_model, model.lm_head
    return model, qwen2


def measured_rows(
    model: VitaAudioForConditionalGeneration, qwen2: Qwen2ForCausalLM
) -> dict[str, tuple[Callable, dict]]:
    """What is measured: names, and for each the model and the arguments of `generate`."""
    table = {"transformers Qwen2": (qwen2, {}), BASELINE: (model, {"mctp_mode": "vanilla"})}
    # the first mode is vanilla, which is in the table already
    for mode in list(MCTP_MODES)[1:]:
        table[mode] = (model, {"mctp_mode": mode})
        table[f"{mode}, speech-only head"] = (model, {"mctp_mode": mode, "mctp_speech_only_head": True})
    for mode in ("boost", "turbo"):
        lossless = {"mctp_mode": mode, "mctp_verify": True, "mctp_speech_only_head": True}
        table[f"{mode}, lossless, no draft right"] = (model, lossless)
        # with only one token to choose, the language model confirms every draft
        one_token = LogitsProcessorList([OneToken(model.config.speech_token_offset)])
        table[f"{mode}, lossless, all drafts right"] = (model, {**lossless, "logits_processor": one_token})
    return table


def quantized_rows(
    model: VitaAudioForConditionalGeneration, quantizations: list[str]
) -> dict[str, tuple[Callable, dict]]:
    """What is measured of quantised weights, as of [`measured_rows`], after the same of the weights as they are."""
    table = {}
    for quantization in (None, *quantizations):
        quantized, prefix = model, ""
        if quantization is not None:
            quantized, prefix = copy.deepcopy(model), f"{quantization}, "
            quantize(quantized, as_quantization_config(quantization))
        table[f"{prefix}{BASELINE}"] = (quantized, {"mctp_mode": BASELINE})
        table[f"{prefix}boost"] = (quantized, {"mctp_mode": "boost"})
        kwargs = {"mctp_mode": "boost", "mctp_speech_only_head": True}
        table[f"{prefix}boost, speech-only head"] = (quantized, kwargs)
    return table


def static_rows(model: VitaAudioForConditionalGeneration, qwen2: Qwen2ForCausalLM) -> dict[str, tuple[Callable, dict]]:
    """What is measured with a static cache, as of [`measured_rows`]: few, as each is compiled, and without."""
    all_rows = measured_rows(model, qwen2)
    rows = {name: all_rows[name] for name in ("transformers Qwen2", BASELINE, "boost", "turbo")}
    static = {"cache_implementation": "static"}
    return rows | {f"{name}, static cache": (runner, kwargs | static) for name, (runner, kwargs) in rows.items()}


def generate(
    model: VitaAudioForConditionalGeneration | Qwen2ForCausalLM,
    device: torch.device,
    num_new_tokens: int,
    **kwargs,
) -> dict:
    """One run: its speed, and the time to the eleventh token."""
    prompt = torch.arange(1, NUM_PROMPT_TOKENS + 1, device=device)[None]
    if kwargs.get("mctp_speech_only_head"):
        # as of a model that was trained for this mode: all that its modules write is speech
        model.config.interleave_pattern = MCTP_MODES[kwargs["mctp_mode"]]
    streamer = FirstChunk()
    start = now(device)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_new_tokens,
        do_sample=False,
        # random weights may write any token, and no run may end early
        eos_token_id=None,
        pad_token_id=0,
        streamer=streamer,
        return_dict_in_generate=True,
        **kwargs,
    )
    seconds = now(device) - start
    figures = {"tokens_per_second": num_new_tokens / seconds, "first_chunk_seconds": streamer.time - start}
    if (drafted := output.get("num_drafted_tokens")) is not None:
        figures["accepted_drafts"] = output.num_accepted_tokens.sum().item() / max(drafted.sum().item(), 1)
    return figures


def measure_bandwidth(device: torch.device, num_bytes: int = 2**30, repeats: int = 5) -> float:
    """Bytes per second at which memory is read: the best of some tries to add numbers up."""
    # ones, because pages of zeros are all the same page
    numbers = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    # the best try, because other work of the machine can only slow a try
    return num_bytes / min(seconds_of(numbers.sum, device) for _ in range(repeats))


def floor_of(model: VitaAudioForConditionalGeneration, mctp_mode: str, speech_only: bool, bandwidth: float) -> float:
    """Tokens per second if only reading each weight once for each forward that needs it took time."""

    def size(*modules: torch.nn.Module) -> int:
        # a quantised weight is made of several tensors, which torchao names
        return sum(
            getattr(p, name).nbytes
            for module in modules
            for p in module.parameters()
            for name in getattr(p, "tensor_data_names", ["data"])
        )

    # the embeddings are left out, because a token needs only one row of them
    head = size(model.lm_head)
    language_model = size(*model.model.language_model.layers, model.model.language_model.norm) + head
    share = model.config.num_speech_tokens / model.config.text_config.vocab_size if speech_only else 1
    # only the last pair counts, because it repeats for ever
    main, mctp = MCTP_MODES[mctp_mode][-2:]
    modules = size(*model.model.mctp_modules[:mctp]) + mctp * share * head
    return (main + mctp) * bandwidth / (main * language_model + modules)


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict:
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    model, qwen2 = build_models(args.shape, device, dtype)
    if args.quantization:
        table = quantized_rows(model, args.quantization)
    else:
        table = (static_rows if args.static_cache else measured_rows)(model, qwen2)
    bandwidth = measure_bandwidth(device)
    runs = {name: [] for name in table}
    memory = {}
    with tqdm(total=(args.rounds + 1) * len(table), desc="Decoding") as progress:
        for round_index in range(args.rounds + 1):
            for name, (runner, kwargs) in table.items():
                with PeakMemory(device) as peak:
                    figures = generate(runner, device, args.num_new_tokens, **kwargs)
                memory[name] = peak.num_bytes
                # the first round warms up
                if round_index > 0:
                    runs[name].append(figures)
                progress.update()
    results = {}
    for name, (runner, kwargs) in table.items():
        # transformers' Qwen2 has the weights of our model
        runner = model if runner is qwen2 else runner
        results[name] = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
        results[name]["peak_memory_bytes"] = memory[name]
        # the lossless mode has no limit of this kind, because the number of its forwards depends on the drafts
        if not kwargs.get("mctp_verify"):
            floor = floor_of(runner, kwargs.get("mctp_mode", "vanilla"), "mctp_speech_only_head" in kwargs, bandwidth)
            results[name]["floor_tokens_per_second"] = floor
    for figures in results.values():
        figures["ratio"] = figures["tokens_per_second"] / results[BASELINE]["tokens_per_second"]
    return {
        **describe_machine(device),
        "dtype": args.dtype,
        "shape": f"Qwen2.5-{args.shape}" if args.shape in SHAPES else Path(args.shape).name,
        "num_new_tokens": args.num_new_tokens,
        "rounds": args.rounds,
        "memory_bandwidth_bytes_per_second": bandwidth,
        "rows": results,
    }


def speed_table(results: dict) -> str:
    """Markdown, a row for each thing that was measured."""
    lines = [
        f"The shape of {results['shape']} with 10 MCTP modules, {results['dtype']}, {name_machine(results)}, "
        f"{results['memory_bandwidth_bytes_per_second'] / 1e9:.0f} GB/s; medians of {results['rounds']} runs of "
        f"{results['num_new_tokens']} tokens after a prompt of {NUM_PROMPT_TOKENS}.",
        "",
        "| | tokens/s | against vanilla | of what the memory allows | first 11 tokens | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        floor = row.get("floor_tokens_per_second")
        share = f"{row['tokens_per_second'] / floor:.0%}" if floor else ""
        lines.append(
            f"| {name} | {row['tokens_per_second']:.1f} | {row['ratio']:.2f} | {share} "
            f"| {1000 * row['first_chunk_seconds']:.0f} ms | {row['peak_memory_bytes'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Tokens per second of each row as a bar, with a mark where the memory's limit is."""
    names = list(results["rows"])[::-1]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.barh(names, [results["rows"][name]["tokens_per_second"] for name in names], color="tab:blue")
    limits = [(results["rows"][name].get("floor_tokens_per_second"), name) for name in names]
    limits = [(limit, name) for limit, name in limits if limit]
    axes.plot(*zip(*limits), "|", color="black", markersize=14, label="limit of the memory's bandwidth")
    axes.set(xlabel=f"tokens per second, {results['shape']}, {results['dtype']}")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument(
        "--shape",
        default="7B" if device == "cuda" else "0.5B",
        help=f"{', '.join(SHAPES)}, or a folder with the configuration of a model.",
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "float16"])
    parser.add_argument(
        "--quantization",
        nargs="+",
        choices=QUANTIZATIONS,
        default=[],
        help="Measure weights of 8 or 4 bits, too, and fewer modes.",
    )
    parser.add_argument(
        "--static_cache",
        action="store_true",
        help="Measure fewer modes, and each with a static cache, too, whose steps a GPU replays as recorded graphs.",
    )
    parser.add_argument("--num_new_tokens", type=int, default=106, help="11 or more; the figures in README are of 106")
    parser.add_argument("--rounds", type=int, default=5, help="Measured runs of each row; one more warms up.")
    parser.add_argument("--num_threads", type=int, default=None, help="CPU threads; all by default.")
    add_output_dir(parser, "decode_speed.json and decode_speed.png, or quantized_speed.* or static_speed.*")
    parser.add_argument(
        "--results", type=Path, default=None, help="The JSON file of another machine, instead of measuring."
    )
    parser.add_argument(
        "--readme",
        type=Path,
        default=None,
        help="README whose section on speed is filled in; what was measured on a GPU has a section of its own.",
    )
    args = parser.parse_args(argv)
    if sum(map(bool, (args.quantization, args.static_cache, args.results))) > 1:
        parser.error("--quantization, --static_cache and --results go one after the other.")
    if args.results is not None and not args.results.is_file():
        parser.error(f"--results: there is no file {args.results}.")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    if args.results is None:
        results = measure(args)
        name = "quantized_speed" if args.quantization else "static_speed" if args.static_cache else "decode_speed"
    else:
        results, name = json.loads(args.results.read_text()), args.results.stem
    write_atomically(args.output_dir / f"{name}.json", json.dumps(results, indent=2) + "\n")
    plot(results, args.output_dir / f"{name}.png")
    print(speed_table(results))
    if args.readme is not None:
        # only CPUs have a number of threads
        where = "" if results["threads"] else " on a GPU"
        fill_section(args.readme, name.replace("_", " ") + where, speed_table(results))


if __name__ == "__main__":
    main()
