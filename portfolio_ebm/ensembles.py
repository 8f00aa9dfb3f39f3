"""ensemble: the door to the distribution of nearly optimal portfolios; and resampled_ranges, which is something else.

`ensemble` asks: how different can portfolios be that are about as good, the estimates taken as given?
`resampled_ranges` asks: how different would the optimum be, had the market's past been drawn again?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.certificate import FEASIBLE
from portfolio_ebm.construction.convex import minimum_under
from portfolio_ebm.construction.exact.formula import refuse_non_convex, without_tickets
from portfolio_ebm.construction.exact.minimum import Minimum
from portfolio_ebm.construction.near.excess import Unit, allowed_excess
from portfolio_ebm.construction.near.laws import ChoiceLaw, NearLaw
from portfolio_ebm.construction.near.mixing import Draws, draw
from portfolio_ebm.construction.near.mixing_patterns import draw_patterns
from portfolio_ebm.construction.near.optimal import Law, law_of
from portfolio_ebm.construction.near.patterns import law_with_choices
from portfolio_ebm.construction.near.unions import UnionLaw, law_on_union, left_still
from portfolio_ebm.context import Context
from portfolio_ebm.energies.fixed import STILL
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError, SolverError, SpecError
from portfolio_ebm.optimization import given_context
from portfolio_ebm.types import Spec, Status, generator

NEAR = 0.01
"""Near support: names that the whole tolerance, spent on them alone, brings to this weight."""

PLACES = 6
"""Portfolios found elsewhere, that random starts come from where names are a choice."""

QUICK = AnnealedLangevin(nodes=0, sweeps=1, walkers=1, candidates=1, polish=1)
"""Who finds them."""

HELD = 1e-3
"""A weight above this counts as held."""

ASKED = "ensemble", "leave it out"
"""Who refuses a term that is not convex, and what to do about it."""


class Ensemble(Spec):
    """The law p(w) ~ exp(-E(w)/T) on the portfolios that obey the rules, T such that E - E* is on average `tolerance`.

    Attributes:
        tolerance: the mean excess over the optimum, as a fraction, in `unit`; see construction/near/excess.py.
        unit: "energy" or "volatility".
        support: "near" leaves names where the optimum has them that the whole tolerance, spent on one of them alone,
            would not bring to 1 % (to first order); "all" leaves out none, and in hundreds of names nearly all of the
            excess goes into dust.
            With a choice of names it leaves out those that a bound proves to be out of the tolerance's reach.
        chains: how many run side by side; with a choice of names, at all temperatures together.
        moves: the most moves of a chain before the sample is refused, by default 4,000 for each name; with a choice of
            names 6,000 for each that may be held, 24,000 at least; with other modes 6,000 and whole lots 12,000 for
            each name.

    Example:
        >>> ensemble(Variance(), Budget() & LongOnly(), covariance=cov, law=Ensemble(0.01, unit="volatility"))
    """

    tolerance: float = Field(default=0.01, gt=0.0)
    unit: Unit = "energy"
    support: Literal["near", "all"] = "near"
    chains: int = Field(default=1024, ge=64)
    moves: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Distribution:
    """What nearly optimal portfolios have in common, and where they differ: near-optimal ranges, no statistics.

    Attributes:
        weights: by asset: optimum, mean, low and high (5 % and 95 % of the draws), held, the share of draws in which
            it has more than 0.1 %; ess, what its mean is worth in independent draws; where something is held before,
            traded, the share of draws in which it does not stay as it is.
        groups: by grouping and label: optimum, mean, low, high of the group's weight.
        draws: portfolios (draws x assets), every one obeying the rules to 1e-9.
        excess: of every draw, E - E*, in energy. tolerated: its mean that was asked for.
        temperature: T.
        diversity: mean of 1/2 sum |w - w'| over pairs of draws: the share of the portfolio that differs.
        dust: mean share of the portfolio in names below 0.1 %.
        left_out: names that stand where the optimum has them.
        choices: the sets of held names met most often, at most 20: names, share of the draws, its standard error, the
            least energy met above the optimum's.
        patterns: how many sets of held names occur; coverage: the chance that a new draw has one of them
            (Good and Turing).
        r_hat: the largest of all weights and the energy; ess: the least of all weights that move. With a choice of
            names both are of the energy, and of the names and patterns in 1 % of the draws or more.
        cases: where `Either` leaves several, the rules of each beside those that all share: rule, share of the draws
            that obey it, its standard error, and at_most, the upper end of 95 %: share + 2 errors, or 3 / ess of a case
            that no draw has met. Cases may overlap. Empty without.
        apart: with a choice of names, the largest difference of any share or mean between chains that started at the
            best portfolio and at random ones, in standard errors; 0 without.
        status: which kernel, the measure, how it ended.

    Example:
        >>> ensemble(Variance(), Budget() & LongOnly(), covariance=cov).weights[["low", "high", "held"]]

    Source: for 3 / ess, Hanley, J. A. and Lippman-Hand, A. (1983), If nothing goes wrong, is everything all right?
    JAMA 249.
    """

    weights: pd.DataFrame
    groups: pd.DataFrame
    draws: pd.DataFrame
    excess: np.ndarray[Any, np.dtype[np.float64]]
    tolerated: float
    temperature: float
    diversity: float
    dust: float
    left_out: tuple[str, ...]
    choices: pd.DataFrame
    patterns: int
    coverage: float
    cases: pd.DataFrame
    r_hat: float
    ess: float
    apart: float
    status: Status

    def __str__(self) -> str:
        shown = self.weights.sort_values("optimum", ascending=False).head(10)[["optimum", "low", "high", "held"]]
        return f"{self.status}\n{shown.to_string(float_format='{:.1%}'.format)}"


def ensemble(
    energy: Energy, constraint: Constraint, *, law: Ensemble | None = None, seed: int = 0, **inputs: Any
) -> Distribution:
    """The distribution of portfolios that are nearly optimal, by exact kernels, or an error where they did not mix.

    The measure is Lebesgue's on the portfolios that obey the rules, within the names that are not `left_out`. The law
    of a convex formula under convex rules is log-concave: it has one mode, and that is the optimum.

    Where the names held are a choice, each choice counts the same before E has its say. With exactly K names it is
    Lebesgue measure on each choice's slice. With other numbers of names slices have different dimensions, and no
    volume compares them; there the law on each choice's simplex {w >= min_weight, sum w = 1} is uniform with mass
    one, and the further rules cut. Chains start at the best portfolio and at random ones and exchange places with
    hotter ones; `choices`, `coverage` and `apart` say what they found.

    With tickets (`FixedCost`) a name is left as it is `held` or traded, and nearly every portfolio of a Lebesgue
    measure trades all names. So each set of names traded counts the same, uniform on what the names traded may weigh
    together; the portfolio that trades nothing is a point of mass one. Where names may be short the simplex is instead
    {least <= w <= largest weight of any name}. An open budget leaves the sum free between its ends. Equations beside
    the budget cut as thin ranges would. Where nothing is held tickets are zero.

    Under `RoundLots` every portfolio of whole lots that obeys the rules counts once.

    `Either` makes the rules a union of cases, on which each portfolio counts once, also one that is in several; `cases`
    says how likely each is. One measure serves all: Lebesgue's where they have one dimension; else, or where a name may
    be out in one of them, each choice of names counts the same in all of them, names out of choice among them, uniform
    on the simplex of the least weight that any case allows. A case with an equation that others lack would have no
    mass beside them and is refused.

    5/10/40, 25/50 and 75-5-10 leave one dimension and Lebesgue measure; chains jump over the thresholds.

    Args:
        energy, constraint: a convex formula, with FixedCost or without; convex rules, Cardinality, MinPosition,
            RoundLots, limits on heavy issuers, and Either of these.
        law: how near to the optimum.
        inputs: mean, covariance, scenarios, assets, held, groups and what else `optimize` takes.

    Raises:
        SpecError: a term is not convex; a rule for which there is no exact kernel, with what to do.
        DataError, ShapeError: as `optimize`.
        InfeasibleError: no portfolio obeys the rules.
        SolverError: the chains did not mix, and R-hat says so; nothing is reported.

    Source: for the law and its temperature, construction/near/optimal.py, patterns.py, faces.py and
    unions.py there; for the kernels, samplers/pair_gibbs.py, pattern_gibbs.py, face_gibbs.py and lot_gibbs.py.
    """
    law = law or Ensemble()
    ctx, names, _ = given_context(energy, constraint, **inputs)
    if ctx.held is None:
        energy = without_tickets(energy, ctx)[0]  # nothing is held, so that tickets are zero
    rng, least = generator(seed, "ensemble", ctx.tradeable.device), NEAR if law.support == "near" else 0.0
    region, best = _best(energy, constraint, ctx, rng)
    excess = allowed_excess(law.tolerance, law.unit, energy, best.weights, ctx)
    prepared: NearLaw
    if region is None:
        cases = generator(seed, "cases", rng.device)
        prepared = law_on_union(energy, constraint, ctx, best, excess, least, lambda rules: _anyone(rules, ctx, cases))
    else:
        of = law_with_choices if region.discrete or _ticketed(energy, ctx) else law_of
        prepared = of(energy, region, ctx, best, excess, least)
    if isinstance(prepared, Law):
        found = draw(prepared, law.chains, rng, moves=law.moves)
    else:
        assert isinstance(prepared, ChoiceLaw)
        found = draw_patterns(
            prepared, law.chains, rng, moves=law.moves, elsewhere=_elsewhere(prepared, constraint, ctx, seed)
        )
    return _told(prepared, found, constraint, ctx, names or tuple(str(i) for i in range(ctx.n_assets)))


def _ticketed(energy: Energy, ctx: Context) -> bool:
    """Whether a ticket makes it a choice what is traded."""
    return ctx.held is not None and without_tickets(energy, ctx)[1] > 0.0


def _best(energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> tuple[Region | None, Minimum]:
    """The rules as one region, None where `Either` leaves several, and the optimum; where names are a choice, the best
    portfolio found."""
    if constraint.convex and not _ticketed(energy, ctx):
        region, best = minimum_under(energy, constraint, ctx, *ASKED)
        if not best.status.ok:
            raise SolverError(f"No optimum is proven, so that a tolerance around it means nothing. {best.status}")
        return region, best
    refuse_non_convex(without_tickets(energy, ctx)[0], *ASKED)
    found = AnnealedLangevin().build(energy, constraint, ctx, rng)
    gap = "with no bound" if found.bound is None else f"proven within {max(found.energy - found.bound, 0.0):.1e}"
    told = Status(True, gap)
    best = Minimum(found.weights, found.energy, found.bound, None, told, size=found.size)
    return (region_of(constraint, ctx) if len(constraint.cases()) == 1 else None), best


def _elsewhere(law: ChoiceLaw, constraint: Constraint, ctx: Context, seed: int) -> torch.Tensor:
    """Portfolios that obey the rules, best by random slopes, which no kernel has led to, (m, n): of a law in pieces
    that moves do not join, chains would otherwise show the piece of the best portfolio alone. The cases of `Either`
    come by turns."""
    # Names that are left out stand where the best portfolio has them.
    still, cases = left_still(law, ctx), constraint.cases()
    rng = generator(seed, "elsewhere", law.best.weights.device)
    found = [law.base.new_zeros(0, ctx.n_assets)]
    for k in range(max(PLACES, len(cases))):
        case = cases[k % len(cases)]
        w = _anyone(case if still is None else case & still, ctx, rng)
        found += [] if w is None else [w.unsqueeze(0)]
    return torch.cat(found)


def _anyone(rules: Constraint, ctx: Context, rng: torch.Generator) -> torch.Tensor | None:
    """The best portfolio by a random slope, (n,); None where none was found."""
    assert ctx.market is not None
    slope = torch.randn(ctx.n_assets, generator=rng, dtype=torch.float64, device=rng.device)
    there = replace(ctx, market=replace(ctx.market, mean=slope))
    try:
        # Any portfolio far away will do: nothing is proven, and little searched.
        return QUICK.build(Return(), rules, there, rng).weights
    except (InfeasibleError, SolverError):
        return None  # with what is left out fixed, to rounding, nothing else need be found


def _told(law: NearLaw, found: Draws, constraint: Constraint, ctx: Context, names: tuple[str, ...]) -> Distribution:
    w = torch.stack([law.whole(x.T) for x in found.x]).flatten(0, 1)
    for rule in constraint.rules():
        if not float(rule.residual(w, ctx).max()) <= FEASIBLE:
            raise SolverError(f"A draw breaks {rule!r} by {float(rule.residual(w, ctx).max()):.3g}; none was let out.")
    w, best = w.cpu(), law.best.weights.cpu()  # what is told is told on the host
    ess = w.new_full((len(names),), torch.nan)
    ess[law.kept.cpu()] = found.sizes[: len(law.kept)].cpu()
    low, high = torch.from_numpy(np.quantile(w.numpy(), (0.05, 0.95), axis=0))
    held = w.abs() > HELD
    weights = pd.DataFrame(
        {
            "optimum": best, "mean": w.mean(0), "low": low, "high": high,
            "held": held.to(w.dtype).mean(0), "ess": ess,
        },
        index=pd.Index(names, name="asset"),
    )  # fmt: skip
    if ctx.held is not None:
        weights["traded"] = ((w - ctx.held.to(w)).abs() > STILL).to(w.dtype).mean(0).numpy()
    excess = found.energy.flatten().cpu() - law.best.value
    choices, times = _choices(held, excess, found.energy.shape[1], names)
    cases = _cases(law, found)
    out = tuple(name for i, name in enumerate(names) if bool(ess[i].isnan()))
    status = Status(
        True,
        f"{len(w)} portfolios from exp(-E/T) by {found.kernel}, with respect to {law.measure}, within "
        f"{len(names) - len(out)} of {len(names)} names: R-hat {found.r_hat:.3f}, worth {found.least:.0f} independent "
        f"draws.{_beside(law, found, excess)}{_odds(cases, law)}",
    )
    return Distribution(
        weights=weights, groups=_groups(w, law, ctx), draws=pd.DataFrame(w.numpy(), columns=list(names)),
        excess=excess.numpy(), tolerated=law.excess,
        temperature=found.temperature, diversity=0.5 * float((w - w.roll(len(w) // 2 + 1, 0)).abs().sum(-1).mean()),
        dust=float(torch.where(held, 0.0, w.abs()).sum(-1).mean()), left_out=out, choices=choices,
        patterns=len(times), coverage=1.0 - float((times == 1).sum()) / len(w), cases=cases,
        r_hat=found.r_hat, ess=found.least, apart=found.apart, status=status,
    )  # fmt: skip


def _beside(law: NearLaw, found: Draws, excess: torch.Tensor) -> str:
    """What a reader has to know where names are a choice."""
    if isinstance(law, Law):
        return " The rules are not convex: other modes may have been missed." if law.heavy else ""
    better = float(excess.min()) < -1e-9 * abs(law.best.value)
    return (
        f" Chains from the best portfolio ({law.best.status}) and from random ones differ by {found.apart:.1f} "
        f"standard errors at most.{' A draw is better than the portfolio taken for the best.' if better else ''}"
    )


def _choices(
    held: torch.Tensor, excess: torch.Tensor, chains: int, names: tuple[str, ...]
) -> tuple[pd.DataFrame, torch.Tensor]:
    """The most frequent sets of held names, held (draws, n), and how often each of all sets occurs."""
    found, code, times = held.unique(dim=0, return_inverse=True, return_counts=True)
    rows, share = [], times.to(excess.dtype) / len(held)
    for k in times.sort(descending=True, stable=True).indices[:20].tolist():
        each = (code == k).to(excess.dtype).reshape(-1, chains).mean(0)
        who = ", ".join(name for name, here in zip(names, found[k].tolist(), strict=True) if here)
        rows.append((who, float(share[k]), float(each.std()) / chains**0.5, float(excess[code == k].min())))
    return pd.DataFrame(rows, columns=["names", "share", "error", "excess"]), times


def _cases(law: NearLaw, found: Draws) -> pd.DataFrame:
    """Which share of the law each case of `Either` has, its standard error from the chains, and what it has at most."""
    rows: list[tuple[str, float, float, float]] = []
    if isinstance(law, UnionLaw):
        inside = law.inside(found.x.flatten(0, 1).T).to(found.energy.dtype).reshape(-1, *found.energy.shape)
        each = inside.mean(1)
        share, error = each.mean(-1), each.std(-1) / each.shape[-1] ** 0.5
        most = torch.where(share > 0.0, share + 2.0 * error, 3.0 / found.least).clamp(max=1.0)
        names = [branch.name for branch in law.branches]
        rows = list(zip(names, share.tolist(), error.tolist(), most.tolist(), strict=True))
        rows += [(name, 0.0, 0.0, 0.0) for name in law.empty]
    return pd.DataFrame(rows, columns=["rule", "share", "error", "at_most"])


def _odds(cases: pd.DataFrame, law: NearLaw) -> str:
    """The same in words."""
    if not isinstance(law, UnionLaw):
        return ""
    told = []
    for rule, share, error, most in cases.itertuples(index=False):
        if rule in law.empty:
            told.append(f"{rule} none, no portfolio was found there")
        elif share == 0.0:
            told.append(f"{rule} met by no draw, at most about {most:.2g}")
        else:
            told.append(f"{rule} {share:.1%} (error {error:.1%})")
    return f" Of the cases of Either: {', '.join(told)}; portfolios of several are in each of them."


def _groups(w: torch.Tensor, law: NearLaw, ctx: Context) -> pd.DataFrame:
    rows, index = [], []
    for grouping, labels in ctx.groups.items():
        for label in dict.fromkeys(labels):
            inside = torch.tensor([own == label for own in labels])
            total = w[:, inside].sum(-1).numpy()
            rows.append((float(law.best.weights[inside].sum()), total.mean(), *np.quantile(total, (0.05, 0.95))))
            index.append((grouping, label))
    where = pd.MultiIndex.from_tuples(index, names=["grouping", "label"]) if index else None
    return pd.DataFrame(rows, columns=["optimum", "mean", "low", "high"], index=where)


def resampled_ranges(
    energy: Energy, constraint: Constraint, *, scenarios: Any, draws: int = 200, block: int = 1,
    seed: int = 0, **inputs: Any,
) -> pd.DataFrame:  # fmt: skip
    """By asset, the 5 % and 95 % quantiles of the optimum's weight when the scenarios are drawn again.

    Each of `draws` samples takes blocks of `block` scenarios in a row with replacement (circular), estimates mean and
    covariance from them and solves the formula exactly. The ranges say how much the optimum owes to the sample; they
    are no near-optimal ranges, for which see `ensemble`.

    Raises:
        SpecError: draws < 20, or block outside of 1 .. the number of scenarios. Others as `optimize` with Convex().

    Example:
        >>> resampled_ranges(Variance(), Budget() & LongOnly(), scenarios=returns, block=20)

    Sources: Efron, B. and Tibshirani, R. (1993), An Introduction to the Bootstrap; Politis, D. N. and Romano, J. P.
    (1992), A circular block-resampling procedure for stationary data; Michaud, R. (1998), Efficient Asset Management.
    """
    named, frame = isinstance(scenarios, pd.DataFrame), pd.DataFrame(scenarios)
    values, size = frame.to_numpy(dtype=np.float64), len(frame)
    if draws < 20 or not 1 <= block <= size:
        raise SpecError(f"draws={draws}, block={block}: ask for 20 draws or more, and blocks of 1 to {size} scenarios.")
    rng, found = np.random.default_rng(seed), []
    names: tuple[str, ...] | None = None
    for _ in range(draws):
        starts = rng.integers(size, size=-(-size // block))
        rows = ((starts[:, None] + np.arange(block)) % size).ravel()[:size]
        again = pd.DataFrame(values[rows], columns=frame.columns) if named else values[rows]
        ctx, names, _ = given_context(energy, constraint, scenarios=again, **inputs)
        found.append(minimum_under(energy, constraint, ctx)[1].weights.numpy())
    low, middle, high = np.quantile(np.array(found), (0.05, 0.5, 0.95), axis=0)
    # Weights are in the order of assets= or of another frame where one is given, which need not be the scenarios'.
    index = pd.Index(range(len(low)) if names is None else names, name="asset")
    return pd.DataFrame({"low": low, "median": middle, "high": high}, index=index)
