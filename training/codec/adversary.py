# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The adversary of the decoder: discriminators that learn beside it, with an optimizer of their own."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from hub_cards.command_line import naming

from .discriminators import Discriminators


# Weight of the distance of the discriminators' layers beside that of their scores, as in HiFi-GAN (arXiv 2010.05646,
# equation 5)
FEATURE_WEIGHT = 2.0
STATE_NAME = "adversary.pt"  # in every checkpoint


def split_outputs(
    outputs: list[list[torch.Tensor]],
) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """The outputs of discriminators on a batch whose first half is decoded and whose second half is recorded."""
    decoded, recorded = ([[layer.float().chunk(2)[half] for layer in layers] for layers in outputs] for half in (0, 1))
    return decoded, recorded


def deception_losses(
    decoded: list[list[torch.Tensor]], recorded: list[list[torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What the decoder is to make small, each a mean over the discriminators: the hinge loss of their scores, and how far
    their layers are from those of recordings, relative to the layers' size.
    """
    scores = torch.stack([(1 - layers[-1]).relu().mean() for layers in decoded]).mean()
    distances = [
        (layer - target.detach()).abs().mean() / target.detach().abs().mean().clamp(min=1e-4)
        for layers, targets in zip(decoded, recorded)
        for layer, target in zip(layers[:-1], targets[:-1])
    ]
    return scores, torch.stack(distances).mean()


def discriminator_loss(decoded: list[list[torch.Tensor]], recorded: list[list[torch.Tensor]]) -> torch.Tensor:
    """The hinge loss (arXiv 1705.02894) that the discriminators are to make small: 2 where they know nothing."""
    losses = [
        (1 + layers[-1]).relu().mean() + (1 - targets[-1]).relu().mean() for layers, targets in zip(decoded, recorded)
    ]
    return torch.stack(losses).mean()


class Adversary:
    """
    Discriminators that learn beside the decoder, and tell it what gives its speech away.

    Args:
        learning_rate: peak; it rises and falls as the decoder's does.
        betas: of AdamW.
        accelerator: that of the run. Where several processes train, they share their gradients.
    """

    def __init__(self, learning_rate: float, betas: tuple[float, float], accelerator: Accelerator):
        self.learning_rate, self.accelerator = learning_rate, accelerator
        self.discriminators = Discriminators().to(accelerator.device)
        # whatever each process has drawn before
        for weight in self.discriminators.parameters():
            weight.data = broadcast(weight.data)
        self.optimizer = torch.optim.AdamW(self.discriminators.parameters(), learning_rate, betas, weight_decay=0.01)

    def judge(
        self, audio: torch.Tensor, target: torch.Tensor, weight: float, num_batches: int = 1
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Decoded and recorded speech `(batch, samples)` to the decoder's loss, times `weight`, and its parts. The
        discriminators' own gradients are added to those of the other `num_batches` of a step.
        """
        # One forward pass serves both sides, a quarter of the work less than one for each: the discriminators are not
        # asked again after they have learnt.
        copy = audio.detach().requires_grad_()
        with self.accelerator.autocast():
            outputs = self.discriminators(torch.cat([copy, target]))
        decoded, recorded = split_outputs(outputs)
        adversarial, feature = deception_losses(decoded, recorded)
        own = discriminator_loss(decoded, recorded)
        loss = weight * (adversarial + FEATURE_WEIGHT * feature)
        (gradient,) = torch.autograd.grad(loss, copy, retain_graph=True)
        (own / num_batches).backward(inputs=list(self.discriminators.parameters()))
        # A loss whose gradient is that of the discriminators' verdict, and whose value is the verdict's
        surrogate = (audio * gradient).sum()
        parts = {"adversarial_loss": adversarial, "feature_loss": feature, "discriminator_loss": own}
        return loss.detach() + surrogate - surrogate.detach(), {name: part.detach() for name, part in parts.items()}

    def step(self, share: float, max_norm: float) -> None:
        """Takes the gradients since the last step, at this `share` of the peak learning rate."""
        for parameter in self.discriminators.parameters():
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        if max_norm > 0:
            nn.utils.clip_grad_norm_(self.discriminators.parameters(), max_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: str | Path) -> None:
        state = {"discriminators": self.discriminators.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, Path(folder, STATE_NAME))

    def load(self, folder: str | Path) -> None:
        """
        Raises:
            ValueError: `folder` has no state of discriminators, or that of others.
        """
        with naming(f"The discriminators in {folder} ({STATE_NAME})"):
            # Not straight to the accelerator's device: with several processes on a CPU that is `cpu:0`, which PyTorch
            # does not load to. The modules and the optimizer take the state to where they are.
            state = torch.load(Path(folder, STATE_NAME), map_location="cpu", weights_only=True)
            self.discriminators.load_state_dict(state["discriminators"])
            self.optimizer.load_state_dict(state["optimizer"])
