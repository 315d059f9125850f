# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Cards and what is pushed, without a Hub; `test_push` has one."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard, constants
from pictures import drawn_colors
from places import ROOT
from safetensors.numpy import save, save_file
from tiny_models import tiny_model, tiny_processor

from hub_cards import WRITTEN_BY_US, secret_scan
from hub_cards.model_card import TESTED_TORCHAO, check_metadata, is_ours, render_model_card, write_model_card
from hub_cards.plots import draw_losses, plot_losses
from hub_cards.push import describe_push, plan_push
from hub_cards.results import benchmark_results, loss_table
from hub_cards.secret_scan import check_for_secrets
from modeling_vita_audio import MCTP_MODES
from processing.export import export_repository
from serving.cli import main
from training.evaluation.report import plot_results, plt
from training.hub import describe_start, place_of


TOKEN = "hf_" + "Ab1" * 11 + "x"


def record_of(stage, **changes):
    """The record of a run of `stage` that was pushed to the Hub like those before it."""
    places = [{"stage": k, "repo_id": "me/mini", "revision": f"stage{k}"} for k in range(1, stage)]
    return {
        "stage": stage,
        "repo_id": "me/mini",
        "revision": f"stage{stage}",
        "starts_from": {key: places[-1][key] for key in ("repo_id", "revision")} if places else None,
        "stages": places,
        "base_model": "Qwen/Qwen2.5-0.5B",
        "dataset": {"repo_id": "me/corpus", "revision": None},
        "tasks": ["asr", "tts"],
        "num_examples": 12345,
        "license": "mit",
        "language": ["en", "de"],
        "settings": {"learning_rate": 0.00125, "lr_scheduler_type": "cosine"},
        "hardware": {"device": "cpu", "processes": 2},
        "versions": {"transformers": "5.23.0"},
    } | changes


LOG_HISTORY = [
    {"step": 20, "loss": 5.25, "lm_loss": 3.5, "mctp_loss_1": 1.5, "mctp_loss_10": 2.0, "grad_norm": 1.0},
    {"step": 40, "loss": 4.25, "lm_loss": 2.5, "mctp_loss_1": 1.25, "mctp_loss_10": 1.75},
    {"step": 40, "eval_loss": 4.5, "eval_lm_loss": 2.625},
    {"step": 40, "train_loss": 4.7},
]
RESULTS = {
    "recognizer": "whisper-tiny.en",
    "default_mode": "boost",
    "mctp_verify": [0.5, 0.0],
    "recognizer_wer_on_tts_references": 0.03125,
    "modes": {
        mode: {
            "asr": {"conversations": 40, "wer": round(0.1 + 0.01 * i, 2)},
            "sqa": {"conversations": 40, "text_accuracy": 0.9 - 0.01 * i, "speech_accuracy": 0.8},
            "speed": {"tokens_per_second": 100.0 + i, "real_time_factor": 0.5},
        }
        for i, mode in enumerate(MCTP_MODES)
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    processor = tiny_processor()
    return export_repository(tiny_model(processor), processor, tmp_path_factory.mktemp("cards") / "mini")


@pytest.fixture
def folder(exported, tmp_path):
    """A complete model without anything that its card could tell of it."""
    return Path(shutil.copytree(exported, tmp_path / "mini"))


def write_run(folder, stage=4, results=RESULTS, **changes):
    (folder / "training_args.json").write_text(json.dumps(record_of(stage, **changes)))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 40, "log_history": LOG_HISTORY}))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "results.png").write_bytes(b"picture")


