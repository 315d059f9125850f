# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Publishes a corpus as a dataset of the Hub, audio included.

    python -m hub_cards.publish_corpus --corpus_dir corpus --repo_id user/corpus [--private]

`training.train --dataset_name user/corpus` reads it back. If a run was stopped, the next one sends only the files that
the Hub has not got yet. A card there that was edited by hand keeps its text.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import datasets
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, List, Value
from huggingface_hub import DatasetCard, HfApi

from . import CORPUS_CARD_WRITTEN_BY_US
from .command_line import ArgumentParser, run_command
from .corpus_rows import CLIPS, CONVERSATIONS, read_rows
from .dataset_card import DURATIONS_PICTURE, render_dataset_card
from .model_card import CARD_FILE, DEFAULT_LANGUAGE, DEFAULT_LICENSE
from .plots import plot_durations
from .push import call_hub, create_repository
from .schemas import check_fields
from .secret_scan import check_for_secrets, environment_secrets


PROG = "hub_cards.publish_corpus"
# The columns are fixed, because rows may leave some out, and all splits must have the same ones.
FEATURES = {
    CONVERSATIONS: Features(
        {
            "id": Value("string"),
            "task": Value("string"),
            "messages": List({"role": Value("string"), "content": Value("string")}),
            "audios": List(Audio()),
            "reference": Value("string"),
            "answer": Value("string"),
            "accepted_answers": List(Value("string")),
            # of dialogues, what each turn of the assistant is scored by
            "turns": List(
                {
                    "reference": Value("string"),
                    "answer": Value("string"),
                    "accepted_answers": List(Value("string")),
                }
            ),
        }
    ),
    CLIPS: Features(
        {
            "id": Value("string"),
            "audio": Audio(),
            "text": Value("string"),
            "voice": Value("string"),
            "phonemes": List(Value("string")),
            "duration": Value("float64"),
        }
    ),
}
# A run that is stopped loses at most one shard.
MAX_SHARD_SIZE = "200MB"


def build_dataset(corpus_dir: Path, name: str, rows: list[dict]) -> DatasetDict:
    """
    Args:
        corpus_dir: that the rows' paths are relative to.
        name: `"conversations"` or `"clips"`.
        rows: of the file of that name, as [`read_rows`] has them.

    Raises:
        FileNotFoundError: an audio file is missing.
        ValueError: what a row names is no audio file, or not in `corpus_dir`.
    """
    # Many conversations share a recording, which is looked at only once.
    root, known = corpus_dir.resolve(), set()

    def checked(path: str) -> str:
        file = corpus_dir / path
        if file in known:
            return str(file)
        # `resolve` follows links, which may lead out of the folder.
        if root not in file.resolve().parents:
            raise ValueError(f"{name}.jsonl names {path}, which is not in {corpus_dir}: it is not for you to share.")
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, or no regular file, which {name}.jsonl names.")
        try:
            # This reads only the header. The Hub would take a file of any kind.
            soundfile.info(str(file))
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{name}.jsonl names {path}, which is no audio file: {error.error_string}") from error
        known.add(file)
        return str(file)

    splits = {}
    for row in rows:
        audios = (
            {"audio": checked(row["path"])}
            if name == CLIPS
            else {"audios": list(map(checked, row.get("audios") or []))}
        )
        columns = {column: row.get(column) for column in FEATURES[name]} | audios
        splits.setdefault(row["split"], []).append(columns)
    # `datasets` makes audio of paths without decoding it only where they are cast
    of_paths = Features(
        FEATURES[name] | ({"audio": Value("string")} if name == CLIPS else {"audios": List(Value("string"))})
    )
    return DatasetDict(
        {split: Dataset.from_list(rows, of_paths).cast(FEATURES[name]) for split, rows in splits.items()}
    )


