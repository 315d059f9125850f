# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The stages of training. What trains them and what describes them on a card read this table alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """
    A stage of training (arXiv 2505.03739, section 3.4). The losses are those of what it trains.

    Args:
        name: on the card.
        trains_language_model: whether the language model, its embeddings and its head are trained, or frozen.
        trains_mctp_modules: whether the MCTP modules are trained.
        max_modules: how many MCTP modules the model has in this stage; None for as many as the settings say.
        answers_questions: whether the model has learnt to answer spoken questions, which the example on the card asks
            it.
        description: for the card, what was trained and what the model cannot do yet.
    """

    name: str
    trains_language_model: bool
    trains_mctp_modules: bool
    max_modules: int | None
    answers_questions: bool
    description: str


STAGES = {
    1: Stage(
        "audio-text alignment",
        trains_language_model=True,
        trains_mctp_modules=False,
        max_modules=0,
        answers_questions=False,
        description="all of the language model was trained to read and to write speech. It has no MCTP modules yet, "
        "so it writes one token per forward, and it has not learnt to answer spoken questions.",
    ),
    # The modules of stage 3 begin as copies of this one, see `grow_mctp_modules`.
    2: Stage(
        "single MCTP module",
        trains_language_model=False,
        trains_mctp_modules=True,
        max_modules=1,
        answers_questions=False,
        description="the first MCTP module was trained, the language model is that of stage 1. It has not learnt to "
        "answer spoken questions.",
    ),
    3: Stage(
        "multiple MCTP modules",
        trains_language_model=False,
        trains_mctp_modules=True,
        # The paper has ten; the setting `num_mctp_modules` may say another number.
        max_modules=None,
        answers_questions=False,
        description="all MCTP modules were trained, the language model is that of stage 1. It has not learnt to "
        "answer spoken questions.",
    ),
    4: Stage(
        "supervised fine-tuning",
        trains_language_model=True,
        trains_mctp_modules=True,
        max_modules=None,
        answers_questions=True,
        description="everything was trained together, spoken question answering included. This is the model to use.",
    ),
}