def snippets(card):
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_card_of_a_stage(folder, stage):
    write_run(folder, stage)
    write_model_card(folder)
    card = ModelCard.load(folder / "README.md")
    check_metadata(card)
    assert card.data.pipeline_tag == "audio-to-audio" and card.data.library_name == "transformers"
    assert card.data.license == "mit" and card.data.language == ["en", "de"] and f"stage-{stage}" in card.data.tags
    # the stage before is in the same repository, so the base model is what the first one started from
    assert card.data.base_model == "Qwen/Qwen2.5-0.5B" and card.data.base_model_relation == "finetune"
    assert card.data.datasets == ["me/corpus"] and card.data.metrics == ["accuracy", "wer"]
    text = card.text
    assert (
        f"**Stage {stage} of 4" in text and "| `learning_rate` | 0.00125 |" in text and "12,345 conversations" in text
    )
    assert "The default mode is boost. All modes check what the modules write by `mctp_verify=[0.5, 0.0]`." in text
    assert "| steps taken | 40 |" in text and "| processes | 2 (cpu) |" in text
    for k in range(1, stage):
        assert f"[`me/mini`](https://huggingface.co/me/mini/tree/stage{k}) at `stage{k}`" in text
    assert ("Started from nothing" in text) == (stage == 1)
    assert "| `mctp_loss_10` | 2.000 | 1.750 | not measured |" in text and "| `loss` | 5.250 | 4.250 | 4.500 |" in text
    assert "![Losses over the steps](losses.png)" in text
    assert drawn_colors(folder / "losses.png") >= 2
    assert "## Limits and risks" in text and "Voice" in text and "Bias" in text and "Misuse" in text
    (snippet,) = snippets(card)
    assert 'model="me/mini"' in snippet and f'revision="stage{stage}"' in snippet
    assert ("Convert the speech to text." in snippet) == (stage < 4)


def test_the_model_index_has_every_mode(folder):
    write_run(folder)
    write_model_card(folder)
    results = ModelCard.load(folder / "README.md").data.eval_results
    assert {(result.metric_args["mctp_mode"]) for result in results} == set(MCTP_MODES)
    found = {
        (result.task_name, result.metric_args["mctp_mode"], result.metric_name): result.metric_value
        for result in results
    }
    assert len(found) == len(results) == 4 * 3
    for mode, sets in RESULTS["modes"].items():
        assert found["Speech recognition", mode, f"Word error rate ({mode})"] == sets["asr"]["wer"]
        accuracy = found["Spoken question answering", mode, f"Accuracy of the speech ({mode})"]
        assert accuracy == sets["sqa"]["speech_accuracy"]
    assert {(result.dataset_type, result.dataset_split) for result in results} == {("me/corpus", "test")}


def test_figures_of_humans_and_of_sound_are_in_the_card(folder):
    human = {"conversations": 40, "wer": 0.25, "accuracy": 0.75}
    tts = {"conversations": 3, "wer": 0.5, "dnsmos": 3.14159, "speaker_similarity": 0.8765}
    dialogue = {"conversations": 9, "speech_accuracy": 0.625, "speech_accuracy_turn_2": 0.375}
    results = {
        "modes": {
            "boost": {"human_words": human, "human_prompts": {"wer": 0.7}, "tts": tts, "dialogue": dialogue},
        },
        "recognizer": "whisper-base",
        "dnsmos_of_references": 3.5,
        "speaker_similarity_of_references": 0.9,
        "second_recognizer": {
            "name": "whisper-tiny.en",
            "modes": {"boost": {"tts": {"wer": 0.4}}},
            "wer_on_tts_references": 0.03,
        },
    }
    write_run(folder, results=results)
    write_model_card(folder)
    card = ModelCard.load(folder / "README.md")
    for row in (
        "| Speech recognition, a human's words: entirely right | 75.0% |",
        "| Text to speech: DNSMOS | 3.14 |",
        "| Text to speech: speaker similarity | 0.88 |",
        "| Spoken dialogue: accuracy of the speech, turn 2 | 37.5% |",
        "| Text to speech: word error rate | 50.0% |",
        "| Text to speech: word error rate | 40.0% |",
    ):
        assert card.text.count(row) == 1
    assert "which have 3.50 and 0.90 themselves" in card.text
    assert "The same speech as `whisper-tiny.en` hears it, whose own word error rate" in card.text
    # the recordings of humans are no part of the corpus, and the second recogniser's figures not the model's
    found = {
        (result.dataset_type, result.dataset_name, result.metric_type, result.metric_value)
        for result in card.data.eval_results
    }
    assert ("custom", "asterisk-core-sounds-en-g722", "accuracy", 0.75) in found
    assert {("me/corpus", "me/corpus", "mos", 3.1416), ("me/corpus", "me/corpus", "wer", 0.5)} < found
    assert not any(value == 0.4 for *_, value in found)
    # the Hub joins figures of one task, data set, configuration and split
    places = {result.task_name: result.unique_identifier for result in card.data.eval_results}
    assert len(set(places.values())) == len(places) == 4


