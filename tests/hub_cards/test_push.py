# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Stages and corpora on the Hub of `hub_server`, by the unmodified client: one process publishes a corpus and runs the
command line, and another, where none of our packages can be imported, loads what came of it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clean_process import BLOCK_OUR_PACKAGES
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from places import ROOT
from safetensors.numpy import save_file
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus
from tiny_models import tiny_codec, tiny_model, tiny_processor

from hub_cards import push
from hub_cards.push import PushError, push_folder
from processing.export import export_repository
from training.conversations import load_conversations


pytestmark = [pytest.mark.slow, pytest.mark.hub]

REPO, CORPUS = "vita/tiny", "vita/tiny-corpus"
STAGES = ("stage1", "stage2", "stage3", "stage4")
WRONG_TOKEN = "hf_" + "w" * 34

# Runs steps of the command line, one after the other, and writes down how each ended.
DRIVER = """
import contextlib, io, json, sys
from hub_cards.publish_corpus import main as publish_corpus
from serving.cli import main
from training.conversations import load_conversations

report = {}
for name, argv in json.load(open(sys.argv[1])).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = publish_corpus(argv) or 0 if name == "publish" else main(argv)
    report[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    json.dump(report, open(sys.argv[2], "w"))
rows = load_conversations(sys.argv[3], "test", ["sqa", "tqa"])
report["rows"] = [
    {"messages": row["messages"], "sizes": [len(audio["bytes"]) for audio in row["audios"]]} for row in rows
]
json.dump(report, open(sys.argv[2], "w"))
"""

LOAD_EVERY_STAGE = """
import json, re, sys
from huggingface_hub import DatasetCard, ModelCard, hf_hub_download
from transformers import AutoModel, AutoProcessor

repo, corpus, *revisions = sys.argv[1:]
for revision in [*revisions, None]:
    model = AutoModel.from_pretrained(repo, revision=revision, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
    for item in (model, processor, processor.audio_tokenizer):
        assert type(item).__module__.startswith("transformers_modules."), type(item)
    card = ModelCard.load(hf_hub_download(repo, "README.md", revision=revision))
    card.validate()
    (snippet,) = re.findall(r"```python\\n(.*?)```", card.text, re.DOTALL)
    assert (revision or revisions[-1]) in snippet
    exec(compile(snippet, f"card of {revision}", "exec"), {})
    print("LOADED", revision, model.config.num_mctp_modules)

card = DatasetCard.load(corpus)
card.validate()
(snippet,) = re.findall(r"```python\\n(.*?)```", card.text, re.DOTALL)
exec(compile(snippet, "card of the corpus", "exec"), {})
"""