def publish_corpus(
    corpus_dir: Path,
    repo_id: str,
    private: bool | None = None,
    license: str | None = None,
    language: list[str] | None = None,
) -> str:
    """
    Sends a folder with `conversations.jsonl` and, where there is one, `clips.jsonl`.

    Args:
        corpus_dir: the folder.
        repo_id: of the dataset; created if there is none.
        private: whether a new dataset is private; by default as the owner's account has it.
        license, language: as of [`render_dataset_card`].

    Returns:
        `str`: the dataset's id.

    Raises:
        FileNotFoundError: there is no such folder, or audio files are missing.
        ValueError: there is a secret in the rows, one is malformed or names what is no audio in the folder, or
            `license` or `language` is not as the Hub has it.
        PushError: the Hub refused, or could not be reached.
    """
    # Everything that can be wrong with the corpus is checked before the first request to the Hub.
    given = {key: value for key, value in (("license", license), ("language", language)) if value}
    check_fields(given, "the card")
    rows = {name: read_rows(corpus_dir / f"{name}.jsonl") for name in (CONVERSATIONS, CLIPS)}
    if not rows[CONVERSATIONS]:
        raise FileNotFoundError(f"{corpus_dir} has no {CONVERSATIONS}.jsonl with conversations.")
    for name in rows:
        if rows[name]:
            check_for_secrets(corpus_dir / f"{name}.jsonl", environment_secrets())
    parts = {name: build_dataset(corpus_dir, name, rows[name]) for name in rows if rows[name]}

    api = HfApi()
    repo_id = create_repository(repo_id, private, api, repo_type="dataset")
    for name, part in parts.items():
        push = partial(part.push_to_hub, repo_id, name)
        call_hub(partial(push, commit_message=f"Upload {name}", max_shard_size=MAX_SHARD_SIZE), repo_id, api)
    # The metadata that `datasets` has written about the configurations is kept. A new card has nothing else.
    card = call_hub(partial(DatasetCard.load, repo_id), repo_id, api)
    for configuration in card.data["configs"]:
        # `set_default` of `push_to_hub` takes the mark away from a configuration that has it already (datasets 5.2).
        if configuration["config_name"] == CONVERSATIONS:
            configuration["default"] = True
    if card.text.strip() and CORPUS_CARD_WRITTEN_BY_US not in card.text:
        print(f"The card of {repo_id} was edited by hand, so its text stays as it is.", file=sys.stderr)
        for key, value in given.items():
            card.data[key] = value
    else:
        card = render_dataset_card(repo_id, rows[CONVERSATIONS], rows[CLIPS], license, language, card.data.to_dict())
    # In a folder of their own, card and picture are one commit, and `corpus_dir` gets no files that it did not have.
    with tempfile.TemporaryDirectory() as folder:
        card.save(Path(folder) / CARD_FILE)
        if rows[CLIPS]:
            durations = {}
            for clip in rows[CLIPS]:
                durations.setdefault(clip["split"], []).append(clip["duration"])
            plot_durations(durations, Path(folder) / DURATIONS_PICTURE)
        upload = partial(api.upload_folder, repo_id=repo_id, folder_path=folder, repo_type="dataset")
        call_hub(partial(upload, commit_message="Card"), repo_id, api)
    return repo_id


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="such as training.corpus.render writes")
    parser.add_argument("--repo_id", required=True, help="of the dataset; created if there is none")
    # None, not False, leaves the choice to the settings of the owner's account.
    parser.add_argument("--private", action="store_true", default=None, help="make a new dataset private")
    parser.add_argument(
        "--license",
        help="of the texts and voices, such as mit (default: as the card there has it; of what training.corpus.render "
        f"has made, {DEFAULT_LICENSE})",
    )
    parser.add_argument("--language", nargs="+", help=f"such as {DEFAULT_LANGUAGE[0]} (default: likewise)")
    args = parser.parse_args(argv)
    # Without its cache, `datasets` uses a temporary folder that is deleted at the end.
    datasets.disable_caching()
    repo_id = publish_corpus(args.corpus_dir, args.repo_id, args.private, args.license, args.language)
    print(f"{args.corpus_dir} is the dataset {repo_id}.")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
