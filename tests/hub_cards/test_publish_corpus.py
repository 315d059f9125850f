# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Corpora and their cards: what is refused before anything is sent, and what a second push keeps."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import DatasetCard
from places import ROOT
from tiny_corpus import write_corpus

from hub_cards import CORPUS_CARD_WRITTEN_BY_US, corpus_rows
from hub_cards.command_line import run_command
from hub_cards.dataset_card import is_rendered, render_dataset_card
from hub_cards.publish_corpus import PROG, main
from processing.conversation_vita_audio import AUDIO_MARK
from training.conversations import read_conversations
from training.corpus.noise import NOISE_VOICE
from training.corpus.voices import ALL_VOICES


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


def clip_of(voice, number, split="train", duration=1.0, path=None):
    """A row of `clips.jsonl`, as `training.corpus.render` writes it where no `path` is given."""
    row = {"id": f"{number:016x}", "text": "One.", "voice": voice, "split": split, "duration": duration}
    return row | {"path": path or f"audio/{voice}/{row['id']}.flac"}


def test_card_of_a_corpus():
    rows = [{"task": task, "split": split} for task in ("asr", "tqa") for split in ("train", "train", "test")]
    clips = [clip_of("joe", 1, "train", 1800.0), clip_of("flite-rms", 2, "test", 900)]
    configs = [{"config_name": "conversations", "default": True}]
    card = render_dataset_card("me/corpus", rows, clips, "mit", ["en"], {"configs": configs, "license": "other"})
    card = DatasetCard(str(card))
    assert card.data.configs == configs and card.data.license == "mit" and card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["automatic-speech-recognition", "question-answering"]
    assert "| asr | 2 | 1 |" in card.text and "| hours | 0.50 | 0.25 |" in card.text
    assert "| joe | 1 | 0.50 |" in card.text and "All speech is synthetic" in card.text
    assert "synthetic" in card.data.tags and card.data.annotations_creators == ["machine-generated"]
    assert 'load_dataset("me/corpus", "conversations", split="train")' in card.text
    assert CORPUS_CARD_WRITTEN_BY_US in card.text
    text = render_dataset_card("me/corpus", rows, [], "mit", ["en"]).text
    assert "Voices and durations: not recorded" in text and "synthetic" not in text


@pytest.mark.parametrize(
    "clips, audios, is_some_synthetic",
    [
        ([clip_of("anna", 1)], [], False),
        # people whose names are those of voices
        ([clip_of("joe", 1, path="audio/joe/1.flac"), clip_of("heart", 2, path="heart.flac")], [], False),
        ([clip_of("joe", 1), clip_of("anna", 2)], [], True),
        # a recording that no clip tells of
        ([clip_of("joe", 1)], ["mine.flac"], True),
    ],
)
def test_recordings_of_people_are_not_declared_synthetic(clips, audios, is_some_synthetic):
    rows = [{"task": "asr", "split": "train", "audios": audios}]
    card = DatasetCard(str(render_dataset_card("me/mine", rows, clips)))
    assert "synthetic" not in card.data.tags and card.data.get("annotations_creators") is None
    # nor are licence and language those of our voices
    assert card.data.get("license") is None and card.data.get("language") is None
    assert "All speech" not in card.text and "Synthetic voices" not in card.text
    assert ("Some of the speech is synthetic" in card.text) == ("WordNet" in card.text) == is_some_synthetic
    assert "come from is not recorded" in card.text
    assert f"| {clips[0]['voice']} | 1 |" in card.text


def test_every_voice_of_the_corpus_is_known_as_synthetic():
    assert all(is_rendered(clip_of(voice, 7)) for voice in (*ALL_VOICES, NOISE_VOICE))


def test_a_corpus_keeps_the_licence_of_its_card():
    there = {"license": "other", "license_name": "mine", "license_link": "LICENSE", "language": ["de"]}
    data = render_dataset_card("me/mine", [{"split": "train"}], [], hub_metadata=there).data.to_dict()
    assert there.items() <= data.items()
    assert "license_name" not in render_dataset_card("me/mine", [], [], "mit", hub_metadata=there).data.to_dict()


