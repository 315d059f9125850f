# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the speech codecs, not how well they sound, which `training.evaluation.evaluate_codec` scores.

    python -m benchmarks.codec_speed --output_dir benchmarks/results/cpu [--readme README.md]

It times encoding, decoding at once and in chunks, and the first audio.

The compact codec is the shipped one; GLM-4-Voice's has its published shape and random weights, unless a folder is
given.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser
from processing.configuration_glm4_voice_codec import Glm4VoiceCodecConfig
from processing.modeling_glm4_voice_codec import Glm4VoiceCodec
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.evaluation.report import fill_section, plt, write_atomically

from .measuring import PeakMemory, add_output_dir, describe_machine, name_machine, now, seconds_of


# found where the command is run in a checkout
COMPACT_CODEC = "pretrained/vita-audio-mini/audio_tokenizer"
# as many as the pipeline streams
CODES_PER_CHUNK = 8


def build_codecs(glm4_voice: Path | None, device: torch.device, dtype: torch.dtype) -> dict:
    # random weights need no download, and compute for as long as trained ones
    torch.manual_seed(0)
    if glm4_voice is None:
        glm4_voice_codec = Glm4VoiceCodec(Glm4VoiceCodecConfig()).to(dtype)
    else:
        glm4_voice_codec = Glm4VoiceCodec.from_pretrained(glm4_voice, dtype=dtype)
    codecs = {"compact": VitaAudioCodec.from_pretrained(COMPACT_CODEC), "GLM-4-Voice": glm4_voice_codec}
    return {name: codec.eval().to(device) for name, codec in codecs.items()}


def stream(
    codec: VitaAudioCodec | Glm4VoiceCodec, codes: torch.LongTensor, device: torch.device
) -> tuple[float, float]:
    """Decodes chunk by chunk: seconds to the first audio, and to the last."""
    start, first = now(device), None
    state = codec.init_decoder_state(batch_size=1)
    for begin in range(0, codes.shape[-1], CODES_PER_CHUNK):
        end = begin + CODES_PER_CHUNK
        is_final = end >= codes.shape[-1]
        output = codec.decode(codes[..., begin:end], decoder_state=state, is_final=is_final)
        state = output.decoder_state
        if first is None and output.audio_values.shape[-1] > 0:
            first = now(device) - start
    return first, now(device) - start


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict:
    device = torch.device(args.device)
    codecs = build_codecs(args.glm4_voice, device, getattr(torch, args.dtype))
    runs = {name: [] for name in codecs}
    for round_index in tqdm(range(args.rounds + 1), desc="Rounds"):
        # the codecs take turns, so that other work of the machine slows both
        for name, codec in codecs.items():
            # noise and random codes: the codecs do the same work whatever is said
            audio = 0.1 * torch.randn(1, 1, round(args.seconds * codec.config.sampling_rate), device=device)
            num_codes = round(args.seconds * codec.config.frame_rate)
            codes = torch.randint(codec.config.codebook_size, (1, 1, num_codes), device=device)
            with PeakMemory(device) as peak:
                encode = seconds_of(partial(codec.encode, audio), device)
                decode = seconds_of(partial(codec.decode, codes), device)
                first, streamed = stream(codec, codes, device)
            # the first round warms up
            if round_index > 0:
                runs[name].append(
                    {
                        "encode_real_time_factor": encode / args.seconds,
                        "decode_real_time_factor": decode / args.seconds,
                        "streaming_real_time_factor": streamed / args.seconds,
                        "first_audio_seconds": first,
                        "peak_memory_bytes": peak.num_bytes,
                    }
                )
    return {
        **describe_machine(device),
        "dtype": args.dtype,
        "seconds": args.seconds,
        "rounds": args.rounds,
        "codes_per_chunk": CODES_PER_CHUNK,
        "codecs": {
            name: {
                "parameters": sum(p.numel() for p in codec.parameters()),
                # a run that other work of the machine has slowed does not move the median
                **{key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]},
            }
            for name, codec in codecs.items()
        },
    }


def speed_table(results: dict) -> str:
    """Markdown, a row for each codec."""
    lines = [
        f"{results['seconds']:g} s of audio, {name_machine(results)}, medians of {results['rounds']} runs; seconds of "
        f"work for a second of audio. GLM-4-Voice in {results['dtype']}; "
        f"chunks of {results['codes_per_chunk']} codes.",
        "",
        "| codec | parameters | encode | decode | decode in chunks | first audio | peak memory of the process |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results["codecs"].items():
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.1f} M | {row['encode_real_time_factor']:.3f} "
            f"| {row['decode_real_time_factor']:.3f} | {row['streaming_real_time_factor']:.3f} "
            f"| {1000 * row['first_audio_seconds']:.0f} ms | {row['peak_memory_bytes'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Real-time factors as bars, logarithmic, with a line at real time."""
    kinds = {"encode": "encode", "decode": "decode at once", "streaming": "decode in chunks"}
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for index, (kind, label) in enumerate(kinds.items()):
        factors = [row[f"{kind}_real_time_factor"] for row in results["codecs"].values()]
        axes.bar([0.25 * index + place for place in range(len(factors))], factors, width=0.22, label=label)
    axes.axhline(1, color="black", linewidth=1)
    # the codecs' times differ by a factor of more than a hundred
    axes.set(yscale="log", ylabel="seconds of work per second of audio")
    axes.set_xticks([0.25 + place for place in range(len(results["codecs"]))], list(results["codecs"]))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="Of GLM-4-Voice's codec.")
    parser.add_argument("--glm4_voice", type=Path, default=None, help="Folder of a converted GLM-4-Voice codec.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of the audio.")
    parser.add_argument("--rounds", type=int, default=3, help="Measured rounds; one more warms up.")
    parser.add_argument("--num_threads", type=int, default=None, help="CPU threads; all by default.")
    add_output_dir(parser, "codec_speed.json and codec_speed.png")
    parser.add_argument("--readme", type=Path, default=None, help="README whose section on codecs is filled in.")
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    results = measure(args)
    write_atomically(args.output_dir / "codec_speed.json", json.dumps(results, indent=2) + "\n")
    plot(results, args.output_dir / "codec_speed.png")
    print(speed_table(results))
    if args.readme is not None:
        fill_section(args.readme, "codec speed", speed_table(results))


if __name__ == "__main__":
    main()
