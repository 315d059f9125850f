# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Which drafts of the MCTP modules the language model keeps: `mctp_verify` and its formulas."""

from numbers import Real
from typing import Any

import torch

from .configuration_vita_audio import VitaAudioConfig


# Where decoding is lossless, a row gets no more drafts behind one that its module gives a smaller probability: the
# next ones are seldom kept. Of 0.3, 0.5, 0.7 and 0.9 this was the fastest for eight rows of the shipped model
SURE_PROBABILITY = 0.7


def resolve_mctp_verify(mctp_verify: Any) -> tuple[float, float, float]:
    """
    Args:
        mctp_verify (`bool`, `float` or two or three of these): see [`VitaAudioGenerationMixin`].

    Returns:
        `tuple[float, float, float]`: the tolerances of text, of speech, and of the speech that modules write after the
        first forward. 1.0 is lossless, 0.0 keeps every draft.

    Raises:
        ValueError: it is something else.
    """
    numbers = mctp_verify if isinstance(mctp_verify, list | tuple) else (mctp_verify, mctp_verify)
    # True and False are numbers in Python, and mean the same as 1.0 and 0.0. A NaN is in no range
    if len(numbers) not in (2, 3) or not all(isinstance(number, Real) and 0 <= number <= 1 for number in numbers):
        raise ValueError(
            "`mctp_verify` must be True, False, a number from 0 to 1 or two or three such numbers, for text, "
            f"for speech and for the first speech, got {mctp_verify!r:.200}."
        )
    return float(numbers[0]), float(numbers[1]), float(numbers[-1])


class Tolerances:
    """
    The tolerance of each draft. A code or a delimiter of speech is speech, all else is text: what a draft is, and not
    where it stands, because an answer may have text where the layout has speech.

    Args:
        mctp_verify (`bool`, `float` or two or three of these): as [`resolve_mctp_verify`] takes it.
        schedule (`list[int]`): of decoding, as [`resolve_mctp_mode`] gives it; it says what the first forward brings.
        config ([`VitaAudioConfig`]): says which ids are speech.
    """

    def __init__(self, mctp_verify: Any, schedule: list[int], config: VitaAudioConfig):
        self.text, self.speech, self.first_speech = numbers = resolve_mctp_verify(mctp_verify)
        self.num_first = sum(schedule[:2])
        self.config = config
        # With zeros alone nothing is checked, and with one somewhere a draft may need no check
        self.is_verified, self.is_lossless, self.can_be_free = max(numbers) > 0, min(numbers) == 1, min(numbers) == 0

    def __call__(self, drafts: torch.LongTensor, places: torch.LongTensor | int) -> torch.Tensor:
        """
        Args:
            drafts (`torch.LongTensor`): tokens of any shape.
            places (`torch.LongTensor` of that shape, or `int`): how many new tokens each has before it.
        """
        start = self.config.speech_token_offset
        is_speech = (drafts >= start) & (drafts < start + self.config.num_speech_tokens)
        for token_id in (self.config.begin_audio_token_id, self.config.end_audio_token_id):
            is_speech = is_speech | (drafts == token_id)
        is_first = torch.as_tensor(places, device=drafts.device) < self.num_first
        return torch.where(is_speech, torch.where(is_first, self.first_speech, self.speech), self.text)


def verify_drafts(
    drafts: torch.LongTensor,
    draft_probs: torch.Tensor | None,
    scores: torch.Tensor,
    tolerances: torch.Tensor,
    generator: torch.Generator | None = None,
) -> tuple[torch.BoolTensor, torch.LongTensor]:
    """
    Decides about drafts, with p the probabilities of the language model, q those that a draft was drawn from and t the
    tolerance of the draft x.

    Greedy search keeps x if p(x) >= t * max(p), and has the likeliest token in its place otherwise.

    Sampling keeps x with the probability min(1, p(x) / (t * q(x))), and otherwise draws from max(0, p - t * q), scaled
    to sum to 1. This is speculative sampling with lenience (arXiv 2211.17192, appendix A.5). A token y then has the
    probability

        min(q(y), p(y) / t) + (1 - sum_z min(q(z), p(z) / t)) * max(0, p(y) - t * q(y)) / sum_z max(0, p(z) - t * q(z))

    which is p(y) for t = 1, q(y) for t = 0, and never more than p(y) / t. (Typical acceptance, arXiv 2401.10774, keeps
    a draft by its probability alone, so it has no t that keeps the distribution.)

    Args:
        drafts (`torch.LongTensor` of shape `(num_drafts,)`): the tokens x.
        draft_probs (`torch.Tensor` of shape `(num_drafts, vocab_size)`, *optional*): q; None in greedy search. A row
            of zeros, where there is no draft, draws from p.
        scores (`torch.Tensor` of shape `(num_drafts, vocab_size)`): the language model's processed scores, of which p
            is the softmax.
        tolerances (`torch.Tensor` of shape `(num_drafts,)`): t.
        generator (`torch.Generator`, *optional*): what sampling draws with; PyTorch's own by default.

    Returns:
        `tuple`: whether each draft is kept `(num_drafts,)`, and the tokens `(num_drafts,)` in the place of those that
        are not.
    """
    drafts = drafts[:, None]
    if draft_probs is None:
        tokens = scores.argmax(dim=-1, keepdim=True)
        shares = (scores.gather(1, drafts) - scores.gather(1, tokens)).exp()
        tolerances = tolerances[:, None]
        # At 1.0 not even a token that scores alike stands for the one that greedy search takes
        is_kept = (drafts == tokens) | ((shares >= tolerances) & (tolerances < 1)) | (tolerances == 0)
        return is_kept.squeeze(1), tokens.squeeze(1)
    probs = scores.softmax(dim=-1)
    lenient_probs = tolerances[:, None] * draft_probs
    residual = (probs - lenient_probs).clamp(min=0)
    # `multinomial` refuses a row of zeros, which there is where both distributions are the same. There the draft is
    # kept anyway, so what is drawn instead does not matter
    residual = torch.where(residual.sum(dim=1, keepdim=True) > 0, residual, probs)
    tokens = torch.multinomial(residual, num_samples=1, generator=generator).squeeze(1)
    limits = lenient_probs.gather(1, drafts).squeeze(1)
    chances = torch.rand(limits.shape, dtype=limits.dtype, device=limits.device, generator=generator)
    is_kept = chances * limits < probs.gather(1, drafts).squeeze(1)
    return is_kept | (tolerances == 0), tokens


def are_sure(drafts: torch.LongTensor, scores: torch.Tensor) -> torch.BoolTensor:
    """Whether modules are sure of drafts `(num_drafts,)`, by their processed scores `(num_drafts, vocab_size)`."""
    return scores.log_softmax(dim=-1).gather(1, drafts[:, None]).squeeze(1).exp() >= SURE_PROBABILITY


__all__ = ["Tolerances", "are_sure", "resolve_mctp_verify", "verify_drafts"]
