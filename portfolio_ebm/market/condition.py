"""Condition: a view or a stress as an energy on returns, written as a sentence.

    "HML > 0.02"               E = 0 where it holds, infinity elsewhere        (also >=, <, <=)
    "Mkt = -5%"                all mass on the value
    "HML ~ 0.02 +- 0.005"      E = (x - 0.02)^2 / (2 0.005^2)

The grammar is `NAME OP NUMBER`, joined by `and`: no code is run. x is the simple return of the named factor or
asset over the holding period: the next day for `sample` and `log_prob`, `horizon` periods for `outlook` and
`scenarios`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

import torch
from pydantic import field_validator
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import Spec

Operator: TypeAlias = Literal["<", "<=", ">", ">=", "=", "~"]
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*(?:%|bps)?"
CLAUSE = re.compile(
    rf"^\s*(?P<name>[^<>=~]*?[^<>=~\s])\s*(?P<op><=|>=|==|<|>|=|~)\s*(?P<value>{NUMBER})"
    rf"(?:\s*(?:\+-|±)\s*(?P<width>{NUMBER}))?\s*$"
)
OPERATORS: dict[str, Operator] = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "=": "=", "==": "=", "~": "~"}
UNITS = {"%": 1e-2, "bps": 1e-4}
FORMS = 'write "HML > 0.02", "Mkt = -5%" or "HML ~ 0.02 +- 0.005", joined by "and"'
LOWEST = -1.0
"""A simple return is above this."""


@dataclass(frozen=True, order=True)
class Clause:
    """One sentence: `name op value`, with the deviation of a view (`~`), else 0."""

    name: str
    op: Operator
    value: float
    width: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.value!r}" + (f" +- {self.width!r}" if self.op == "~" else "")

    @property
    def interval(self) -> tuple[float, float]:
        """The closed interval of returns allowed; a strict bound starts at the next number there is."""
        if self.op == "=":
            return self.value, self.value
        if self.op in (">", ">="):
            return (math.nextafter(self.value, math.inf) if self.op == ">" else self.value), math.inf
        if self.op in ("<", "<="):
            return -math.inf, (math.nextafter(self.value, -math.inf) if self.op == "<" else self.value)
        return -math.inf, math.inf

    def energy(self, x: Tensor) -> Tensor:
        """E of returns x, any shape."""
        if self.op == "~":
            return ((x - self.value) / self.width).square() / 2
        low, high = self.interval
        return torch.where((x >= low) & (x <= high), 0.0, torch.inf).to(x)


class Condition(Spec):
    """A view or stress: sentences about returns over the holding period, all of which hold.

    Added to a market model or to a fitted market it gives the conditional one. Conditions add in any order.

    Attributes:
        text: "NAME OP NUMBER" joined by "and"; OP is <, <=, >, >=, = or ~; a number may end in % or bps; `~` takes the
            view's standard deviation after +-.

    Raises:
        SpecError: not a sentence of this form; the message shows what is.

    Example:
        >>> FactorEBM() + Condition("HML > 0.02 and Mkt ~ -5% +- 1%")
    """

    text: str

    @field_validator("text")
    @classmethod
    def _read(cls, text: str) -> str:
        return " and ".join(map(str, parse(text)))

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The sentences, in a canonical order."""
        return parse(self.text)

    def __add__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        return Condition(f"{self.text} and {other.text}")

    def energy(self, r: Tensor, series: Sequence[str]) -> Tensor:
        """E at returns r (..., S) of the named series: (...), nats."""
        named = located(self.clauses, series, "the returns")
        return torch.stack([clause.energy(r[..., column]) for clause, column in named]).sum(0)


def parse(text: str) -> tuple[Clause, ...]:
    """The sentences of a text, sorted, each once.

    Raises:
        ValueError: a sentence cannot be read, or says something impossible.
    """
    return tuple(sorted({_clause(part) for part in re.split(r"\s+and\s+", text)}))


def _clause(part: str) -> Clause:
    found = CLAUSE.match(part)
    if found is None:
        raise ValueError(f"'{part.strip()}' cannot be read; {FORMS}")
    op = OPERATORS[found["op"]]
    value = _number(found["value"])
    if (op == "~") != (found["width"] is not None):
        raise ValueError(f"'{part.strip()}': a view '~' and only a view has a deviation; {FORMS}")
    width = 0.0 if found["width"] is None else _number(found["width"])
    if op == "~" and not width > 0:
        raise ValueError(f"'{part.strip()}': the deviation of a view is above zero; for certainty write '='")
    if value <= LOWEST and op != ">" and op != ">=":
        raise ValueError(f"'{part.strip()}': a simple return is above -100%; -5% is written -0.05 or -5%")
    return Clause(found["name"], op, value, width)


def _number(text: str) -> float:
    for unit, size in UNITS.items():
        if text.endswith(unit):
            # Through the decimal text, so that 5% is the number 0.05 and not a rounding of 5 x 0.01.
            return float(f"{float(text.removesuffix(unit)) * size:.15g}")
    return float(text)


def located(clauses: Iterable[Clause], series: Sequence[str], who: str) -> list[tuple[Clause, int]]:
    """Each sentence with the column of its series.

    Raises:
        SpecError: no such series, with near matches; or the name is both a factor and an asset.
    """
    found = []
    for clause in clauses:
        count = list(series).count(clause.name)
        if count == 0:
            lower = {name.lower(): name for name in series}
            near = [lower[n] for n in get_close_matches(clause.name.lower(), list(lower), n=3, cutoff=0.4)]
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(list(series)[:8])}."
            raise SpecError(
                f"Condition '{clause}': {who} models no series '{clause.name}'; {hint} A plain model models the "
                "factors that it names: factors=(...)."
            )
        if count > 1:
            raise SpecError(
                f"Condition '{clause}': {clause.name} is both a factor and an asset of {who}; rename one of them."
            )
        found.append((clause, list(series).index(clause.name)))
    return found


@dataclass(frozen=True)
class Target:
    """What all sentences say of one series: its return lies in [low, high]; `views` are (value, deviation)."""

    column: int
    name: str
    low: float
    high: float
    views: tuple[tuple[float, float], ...] = ()

    @property
    def certain(self) -> bool:
        """Whether the return is given."""
        return self.low == self.high


def targets(clauses: Iterable[Clause], series: Sequence[str], who: str) -> tuple[Target, ...]:
    """The sentences gathered by series, in the order of the series.

    Raises:
        SpecError: an unknown series, or sentences that contradict one another.
    """
    found: dict[int, Target] = {}
    said: dict[int, list[str]] = {}
    for clause, column in located(clauses, series, who):
        old = found.get(column, Target(column, clause.name, -math.inf, math.inf))
        low, high = clause.interval
        views = (*old.views, (clause.value, clause.width)) if clause.op == "~" else old.views
        found[column] = Target(column, clause.name, max(old.low, low), min(old.high, high), views)
        said.setdefault(column, []).append(str(clause))
        if found[column].low > found[column].high:
            raise SpecError(f"{' and '.join(said[column])} cannot hold together; drop one of them.")
    return tuple(found[column] for column in sorted(found))
