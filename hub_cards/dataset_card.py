# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the card of a training corpus from its rows."""

import re
from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from . import CORPUS_CARD_WRITTEN_BY_US
from .corpus_rows import DEFAULT_SPLIT
from .model_card import DEFAULT_LANGUAGE, DEFAULT_LICENSE, details_of_license
from .results import TASK_CATEGORIES


TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"
DURATIONS_PICTURE = "durations.png"

# The size categories of the Hub, each with the number of rows that is too many for it
SIZE_LIMITS = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

# The voices of `training.corpus.voices`, and its noise
RENDERED_VOICE = re.compile(r"joe(-varied)?|heart|ked|noise|(flite|espeak|kokoro)-[\w-]+")
# What `training.corpus.render` names a clip by, a hash of what it is made from
RENDERED_ID = re.compile("[0-9a-f]{16}")


def render_dataset_card(
    repo_id: str,
    conversations: list[dict],
    clips: list[dict],
    license: str | None = None,
    language: list[str] | None = None,
    hub_metadata: dict | None = None,
) -> DatasetCard:
    """
    Args:
        repo_id: where the corpus is, or will be, on the Hub.
        conversations: rows of `conversations.jsonl`.
        clips: rows of `clips.jsonl`, with the voices and durations in seconds; empty where there is none.
        license, language: of the metadata; by default those of `hub_metadata`, and where that has none, those of what
            `training.corpus.render` makes, if all clips are its.
        hub_metadata: of the card that is in the repository, with what `datasets` has written: `dataset_info` and
            `configs`.
    """
    hub_metadata = hub_metadata or {}
    # in the order of the corpus: a set would give every card another order
    tasks = [task for task in dict.fromkeys(row.get("task") for row in conversations) if task]
    # several tasks are of one category
    categories = list(dict.fromkeys(TASK_CATEGORIES[task] for task in tasks if task in TASK_CATEGORIES))
    size = next((name for limit, name in SIZE_LIMITS.items() if len(conversations) < limit), "n>1M")
    # People's recordings must not be declared synthetic: those that no clip tells of may be theirs, too.
    rendered = {clip["path"] for clip in clips if is_rendered(clip)}
    heard = {clip["path"] for clip in clips}.union(*(row.get("audios") or [] for row in conversations))
    is_synthetic = bool(clips) and heard == rendered
    license = license or hub_metadata.get("license") or (DEFAULT_LICENSE if is_synthetic else None)
    language = language or hub_metadata.get("language") or (DEFAULT_LANGUAGE if is_synthetic else None)
    data = DatasetCardData(
        license=license,
        **details_of_license(license, hub_metadata),
        language=language,
        pretty_name=repo_id.rpartition("/")[2],
        task_categories=categories or None,
        size_categories=[size],
        annotations_creators=["machine-generated"] if is_synthetic else None,
        tags=["vita-audio", "audio", "speech"] + (["synthetic"] if is_synthetic else []),
        # `load_dataset` reads from these two which configurations and columns the repository has.
        **{key: value for key, value in hub_metadata.items() if key in ("dataset_info", "configs")},
    )
    splits = list(dict.fromkeys(row.get("split") or DEFAULT_SPLIT for row in conversations))
    counts = Counter((row.get("task"), row.get("split") or DEFAULT_SPLIT) for row in conversations)
    voices = {}
    for clip in clips:
        voices.setdefault(clip["voice"], []).append(clip["duration"])
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        written_by_us=CORPUS_CARD_WRITTEN_BY_US,
        name=data.pretty_name,
        repo_id=repo_id,
        splits=splits,
        # One row of the table for all conversations where none names its task
        tasks=tasks or [None],
        counts=counts,
        clips=len(clips),
        has_rendered=bool(rendered),
        is_synthetic=is_synthetic,
        hours={split: sum(clip["duration"] for clip in clips if clip["split"] == split) / 3600 for split in splits},
        clips_of={split: sum(clip["split"] == split for clip in clips) for split in splits},
        voices={voice: (len(durations), sum(durations) / 3600) for voice, durations in sorted(voices.items())},
        picture=DURATIONS_PICTURE,
    )


def is_rendered(clip: dict) -> bool:
    """
    Whether `training.corpus.render` has made a clip. The name of its voice alone would not say so: people have such
    names, too.
    """
    voice, row_id = clip["voice"], str(clip.get("id"))
    is_known = RENDERED_VOICE.fullmatch(voice) and RENDERED_ID.fullmatch(row_id)
    return bool(is_known) and clip["path"] == f"audio/{voice}/{row_id}.flac"
