"""Rules that are a choice, made soft: quick projections where they stand alone, and the portfolios of `optimize`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, project_region
from portfolio_ebm.constraints.discrete import Cardinality, MinPosition
from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.mixed.big_sets import big_sets
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.nearest import _nearest
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Constructor
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.construction.sparing import spared
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.optimization import given_context, optimize

F64 = torch.float64
LAWS = [(0.05, 0.1, 0.4), (0.05, 0.25, 0.5), (0.05, 0.25, 0.25), (0.08, 0.3, 0.3)]


def concentrated(labels: np.ndarray, law: tuple[float, float, float]) -> Region:
    small, big, together = law
    choices = Choices.of_groups(labels, [(0.0, small), (0.0, big)], [(1, 0.0, together, True)], "a law")
    return replace(Region.free(len(labels)), choices=choices)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("names", [1, 2, 0], ids=["alone", "in pairs", "as they come"])
def test_the_nearest_points_by_sets_are_those_of_the_tree(law, names):
    draw = np.random.default_rng(int(100 * law[1]) + names)
    labels = np.arange(9) // names if names else np.unique(draw.integers(0, 5, 9), return_inverse=True)[1]
    region = concentrated(labels.astype(np.int64), law)
    assert region.choices is not None and big_sets(region.choices) is not None
    y = torch.tensor(draw.normal(0.06, 0.12, (6, 9)))
    found = project_region(y, region).weights
    exact = torch.tensor(np.array([_nearest(row, region, 5000)[0] for row in y.numpy()]))
    torch.testing.assert_close((found - y).square().sum(-1), (exact - y).square().sum(-1), rtol=1e-12, atol=1e-15)
    assert project_region(found, region).weights.allclose(found, rtol=0, atol=1e-15)


def test_units_of_many_kinds_leave_the_sets_to_the_search():
    region = concentrated(np.arange(12), LAWS[0])
    assert region.choices is not None
    region.choices.upper[:, 0] = np.linspace(0.02, 0.05, 12)
    assert big_sets(region.choices) is None


def test_the_nearest_lots_of_names_alone_are_rounded():
    step = torch.tensor([0.02, 0.03, 0.0, 0.07], dtype=F64)
    region = Region.free(4).with_box(0.0, 0.2).with_grid(step)
    found = project_region(torch.tensor([[0.031, 0.3, 0.25, 0.034], [-0.1, 0.044, -0.1, 0.036]], dtype=F64), region)
    by_hand = torch.tensor([[0.04, 0.18, 0.2, 0.0], [0.0, 0.03, 0.0, 0.07]], dtype=F64)
    torch.testing.assert_close(found.weights, by_hand, rtol=0, atol=1e-15)
    assert found.status.message.startswith("nearest;")


def test_a_crossed_box_beside_lots_has_no_nearest_point():
    """Only the first name comes in lots; of the second at least .3 and at most .2 is asked for."""
    step = torch.tensor([0.1, 0.0], dtype=F64)
    region = Region.free(2).with_box(0.0, 0.2).with_grid(step)
    region = replace(region, lower=torch.tensor([0.0, 0.3], dtype=F64))
    with pytest.raises(InfeasibleError):
        project_region(torch.tensor([0.1, 0.25], dtype=F64), region)


N = 8
NAMES = [f"A{i}" for i in range(N)]
ISSUERS = dict(zip(NAMES, ["a", "a", "a", "b", "b", "c", "c", "d"], strict=True))
STIFF = 0.002
QUICK = AnnealedLangevin(steps=15)
FEW = Effort(chains=8, steps=10, swaps=True, sweeps=6, walkers=8, candidates=8, polish=3, nodes=1500)


def scenarios() -> pd.DataFrame:
    draw = np.random.default_rng(1)
    r = draw.normal(0.0, 0.01, (300, N)) * np.linspace(0.5, 2.5, N) + draw.normal(0.0, 0.008, (300, 1))
    return pd.DataFrame(r, columns=NAMES)


def soft(rule: Constraint) -> Energy:
    return Variance() + Relaxed(rule, stiffness=STIFF)


def least(rule: Constraint, constructor: Constructor | None, groups: dict[str, dict[str, str]], **more: Any):
    frame = scenarios()
    return optimize(
        soft(rule), Budget() & LongOnly(), scenarios=frame, groups=groups, constructor=constructor, **more
    )  # fmt: skip


def slices(rule: Constraint) -> Iterator[tuple[Constraint, dict[str, dict[str, str]]]]:
    """Every way to choose, as convex rules and the groups that they name."""
    if isinstance(rule, Cardinality):
        for two in combinations(NAMES, rule.at_most):
            out = {name: 0.0 for name in NAMES if name not in two}
            yield Box(lower=-1.0, upper=1.0, caps=out, floors=out), {"issuer": ISSUERS}
        return
    every = sorted(set(ISSUERS.values()))
    for size in range(len(every) + 1):
        for chosen in combinations(every, size):
            ends = [rule.largest if label in chosen else rule.threshold for label in every]
            parts = [Group("issuer", label, upper=end, lower=0.0) for label, end in zip(every, ends, strict=True)]
            parts += [Group("both", "big", upper=rule.together)] if chosen else []
            both = {name: "big" if label in chosen else "small" for name, label in ISSUERS.items()}
            yield All(parts=tuple(parts)), {"issuer": ISSUERS, "both": both}


@pytest.mark.parametrize(
    ("rule", "constructor"),
    [
        (UCITS(issuers="issuer"), None),
        pytest.param(RIC2550(issuers="issuer"), QUICK, marks=pytest.mark.slow),
        (Cardinality(at_most=2), QUICK),
    ],
    ids=["UCITS", "RIC2550", "Cardinality"],
)
def test_a_soft_choice_ends_at_the_best_of_all_choices(rule, constructor):
    # d(w)^2 is the least of the d(w)^2 of the convex slices, one for each set of big issuers, or of names held.
    found = least(rule, constructor, {"issuer": ISSUERS})
    exact = min(least(one, Convex(), groups).energy for one, groups in slices(rule))
    assert found.energy == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("rule", "constructor"),
    [
        (RoundLots(1), None),
        (MinPosition(0.15), QUICK),
        (Diversified75510(issuers="issuer", market_value=None), QUICK),
        pytest.param(Either(UCITS(issuers="issuer"), Cardinality(at_most=3)), QUICK, marks=pytest.mark.slow),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_soft_choice_ends_where_its_nearest_point_pulls_as_hard_as_the_rest(rule, constructor):
    # E(w) <= f(w) + k/2 |w - v|^2 for every v of the rule, equal at v = P w: w is the least of the right side, so all
    # names held have the same slope and no other a lower one.
    given = {"prices": dict(zip(NAMES, np.linspace(40.0, 110.0, N), strict=True)), "capital": 1e3}
    found = least(rule, constructor, {"issuer": ISSUERS}, **given)
    ctx = given_context(
        soft(rule), Budget(), mean=None, covariance=None, scenarios=scenarios(), assets=None, held=None,
        groups={"issuer": ISSUERS}, **given,
    ).ctx  # fmt: skip
    w = torch.tensor(found.weights.to_numpy(), requires_grad=True)
    slope = torch.autograd.grad(soft(rule).bind(ctx)(w), w)[0].numpy()
    assert flat(w.detach().numpy(), slope)


def flat(w: np.ndarray, slope: np.ndarray) -> bool:
    """Whether no name would rather be held in the place of another one that is."""
    held, size = w > 1e-7, np.abs(slope).max()
    return bool(np.ptp(slope[held]) <= 1e-6 * size and slope.min() >= slope[held].min() - 1e-6 * size)


@pytest.mark.parametrize(
    "rule",
    [
        UCITS(issuers="issuer") & LongOnly(),
        pytest.param(RIC2550(issuers=None) & Budget(0.9, at_least=0.2), marks=pytest.mark.slow),
        pytest.param(Cardinality(at_most=3) & UCITS(issuers=None), marks=pytest.mark.slow),
        pytest.param(RoundLots(1) & Budget(at_least=0.95), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_a_soft_rule_that_is_a_search_is_spared_and_still_flat(rule):
    given = {"prices": dict(zip(NAMES, np.linspace(40.0, 110.0, N), strict=True)), "capital": 1e3}
    found = least(rule, None, {"issuer": ISSUERS}, **given)
    assert "of a quick distance, never too low, found by 8 chains instead of 64 and 10 steps instead of 50" in str(
        found.status
    )
    ctx = given_context(
        soft(rule), Budget(), mean=None, covariance=None, scenarios=scenarios(), assets=None, held=None,
        groups={"issuer": ISSUERS}, **given,
    ).ctx  # fmt: skip
    w = torch.tensor(found.weights.to_numpy(), requires_grad=True)
    assert found.energy == pytest.approx(float(soft(rule).bind(ctx)(w.detach())), rel=1e-12)
    quick, _, _ = spared(soft(rule), FEW, ctx)
    assert flat(w.detach().numpy(), torch.autograd.grad(quick.bind(ctx)(w), w)[0].numpy())
    tried = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(N), 6))
    above = quick.bind(ctx)(tried) - soft(rule).bind(ctx)(tried)
    assert float(above.min()) >= -1e-15


def test_what_is_spared_is_said_and_no_field_of_a_soft_rule():
    rule = UCITS(issuers=None) & LongOnly()
    ctx = given_context(
        soft(rule), Budget(), mean=None, covariance=None, scenarios=scenarios(), assets=None, held=None
    ).ctx  # fmt: skip
    for chains, steps, told in [(8, 10, ""), (256, 5, "8 chains instead of 256"), (4, 50, "10 steps instead of 50")]:
        energy, effort, said = spared(soft(rule), replace(FEW, chains=chains, steps=steps), ctx)
        assert (effort.chains, effort.steps) == (min(chains, 8), min(steps, 10))
        assert said.endswith(f"never too low{', found by ' if told else ''}{told}")
        assert repr(energy) == repr(soft(rule)) and energy != soft(rule)
    cheap = soft(LongOnly())
    assert spared(cheap, FEW, ctx) == (cheap, FEW, "")
    assert set(Relaxed.model_fields) == {"rule", "priority", "stiffness"}