def test_published_benchmarks(folder, tmp_path, capsys):
    figures = {"conversations": 9, "split": "test", "throughput": {}}
    benchmarks = {
        "librispeech": {"vanilla": figures | {"wer": 0.25, "cer": 0.125, "dataset": "openslr/librispeech_asr"}},
        "web_questions": {
            mode: figures
            | {"text_accuracy": 0.5, "speech_accuracy": 0.4, "dataset": "/data/x", "recognizer": "whisper"}
            for mode in ("vanilla", "boost")
        },
    }
    (tmp_path / "results.json").write_text(json.dumps({"model": "/data/model", "benchmarks": benchmarks}))
    assert main(["card", str(folder), "--benchmarks", str(tmp_path / "results.json")]) == 0
    assert "/data" not in (folder / "benchmarks.json").read_text()
    card = ModelCard.load(folder / "README.md")
    assert "| librispeech: word error rate | 25.0% | not measured |" in card.text
    assert "| web_questions: accuracy of the speech | 40.0% | 40.0% |" in card.text
    assert "Not measured: this folder has no `results.json`" in card.text and "/data" not in card.content
    found = [(r.task_type, r.dataset_type, r.metric_type, r.metric_value) for r in card.data.eval_results]
    assert ("automatic-speech-recognition", "openslr/librispeech_asr", "cer", 0.125) in found
    assert len(found) == 6 and found.count(("question-answering", "custom", "accuracy", 0.4)) == 2
    assert main(["card", str(folder), "--benchmarks", str(folder / "config.json")]) == 1
    assert "config.json has no benchmarks" in capsys.readouterr().err


def test_benchmarks_of_one_dataset_are_not_joined():
    """As the Hub joins figures of one task, data set, configuration and split."""
    figures = {"dataset": "openslr/librispeech_asr", "split": "test", "wer": 0.1}
    benchmarks = {name: {"boost": figures} for name in ("librispeech_test_clean", "librispeech_test_other")}
    results = benchmark_results(benchmarks)
    assert len({result.unique_identifier for result in results}) == 2


def test_the_codec_has_a_table_of_its_own(folder):
    assert "### The codec" not in render_model_card(folder).text
    figures = {"clips": 9, "wer_original": 0.02, "wer_decoded": 0.05}
    path = folder / "codec_results.json"
    path.write_text(json.dumps({"recognizer": "whisper-base", "results": {"all": figures}}))
    text = render_model_card(folder).text
    assert "as the recogniser `whisper-base` hears them" in text and "| all | 9 | 2.0% | 5.0% |" in text
    path.write_text(json.dumps({"results": {"all": {"wer_original": "low"}}}))
    with pytest.raises(ValueError, match="codec_results.json"):
        render_model_card(folder)


def test_figures_that_are_not_there_are_said_to_be_missing(folder):
    text = render_model_card(folder).text
    assert "Not measured: this folder has no `results.json`" in text
    assert "Not recorded: this folder has no `training_args.json`" in text
    assert "Losses: not recorded" in text and "![" not in text and "|---" not in text
    results = {**RESULTS, "modes": {mode: dict(sets) for mode, sets in RESULTS["modes"].items()}}
    del results["modes"]["turbo"]["asr"], results["modes"]["turbo"]["speed"]
    results["modes"]["boost"]["sqa"] |= {"speech_accuracy": None}
    points = [{"mctp_mode": "boost", "mctp_verify": 0.3, "asr": {"wer": 0.25}}]
    results["tolerance"] = {"points": [*points, {"mctp_mode": "turbo", "mctp_verify": False}]}
    write_run(folder, results=results)
    codec = {"results": {"all": {"clips": 3, "wer_original": 0.1, "wer_decoded": 0.2}, "one": {"clips": 1}}}
    (folder / "codec_results.json").write_text(json.dumps(codec))
    (folder / "trainer_state.json").unlink()
    text = render_model_card(folder).text
    assert "| Speech recognition: word error rate | 10.0% | 11.0% | 12.0% | not measured |" in text
    assert "| New tokens per second | 100 | 101 | 102 | not measured |" in text
    assert "| Spoken question answering: accuracy of the speech | 80.0% | 80.0% | not measured | 80.0% |" in text
    assert "| turbo | – | not measured |" in text and "| one | 1 | not measured | not measured |" in text
    assert "Losses: not recorded" in text and "losses.png" not in text
    assert loss_table([{"step": 1, "epoch": 0.1}]) is None
    # a trainer that was used from Python alone knows less
    run = record_of(1)
    for name in ("starts_from", "stages", "base_model", "dataset", "tasks", "num_examples"):
        del run[name]
    (folder / "training_args.json").write_text(json.dumps(run))
    text = render_model_card(folder).text
    assert "Started from what was not recorded." in text and "Data: not recorded." in text
    (folder / "training_args.json").write_text(json.dumps(run | {"base_model": "a/b"}))
    assert "Started from what was not recorded; the language model came from [`a/b`]" in render_model_card(folder).text
    (folder / "results.json").write_text(json.dumps(results | {"tolerance": []}))
    with pytest.raises(ValueError, match=r"results.json is not as our commands write it, at \$.tolerance"):
        render_model_card(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 1, 4])
