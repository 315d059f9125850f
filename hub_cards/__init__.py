# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Cards of models and corpora, and pushing to the Hub."""

# A card with this line is written anew. The line is in every card that we write, and who edits one deletes it.
WRITTEN_BY_US = (
    "<!-- Written by `vita-audio card` from the files of this folder. To edit it, delete this line first. -->"
)
CORPUS_CARD_WRITTEN_BY_US = (
    "<!-- Written by `hub_cards.publish_corpus` from the files of a corpus. To edit it, delete this line first. -->"
)
