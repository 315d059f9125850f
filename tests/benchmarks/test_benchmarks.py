# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
from argparse import Namespace

import matplotlib.pyplot as plt
import pytest
from modeling_fixtures import random_config, random_model
from pictures import drawn_colors
from places import FIXTURES, ROOT
from tiny_corpus import write_corpus
from tiny_models import tiny_model, tiny_processor

from benchmarks import batch_speed, codec_speed, decode_speed, length_speed
from modeling_vita_audio import MCTP_MODES
from processing.convert_glm4_voice_to_hf import convert


@pytest.mark.slow
def test_decode_speed_measures_every_mode_and_fills_the_readme(tmp_path, capsys):
    random_config().save_pretrained(tmp_path / "shape")
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- decode speed -->\n<!-- end of decode speed -->\n")
    arguments = ["--shape", str(tmp_path / "shape"), "--device", "cpu", "--dtype", "float32", "--rounds", "1"]
    arguments += ["--num_new_tokens", "26", "--output_dir", str(tmp_path / "out"), "--readme", str(readme)]
    decode_speed.main(arguments)
    results = json.loads((tmp_path / "out" / "decode_speed.json").read_text())
    rows = results["rows"]
    for mode in MCTP_MODES:
        assert rows[mode]["floor_tokens_per_second"] > rows[mode]["tokens_per_second"] > 0
        assert 0 < rows[mode]["first_chunk_seconds"] < 26 / rows[mode]["tokens_per_second"]
        assert rows[mode]["peak_memory_bytes"] > 2**20
    assert rows["vanilla"]["ratio"] == 1
    assert rows["turbo, lossless, all drafts right"]["accepted_drafts"] == 1
    assert rows["boost, lossless, no draft right"]["accepted_drafts"] < 0.5
    table = readme.read_text()
    assert f"| turbo | {rows['turbo']['tokens_per_second']:.1f} | {rows['turbo']['ratio']:.2f} |" in table
    assert table.strip().split("\n")[2:-1] == capsys.readouterr().out.strip().split("\n")
    # a tiny model's bars may be thinner than a pixel beside the memory's limit, on a slow machine
    assert (tmp_path / "out" / "decode_speed.png").exists()


def test_figures_of_a_gpu_are_shown_elsewhere(tmp_path, capsys):
    measured = ROOT / "benchmarks" / "results" / "h200" / "decode_speed.json"
    readme = tmp_path / "README.md"
    marks = ("<!-- decode speed on a GPU -->", "<!-- end of decode speed on a GPU -->")
    readme.write_text("\n".join(("<!-- decode speed -->", "<!-- end of decode speed -->", *marks)) + "\n")
    decode_speed.main(["--results", str(measured), "--output_dir", str(tmp_path / "out"), "--readme", str(readme)])
    assert json.loads((tmp_path / "out" / "decode_speed.json").read_text()) == json.loads(measured.read_text())
    _, of_a_cpu, of_a_gpu = readme.read_text().partition("<!-- end of decode speed -->")
    assert "NVIDIA H200" in of_a_gpu and "| boost |" in capsys.readouterr().out
    # its name says what was measured, so the settings of a measurement have no effect beside it
    static = tmp_path / "static_speed.json"
    static.write_text(measured.read_text())
    decode_speed.main(["--results", str(static), "--output_dir", str(tmp_path / "out")])
    assert (tmp_path / "out" / "static_speed.png").exists()
    for arguments, said in (
        (["--results", str(static), "--static_cache"], "go one after"),
        (["--results", "x"], "no file x"),
    ):
        with pytest.raises(SystemExit):
            decode_speed.main([*arguments, "--output_dir", str(tmp_path / "none")])
        assert said in capsys.readouterr().err and not (tmp_path / "none").exists()
    # the README of this repository shows the same
    assert of_a_gpu.split(marks[0])[1] in (ROOT / "README.md").read_text()


def test_ratios_are_against_vanilla(tmp_path, monkeypatch):
    random_config().save_pretrained(tmp_path / "shape")
    # which takes a GB of memory
    monkeypatch.setattr(decode_speed, "measure_bandwidth", lambda device: 1e9)
    arguments = Namespace(device="cpu", dtype="float32", shape=str(tmp_path / "shape"), rounds=1, num_new_tokens=11)
    arguments.quantization, arguments.static_cache = [], False
    rows = decode_speed.measure(arguments)["rows"]
    assert len(rows) == 12
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / rows["vanilla"]["tokens_per_second"])