def run_python(code, *argv, env, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)], env=env, cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def work(hub_module, tmp_path_factory):
    """Corpus, codec, question, and what else stands on the Hub."""
    work = tmp_path_factory.mktemp("push")
    write_corpus(work / "corpus")
    rows = [
        {"id": path.stem, "path": f"audio/{path.name}", "text": "One.", "voice": "sine", "split": split}
        | {"phonemes": ["w", "n"], "duration": soundfile.info(path).duration}
        for split, path in zip("train train test".split(), sorted((work / "corpus" / "audio").iterdir()))
    ]
    (work / "corpus" / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_codec().save_pretrained(work / "codec")
    soundfile.write(work / "question.wav", 0.3 * np.sin(np.arange(12000) / 20), 16000)
    (work / "no_metadata").mkdir()
    (work / "no_metadata" / "config.json").write_text('{"model_type": "vita_audio"}')
    save_file({"weight": np.zeros(2)}, work / "no_metadata" / "model.safetensors")
    (work / "no_metadata" / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    api = hub_module.api()
    api.create_repo("vita/other")
    config = b'{"model_type": "bert", "hidden_size": 32}'
    api.upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id="vita/other")
    return work


def stage_config(work, name, stage, **settings):
    """A run of two steps that starts from the stage before on the Hub."""
    start = {"model_name_or_path": REPO, "model_revision": f"stage{stage - 1}"}
    if stage == 1:
        start = {"text_config": TINY_TEXT_CONFIG, "codec_name_or_path": str(work / "codec"), "text_vocab_size": 320}
    defaults = {
        "dataset_name": CORPUS,
        "code_cache_dir": str(work / "codes"),
        "output_dir": str(work / name),
        "max_steps": 2,
        "save_strategy": "no",
        "num_mctp_modules": 5,
        "interleave_pattern": [2, 5],
        "push_to_hub": True,
        "hub_model_id": REPO,
    }
    config = write_config(work / f"{name}.yaml", stage=stage, **(defaults | start | settings))
    return ["train", "--config", str(config)]


@pytest.fixture(scope="module")
def report(hub_module, work):
    """How the steps ended."""
    hub = hub_module
    hub.fail(403, times=1000, path="vita/refused/commit")
    hub.drop_upload(after_bytes=100_000)  # of the corpus
    secret = {"hub_token": hub.write_token, "save_strategy": "steps", "save_steps": 1, "hub_strategy": "checkpoint"}
    steps = {
        "publish": ["--corpus_dir", str(work / "corpus"), "--repo_id", CORPUS],
        "stage1": stage_config(work, "stage1", 1, **secret, hub_always_push=True),
        **{f"stage{stage}": stage_config(work, f"stage{stage}", stage) for stage in (2, 3, 4)},
        # from what the first run has pushed before its end
        "resumed": stage_config(
            work, "resumed", 1, resume_from_checkpoint=f"{REPO}@stage1", hub_revision="stage1-again", max_steps=3
        ),
        "all checkpoints": stage_config(
            work,
            "all",
            1,
            **(secret | {"hub_strategy": "all_checkpoints"}),
            hub_always_push=True,
            hub_model_id="vita/all",
        ),
        "refused": stage_config(
            work, "refused", 1, hub_model_id="vita/refused", save_strategy="steps", save_steps=1, hub_always_push=True
        ),
        "wrong token": stage_config(work, "wrong_token", 1, hub_token=WRONG_TOKEN),
        "not mine": stage_config(work, "not_mine", 1, hub_model_id="guest/tiny"),
        "missing start": stage_config(work, "missing_start", 2, model_name_or_path="vita/nothing"),
        "missing revision": stage_config(work, "missing_revision", 2, model_revision="stage9"),
        "other start": stage_config(work, "other_start", 2, model_name_or_path="vita/other", model_revision="main"),
        "no metadata": ["push", str(work / "no_metadata"), "vita/bare"],
    }
    (work / "steps.json").write_text(json.dumps(steps))
    environment = hub.environment(work / "home", PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
    output = run_python(DRIVER, work / "steps.json", work / "report.json", CORPUS, env=environment, cwd=work)
    return json.loads((work / "report.json").read_text()) | {"output": output}


def files_on_hub(hub, repo_id, revision, folder):
    """The files of a revision and their contents."""
    root = hub.api().snapshot_download(repo_id, revision=revision, cache_dir=folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def local_files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_stage_lands_whole(hub_module, work, report, tmp_path):
    for stage in STAGES:
        assert report[stage]["code"] == 0, report[stage]
        on_hub = files_on_hub(hub_module, REPO, stage, tmp_path)
        sent = {
            name: content for name, content in local_files(work / stage).items() if not name.startswith("checkpoint-")
        }
        assert sent.items() <= on_hub.items()
        assert on_hub.keys() - sent.keys() <= {".gitattributes"} | {
            n for n in on_hub if n.startswith("last-checkpoint/")
        }
        assert {"model.safetensors", "README.md", "losses.png", "processor_config.json"} <= sent.keys()
        assert {"audio_tokenizer/model.safetensors", "modeling_vita_audio.py"} <= sent.keys()
    # the main branch has what was finished last
    assert (
        files_on_hub(hub_module, REPO, "stage4", tmp_path).keys()
        >= files_on_hub(hub_module, REPO, None, tmp_path).keys()
    )
    assert files_on_hub(hub_module, REPO, None, tmp_path)["README.md"] == (work / "stage4" / "README.md").read_bytes()


def test_every_stage_is_usable_by_its_card_alone(hub_module, work, report):
    environment = hub_module.environment(work / "empty_home", token="", CUDA_VISIBLE_DEVICES="")
    code = BLOCK_OUR_PACKAGES + LOAD_EVERY_STAGE
    output = run_python(code, REPO, CORPUS, *STAGES, env=environment, cwd=work)
    assert re.findall(r"LOADED (\w+) (\d+)", output) == [
        ("stage1", "0"),
        ("stage2", "1"),
        ("stage3", "5"),
        ("stage4", "5"),
        ("None", "5"),
    ]


def test_lineage_and_settings_are_on_the_cards(hub_module, work, report):
    card = ModelCard.load(work / "stage3" / "README.md")
    assert card.data.datasets == [CORPUS] and card.data.get("base_model") is None
    text = card.text
    assert f"1. audio-text alignment: [`{REPO}`](https://huggingface.co/{REPO}/tree/stage1)" in text
    assert f"Started from [`{REPO}`](https://huggingface.co/{REPO}/tree/stage2) at `stage2`." in text
    assert "72 conversations" in text and "| `learning_rate` | 0.001 |" in text and "`mctp_loss_5`" in text
    assert str(work) not in text and str(ROOT) not in text and hub_module.endpoint not in text


def test_a_stage_starts_from_the_weights_on_the_hub(work, report):
    from safetensors.torch import load_file

    one, two, four = (load_file(work / stage / "model.safetensors") for stage in ("stage1", "stage2", "stage4"))
    # the language model is frozen in stage 2 and is trained in stage 4
    shared = [name for name in one if name in two]
    assert len(shared) == len(one) and all(one[name].equal(two[name]) for name in shared)
    assert not all(one[name].equal(four[name]) for name in shared)


def test_a_run_goes_on_from_a_checkpoint_on_the_hub(work, report):
    assert report["resumed"]["code"] == 0, report["resumed"]
    states = [json.loads((work / name / "trainer_state.json").read_text()) for name in ("stage1", "resumed")]
    assert [state["global_step"] for state in states] == [2, 3]
    # its first steps are those of the run before
    assert states[1]["log_history"][0] == states[0]["log_history"][0]


@pytest.mark.parametrize(
    "repo_id, folders", [("vita/all", ["checkpoint-1", "checkpoint-2"]), (REPO, ["last-checkpoint"])]
)
def test_every_checkpoint_is_pushed_as_the_strategy_says(hub_module, report, repo_id, folders):
    assert report["all checkpoints"]["code"] == 0, report["all checkpoints"]
    api = hub_module.api()
    titles = [commit.title for commit in api.list_repo_commits(repo_id, revision="stage1")]
    assert titles[:3] == ["Stage 1", *(f"Stage 1, training in progress, step {step}" for step in (2, 1))]
    of_checkpoints = [
        path.split("/") for path in api.list_repo_files(repo_id, revision="stage1") if "checkpoint" in path
    ]
    assert sorted({path[0] for path in of_checkpoints}) == folders
    for folder in folders:
        assert {"optimizer.pt", "scheduler.pt", "trainer_state.json"} <= {
            path[-1] for path in of_checkpoints if path[0] == folder
        }


def test_a_push_that_fails_in_the_midst_is_a_warning(work, report):
    for step in (1, 2):
        line = f"Step {step} was not pushed, and the run goes on: The token may not write to vita/refused"
        assert line in report["refused"]["err"] + report["output"]
        assert (work / "refused" / f"checkpoint-{step}" / "complete").is_file()
    assert not list((work / "refused").glob(".push-*"))


def test_a_push_that_fails_loses_nothing(work, report):
    step = report["refused"]
    assert step["code"] == 1
    message = step["err"].splitlines()[-1]
    assert message.startswith("vita-audio: error: The token may not write to vita/refused")
    assert message.endswith(f"vita-audio push {work / 'refused'} vita/refused")
    assert (work / "refused" / "model.safetensors").is_file() and (work / "refused" / "README.md").is_file()


@pytest.mark.parametrize(
    "step, message",
    [
        ("wrong token", "does not know the token: set HF_TOKEN, or log in"),
        ("not mine", "The token may not write to guest/tiny"),
        ("missing start", "vita/nothing"),
        ("missing revision", "stage9"),
        ("other start", "vita/other has a model of the type 'bert'"),
        ("no metadata", "lacks the metadata `language`, `library_name`, `pipeline_tag`, `tags`"),
    ],
)
def test_errors_are_one_clear_line(hub_module, work, report, step, message):
    assert report[step]["code"] == 1
    line = report[step]["err"].splitlines()[-1]
    assert line.startswith("vita-audio: error: ") and message in line and len(line) < 400
    assert "Traceback" not in report[step]["err"] and "Request ID" not in line
    if step == "no metadata":
        with pytest.raises(RepositoryNotFoundError):
            hub_module.api().repo_info("vita/bare")


def test_no_token_gets_anywhere(hub_module, work, report):
    tokens = [token.encode() for token in (hub_module.write_token, WRONG_TOKEN)]
    assert not any(token in json.dumps(report).encode() for token in tokens)
    for name in (*STAGES, "resumed", "refused", "codes"):
        for path in (work / name).rglob("*"):
            assert path.is_dir() or not any(token in path.read_bytes() for token in tokens), path
            assert path.name != "training_args.bin"
    for path in (hub_module.root / "objects").iterdir():
        content = path.read_bytes()
        assert not any(token in content for token in tokens) and str(work).encode() not in content


def test_a_corpus_is_read_back_by_its_id(work, report):
    local = load_conversations(work / "corpus", "test", ["sqa", "tqa"], work / "cache")
    expected = [
        {"messages": row["messages"], "sizes": [Path(audio).stat().st_size for audio in row["audios"]]}
        for row in local
    ]
    assert report["publish"]["code"] == 0 and report["rows"] == expected


# The rest needs no process of its own: the client takes endpoint and token.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    processor = tiny_processor()
    return export_repository(tiny_model(processor), processor, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(push, "RETRY_WAITS_S", (0, 0))


def test_a_connection_that_drops_half_way(hub, exported, tmp_path):
    hub.drop_upload(after_bytes=20_000)
    push_folder(exported, "vita/mini", private=True, api=hub.api())
    assert hub.api().repo_info("vita/mini").private
    on_hub = files_on_hub(hub, "vita/mini", None, tmp_path)
    on_hub.pop(".gitattributes")
    assert on_hub == local_files(exported)


def test_a_name_without_an_owner_is_one_of_the_tokens(hub, exported, tmp_path):
    push_folder(exported, "my-model", api=hub.api())
    card = files_on_hub(hub, "vita/my-model", None, tmp_path)["README.md"].decode()
    assert 'model="vita/my-model"' in card and '"my-model"' not in card
    with pytest.raises(PushError, match="does not know the token"):
        push_folder(exported, "my-model", api=hub.api(WRONG_TOKEN))


def test_a_push_that_was_refused_goes_on_where_it_was(hub, exported, tmp_path):
    hub.fail(403, path="/commit/")
    with pytest.raises(PushError, match="The token may not write to vita/mini"):
        push_folder(exported, "vita/mini", api=hub.api())
    sent_before = len(hub.requests)
    push_folder(exported, "vita/mini", "trial", api=hub.api())
    assert not [path for method, path in hub.requests[sent_before:] if method == "PUT"]
    on_hub = files_on_hub(hub, "vita/mini", "trial", tmp_path)
    on_hub.pop(".gitattributes")
    assert on_hub == local_files(exported)


def test_files_of_an_earlier_model_go(hub, exported, tmp_path):
    push_folder(exported, "vita/mini", api=hub.api())
    for name in ("model-00001-of-00002.safetensors", "results.json", "codec_results.json", "mine.txt"):
        hub.api().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="vita/mini")
    push_folder(exported, "vita/mini", api=hub.api())
    assert files_on_hub(hub, "vita/mini", None, tmp_path).keys() - local_files(exported).keys() == {
        ".gitattributes",
        "mine.txt",
    }


def test_a_hub_that_is_not_there(exported):
    api = HfApi(endpoint="http://127.0.0.1:9", token=WRONG_TOKEN)
    with pytest.raises(PushError, match="The Hub at http://127.0.0.1:9 cannot be reached: .*refused") as error:
        push_folder(exported, "vita/mini", api=api)
    assert len(str(error.value).splitlines()) == 1