def test_the_snippet_runs_as_printed(folder, stage, monkeypatch, tmp_path, capsys):
    if stage is not None:
        write_run(folder, stage, repo_id=None)
    soundfile.write(tmp_path / "question.wav", 0.3 * np.sin(np.arange(12000) / 17), 16000)
    if stage is None:
        shutil.move(tmp_path / "question.wav", folder / "sample_question.wav")
    write_model_card(folder)
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets(ModelCard.load(folder / "README.md"))
    exec(compile(snippet, "card", "exec"), {})
    written = "speech.wav" if stage == 1 else "answer.wav"
    assert soundfile.info(written).samplerate == 16000
    assert ("'audio': " in capsys.readouterr().out) == (stage != 1)


def test_quantised_weights_say_so(folder):
    write_run(folder)
    config = json.loads((folder / "config.json").read_text())
    kind = {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 32}}}
    quantization = {"quant_method": "torchao", "quant_type": kind}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    text = render_model_card(folder).text
    assert "Its weights are quantised to 4 bits (`int4`) by torchao" in text
    assert f'soxr "torchao{TESTED_TORCHAO}"\n' in text
    # packed ones are fewer, and there are scales beside them
    assert "parameters, the speech codec not counted" not in text
    # what the run has pushed are other weights
    assert 'model="mini"' in text and 'model="me/boost"' in render_model_card(folder, "me/boost").text
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "Its weights are quantised by bitsandbytes, which" in render_model_card(folder).text


def test_a_converted_release(folder):
    write_model_card(folder, converted_from="VITA-MLLM/VITA-Audio-Boost", license="mit", language=["zh", "en"])
    for _ in range(2):
        card = ModelCard.load(folder / "README.md")
        check_metadata(card)
        assert card.data.base_model == "VITA-MLLM/VITA-Audio-Boost" and card.data.base_model_relation == "quantized"
        assert card.data.license == "mit" and card.data.language == ["zh", "en"]
        assert "**Converted from [`VITA-MLLM/VITA-Audio-Boost`]" in card.text and "Not measured" in card.text
        # written anew, it still knows
        write_model_card(folder, repo_id="me/boost")
    # The Hub takes other forms of what it was converted from
    for base, link in (("[a/b]", "**Converted from [`a/b`](https://huggingface.co/a/b)**"), ("[]", None)):
        metadata = f"---\nbase_model_relation: quantized\nbase_model: {base}\n---\n"
        (folder / "README.md").write_text(metadata)
        text = render_model_card(folder).text
        assert link in text if link else "Converted from" not in text


def test_the_card_that_is_there_says_licence_and_origin(folder):
    of_license = {"license": "other", "license_name": "mine", "license_link": "LICENSE"}
    (folder / "README.md").write_text(
        "---\n" + json.dumps(of_license | {"base_model": "a/b"}) + f"\n---\n{WRITTEN_BY_US}"
    )
    for _ in range(2):
        write_model_card(folder)
        data = ModelCard.load(folder / "README.md").data.to_dict()
        assert (of_license | {"base_model": "a/b", "base_model_relation": "finetune"}).items() <= data.items()
    # a name is one of its licence
    write_model_card(folder, license="mit")
    assert not {"license_name", "license_link"} & ModelCard.load(folder / "README.md").data.to_dict().keys()
    # what was trained since counts more
    write_run(folder)
    assert render_model_card(folder).data.base_model == "Qwen/Qwen2.5-0.5B"
    # what is no id of the Hub would never be pushed
    (folder / "training_args.json").unlink()
    (folder / "README.md").write_text(f"---\nbase_model: runs/mini/stage3\n---\n{WRITTEN_BY_US}")
    assert render_model_card(folder).data.get("base_model") is None


