# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""How well speech is understood after a round trip through a codec, decoded in its default voice, next to before.

python -m training.evaluate_codec --codec pretrained/vita-audio-mini/audio_tokenizer --corpus_dir corpus --output codec.json
"""

import argparse
import json
import random
from pathlib import Path

import soundfile as sf
import torch
from tqdm import tqdm

from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.recognition import WhisperRecognizer
from training.report import CODEC_TABLE, codec_table, fill_section, write_atomically
from training.scoring import word_error_rate


GROUPS = {"joe": "the codec's default voice", "test": "other trained voices", "test_voice": "a voice never heard"}


def held_out_clips(corpus_dir: Path, number: int, seed: int = 0) -> list[dict]:
    """`number` clips of held-out sentences, drawn evenly from the default voice and all others, the unseen one too."""
    with open(corpus_dir / "clips.jsonl") as file:
        clips = [clip for clip in map(json.loads, file) if clip["split"] != "train"]
    generator = random.Random(seed)
    default = [clip for clip in clips if clip["voice"] == "joe"]
    others = [clip for clip in clips if clip["voice"] != "joe"]
    return generator.sample(default, number // 2) + generator.sample(others, number - number // 2)


@torch.no_grad()
def evaluate_codec(codec: VitaAudioCodec, corpus_dir: Path, clips: list[dict], recognizer: WhisperRecognizer) -> dict:
    """Word error rates of the recogniser on the originals and on their round trips, for each group of voices.

    Every recording is decoded in the codec's default voice, as users of `decode` hear it.
    """
    rows = []
    for clip in tqdm(clips, desc="Round trips"):
        waveform, sampling_rate = sf.read(corpus_dir / clip["path"], dtype="float32")
        codes = codec.encode(torch.from_numpy(waveform)[None, None]).audio_codes
        decoded = codec.decode(codes).audio_values[0, 0].numpy()
        rows.append(
            {
                "group": GROUPS.get(clip["voice"]) or GROUPS[clip["split"]],
                "reference": clip["text"],
                "original": recognizer(waveform, sampling_rate),
                "decoded": recognizer(decoded, codec.config.output_sampling_rate),
            }
        )
    results = {}
    for group in ["all", *sorted({row["group"] for row in rows})]:
        of_group = [row for row in rows if group in ("all", row["group"])]
        references = [row["reference"] for row in of_group]
        results[group] = {
            "clips": len(of_group),
            "wer_original": word_error_rate(references, [row["original"] for row in of_group]),
            "wer_decoded": word_error_rate(references, [row["decoded"] for row in of_group]),
        }
    return {"results": results, "rows": rows}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", required=True, help="folder of a codec")
    parser.add_argument("--corpus_dir", required=True, type=Path, help="folder of the rendered corpus")
    parser.add_argument("--num_clips", type=int, default=100)
    parser.add_argument("--output", type=Path, help="JSON file for the figures and every transcript")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    codec = VitaAudioCodec.from_pretrained(args.codec, dtype=torch.float32)
    clips = held_out_clips(args.corpus_dir, args.num_clips)
    report = evaluate_codec(codec, args.corpus_dir, clips, WhisperRecognizer())
    print(json.dumps(report["results"], indent=2))
    if args.output:
        write_atomically(args.output, json.dumps(report, indent=2) + "\n")
    if args.readme:
        fill_section(args.readme, CODEC_TABLE, codec_table(report["results"]))


if __name__ == "__main__":
    main()
