"""Nearest points under 5/10/40, 25/50 and 75-5-10 alone: by hand, by every choice of big issuers, by other searches."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_convex import market

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510
from portfolio_ebm.constraints.mixed.concentration import Items, _search
from portfolio_ebm.constraints.weights import Box
from portfolio_ebm.context import Context


def world(labels: str) -> Context:
    ctx = market(len(labels), size=60, seed=0)
    return replace(ctx, groups={**ctx.groups, "issuer": tuple(labels)})


def test_five_big_ones_by_hand() -> None:
    """Names at 9 % each, five of them: 45 % are big, and 40 % may be. Four stay big at 9 % and one falls to 5 %,
    which costs .04^2 = .0016; all five at 8 % cost 5 * .01^2 = .0005. Of two names of one issuer at 6 % and 7 %
    each gives half of the 3 % above 10 %."""
    five = torch.tensor([0.09] * 5 + [0.01] * 3, dtype=torch.float64)
    ctx = world("abcdefgh")
    near = project_region(five, region_of(UCITS(), ctx)).weights
    assert torch.allclose(near, torch.tensor([0.08] * 5 + [0.01] * 3, dtype=torch.float64), atol=1e-12)
    pair = project_region(
        torch.tensor([0.06, 0.07, -0.02, 0.03], dtype=torch.float64), region_of(UCITS(), world("aabc"))
    ).weights
    assert torch.allclose(pair, torch.tensor([0.045, 0.055, 0.0, 0.03], dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("rule", [UCITS(), RIC2550(), Diversified75510(market_value=None)], ids=repr)
def test_the_other_search_agrees(rule: Constraint) -> None:
    """A box that binds nowhere sends the same question through branch and bound over quadratic programs."""
    rng = np.random.default_rng(5)
    for labels in ("abcdefghij", "aabbbcdefg", "aaaabbbccd"):
        ctx = world(labels)
        y = torch.tensor(rng.normal(0.09, 0.08, (8, len(labels))))
        fast, slow = (
            project_region(y, region_of(rule, ctx)),
            project_region(y, region_of(rule & Box(lower=-9.0, upper=9.0), ctx)),
        )
        assert float(rule.residual(fast.weights, ctx).max()) <= 1e-12
        assert str(fast.status).startswith("nearest, proven")
        d = [(one.weights - y).square().sum(-1) for one in (fast, slow)]
        assert torch.allclose(d[0], d[1], rtol=1e-9, atol=1e-14)


def _brute(items: Items) -> float:
    """The least cost over every choice of big ones, each solved by a fine search for its price."""
    best = np.inf
    for chosen in itertools.product([False, True], repeat=len(items.s)):
        big = np.array(chosen)
        if items.t[big].sum() > items.cap:
            continue
        low, high = 0.0, 10.0
        for _ in range(100):
            price = (low + high) / 2.0
            over = items.big(price)[big].sum() > items.cap
            low, high = (price, high) if over else (low, price)
        x = np.where(big, items.big(high if items.big(0.0)[big].sum() > items.cap else 0.0), items.t)
        best = min(best, float(((x - items.s) ** 2 / (2.0 * items.k)).sum()))
    return best


def test_every_choice_of_big_ones() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        c = int(rng.integers(2, 7))
        t = np.full(c, 0.05) if rng.random() < 0.5 else rng.uniform(0.01, 0.05, c)
        m = np.full(c, float(rng.choice([0.1, 0.25])))
        s = t + rng.exponential(0.08, c)
        items = Items(s, rng.integers(1, 4, c).astype(np.float64), t, m, float(rng.choice([0.15, 0.25, 0.4])))
        x, proven = _search(items, 10_000)
        assert proven
        assert x[x > t + 1e-12].sum() <= items.cap + 1e-12
        assert float(((x - s) ** 2 / (2.0 * items.k)).sum()) == pytest.approx(_brute(items), rel=1e-9, abs=1e-15)
