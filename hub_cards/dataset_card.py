# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the card of a training corpus from its rows."""

from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from .results import TASK_CATEGORIES


TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"
DURATIONS_PICTURE = "durations.png"

# The size categories of the Hub, each with the number of rows that is too many for it
SIZE_LIMITS = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


def render_dataset_card(
    repo_id: str,
    conversations: list[dict],
    clips: list[dict],
    license: str,
    language: list[str],
    hub_metadata: dict | None = None,
) -> DatasetCard:
    """
    Args:
        repo_id: where the corpus is, or will be, on the Hub.
        conversations: rows of `conversations.jsonl`.
        clips: rows of `clips.jsonl`, with the voices and durations in seconds; empty where there is none.
        license, language: of the metadata.
        hub_metadata: what `datasets` has written into the repository's card: `dataset_info` and `configs`.
    """
    # in the order of the corpus: a set would give every card another order
    tasks = [task for task in dict.fromkeys(row.get("task") for row in conversations) if task]
    # several tasks are of one category
    categories = list(dict.fromkeys(TASK_CATEGORIES[task] for task in tasks if task in TASK_CATEGORIES))
    size = next((name for limit, name in SIZE_LIMITS.items() if len(conversations) < limit), "n>1M")
    data = DatasetCardData(
        license=license,
        language=language,
        pretty_name=repo_id.rpartition("/")[2],
        task_categories=categories or None,
        size_categories=[size],
        # Only `training.corpus.render` writes clips, so all speech is known to be synthetic where there are some.
        annotations_creators=["machine-generated"] if clips else None,
        tags=["vita-audio", "audio", "speech"] + (["synthetic"] if clips else []),
        # `load_dataset` reads from these two which configurations and columns the repository has.
        **{key: value for key, value in (hub_metadata or {}).items() if key in ("dataset_info", "configs")},
    )
    # Rows without a split are sent as training data, because the Hub has a split for every row.
    splits = list(dict.fromkeys(row.get("split", "train") for row in conversations))
    counts = Counter((row.get("task"), row.get("split", "train")) for row in conversations)
    voices = {}
    for clip in clips:
        voices.setdefault(clip["voice"], []).append(clip["duration"])
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=data.pretty_name,
        repo_id=repo_id,
        splits=splits,
        # One row of the table for all conversations where none names its task
        tasks=tasks or [None],
        counts=counts,
        clips=len(clips),
        hours={split: sum(clip["duration"] for clip in clips if clip["split"] == split) / 3600 for split in splits},
        clips_of={split: sum(clip["split"] == split for clip in clips) for split in splits},
        voices={voice: (len(durations), sum(durations) / 3600) for voice, durations in sorted(voices.items())},
        picture=DURATIONS_PICTURE,
    )
