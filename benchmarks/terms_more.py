"""The objectives that benchmarks/terms.py leaves out beside the libraries that have them, in one run.

    python benchmarks/terms_more.py [--days 750] [--repeats 3] [--returns FILE] [--only WORDS]

Tracking, trading cost, views, robust means and covariances, shrinkage, semivariance, drawdowns on average, budgets of
risk and further ratios. Data, evaluation and reading as in terms.py: every weight vector is evaluated by numpy
functions that belong to no side; by side, how far above the least value its weights are and the time as a multiple of
ours. Peers are given the same uncertainty sets, costs and views through their public parameters. A dash: not there, or
failed. `--only` keeps the rows with one of the words in their names.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy.linalg import sqrtm

sys.path.insert(0, str(Path(__file__).parent))

from terms import LEVEL, Measure, arguments, attempt, entropic, falls, returns_of, tail

import portfolio_ebm as pe

NOBODY = """\
No peer has EntropicRisk, FactorRisk, MarketImpact, BorrowCost or NegativeEntropy ready as an objective; the budgets of
factor risk in Riskfolio-Lib are of a regression of its own, so no row sets FactorRiskBudget beside them. They have and
this package has not: Gini mean difference, first lower partial moment, ulcer index and entropic drawdown at risk
(skfolio, Riskfolio-Lib); kurtosis, tail Gini, ranges and relativistic measures (Riskfolio-Lib)."""
HALF_AVERSION = 2.5
RATE, DOUBT, RIDGE, CORRELATION, SHRINK = 0.0005, 1.0, 0.1, 0.1, 0.1
TAU = 0.05


class Problem:
    """One window of returns, and what the objectives ask for beside it."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame, self.r = frame, frame.to_numpy()
        self.days, self.n = self.r.shape
        self.mean, self.cov = frame.mean(), frame.cov()
        self.m, self.s = self.mean.to_numpy(), self.cov.to_numpy()
        rank = np.arange(1.0, self.n + 1.0)
        self.bench = rank / rank.sum()
        self.cap = 0.75 * float(self.bench.max())
        self.active = self.r - (self.r @ self.bench)[:, None]
        self.held = np.roll(self.bench, self.n // 2)
        self.sd = np.sqrt(np.diag(self.s))
        self.ridge = RIDGE * float(np.diag(self.s).mean())
        self.budgets = self.bench[::-1].copy()
        # Two views: the first name beats the second, and the third returns so much.
        self.p = np.zeros((2, self.n))
        self.p[0, 0], self.p[0, 1], self.p[1, 2] = 1.0, -1.0, 1.0
        self.q = np.array([0.0004, 0.0006])
        spread = TAU * self.s @ self.p.T
        self.omega = np.diag(np.diag(self.p @ spread))
        self.posterior = self.m + spread @ np.linalg.solve(self.p @ spread + self.omega, self.q - self.p @ self.m)

    def utility(self, w: np.ndarray, mean: np.ndarray | None = None) -> float:
        return float(-(self.m if mean is None else mean) @ w + HALF_AVERSION * w @ self.s @ w)


@dataclass(frozen=True)
class Row:
    """An objective: its value at weights, our formula, and each peer's weights."""

    measure: Callable[[Problem, np.ndarray], float]
    ours: pe.Energy
    skfolio: Callable[[Problem], np.ndarray] | None = None
    riskfolio: Callable[[Problem], np.ndarray] | None = None
    pypfopt: Callable[[Problem], np.ndarray] | None = None
    capped: bool = False
    from_zero: bool = False


def ours(row: Row, p: Problem) -> np.ndarray:
    rules = pe.Budget() & pe.LongOnly()
    found = pe.optimize(
        row.ours, rules & pe.Box(upper=p.cap) if row.capped else rules, scenarios=p.frame, paths=p.r,
        benchmarks={"index": p.bench}, held=pd.Series(p.held, p.frame.columns), constructor=pe.Convex(),
    )  # fmt: skip
    return found.weights.to_numpy()


# ---- skfolio


def sk(goal: str, risk: str, **more: object) -> Callable[[Problem], np.ndarray]:
    def run(p: Problem) -> np.ndarray:
        from skfolio import RiskMeasure
        from skfolio.optimization import MeanRisk, ObjectiveFunction

        given = {key: value(p) if callable(value) else value for key, value in more.items()}
        model = MeanRisk(getattr(ObjectiveFunction, goal), getattr(RiskMeasure, risk), **given)
        return np.asarray(model.fit(p.r).weights_)

    return run


def sk_utility(**more: object) -> Callable[[Problem], np.ndarray]:
    return sk("MAXIMIZE_UTILITY", "VARIANCE", risk_aversion=HALF_AVERSION, **more)


def sk_tracker(risk: str) -> Callable[[Problem], np.ndarray]:
    def run(p: Problem) -> np.ndarray:
        from skfolio import RiskMeasure
        from skfolio.optimization import BenchmarkTracker

        model = BenchmarkTracker(risk_measure=getattr(RiskMeasure, risk), max_weights=p.cap)
        return np.asarray(model.fit(p.r, p.r @ p.bench).weights_)

    return run


def sk_set(kind: str, radius: float, geometry: np.ndarray, norm: float) -> object:
    """An uncertainty set that is given, not estimated."""
    from skfolio import uncertainty_set as sets

    base = sets.BaseMuUncertaintySet if kind == "mu" else sets.BaseCovarianceUncertaintySet

    class Given(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            self.prior_estimator = None

        def fit(self, X: object, y: object = None, **params: object) -> object:
            self.uncertainty_set_ = sets.UncertaintySet(radius=radius, geometry=geometry, norm=norm)
            return self

    return Given()


def sk_views(p: Problem) -> np.ndarray:
    from skfolio.optimization import MeanRisk, ObjectiveFunction
    from skfolio.prior import BlackLitterman, EmpiricalPrior

    a, b, c = p.frame.columns[:3]
    prior = BlackLitterman(
        views=[f"{a} - {b} == {p.q[0]}", f"{c} == {p.q[1]}"], tau=TAU, prior_estimator=EmpiricalPrior()
    )
    model = MeanRisk(ObjectiveFunction.MAXIMIZE_UTILITY, risk_aversion=HALF_AVERSION, prior_estimator=prior)
    return np.asarray(model.fit(p.frame).weights_)


def sk_budgets(p: Problem) -> np.ndarray:
    from skfolio.optimization import RiskBudgeting

    return np.asarray(RiskBudgeting(risk_budget=p.budgets).fit(p.r).weights_)


# ---- Riskfolio-Lib


def book_of(p: Problem) -> object:
    import riskfolio as rp

    book = rp.Portfolio(returns=p.frame)
    book.assets_stats(method_mu="hist", method_cov="hist")
    return book


def rf(risk: str, goal: str) -> Callable[[Problem], np.ndarray]:
    def run(p: Problem) -> np.ndarray:
        found = book_of(p).optimization(model="Classic", rm=risk, obj=goal, rf=0, l=HALF_AVERSION, hist=True)
        return found["weights"].reindex(p.frame.columns).to_numpy()

    return run


def rf_worst(goal: str, mean: str | None, cov: str | None) -> Callable[[Problem], np.ndarray]:
    def run(p: Problem) -> np.ndarray:
        book, names = book_of(p), p.frame.columns
        common = CORRELATION * np.outer(p.sd, p.sd)
        book.d_mu = pd.DataFrame((DOUBT * p.sd / np.sqrt(p.days))[None], columns=names)
        book.cov_mu, book.k_mu = p.cov / p.days, DOUBT
        book.cov_l, book.cov_u = p.cov - common, p.cov + common
        book.cov_sigma, book.k_sigma = pd.DataFrame(np.eye(p.n**2)), p.ridge
        found = book.wc_optimization(obj=goal, rf=0, l=HALF_AVERSION, Umu=mean, Ucov=cov)
        return found["weights"].reindex(names).to_numpy()

    return run


def rf_views(p: Problem) -> np.ndarray:
    book = book_of(p)
    book.blacklitterman_stats(p.p, p.q[:, None], rf=0, eq=False)
    found = book.optimization(model="BL", rm="MV", obj="Utility", rf=0, l=HALF_AVERSION, hist=False)
    return found["weights"].reindex(p.frame.columns).to_numpy()


def rf_budgets(p: Problem) -> np.ndarray:
    found = book_of(p).rp_optimization(model="Classic", rm="MV", rf=0, b=p.budgets[:, None], hist=True)
    return found["weights"].reindex(p.frame.columns).to_numpy()


# ---- PyPortfolioOpt


def frontier(p: Problem, mean: pd.Series | None = None, cap: float = 1.0) -> object:
    from pypfopt import EfficientFrontier

    return EfficientFrontier(p.mean if mean is None else mean, p.cov, weight_bounds=(0, cap))


def vector(p: Problem, found: dict[str, float]) -> np.ndarray:
    return pd.Series(found).reindex(p.frame.columns).to_numpy()


def py_utility(p: Problem) -> np.ndarray:
    return vector(p, frontier(p).max_quadratic_utility(risk_aversion=2 * HALF_AVERSION))


def py_cost(p: Problem) -> np.ndarray:
    from pypfopt import objective_functions as terms

    model = frontier(p)
    model.add_objective(terms.transaction_cost, w_prev=p.held, k=RATE)
    return vector(p, model.max_quadratic_utility(risk_aversion=2 * HALF_AVERSION))


def py_shrunk(p: Problem) -> np.ndarray:
    from pypfopt import objective_functions as terms

    model = frontier(p)
    model.add_objective(terms.L2_reg, gamma=SHRINK * float(np.diag(p.s).mean()))
    return vector(p, model.min_volatility())


def py_tracking(p: Problem) -> np.ndarray:
    from pypfopt import objective_functions as terms

    model = frontier(p, cap=p.cap)
    found = model.convex_objective(terms.ex_ante_tracking_error, cov_matrix=p.s, benchmark_weights=p.bench)
    return vector(p, found)


def py_views(p: Problem) -> np.ndarray:
    from pypfopt import BlackLittermanModel

    model = BlackLittermanModel(p.cov, pi=p.mean, P=p.p, Q=p.q, tau=TAU)
    return vector(p, frontier(p, model.bl_returns()).max_quadratic_utility(risk_aversion=2 * HALF_AVERSION))


def py_semivariance(p: Problem) -> np.ndarray:
    from pypfopt import EfficientSemivariance

    return vector(p, EfficientSemivariance(p.mean, p.frame, frequency=1).min_semivariance())


def budget_error(p: Problem, w: np.ndarray) -> float:
    pull = w * (p.s @ w)
    return float(np.abs(pull / pull.sum() / p.budgets - 1.0).max())


def over(risk: Measure) -> Callable[[Problem, np.ndarray], float]:
    return lambda p, w: float(-(p.r @ w).mean() / risk(p.r, w))


def below(x: np.ndarray, target: float) -> float:
    return float((np.clip(target - x, 0, None) ** 2).mean())


def rows(p: Problem) -> dict[str, Row]:
    utility = pe.Return() + HALF_AVERSION * pe.Variance()
    ridge = SHRINK * float(np.diag(p.s).mean())
    views = pe.Views(
        (
            pe.View({p.frame.columns[0]: 1.0, p.frame.columns[1]: -1.0}, float(p.q[0]), confidence=0.5),
            pe.View(p.frame.columns[2], float(p.q[1]), confidence=0.5),
        ),
        tau=TAU,
    )
    box = sk_set("mu", DOUBT, np.diag(p.sd / np.sqrt(p.days)), np.inf)
    ball = sk_set("mu", DOUBT, np.real(sqrtm(p.s / p.days)), 2)
    return {
        "-mean + variance": Row(
            lambda p, w: p.utility(w), utility, sk_utility(), rf("MV", "Utility"), py_utility
        ),
        "-mean + variance + cost of trading": Row(
            lambda p, w: p.utility(w) + RATE * float(np.abs(w - p.held).sum()), utility + pe.TradingCost(RATE),
            sk_utility(transaction_costs=RATE, previous_weights=lambda p: p.held), None, py_cost,
        ),
        "-mean by views + variance": Row(
            lambda p, w: p.utility(w, p.posterior), views + HALF_AVERSION * pe.Variance(), sk_views, rf_views, py_views
        ),
        "-mean, worst of a box + variance": Row(
            lambda p, w: p.utility(w) + DOUBT * float(p.sd @ np.abs(w)) / p.days**0.5,
            pe.BoxReturn(p.days, errors=DOUBT) + HALF_AVERSION * pe.Variance(),
            sk_utility(mu_uncertainty_set_estimator=box), rf_worst("Utility", "box", None),
        ),
        "-mean, worst of an ellipsoid + variance": Row(
            lambda p, w: p.utility(w) + DOUBT * float(w @ p.s @ w / p.days) ** 0.5,
            pe.EllipsoidReturn(p.days, size=DOUBT) + HALF_AVERSION * pe.Variance(),
            sk_utility(mu_uncertainty_set_estimator=ball), rf_worst("Utility", "ellip", None),
        ),
        "variance, worst of a Frobenius ball": Row(
            lambda p, w: float(w @ p.s @ w + p.ridge * w @ w), pe.RobustVariance(frobenius=RIDGE),
            sk("MINIMIZE_RISK", "VARIANCE", covariance_uncertainty_set_estimator=lambda p: sk_set(
                "cov", p.ridge, np.eye(p.n**2), 2)), rf_worst("MinRisk", None, "ellip"),
        ),
        "variance, worst of a box": Row(
            lambda p, w: float(w @ p.s @ w + CORRELATION * (p.sd @ np.abs(w)) ** 2),
            pe.RobustVariance(correlation=CORRELATION), None, rf_worst("MinRisk", None, "box"),
        ),
        "variance + Herfindahl": Row(
            lambda p, w: float(w @ p.s @ w + ridge * w @ w), pe.Variance() + ridge * pe.Herfindahl(),
            sk("MINIMIZE_RISK", "VARIANCE", l2_coef=ridge), None, py_shrunk,
        ),
        "tracking variance, capped": Row(
            lambda p, w: float(np.var(p.active @ w, ddof=1)), pe.TrackingError("index", pe.Variance()),
            sk_tracker("VARIANCE"), None, py_tracking, capped=True,
        ),
        "tracking mean absolute deviation, capped": Row(
            lambda p, w: float(np.abs(p.active @ w - (p.active @ w).mean()).mean()),
            pe.TrackingError("index", pe.MeanAbsoluteDeviation()), sk_tracker("MEAN_ABSOLUTE_DEVIATION"), capped=True,
        ),
        "tracking CVaR 95 %, capped": Row(
            lambda p, w: tail(-(p.active @ w)), pe.TrackingError("index", pe.CVaR(LEVEL)), sk_tracker("CVAR"),
            capped=True,
        ),
        "semivariance, below the mean": Row(
            lambda p, w: below(p.r @ w, float((p.r @ w).mean())), pe.Semivariance(),
            sk("MINIMIZE_RISK", "SEMI_VARIANCE"), rf("MSV", "MinRisk"),
        ),
        "semivariance, below zero": Row(
            lambda p, w: below(p.r @ w, 0.0), pe.Semivariance(centred=False),
            sk("MINIMIZE_RISK", "SEMI_VARIANCE", min_acceptable_return=0.0), rf("SLPM", "MinRisk"), py_semivariance,
        ),
        "drawdown on average": Row(
            lambda p, w: float(falls(p.r @ w).mean()), pe.CDaR(0.0), sk("MINIMIZE_RISK", "AVERAGE_DRAWDOWN"),
            rf("ADD", "MinRisk"),
        ),
        "-mean / EVaR 95 %": Row(
            over(lambda r, w: entropic(r @ w)), pe.MaxRatio(pe.Return(), pe.EVaR(LEVEL)),
            sk("MAXIMIZE_RATIO", "EVAR"), rf("EVaR", "Sharpe"),
        ),
        "-mean / semideviation": Row(
            over(lambda r, w: below(r @ w, float((r @ w).mean())) ** 0.5),
            pe.MaxRatio(pe.Return(), pe.Semideviation()), sk("MAXIMIZE_RATIO", "SEMI_DEVIATION"), rf("MSV", "Sharpe"),
        ),
        "-mean / CDaR 95 %": Row(
            over(lambda r, w: tail(falls(r @ w))), pe.MaxRatio(pe.Return(), pe.CDaR(LEVEL)),
            sk("MAXIMIZE_RATIO", "CDAR"), rf("CDaR", "Sharpe"),
        ),
        "budgets of risk, worst share off": Row(
            budget_error, pe.RiskBudget(dict(zip(p.frame.columns, p.budgets.tolist(), strict=True))), sk_budgets,
            rf_budgets, from_zero=True,
        ),
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="words; rows with one of them in their name")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    p = Problem(returns_of(asked))
    table = Table(title=f"{p.n} names, {p.days} days, long-only: above the least value (time, ours = 1)")
    for heading in ("objective", "least value", "portfolio_ebm", "skfolio", "Riskfolio-Lib", "PyPortfolioOpt"):
        table.add_column(heading, justify="left" if heading == "objective" else "right")
    for name, row in rows(p).items():
        if asked.only and not any(word in name for word in asked.only.split()):
            continue
        peers = [None if one is None else partial(one, p) for one in (row.skfolio, row.riskfolio, row.pypfopt)]
        found = [attempt(run, asked.repeats) for run in (partial(ours, row, p), *peers)]
        values = [np.nan if one is None else row.measure(p, one[1]) for one in found]
        least, base = np.nanmin(values), found[0][0] if found[0] else np.nan
        cells = []
        for one, value in zip(found, values, strict=True):
            above = value if row.from_zero else (value - least) / abs(least)
            cells.append("-" if one is None else f"{max(above, 0.0):.0e} ({one[0] / base:.2g})")
        table.add_row(name, f"{least:.6g}", *cells)
    Console(width=140).print(table)
    print(f"{p.frame.index[0]:%Y-%m-%d} to {p.frame.index[-1]:%Y-%m-%d}, one thread.")
    print(NOBODY)


if __name__ == "__main__":
    main()
