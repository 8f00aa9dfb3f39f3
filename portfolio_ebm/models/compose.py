"""Sums of energies of data: a joint law over different variables, a product of experts over the same one.

    Independent:  E(x_1, ..., x_K) = sum_k E_k(x_k),   log Z = sum_k log Z_k: normalised because its parts are
    Product:      E(x) = sum_k E_k(x),                 log Z by quadrature: the parts' own normalisers do not add

`a + b` of densities makes the one or the other, by the names of their variables (`density.of("market")`). A product
sharpens: K Student-t tails of index a add to the tail index K (a + 1) - 1, and the deviation shrinks as of K opinions
that know nothing of each other. Its `status` says so.

Source: G. E. Hinton (2002), Training products of experts by minimizing contrastive divergence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.density import Density, interpolate
from portfolio_ebm.models.quadrature import NODES
from portfolio_ebm.types import Status, require_last

PRODUCT_NODES = 512
SETTLED = 0.1
"""Nats by which log Z of a part may move when the nodes are doubled."""

AGREEMENT = 1e-6
"""log Z at 512 and at 1,024 nodes may differ by this much, in nats."""


class Independent:
    """The joint law of K variables that know nothing of each other, batches of equal shape.

    Args:
        parts: densities whose variables have different names.

    Raises:
        FitError: no part, a variable without a name, or one named twice.

    Example:
        >>> joint = Gaussian(m, s).of("x") + StudentT(m, s, nu).of("y")
        >>> joint.log_prob(xy)                  # xy (..., *batch, 2) in the order of joint.variables
    """

    def __init__(self, parts: Sequence[Density]) -> None:
        self.parts = tuple(parts)
        names = self.variables
        if not names or not all(names) or len(set(names)) < len(names):
            raise FitError(
                f"A joint law needs variables of different names, got {list(names)}; name each by density.of(name)."
            )

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(part.variable for part in self.parts)

    @property
    def batch(self) -> torch.Size:
        return torch.Size(torch.broadcast_shapes(*(part.batch for part in self.parts)))

    def energy(self, x: Tensor) -> Tensor:
        """sum_k E_k(x_k) for x (..., *batch, K), nats, up to a constant of each law."""
        require_last(x, len(self.parts), "Independent")
        return torch.stack([part.energy(x[..., k]) for k, part in enumerate(self.parts)]).sum(0)

    def log_z(self, nodes: int = NODES) -> Tensor:
        """sum_k log Z_k, shape `batch`."""
        return torch.stack([part.log_z(nodes).expand(self.batch) for part in self.parts]).sum(0)

    def log_prob(self, x: Tensor, nodes: int = NODES) -> Tensor:
        """log p of x (..., *batch, K): (..., *batch), nats."""
        return -self.energy(x) - self.log_z(nodes)

    def score(self, x: Tensor) -> Tensor:
        """d log p / dx, shape of x."""
        require_last(x, len(self.parts), "Independent")
        return torch.stack([part.score(x[..., k]) for k, part in enumerate(self.parts)], -1)

    def sample(self, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Exact draws, (*size, *batch, K)."""
        draws = [part.sample(size, rng).expand(*size, *self.batch) for part in self.parts]
        return torch.stack(draws, -1)

    def __add__(self, other: Density | Independent) -> Independent | Product:
        return add(self, other)


