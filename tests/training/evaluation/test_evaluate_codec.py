# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The command that scores a codec: whose recordings it takes, and in which groups it counts them."""

import json
from importlib.util import find_spec

import pytest
import soundfile as sf
from tiny_models import tiny_codec

from hub_cards.command_line import run_command
from hub_cards.results import codec_table
from training.evaluation import evaluate_codec
from training.evaluation.normalizers import normalize_corpus_text
from training.evaluation.quality import QUALITIES


def write_codec(folder, voice_names):
    codec = tiny_codec()
    codec.config.voice_names = voice_names
    codec.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("default_voice", "others"),
    [("joe", {"a voice never heard"}), ("flite-rms", {"other trained voices"})],
)
def test_the_default_voice_is_the_first_of_the_codec(default_voice, others, corpus_dir, tiny_ctc_dir, tmp_path):
    """Half of the recordings are in it, whatever it is called; the rest is grouped by its split."""
    codec = write_codec(tmp_path / "codec", [default_voice])
    arguments = ["--codec", str(codec), "--corpus_dir", str(corpus_dir), "--num_clips", "4"]
    arguments += ["--recognizer", str(tiny_ctc_dir)]
    evaluate_codec.main([*arguments, "--output", str(tmp_path / "codec.json")])
    report = json.loads((tmp_path / "codec.json").read_text())
    assert set(report["results"]) == {"all", "the codec's default voice", *others}
    assert report["results"]["the codec's default voice"]["clips"] == 2 and report["results"]["all"]["clips"] == 4
    # likeness is judged where its weights are installed
    judged = QUALITIES if find_spec("resemblyzer") else ("dnsmos",)
    of_both = {f"{name}_{kind}" for name in judged for kind in ("original", "decoded")}
    assert {"reference", "original", "decoded", "group", *of_both} == set(report["rows"][0])
    assert report["recognizer"] == tiny_ctc_dir.name
    for name in of_both:
        values = [row[name] for row in report["rows"]]
        assert report["results"]["all"][name] == pytest.approx(sum(values) / len(values))
    # the tones of the default voice are what the others are compared with
    default = report["results"]["the codec's default voice"]
    if "speaker_similarity" in judged:
        assert default["speaker_similarity_original"] > report["results"]["all"]["speaker_similarity_original"]
    assert "| DNSMOS | DNSMOS after the round trip |" in codec_table(report["results"])


@pytest.mark.slow
def test_what_is_heard_after_the_round_trip_counts_as_decoded(corpus_dir, tmp_path, monkeypatch):
    clips = [json.loads(line) for line in (corpus_dir / "clips.jsonl").read_text().splitlines()]
    recordings = {sf.read(corpus_dir / clip["path"], dtype="float32")[0].tobytes(): clip for clip in clips}

    class Recognizer:
        """It knows the recordings of one voice by heart, and understands nothing else."""

        name = "joe's"

        def __call__(self, waveform, sampling_rate):
            clip = recordings.get(waveform.tobytes(), {"voice": None})
            return clip["text"] if clip["voice"] == "joe" else ""

    monkeypatch.setattr(evaluate_codec, "load_recognizer", lambda name: Recognizer())
    codec = write_codec(tmp_path / "codec", ["joe"])
    arguments = ["--codec", str(codec), "--corpus_dir", str(corpus_dir), "--num_clips", "2"]
    evaluate_codec.main([*arguments, "--output", str(tmp_path / "codec.json")])
    report = json.loads((tmp_path / "codec.json").read_text())
    results = report["results"]
    wers = {group: (results[group]["wer_original"], results[group]["wer_decoded"]) for group in results}
    assert wers["the codec's default voice"] == (0, 1) and wers["a voice never heard"] == (1, 1)
    # of all words together
    words = {row["group"]: len(normalize_corpus_text(row["reference"]).split()) for row in report["rows"]}
    assert wers["all"] == (pytest.approx(words["a voice never heard"] / sum(words.values())), 1)


def test_a_codec_that_names_no_voice_is_refused(corpus_dir, tmp_path, capsys):
    codec = write_codec(tmp_path / "codec", None)
    arguments = ["--codec", str(codec), "--corpus_dir", str(corpus_dir)]
    assert run_command(evaluate_codec.main, evaluate_codec.PROG, arguments) == 1
    assert "error: The codec has no `voice_names`" in capsys.readouterr().err