@pytest.mark.parametrize(
    "row, said",
    [
        ({"messages": []}, "it has no `messages`"),
        ({"messages": ["hi"]}, "each message needs a `role` and a `content`"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "each message needs a `role`"),
        ({"messages": [{"role": "bob", "content": "x"}]}, "unknown role 'bob'; roles are system, user and assistant"),
        (
            {"messages": [{"role": "user", "content": "<|audio|>"}]},
            "the messages have 1 marks <|audio|>, but there are 0",
        ),
        ({"audios": [{"bytes": None}]}, "`audios` must be a list of paths"),
        ({"task": ["asr"]}, "`task`, `split`, `reference` and `answer` must be texts"),
        ({"answer": 4}, "`task`, `split`, `reference` and `answer` must be texts"),
        ({"accepted_answers": "four"}, "`accepted_answers` must be a list of texts"),
        ({"turns": [{"reference": "x"}]}, "`turns` must be a list of objects"),
        ({"id": [1]}, "`id` must be a text or a number"),
        ({"id": "0"}, "it has the id '0', as line 1 has"),
        ({"split": 3}, "must be texts"),
        ({"split": "my-test"}, "`split` must be a word such as train or test_words, without dashes and blanks, got"),
    ],
)
def test_rows_that_training_or_the_hub_would_refuse_are_named(row, said, tmp_path, monkeypatch, capsys):
    # nothing is asked of a Hub
    monkeypatch.setattr("hub_cards.publish_corpus.create_repository", None)
    rows = [{"id": "0", "messages": MESSAGES}, {"messages": MESSAGES} | row]
    (tmp_path / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(main, PROG, ["--corpus_dir", str(tmp_path), "--repo_id", "me/mine"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "conversations.jsonl, line 2 cannot be published: " in line and said in line
    if "split" not in said:
        with pytest.raises(ValueError):
            list(read_conversations(tmp_path))


@pytest.mark.parametrize(
    "change, said", [({"split": "a b"}, "`split` must be a word"), ({"phonemes": "x"}, "`phonemes`")]
)
def test_clips_that_the_hub_would_refuse_are_named(change, said, tmp_path):
    (tmp_path / "clips.jsonl").write_text(json.dumps(clip_of("joe", 1) | change))
    with pytest.raises(ValueError, match=f"clips.jsonl, line 1 cannot be published: {said}"):
        corpus_rows.read_rows(tmp_path / "clips.jsonl")


def test_rows_without_a_split_are_of_the_training_split(tmp_path):
    path = tmp_path / "conversations.jsonl"
    rows = [{"messages": MESSAGES} | row for row in ({}, {"split": None}, {"split": ""}, {"split": "dev", "id": 5})]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = corpus_rows.read_rows(path)
    assert [row["split"] for row in read] == ["train", "train", "train", "dev"]
    # the column of ids has texts
    assert [row["id"] for row in read] == [None, None, None, "5"]
    assert corpus_rows.AUDIO_MARK == AUDIO_MARK


@pytest.mark.slow
def test_a_second_push_keeps_what_people_have_written(hub, tmp_path):
    write_corpus(tmp_path / "corpus", num_clips=4)
    clip = clip_of("anna", 1, path="audio/0.wav")
    (tmp_path / "corpus" / "clips.jsonl").write_text(json.dumps(clip))
    api, environment = hub.api(), hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT))

    def publish(*options):
        command = [sys.executable, "-m", PROG, "--corpus_dir", tmp_path / "corpus", "--repo_id", "corpus", *options]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        path = api.hf_hub_download("vita/corpus", "README.md", repo_type="dataset", local_dir=tmp_path / "card")
        card = DatasetCard.load(path)
        # the conversations stay what is loaded by default
        assert [config.get("default") for config in card.data.configs] == [None, True]
        return card, done.stderr

    card, _ = publish("--license", "cc-by-4.0", "--language", "de")
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["de"]) and card.data.dataset_info
    assert CORPUS_CARD_WRITTEN_BY_US in card.text
    # written anew, licence and language are those of the first time
    card, said = publish()
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["de"]) and "by hand" not in said

    card.text = card.text.replace(CORPUS_CARD_WRITTEN_BY_US, "Anna speaks, and has agreed.")
    api.upload_file(
        path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="vita/corpus", repo_type="dataset"
    )
    by_hand, said = publish("--license", "mit")
    assert "The card of vita/corpus was edited by hand, so its text stays as it is." in said
    assert by_hand.text.strip() == card.text.strip() and by_hand.data.license == "mit"
