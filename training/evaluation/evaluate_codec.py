# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Scores a codec alone: how well a recogniser understands speech before and after a round trip through the codec, how
good it sounds, and how like the codec's default voice.

    python -m training.evaluation.evaluate_codec --codec pretrained/vita-audio-mini/audio_tokenizer \\
        --corpus_dir corpus --output codec.json

Every recording is decoded in the codec's default voice, the first of its names, as users of `decode` hear it.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from hub_cards.command_line import ArgumentParser, check_place, naming, no_empty_folder, run_command
from hub_cards.json_lines import read_json_lines
from hub_cards.results import codec_table
from processing.audio_vita_audio import load_audio
from processing.codec_vita_audio import SpeechCodec, check_codec, encode, output_sampling_rate

from .quality import QUALITIES, SpeechQuality
from .recognition import PipelineRecognizer, WhisperRecognizer, load_recognizer
from .report import CODEC_TABLE, fill_section, write_atomically
from .scoring import word_error_rate


PROG = "training.evaluation.evaluate_codec"
CLIP_FIELDS = dict.fromkeys(("path", "text", "voice", "split"), str)
DEFAULT_VOICE_GROUP = "the codec's default voice"
# of other voices by their split
GROUPS = {"test": "other trained voices", "test_voice": "a voice never heard"}


def find_default_voice(config: PreTrainedConfig) -> str:
    """
    Raises:
        ValueError: The codec does not name its voices, so recordings in its default voice cannot be found.
    """
    if not getattr(config, "voice_names", None):
        raise ValueError("The codec has no `voice_names`, so its default voice cannot be found among the recordings.")
    return config.voice_names[0]


def held_out_clips(corpus_dir: Path, default_voice: str, number: int, seed: int = 0) -> list[dict]:
    """
    `number` clips of held-out sentences: half in the codec's default voice, half in others, the unseen one among them.

    Raises:
        OSError, ValueError: `clips.jsonl` is not there, is malformed, or has too few clips of either kind.
    """
    path = corpus_dir / "clips.jsonl"
    # Words and passages have splits of their own, and noise has no text to be understood.
    clips = [clip for _, clip in read_json_lines(path, CLIP_FIELDS) if clip["split"] in GROUPS and clip["text"]]
    generator = random.Random(seed)
    default = [clip for clip in clips if clip["voice"] == default_voice]
    others = [clip for clip in clips if clip["voice"] != default_voice]
    if len(default) < number // 2 or len(others) < number - number // 2:
        raise ValueError(
            f"{path} has {len(default)} held-out clips of the codec's default voice, {default_voice}, and "
            f"{len(others)} of others, too few for {number} together, half of them of either."
        )
    return generator.sample(default, number // 2) + generator.sample(others, number - number // 2)


@torch.no_grad()
def evaluate_codec(
    codec: SpeechCodec, corpus_dir: Path, clips: list[dict], recognizer: WhisperRecognizer | PipelineRecognizer
) -> dict:
    """
    Word error rates of the recogniser and the quality of the sound, on the originals and on their round trips, for
    each group of voices.

    Returns:
        `dict`: `recognizer`, its name; `results`, which are for each group the number of `clips`, `wer_original` and
        `wer_decoded`, `dnsmos_original` and `dnsmos_decoded`, and as `speaker_similarity_original` and
        `speaker_similarity_decoded` how like the recordings of the default voice they are; and `rows`, one for each
        clip.
    """
    default = find_default_voice(codec.config)
    recordings = []
    for clip in clips:
        with naming(f"The clip {corpus_dir / clip['path']}"):
            recordings.append(sf.read(corpus_dir / clip["path"], dtype="float32"))
    quality = SpeechQuality(recording for clip, recording in zip(clips, recordings) if clip["voice"] == default)
    rows = []
    for clip, (waveform, sampling_rate) in zip(clips, tqdm(recordings, desc="Round trips")):
        codes = encode(codec, load_audio(waveform, codec.config.sampling_rate, sampling_rate))
        decoded = codec.decode(torch.tensor([[codes]])).audio_values.reshape(-1).numpy()
        rows.append(
            {
                "group": DEFAULT_VOICE_GROUP if clip["voice"] == default else GROUPS.get(clip["split"], clip["split"]),
                "reference": clip["text"],
                "original": recognizer(waveform, sampling_rate),
                "decoded": recognizer(decoded, output_sampling_rate(codec)),
                **{f"{name}_original": value for name, value in quality(waveform, sampling_rate).items()},
                **{f"{name}_decoded": value for name, value in quality(decoded, output_sampling_rate(codec)).items()},
            }
        )
    results = {}
    # Every clip counts in its own group and in the one of all.
    for group in ["all", *sorted({row["group"] for row in rows})]:
        of_group = [row for row in rows if group in ("all", row["group"])]
        references = [row["reference"] for row in of_group]
        results[group] = {
            "clips": len(of_group),
            "wer_original": word_error_rate(references, [row["original"] for row in of_group]),
            "wer_decoded": word_error_rate(references, [row["decoded"] for row in of_group]),
            **{
                f"{name}_{kind}": float(np.mean([row[f"{name}_{kind}"] for row in of_group]))
                for name in QUALITIES
                for kind in ("original", "decoded")
                if f"{name}_{kind}" in of_group[0]
            },
        }
    return {"recognizer": recognizer.name, "results": results, "rows": rows}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", required=True, help="folder of a codec")
    parser.add_argument("--corpus_dir", required=True, type=Path, help="folder of the rendered corpus")
    parser.add_argument("--num_clips", type=int, default=100)
    parser.add_argument("--recognizer", help="as evaluate_held_out; Whisper base by default")
    parser.add_argument("--output", type=Path, help="JSON file for the figures and every transcript")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    if args.num_clips < 2:
        parser.error(f"--num_clips must be at least 2, got {args.num_clips}")
    check_place(args.codec)
    with no_empty_folder(args.output and args.output.parent):
        # The folder is made before the work, so that one that cannot be written fails at once.
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
        # The configuration is enough to find the recordings, so too few of them are an error before weights are
        # loaded.
        with naming(f"The configuration of {args.codec}"):
            config = AutoConfig.from_pretrained(args.codec)
        clips = held_out_clips(args.corpus_dir, find_default_voice(config), args.num_clips)
        with naming(f"The codec {args.codec}"):
            codec = AutoModel.from_pretrained(args.codec, dtype=torch.float32).eval()
        check_codec(codec, f"--codec {args.codec}")
        report = evaluate_codec(codec, args.corpus_dir, clips, load_recognizer(args.recognizer))
    print(json.dumps(report["results"], indent=2))
    if args.output:
        write_atomically(args.output, json.dumps(report, indent=2) + "\n")
    if args.readme:
        fill_section(args.readme, CODEC_TABLE, codec_table(report["results"]))


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