class Product(Density):
    """Several laws of one variable multiplied and normalised anew.

    Args:
        parts: normalised densities of the same variable, batches that broadcast.

    Attributes:
        status: what multiplying did to the tail, and whether log Z is settled.

    Raises:
        FitError: fewer than two parts, variables of different names, or a part without a finite normaliser.

    Example:
        >>> both = Gaussian(m, s).of("x") + Gaussian(n, t).of("x")      # the Gaussian of precision 1/s^2 + 1/t^2
    """

    def __init__(self, parts: Sequence[Density]) -> None:
        self.parts = tuple(parts)
        names = {part.variable for part in self.parts}
        if len(self.parts) < 2 or len(names) > 1:
            raise FitError(f"A product needs two laws or more of one variable, got {len(self.parts)} of {len(names)}.")
        for k, part in enumerate(self.parts):
            # The integral of a law that cannot be normalised grows with the nodes.
            few, many = part.log_z(NODES), part.log_z(2 * NODES)
            if not bool(((few - many).abs() < SETTLED).all()):
                raise FitError(f"Part {k} of the product has no finite normaliser; only calibrated laws multiply.")
        self.variable = names.pop()
        self._place()
        self._log_z = self.quadrature(PRODUCT_NODES)
        with torch.no_grad():
            off = (self._log_z - self.quadrature(2 * PRODUCT_NODES)).abs().max()
        self.status = self._status(float(off))

    @property
    def tail(self) -> Tensor | None:
        tails = [part.tail for part in self.parts]
        known = [tail + 1 for tail in tails if tail is not None]
        return torch.stack(torch.broadcast_tensors(*known)).sum(0) - 1 if len(known) == len(tails) else None

    def energy(self, x: Tensor) -> Tensor:
        # Normalised parts: the sum does not depend on how far each energy's constant is from zero.
        return -torch.stack(torch.broadcast_tensors(*(part.log_prob(x) for part in self.parts))).sum(0)

    def log_z(self, nodes: int = NODES) -> Tensor:
        """At 512 nodes, whatever is asked: a product may have peaks far from one another."""
        return self._log_z

    def _place(self) -> None:
        """Nodes where the product is: at first where precisions put it, then by its own median and quantiles."""
        shape = torch.broadcast_shapes(*(part.batch for part in self.parts))
        place = torch.stack([part.location.expand(shape) for part in self.parts]).detach()
        share = torch.stack([part.scale.expand(shape) for part in self.parts]).detach() ** -2
        self.location = (share * place).sum(0) / share.sum(0)
        apart = (share * (place - self.location).square()).sum(0) / share.sum(0)
        self.scale = (1 / share.sum(0) + apart).sqrt()
        with torch.no_grad():
            for _ in range(2):
                grid, mass = self.table(4 * PRODUCT_NODES)
                level = torch.tensor([0.16, 0.5, 0.84]).to(grid).reshape(-1, *(1,) * len(shape))
                low, middle, high = interpolate(level.expand(-1, *shape), mass, grid)
                self.location, self.scale = middle, ((high - low) / 2).clamp_min(1e-3 * self.scale)

    def _status(self, off: float) -> Status:
        what = f"{len(self.parts)} laws of the same variable '{self.variable}' multiplied: sharper than each alone"
        if self.tail is not None:
            tails = ", ".join(f"{float(part.tail.min()):.3g}" for part in self.parts if part.tail is not None)
            what += f"; tail indices {tails} become {float(self.tail.min()):.3g}, extremes count for little"
        if off < AGREEMENT:
            return Status(True, what)
        return Status(False, f"{what}; log Z moves by {off:.1e} nats with more nodes: the parts hardly overlap")


def add(a: Density | Independent, b: Density | Independent) -> Independent | Product:
    """The sum of two energies: parts of the same name are multiplied, and what has different names is joined.

    Raises:
        FitError: a part whose variable has no name.
    """
    found: dict[str, list[Density]] = {}
    for law in (a, b):
        for part in law.parts if isinstance(law, Independent) else (law,):
            if not part.variable:
                raise FitError(
                    "a + b needs to know of what variables: name each by density.of(name), equal names for a product, "
                    "different ones for a joint law."
                )
            found.setdefault(part.variable, []).extend(part.parts if isinstance(part, Product) else (part,))
    whole = [parts[0] if len(parts) == 1 else Product(parts) for parts in found.values()]
    if len(whole) == 1 and isinstance(whole[0], Product):
        return whole[0]
    return Independent(whole)
