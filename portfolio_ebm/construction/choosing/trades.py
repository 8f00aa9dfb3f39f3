"""Where the walkers set out when a mode costs something: which names to trade, from few trades to many.

    for a relaxation w of the problem and s = 1, ..., U / 2, evenly in the logarithm:
        the s names whose trades in w are largest are at w, all others as held

The relaxations are the one with tickets enveloped, where small trades have gone already, and the one without them,
plain and under Gumbel noise. Rounding each name to the mode nearest to its weight would trade all of them.

Source: Lobo, M. S., Fazel, M. and Boyd, S. (2007), Portfolio optimization with linear and fixed transaction costs,
Annals of Operations Research 152, for the relaxation as a start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portfolio_ebm.constraints.mixed.node import relax
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.constraints.mixed.search import Search

SIZES = 10
"""Numbers of names traded from one relaxation."""
NOISY = 16


def trade_starts(search: Search, relaxed: Array, rng: np.random.Generator) -> list[Ints]:
    """Modes (U,) to set out from, each once, those near the relaxation's weights `relaxed` (n,) first."""
    mixed, c = search.mixed, search.mixed.choices
    held = np.zeros(c.units) if mixed.program.held is None else c.weights(mixed.program.held)
    free = relax(replace(mixed, choices=replace(c, cost=np.zeros_like(c.cost))), search.allowed)
    x = [c.weights(relaxed), c.weights(relaxed if free is None else free.weights)]
    sizes = np.unique(np.geomspace(1, max(c.units // 2, 1), SIZES).round().astype(int))
    wanted = [(x[0], np.abs(x[0] - held), c.units)]
    wanted += [(y, np.abs(y - held), size) for y in x for size in sizes]
    for _ in range(NOISY):
        noise = np.exp(rng.gumbel(size=c.units))
        wanted.append((x[1], (np.abs(x[1] - held) + 0.02 / c.units) * noise, int(rng.choice(sizes))))
    found = []
    for y, rank, size in wanted:
        top = np.argsort(-rank, kind="stable")[:size]
        there = held.copy()
        there[top] = y[top]
        found.append(rounded(c, search.allowed, there))
    return list({one.tobytes(): one for one in found}.values())