@pytest.mark.slow
def test_static_caches_are_measured_beside_growing_ones(tmp_path, capsys):
    random_config().save_pretrained(tmp_path / "shape")
    arguments = ["--shape", str(tmp_path / "shape"), "--device", "cpu", "--dtype", "float32", "--rounds", "1"]
    arguments += ["--num_new_tokens", "26", "--output_dir", str(tmp_path / "out"), "--static_cache"]
    decode_speed.main(arguments)
    rows = json.loads((tmp_path / "out" / "static_speed.json").read_text())["rows"]
    names = ("transformers Qwen2", "vanilla", "boost", "turbo")
    assert list(rows) == [*names, *(f"{name}, static cache" for name in names)]
    assert "| turbo, static cache |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        decode_speed.main([*arguments, "--quantization", "int8"])
    assert "one after the other" in capsys.readouterr().err


@pytest.mark.slow
def test_quantized_weights_are_measured_beside_what_they_were(tmp_path, capsys):
    pytest.importorskip("torchao")
    random_config(text_config={"intermediate_size": 64}).save_pretrained(tmp_path / "shape")
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- quantized speed -->\n<!-- end of quantized speed -->\n")
    arguments = ["--shape", str(tmp_path / "shape"), "--device", "cpu", "--rounds", "1", "--num_new_tokens", "26"]
    arguments += ["--quantization", "int8", "int4", "--output_dir", str(tmp_path / "out"), "--readme", str(readme)]
    decode_speed.main(arguments)
    rows = json.loads((tmp_path / "out" / "quantized_speed.json").read_text())["rows"]
    modes = ["vanilla", "boost", "boost, speech-only head"]
    assert list(rows) == [*modes, *(f"int8, {mode}" for mode in modes), *(f"int4, {mode}" for mode in modes)]
    assert rows["vanilla"]["ratio"] == 1
    for mode in modes:
        floors = [rows[f"{prefix}{mode}"]["floor_tokens_per_second"] for prefix in ("", "int8, ", "int4, ")]
        # 16 bits a weight, 8 and a scale a row of 32 or more, 4 and two scales of 16 bits for 32 of them
        assert 1.5 < floors[1] / floors[0] < 2 and 2 < floors[2] / floors[0] < 16 / 5
    assert "int4, boost" in readme.read_text()


def test_floor_reads_each_weight_once_for_each_forward():
    model = random_model(10)
    config = model.config.text_config
    head = config.vocab_size * config.hidden_size
    layer = sum(p.numel() for p in model.model.language_model.layers[0].parameters())
    module = layer + 2 * config.hidden_size * (config.hidden_size + 1)
    language_model = 2 * layer + config.hidden_size + head
    # at one byte per second, in float32
    expected = 11 / (4 * (language_model + 10 * (module + head)))
    assert decode_speed.floor_of(model, "turbo", False, 1) == pytest.approx(expected)
    expected = 14 / (4 * (4 * language_model + 10 * (module + head * 20 / 120)))
    assert decode_speed.floor_of(model, "boost", True, 1) == pytest.approx(expected)
    assert decode_speed.floor_of(model, "vanilla", False, 1) == pytest.approx(1 / (4 * language_model))


@pytest.mark.slow
def test_codec_speed_measures_both_codecs(tmp_path):
    fixture = FIXTURES / "glm4_voice"
    convert(fixture / "tokenizer", fixture / "decoder", tmp_path / "codec")
    arguments = ["--glm4_voice", str(tmp_path / "codec"), "--seconds", "2", "--rounds", "1", "--device", "cpu"]
    codec_speed.main([*arguments, "--output_dir", str(tmp_path)])
    results = json.loads((tmp_path / "codec_speed.json").read_text())
    assert list(results["codecs"]) == ["compact", "GLM-4-Voice"]
    for row in results["codecs"].values():
        assert 0 < row["first_audio_seconds"] < 2 * row["streaming_real_time_factor"]
        assert row["encode_real_time_factor"] > 0 and row["decode_real_time_factor"] > 0
    assert drawn_colors(tmp_path / "codec_speed.png") >= 3


