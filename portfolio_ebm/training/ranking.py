"""Training energies to rank: lists of items with a utility each, and an energy that is to be lower where it is higher.

    ranking     P(i beats j) = 1 / (1 + exp(-(E_j - E_i) / T)),  loss = - mean of log P(i beats j), pairs with U_i > U_j
    imitation   p_E(j) = exp(-E_j / T) / sum_k exp(-E_k / T),    loss = - mean over lists of log p_E(the best item)

Utilities are noisy. `ranking` asks which of two did better, so symmetric noise favours neither, and E is about minus
the utility. `imitation` (InfoNCE with the best in hindsight as the positive) asks who won, and of many items one of the
noisiest wins: it learns to like risk. So would a softmax of the utilities, as E exp(U / T) grows with their variance.

T is the mean standard deviation of the utility within a list. The last lists are held out: the parameters kept are
those of the step with the least loss on them.

Sources: Burges, C. et al. (2005), Learning to rank using gradient descent, ICML; van den Oord, A., Li, Y. and Vinyals,
O. (2018), Representation learning with contrastive predictive coding, arXiv:1807.03748; Kingma, D. P. and Ba, J.
(2015), Adam, ICLR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Objective = Literal["ranking", "imitation"]
EVERY = 10
"""Steps between looks at the lists held out."""


@dataclass(frozen=True)
class Lists:
    """D lists of C items: utility (D, C), and `energy(parameters, rows)` the energies (len(rows), C) of some lists."""

    utility: Tensor
    energy: Callable[[Mapping[str, Tensor], slice], Tensor]


def scale_of(utility: Tensor) -> float:
    """T: the mean standard deviation of utilities (D, C) within a list; 1 where they do not differ."""
    return float(utility.std(-1).mean()) or 1.0


@dataclass(frozen=True)
class Ranked:
    """What training found.

    Attributes:
        parameters: by name. step: the step they are from.
        before, after: loss on the lists that were learnt from, before the first step and at `step`.
        held_before, held_after: the same on the lists held out.
    """

    parameters: dict[str, Tensor]
    step: int
    before: float
    after: float
    held_before: float
    held_after: float


def loss_of(energy: Tensor, utility: Tensor, temperature: float, objective: Objective) -> Tensor:
    """The loss of energies (D, C) under utilities (D, C), (); pairs of equal utility say nothing."""
    if objective == "imitation":
        best = utility.argmax(-1, keepdim=True)
        return -torch.log_softmax(-energy / temperature, -1).gather(-1, best).mean()
    better = (utility.unsqueeze(-1) - utility.unsqueeze(-2)).sign()
    odds = (energy.unsqueeze(-2) - energy.unsqueeze(-1)) / temperature
    pairs = better > 0.0
    return (torch.nn.functional.softplus(-odds) * pairs).sum() / pairs.sum().clamp_min(1)


def fit_ranking(
    lists: Lists, start: Mapping[str, Tensor], *, objective: Objective = "ranking", held: int = 0, steps: int = 300,
    rate: float = 0.01, decay: float = 1e-3,
) -> Ranked:  # fmt: skip
    """Adam on the loss, from `start`.

    Args:
        held: how many of the last lists are held out; with 0 the last step is kept.
        decay: weight of the squared parameters beside the loss.
    """
    count, t = len(lists.utility), scale_of(lists.utility)
    learn, keep = slice(0, count - held), slice(count - held, count)
    theta = {name: value.clone().requires_grad_() for name, value in start.items()}
    adam = Adam(list(theta.values()), rate)

    def loss(rows: slice) -> Tensor:
        return loss_of(lists.energy(theta, rows), lists.utility[rows], t, objective)

    def look() -> tuple[float, float]:
        with torch.no_grad():
            return float(loss(learn)), float(loss(keep)) if held else float("nan")

    before, held_before = look()
    best = Ranked(_copied(theta), 0, before, before, held_before, held_before)
    for step in range(1, steps + 1):
        size = torch.stack([value.square().sum() for value in theta.values()]).sum()
        adam.step(torch.autograd.grad(loss(learn) + decay * size, adam.theta))
        if step % EVERY == 0 or step == steps:
            after, held_after = look()
            if not held or held_after < best.held_after:
                best = Ranked(_copied(theta), step, before, after, held_before, held_after)
    return best


@dataclass
class Adam:
    """theta <- theta - rate m / (sqrt(v) + 1e-8), m and v the running means of the gradient and of its square.

    Not torch.optim, whose first use loads a compiler for some seconds.
    """

    theta: list[Tensor]
    rate: float
    taken: int = 0
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move every parameter in place by its gradient."""
        if not self.taken:
            self.first, self.second = ([torch.zeros_like(x) for x in self.theta] for _ in range(2))
        self.taken += 1
        early = 1.0 - 0.9**self.taken, 1.0 - 0.999**self.taken
        with torch.no_grad():
            for x, g, m, v in zip(self.theta, gradients, self.first, self.second, strict=True):
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.001)
                x -= self.rate * (m / early[0]) / ((v / early[1]).sqrt() + 1e-8)


def _copied(theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in theta.items()}


def rank_correlation(energy: Tensor, utility: Tensor) -> Tensor:
    """Spearman's correlation of -energy with utility within each list, (D,); ties by their order."""
    a, b = (x.argsort(-1).argsort(-1).double() for x in (-energy, utility))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt().clamp_min(1e-12)
