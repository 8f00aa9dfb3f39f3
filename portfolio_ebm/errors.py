"""Every error the package raises, as one tree.

    PortfolioEBMError
    |-- SpecError        a strategy, term or rule that says something impossible
    |   `-- LookAheadError  a decision that would use what was not known yet
    |-- DataError        a file, series or date that cannot be used as it is
    |-- ShapeError       a tensor of the wrong shape
    |-- FitError         an energy model that could not be trained
    |-- InfeasibleError  rules that no portfolio satisfies; names the rules in conflict
    |-- SolverError      a numerical method that did not reach its tolerance
    `-- StoreError       a stored fit or run that cannot be read back

Each message says what is wrong, where (date, asset, term) and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence


class PortfolioEBMError(Exception):
    """Base of every error raised on purpose by portfolio_ebm."""


class SpecError(PortfolioEBMError, ValueError):
    """A strategy, term or rule that says something impossible."""


class LookAheadError(SpecError):
    """A decision that would use what was not known yet; no row of a backtest, it ends it."""


class DataError(PortfolioEBMError, ValueError):
    """A file, series or date that cannot be used as it is."""


class ShapeError(PortfolioEBMError, ValueError):
    """A tensor of the wrong shape: the message names got and expected."""


class FitError(PortfolioEBMError, RuntimeError):
    """An energy model that could not be trained."""


class InfeasibleError(PortfolioEBMError, ValueError):
    """Rules that no portfolio satisfies.

    Attributes:
        conflict: the rules that contradict one another, as the user wrote them.
    """

    def __init__(self, message: str, conflict: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.conflict: tuple[str, ...] = tuple(conflict)


class SolverError(PortfolioEBMError, RuntimeError):
    """A numerical method that did not reach its tolerance."""


class StoreError(PortfolioEBMError, RuntimeError):
    """A stored fit or run that cannot be read back."""