@pytest.fixture
def figures(monkeypatch):
    """Figures that are drawn, with their data, instead of being closed."""
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    monkeypatch.undo()
    for figure in figures:
        plt.close(figure)


def test_the_picture_of_decoding_has_a_bar_a_row_and_marks_its_limit(figures, tmp_path):
    rows = {"a": {"tokens_per_second": 10, "floor_tokens_per_second": 40}, "b": {"tokens_per_second": 25}}
    decode_speed.plot({"rows": rows, "shape": "tiny", "dtype": "float32"}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert dict(zip(names, (bar.get_width() for bar in axes.patches))) == {"b": 25, "a": 10}
    (marks,) = axes.lines
    assert marks.get_xdata().tolist() == [40] and marks.get_ydata().tolist() == ["a"]
    assert drawn_colors(tmp_path / "a.png") >= 1


def codec_row(number):
    kinds = ("encode", "decode", "streaming")
    row = {f"{kind}_real_time_factor": number * (1 + i) for i, kind in enumerate(kinds)}
    return row | {"parameters": 2e6, "first_audio_seconds": 0.5, "peak_memory_bytes": 2**30}


def test_the_picture_and_the_table_of_codecs(figures, tmp_path):
    results = {"codecs": {"small": codec_row(0.1), "large": codec_row(1)}, "seconds": 10, "rounds": 2}
    results |= {"device": "CPU", "threads": 1, "dtype": "float32", "codes_per_chunk": 8}
    codec_speed.plot(results, tmp_path / "a.png")
    (axes,) = figures[0].axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {
        "encode": [0.1, 1],
        "decode at once": [0.2, 2],
        "decode in chunks": pytest.approx([0.3, 3]),
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["small", "large"]
    assert "| small | 2.0 M | 0.100 | 0.200 | 0.300 | 500 ms | 1.0 GiB |" in codec_speed.speed_table(results)


@pytest.mark.slow
def test_length_speed_measures_every_mode_and_fills_the_readme(tmp_path, capsys, monkeypatch):
    random_model().save_pretrained(tmp_path / "model")
    # Twice the last place are the positions that the model gets
    monkeypatch.setattr(length_speed, "PLACES", (0, 60, 120))
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- length speed -->\n<!-- end of length speed -->\n")
    arguments = ["--model", str(tmp_path / "model"), "--device", "cpu", "--rounds", "1", "--num_tokens", "28"]
    length_speed.main([*arguments, "--output_dir", str(tmp_path), "--readme", str(readme)])
    rows = json.loads((tmp_path / "length_speed.json").read_text())["rows"]
    assert list(rows) == [*MCTP_MODES, "boost, lossless", "turbo, lossless"]
    for row in rows.values():
        seconds = row["seconds_per_token"]
        assert row["ratios"] == {place: pytest.approx(seconds[place] / seconds["0"]) for place in ("0", "60", "120")}
    ratios = rows["turbo"]["ratios"]
    table = readme.read_text()
    start = 1000 * rows["turbo"]["seconds_per_token"]["0"]
    assert f"| turbo | {start:.2f} ms | {ratios['60']:.2f} | {ratios['120']:.2f} |" in table
    assert table.strip().split("\n")[2:-1] == capsys.readouterr().out.strip().split("\n")
    assert drawn_colors(tmp_path / "length_speed.png") >= 2


@pytest.mark.slow
def test_batches_are_timed_both_ways_and_fill_the_readme(tmp_path, capsys):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- batch speed -->\n<!-- end of batch speed -->\n")
    arguments = ["--model", str(tmp_path / "model"), "--corpus_dir", str(write_corpus(tmp_path / "corpus"))]
    arguments += [
        "--device",
        "cpu",
        "--rounds",
        "1",
        "--num_rows",
        "2",
        "--num_batches",
        "2",
        "--max_new_tokens",
        "24",
    ]
    # it refuses ways that write other tokens
    batch_speed.main([*arguments, "--output_dir", str(tmp_path), "--readme", str(readme)])
    results = json.loads((tmp_path / "batch_speed.json").read_text())["results"]
    assert [row["mctp_mode"] for row in results] == 3 * ["boost", "turbo"]
    for row in results:
        assert row["apart"]["language_model_forwards"] <= row["together"]["language_model_forwards"]
    assert readme.read_text().count("\n") == 2 + 2 + len(results)
