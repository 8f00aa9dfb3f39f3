"""Each rule by hand: its numbers, its sentence, what it refuses, and what it says when nothing fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_region, region_of, region_residual, select_pattern
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.context import Context
from portfolio_ebm.errors import DataError, InfeasibleError, ShapeError, SpecError
from portfolio_ebm.types import require_last

F64 = torch.float64


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def context(n: int = 4, held: Tensor | None = None, frozen: tuple[int, ...] = ()) -> Context:
    tradeable = torch.ones(n, dtype=torch.bool)
    tradeable[list(frozen)] = False
    names = ("AAPL", "MSFT", "XOM", "JPM", "KO", "PG", "GE", "WMT", "PFE", "BAC")[:n]
    sectors = ("tech", "tech", "oil", "bank", "food", "food", "tech", "shop", "drug", "bank")[:n]
    return Context(names, None, held, tradeable, {"sector": sectors})


def near(rule: Constraint, y: Tensor, ctx: Context | None = None) -> list[float]:
    return [float(x) for x in rule.project(y, ctx or context(len(y))).weights]


def test_budget_by_hand() -> None:
    assert near(Budget(), t(0.2, 0.2, 0.2, 0.0)) == pytest.approx([0.3, 0.3, 0.3, 0.1])
    assert near(Budget(total=0.0), t(0.5, 0.1)) == pytest.approx([0.2, -0.2])
    loose = Budget(total=1.0, at_least=0.5)
    assert near(loose, t(0.4, 0.3)) == [0.4, 0.3]
    assert near(loose, t(0.1, 0.0)) == pytest.approx([0.3, 0.2])
    assert near(loose, t(0.8, 0.4)) == pytest.approx([0.7, 0.3])
    assert float(loose.residual(t(0.1, 0.1, 0.1, 0.0), context())) == pytest.approx(0.2)
    assert float(loose.residual(t(0.6, 0.6, 0.1, 0.0), context())) == pytest.approx(0.3)


def test_box_and_long_only_by_hand() -> None:
    assert near(LongOnly(), t(0.5, -0.2)) == [0.5, 0.0]
    assert near(Box(lower=0.1, upper=0.4), t(0.5, -0.2, 0.3)) == [0.4, 0.1, 0.3]
    assert near(Box(upper=0.4, caps={"MSFT": 0.2}, floors={"AAPL": 0.1}), t(0.0, 0.5)) == [0.1, 0.2]
    assert float(Box(upper=0.4).residual(t(0.7, 0.5, 0.0, -0.1), context())) == pytest.approx(0.3)
    assert float(LongOnly().residual(t(0.7, -0.2, 0.0, -0.1), context())) == pytest.approx(0.2)


def test_group_by_hand() -> None:
    assert near(Group("sector", "tech", upper=0.4), t(0.5, 0.3, 0.9, 0.9)) == pytest.approx([0.3, 0.1, 0.9, 0.9])
    assert near(Group("sector", "oil", lower=0.4), t(0.5, 0.3, 0.1, 0.9)) == pytest.approx([0.5, 0.3, 0.4, 0.9])
    assert float(Group("sector", "tech", lower=0.2).residual(t(0.1, 0.0, 0.5, 0.4), context())) == pytest.approx(0.1)


def test_turnover_by_hand() -> None:
    ctx = context(2, held=t(0.5, 0.5))
    assert near(Turnover(0.2), t(0.9, 0.5), ctx) == pytest.approx([0.7, 0.5])
    assert near(Turnover(0.2), t(0.9, 0.2), ctx) == pytest.approx([0.65, 0.45])
    assert float(Turnover(0.2).residual(t(0.9, 0.2), ctx)) == pytest.approx(0.5)


@pytest.mark.parametrize("held", [None, torch.zeros(4, dtype=F64)])
def test_turnover_does_not_bind_when_nothing_is_held(held: Tensor | None) -> None:
    ctx = context(held=held)
    y = t(0.4, 0.3, 0.2, 0.1)
    assert near(Turnover(0.01), y, ctx) == y.tolist()
    assert float(Turnover(0.01).residual(y, ctx)) == 0.0
    assert Turnover(0.01).to_cvxpy(None, ctx) == []
    assert region_of(Turnover(0.01), ctx).turnover is None


def test_two_turnover_caps_are_the_tighter_one() -> None:
    region = region_of(Turnover(0.4) & Turnover(0.2) & Turnover(0.3), context(2, held=t(0.5, 0.5)))
    assert region.turnover == 0.2


def test_cardinality_by_hand() -> None:
    assert near(Cardinality(2), t(0.5, -0.6, 0.2, 0.1)) == [0.5, -0.6, 0.0, 0.0]
    # With a floor nothing is short, and 0.2 is nearer to 0.3 than to 0.
    assert near(Cardinality(2, min_weight=0.3), t(0.5, -0.6, 0.2, 0.1)) == [0.5, 0.0, 0.3, 0.0]
    assert near(Cardinality(2, min_weight=0.5), t(0.6, 0.2, 0.1, 0.0)) == [0.6, 0.0, 0.0, 0.0]
    rule, ctx = Cardinality(2, min_weight=0.1), context()
    assert float(rule.residual(t(0.5, 0.3, 0.1, 0.1), ctx)) == 2.0
    assert float(rule.residual(t(0.95, 0.05, 0.0, 0.0), ctx)) == pytest.approx(0.05)
    assert float(rule.residual(t(1.0, 1e-12, 1e-12, 0.0), ctx)) == 0.0
    assert float(rule.residual(t(0.95, 0.05, 0.0, 0.0), context(frozen=(1,)))) == 0.0
    assert float(rule.residual(t(0.4, 0.3, 0.3, 0.0), context(frozen=(1,)))) == 0.0


def test_two_cardinalities_are_the_tighter_of_each() -> None:
    region = region_of(Cardinality(5, 0.01) & Cardinality(3) & Cardinality(4, 0.05), context())
    assert (region.at_most, region.min_weight) == (3, 0.05)


def test_the_status_says_what_is_proven() -> None:
    y, held = t(0.5, 0.3, 0.2, 0.1), t(0.25, 0.25, 0.25, 0.25)
    plain = (Budget() & LongOnly() & Cardinality(2)).project(y, context()).status
    traded = (Budget() & LongOnly() & Cardinality(2) & Turnover(1.2)).project(y, context(held=held)).status
    assert plain.ok and plain.message.startswith("nearest;")
    assert traded.ok and traded.message.startswith("feasible; nearest on its pattern, not proven nearest overall")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Box(lower=0.3, upper=0.2), "upper=0.2 is below lower=0.3"),
        (lambda: Box(upper=0.2, floors={"AAPL": 0.3}), "'AAPL' would have to lie between 0.3 and 0.2"),
        (lambda: Box(caps=(("AAPL", 0.3), ("AAPL", 0.2))), "given twice"),
        (lambda: Budget(total=0.5, at_least=0.8), "at_least=0.8 is above total=0.5"),
        (lambda: Budget(total=float("nan")), "finite"),
        (lambda: Group("sector", "tech"), "neither upper nor lower"),
        (lambda: Group("sector", "tech", upper=0.1, lower=0.2), "upper=0.1 is below lower=0.2"),
        (lambda: Turnover(0.0), "greater than 0"),
        (lambda: Turnover(-0.1), "greater than 0"),
        (lambda: Cardinality(0), "greater than or equal to 1"),
        (lambda: Cardinality(2.5), "integer"),
        (lambda: Cardinality(True), "integer"),
        (lambda: Cardinality(3, min_weight=-0.1), "greater than or equal to 0"),
        (lambda: Box(uper=0.2), "uper"),
        (lambda: LongOnly().energy(stiffness=0.0), "greater than 0"),
    ],
)
def test_impossible_rules_are_refused_in_words(make: object, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make()


def test_unknown_names_list_near_matches() -> None:
    with pytest.raises(SpecError, match="no asset 'APPL'; there is AAPL"):
        region_of(Box(caps={"APPL": 0.1}), context())
    with pytest.raises(SpecError, match="No asset has sector 'tec'; there is 'tech'"):
        region_of(Group("sector", "tec", upper=0.1), context())
    with pytest.raises(SpecError, match="No grouping 'sectors'; there is 'sector'"):
        region_of(Group("sectors", "tech", upper=0.1), context())


def test_an_empty_region_names_its_rules() -> None:
    y = torch.full((10,), 0.1, dtype=F64)
    with pytest.raises(InfeasibleError, match=r"Budget\(\) needs 1 and the bounds allow at most 0.5") as caught:
        (Budget() & Box(upper=0.05)).project(y, context(10))
    assert "Budget()" in caught.value.conflict
    with pytest.raises(InfeasibleError, match=r"Cardinality\(at_most=8\).*at most 0.8"):
        (Budget() & Box(upper=0.1) & Cardinality(8)).project(y, context(10))
    with pytest.raises(InfeasibleError, match=r"Turnover\(at_most=0.1\)"):
        (Budget() & LongOnly() & Turnover(0.1)).project(y, context(10, held=0.5 * y))
    with pytest.raises(InfeasibleError, match="Group"):
        (LongOnly() & Budget() & Group("sector", "tech", lower=0.8) & Group("sector", "food", lower=0.4)).project(
            y, context(10)
        )
    with pytest.raises(InfeasibleError, match=r"would have to lie between 0\.3 and 0\.2"):
        (Box(lower=0.3, upper=0.5) & Box(upper=0.2)).project(y, context(10))
    with pytest.raises(InfeasibleError):
        (Budget() & Budget(total=0.5)).project(y, context(10))


def test_frozen_names_keep_their_holding_whatever_the_box_says() -> None:
    held = t(0.5, 0.0, 0.2, 0.3)
    ctx = context(held=held, frozen=(0, 1))
    rule = Budget() & LongOnly() & Box(upper=0.4)
    out = project_region(t(0.0, 0.9, 0.0, 0.9), region_of(rule, ctx)).weights
    assert out.tolist() == pytest.approx([0.5, 0.0, 0.1, 0.4], abs=1e-15)
    assert float(rule.residual(out, ctx)) < 1e-15
    with pytest.raises(InfeasibleError, match="2 names cannot be traded"):
        project_region(held, region_of(Budget() & Box(upper=0.2), ctx))


def test_a_box_alone_leaves_a_name_that_cannot_be_traded_alone() -> None:
    ctx = context(held=t(0.9, 0.0, 0.0, 0.1), frozen=(0,))
    assert near(Box(upper=0.3), t(0.9, 0.9, -0.1, 0.1), ctx) == [0.9, 0.3, 0.0, 0.1]
    assert near(LongOnly(), t(-0.9, 0.9, -0.1, 0.1), ctx) == [-0.9, 0.9, 0.0, 0.1]
    assert float(Box(upper=0.3).residual(t(0.9, 0.0, 0.0, 0.1), ctx)) == 0.0


def test_frozen_and_nothing_held_is_out() -> None:
    region = region_of(Budget() & LongOnly(), context(frozen=(2,)))
    assert float(project_region(t(0.1, 0.1, 0.7, 0.1), region).weights[2]) == 0.0


def test_region_residual_is_in_weight_units() -> None:
    region = region_of(Budget() & Box(upper=0.5) & Cardinality(2, min_weight=0.1), context())
    assert float(region_residual(t(0.5, 0.5, 0.0, 0.0), region)) == 0.0
    assert float(region_residual(t(0.7, 0.3, 0.0, 0.0), region)) == pytest.approx(0.2)
    assert float(region_residual(t(0.5, 0.3, 0.2, 0.0), region)) == pytest.approx(0.2)
    assert float(region_residual(t(0.5, 0.47, 0.03, 0.0), region)) == pytest.approx(0.03)
    assert float(region_residual(t(0.5, 0.46, 0.0, 0.0), region)) == pytest.approx(0.04)


def test_a_pattern_of_a_convex_region_is_every_free_name() -> None:
    region = region_of(Budget() & LongOnly(), context(frozen=(1,), held=t(0.0, 0.1, 0.0, 0.0)))
    assert select_pattern(torch.zeros(2, 4, dtype=F64), region).tolist() == [[True, False, True, True]] * 2


def test_the_slice_of_a_pattern_that_drops_a_must_hold_is_empty() -> None:
    region = region_of(Budget() & Box(lower=0.1, upper=0.8) & Cardinality(4), context())
    slice_ = region.on(torch.tensor([True, True, True, False]))
    assert bool((slice_.lower > slice_.upper).any())


def test_a_region_is_for_one_date() -> None:
    ctx = context()
    many = Context(ctx.assets, None, None, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="one date at a time"):
        region_of(Budget(), many)
    with pytest.raises(ShapeError, match=r"held weights: got shape \(3,\)"):
        region_of(Turnover(0.1), context(held=torch.ones(3)))


def test_regions_move_with_the_dtype() -> None:
    region = region_of(Budget() & LongOnly() & Turnover(0.5), context(held=t(0.25, 0.25, 0.25, 0.25)))
    small = region.to(torch.zeros(1, dtype=torch.float32))
    assert small.lower.dtype == small.rows.dtype == small.anchor.dtype == torch.float32
    assert isinstance(small, Region) and region.to(torch.zeros(1, dtype=F64)) is region
    w = project_region(torch.randn(3, 4), small).weights
    assert w.dtype == torch.float32 and float((w.sum(-1) - 1).abs().max()) < 1e-6


def test_whole_numbers_are_refused_as_weights() -> None:
    with pytest.raises(DataError, match="int64"):
        Budget().project(torch.zeros(4, dtype=torch.int64), context())
    assert require_last(t(1.0, 2.0), 2, "w") is not None


def test_a_soft_rule_pulls_a_portfolio_back() -> None:
    """Gradient descent on the energy of a rule alone, with step 1/k, is one projection."""
    energy = (Budget() & LongOnly()).energy(stiffness=4.0).bind(context())
    w = t(0.9, 0.4, -0.3, 0.0).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(w), w)
    stepped = w.detach() - gradient / 4.0
    assert stepped.tolist() == pytest.approx([0.75, 0.25, 0.0, 0.0])
    assert float(energy(stepped)) == pytest.approx(0.0, abs=1e-30)