def test_a_card_that_was_edited_by_hand_is_kept(folder, capsys):
    assert is_ours(folder / "README.md")  # of the export
    edited = render_model_card(folder).content.replace(WRITTEN_BY_US, "")
    (folder / "README.md").write_text(edited)
    assert main(["card", str(folder)]) == 1
    assert "was edited by hand" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == edited
    assert main(["card", str(folder), "--repo-id", "me/mini", "--overwrite"]) == 0
    assert 'model="me/mini"' in (folder / "README.md").read_text() and is_ours(folder / "README.md")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"license": None}, "lacks the metadata `license`"),
        ({"language": None, "tags": None}, "lacks the metadata `language`, `tags`"),
        ({"base_model": "runs/mini/stage3"}, "`base_model` must be ids of the Hub, got 'runs/mini/stage3'"),
        (
            {"license": "apache"},
            "`license` must be an identifier of the Hub such as apache-2.0 or other, got 'apache'",
        ),
        ({"language": ["en", "english please"]}, "`language` must be codes such as en, got ['en', 'english please']"),
        ({"pipeline_tag": "speech to speech"}, "`pipeline_tag` must be as the Hub has it, got 'speech to speech'"),
        ({"base_model_relation": "child"}, "`base_model_relation` must be one of"),
    ],
)
def test_a_card_with_bad_metadata_is_one_line(folder, metadata, message, capsys):
    card = render_model_card(folder)
    for name, value in metadata.items():
        card.data[name] = value
    card.text = card.text.replace(WRITTEN_BY_US, "")
    card.save(folder / "README.md")
    for argv in (["--dry-run"], []):
        assert main(["push", str(folder), "me/mini", *argv]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("vita-audio: error: ") and message in line


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--license", "apache"], "the card: `license` must be an identifier of the Hub"),
        (["--language", "en", "Klingon!"], "the card: `language` must be codes such as en"),
        (["--repo-id", "a/b/c"], "'a/b/c'"),
    ],
)
def test_options_of_a_card_are_checked(folder, argv, message, capsys):
    before = (folder / "README.md").read_bytes()
    assert main(["card", str(folder), *argv]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and (folder / "README.md").read_bytes() == before


def test_what_is_sent_and_what_is_not(folder, capsys):
    write_run(folder, 2)
    left_out = (
        ".env .cache/x.json training_args.bin optimizer.pt log.log runs/events.json unfinished/model.safetensors "
        "checkpoint-2/optimizer.pt checkpoint-2/model.safetensors last-checkpoint/model.safetensors notes"
    ).split()
    for name in left_out:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(save({"weight": np.zeros(2)}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["push", str(folder), "me/mini", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Would be sent to me/mini, stage2 and main:" in out
    listed = re.findall(r"^ *([\d.]+ k?B)  (\S+)$", out, re.MULTILINE)
    assert {name for _, name in listed} == {str(path.relative_to(folder)) for path in before} - set(left_out)
    size = (folder / "model.safetensors").stat().st_size
    assert (f"{size / 1000:.1f} kB", "model.safetensors") in listed
    assert "checkpoint-2/" in out and "optimizer.pt" in out.partition("Not sent:")[2]
    # nothing was written
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "Would be sent to me/mini, trial:" in describe_push(folder, "me/mini", "trial")
    with_checkpoints = plan_push(folder, with_checkpoints=True).files
    assert "checkpoint-2/optimizer.pt" in with_checkpoints and "training_args.bin" not in with_checkpoints


def test_a_name_without_an_owner_says_so_where_no_token_tells_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert main(["push", str(folder), "my-model", "--dry-run"]) == 0
    assert "Would be sent to my-model of the account of your token (there is none here" in capsys.readouterr().out


def test_links_and_what_is_no_file_stay_at_home(folder, tmp_path):
    (tmp_path / "private.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("mine")
    (folder / "part").mkdir()
    (folder / "part" / "inside.txt").write_text("shared")
    (folder / "notes.txt").symlink_to(tmp_path / "private.txt")
    (folder / "hosts.txt").symlink_to("/etc/hosts")
    (folder / "up").symlink_to(folder.parent)
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.txt").symlink_to(folder / "nothing.txt")
    (folder / "again.txt").symlink_to(folder / "part" / "inside.txt")
    os.mkfifo(folder / "pipe.txt")
    plan = plan_push(folder)
    assert {"again.txt", "part/inside.txt"} <= plan.files.keys()
    assert {"notes.txt (a link)", "hosts.txt (a link)", "up (a link)", "other (a link)", "gone.txt (a link)"} <= set(
        plan.left_out
    )
    assert "pipe.txt (no regular file)" in plan.left_out
    listed = describe_push(folder, "me/mini")
    assert "again.txt" in listed.partition("Not sent:")[0] and "notes.txt" not in listed.partition("Not sent:")[0]
    # a model that is a link is no model to share
    weights = (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors").symlink_to(weights)
    with pytest.raises(FileNotFoundError, match="no .*safetensors among the regular files"):
        plan_push(folder)


SECRETS = {
    "a Hub token": TOKEN,
    "a GitHub token": "ghp_" + 36 * "a",
    "a fine-grained GitHub token": "github_pat_" + 30 * "a1",
    "a GitLab token": "glpat-" + 20 * "a",
    "an OpenAI key": "sk-proj-" + 40 * "a1",
    "an Anthropic key": "sk-ant-api03-" + 40 * "a1",
    "a Google key": "AIza" + 35 * "a",
    "a Slack token": "xoxb-123456789012-abcdefghijkl",
    "an AWS id": "AKIA" + 16 * "A",
    "a package index token": "pypi-AgEIcHlwaS5vcmc" + 80 * "a",
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r_wW1gFWFOEjXk0",
    "a password in a URL": "https://someone:hunter2hunter2@example.com/x",
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "a Stripe key": "sk_live_" + 24 * "a",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_every_kind_of_secret_stops_a_push(folder, kind):
    (folder / "notes.json").write_text(json.dumps({"a": [1, SECRETS[kind]]}))
    with pytest.raises(ValueError, match="notes.json has a secret in it") as error:
        plan_push(folder)
    assert SECRETS[kind] not in str(error.value)


def write_utf16(folder):
    (folder / "notes.txt").write_text(f"token: {TOKEN}", encoding="utf-16")


def write_metadata(folder):
    save_file({"weight": np.zeros(2)}, folder / "other.safetensors", metadata={"by": TOKEN})


def write_tensor_name(folder):
    save_file({TOKEN: np.zeros(2)}, folder / "other.safetensors")


def write_file_name(folder):
    (folder / f"{TOKEN}.txt").write_text("x")


def write_picture(folder):
    (folder / "picture.png").write_bytes(b"\x89PNG" + bytes(range(256)) + TOKEN.encode() + b"\0")


def write_late(folder):
    (folder / "long.json").write_text(json.dumps(["a"] * 300_000 + [TOKEN]))


@pytest.mark.parametrize(
    "write", [write_utf16, write_metadata, write_tensor_name, write_file_name, write_picture, write_late]
)
def test_a_secret_is_found_wherever_it_is(folder, write):
    write(folder)
    with pytest.raises(ValueError, match="has a secret in it") as error:
        plan_push(folder)
    assert write is write_file_name or TOKEN not in str(error.value)


def test_a_large_file_is_searched_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(secret_scan, "BLOCK_SIZE", 1000)
    monkeypatch.setattr(secret_scan, "OVERLAP", 100)
    path = tmp_path / "optimizer.pt"
    for start in (500, 980, 1990, 3000):
        path.write_bytes(b"." * start + TOKEN.encode() + b"." * 2000)
        with pytest.raises(ValueError, match="has a secret in it"):
            check_for_secrets(path, {})
        assert max(map(len, secret_scan.texts_of(path))) <= 1100


@pytest.mark.slow
def test_our_own_folders_raise_no_false_alarm(tmp_path):
    assert "model.safetensors" in plan_push(ROOT / "pretrained" / "vita-audio-mini").files
    rng = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, rng.standard_normal(200_000) * 0.1, 16000)
        check_for_secrets(path, {})
        (tmp_path / "hashes.json").write_text(json.dumps([rng.bytes(32).hex() for _ in range(1000)]))
        check_for_secrets(tmp_path / "hashes.json", {})


@pytest.mark.parametrize(
    "secret, variable",
    [
        (TOKEN, None),
        ("unpatterned-but-in-the-environment", "SOME_SERVICE_API_KEY"),
        ("unpatterned-and-of-the-engine", "VITA_AUDIO_ENGINE_KEY"),
    ],
)
def test_secrets_are_refused_and_not_repeated(folder, secret, variable, monkeypatch, capsys):
    if variable is not None:
        monkeypatch.setenv(variable, secret)
    (folder / "training_notes.json").write_text(json.dumps({"report_to": secret}))
    for argv in (["--dry-run"], []):
        assert main(["push", str(folder), "me/mini", *argv]) == 1
        captured = capsys.readouterr()
        assert "training_notes.json has a secret in it" in captured.err
        assert secret not in captured.err + captured.out


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_processor_without_its_codec_is_not_pushed(folder, name, capsys):
    (folder / "audio_tokenizer" / name).unlink()
    assert main(["push", str(folder), "me/mini", "--dry-run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    missing = name if name == "config.json" else "*.safetensors"
    assert f"processor_config.json names a speech codec, but there is no audio_tokenizer/{missing}" in line


@pytest.mark.parametrize("place", ["", "audio_tokenizer/"])
def test_weights_of_which_a_part_is_missing_are_not_pushed(folder, place):
    shards = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    (folder / place / "model.safetensors").rename(folder / place / shards[0])
    index = folder / place / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", shards))}))
    with pytest.raises(
        FileNotFoundError, match=f"index.json names {place}{shards[1]}, which is not among the regular"
    ):
        plan_push(folder)
    shutil.copy(folder / place / shards[0], folder / place / shards[1])
    assert f"{place}{shards[1]}" in plan_push(folder).files
    # beside weights in one file, what an earlier save has left is of no use
    (folder / place / shards[1]).rename(folder / place / "model.safetensors")
    assert f"{place}model.safetensors" in plan_push(folder).files
    index.write_text("{}")
    (folder / place / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="index.json is not as our commands write it"):
        plan_push(folder)


def test_a_model_without_a_processor_is_not_said_to_answer(folder, tmp_path, monkeypatch, capsys):
    for path in ("processor_config.json", "README.md"):
        (folder / path).unlink()
    shutil.rmtree(folder / "audio_tokenizer")
    assert main(["push", str(folder), "me/mini", "--dry-run"]) == 0
    assert "No processor: it can be converted or exported, but not be asked." in capsys.readouterr().out
    write_model_card(folder)
    card = ModelCard.load(folder / "README.md")
    assert "vita-audio export --model mini --codec CODEC FOLDER" in card.text and "pipeline(" not in card.text
    monkeypatch.chdir(tmp_path)
    scope = {}
    (snippet,) = snippets(card)
    exec(compile(snippet, "card", "exec"), scope)
    assert scope["model"].config.model_type == "vita_audio"


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["a b", "-x", "a..b", "a~1", "a:b", "x.lock", "a/", "feature//x", "wh?t", "@"])
def test_a_branch_that_cannot_be_is_refused(folder, revision, capsys):
    with pytest.raises(ValueError, match="cannot be the name of a branch"):
        describe_push(folder, "me/mini", revision)
    assert main(["push", str(folder), "me/mini", f"--revision={revision}"]) == 1
    assert f"{revision!r} cannot be the name of a branch" in capsys.readouterr().err
    for good in ("stage1", "my-branch", "refs/pr/1", "v1.0", "user@host"):
        assert f"me/mini, {good}:" in describe_push(folder, "me/mini", good)


def test_a_folder_without_our_model(tmp_path, capsys):
    assert main(["push", str(tmp_path), "me/mini"]) == 1
    assert "no model in" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert main(["card", str(tmp_path)]) == 1
    assert "model of the type 'bert'" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert main(["card", str(tmp_path)]) == 1
    assert "config.json is not JSON" in capsys.readouterr().err


def test_a_run_knows_where_it_comes_from(folder):
    assert describe_start(None) == {"starts_from": None, "stages": [], "base_model": None}
    write_run(folder, 2)
    write_model_card(folder)
    place = {"repo_id": "me/mini", "revision": "stage2"}
    start = describe_start(str(folder))
    assert start["starts_from"] == place and start["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert start["stages"] == [*record_of(2)["stages"], {"stage": 2, **place}]
    assert start["license"] == "mit" and start["language"] == ["en", "de"]
    # not pushed: known by its folder's name alone
    write_run(folder, 2, repo_id=None)
    assert describe_start(str(folder))["stages"][-1] == {"stage": 2, "folder": "mini"}
    assert place_of("Qwen/Qwen2.5-7B", "main") == {"repo_id": "Qwen/Qwen2.5-7B", "revision": "main"}
    # another repository than that of the stage before: that one is the base model
    write_run(folder, 3, repo_id="me/other")
    assert render_model_card(folder).data.base_model == "me/mini"


@pytest.mark.slow
def test_the_loss_curves(tmp_path):
    plot_losses(LOG_HISTORY, tmp_path / "all.png")
    plot_losses(LOG_HISTORY[:1], tmp_path / "first.png")
    plot_losses([], tmp_path / "none.png")
    colors = [drawn_colors(tmp_path / f"{name}.png") for name in ("all", "first", "none")]
    assert colors[0] >= 2 and colors[1] >= 2 and colors[2] == 0


@pytest.mark.parametrize("num_steps", [1, 3])
def test_what_was_logged_is_seen(num_steps, tmp_path):
    names = ["loss", "lm_loss", *(f"mctp_loss_{k}" for k in (1, 10, 2, 3, 4, 5, 6, 7, 8, 9))]
    # in the order in which a trainer's state has them
    history = [dict.fromkeys(sorted(names), 1.0 / step) | {"step": step} for step in range(1, num_steps + 1)]
    history[-1]["eval_loss"] = 2.0
    ordered = ["loss", "lm_loss", *(f"mctp_loss_{k}" for k in range(1, 11))]
    assert re.findall(r"^\| `(\w+)`", loss_table(history), re.MULTILINE) == ordered
    figure = draw_losses(history)
    figure.savefig(tmp_path / "losses.png")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["loss", "eval_loss", *ordered[1:]]
    for line in axes.lines:
        # one point is a point
        assert (line.get_marker() == "o") == (len(line.get_xdata()) == 1)
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_rewards_are_drawn_below_the_losses():
    history = [{"step": step, "loss": 1 / step, "rewards/agreement/mean": step / 9} for step in (1, 2, 3)]
    losses, rewards = draw_losses([*history, {"step": 3, "train_loss": 0.6}]).axes
    assert [line.get_label() for line in losses.lines] == ["loss"]
    (line,) = rewards.lines
    assert line.get_label() == "agreement" and list(line.get_ydata()) == [1 / 9, 2 / 9, 3 / 9]


def test_the_legend_of_results_covers_nothing(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    sets = {"sqa": {"speech_accuracy": 0.01}, "tts": {"wer": 0.99}}
    modes = {mode: {**sets, "speed": {"tokens_per_second": 100 + i}} for i, mode in enumerate(MCTP_MODES)}
    plot_results({"modes": modes}, tmp_path / "results.png")
    (figure,) = figures
    (axes,), (legend,) = figure.axes, figure.legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_results_of_another_split_say_so(folder):
    results = {"modes": {"boost": {"asr": {"wer": 0.5}, "speed": {}}}, "default_mode": "boost"}
    for split, said in (({}, "Measured on held-out data"), ({"split": "train"}, "Measured on the split `train`")):
        (folder / "results.json").write_text(json.dumps(results | split))
        card = render_model_card(folder)
        assert said in card.text and "independent recogniser" not in card.text
        (evaluation,) = card.data.eval_results
        assert evaluation.dataset_split == split.get("split", "test")
        assert ("Held-out" in evaluation.dataset_name) == (not split)
