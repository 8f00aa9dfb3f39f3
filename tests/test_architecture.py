"""The doors open one way: a room imports only rooms before it, and guests stay in their rooms."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "portfolio_ebm"

# Rooms in the order in which doors open: a room may import itself and any room on an earlier line.
ORDER = (
    ("errors", "types", "linear"),
    ("energy",),
    ("models", "samplers"),
    ("training",),
    ("data",),
    ("market",),
    ("tally",),
    ("context",),
    ("energies",),
    ("constraints",),
    ("construction",),
    ("allocation", "strategy", "optimization", "frontiers", "ensembles", "many", "learning"),
    ("backtesting", "orders"),
    ("report",),
    ("cli",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

# The rooms inside construction/, in the same way; every other file there, a constructor or what only they use, is last.
INSIDE = (
    ("base", "later", "marginal", "ablation", "effort"),
    ("exact",),
    ("choosing",),
    ("feasibility",),
    ("rugged",),
    ("near",),
)
RANK_INSIDE = {room: rank for rank, rooms in enumerate(INSIDE) for room in rooms}

PUBLIC_DOORS = {"allocation", "strategy", "optimization", "frontiers", "ensembles", "many"}
# In the market room pandas writes records: scores, anomalies; everything else there is arrays and tensors.
MARKET_RECORDS = {"market/score.py", "market/anomaly/report.py", "market/anomaly/gauge.py"}
GUESTS = {
    "cvxpy": {"energies", "constraints", "construction"},
    "daqp": {"constraints/active_set.py"},
    "pandas": {"data", "backtesting", "orders", "report", "cli", *MARKET_RECORDS} | PUBLIC_DOORS,
    "sklearn": {"market"},
    "plotly": {"report"},
    "yfinance": {"data"},
    "rich": {"cli", "report"},
    "typer": {"cli"},
}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax; read once, for every law that looks at it."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_doors_open_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} is not in the plan of the house"
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "portfolio_ebm" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[room], f"{names(path)} opens a door the wrong way: {module}"


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) == "construction"], ids=names)
def test_doors_inside_construction_open_one_way(path: Path) -> None:
    rank = RANK_INSIDE.get(path.relative_to(PACKAGE).parts[1].removesuffix(".py"), len(INSIDE))
    for module in imports(path):
        parts = module.split(".")
        if parts[:2] == ["portfolio_ebm", "construction"] and len(parts) > 2:
            assert RANK_INSIDE.get(parts[2], len(INSIDE)) <= rank, f"{names(path)} opens a door the wrong way: {module}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_guests_stay_in_their_rooms(path: Path) -> None:
    for module in imports(path):
        rooms = GUESTS.get(module.split(".")[0])
        invited = rooms is None or not rooms.isdisjoint({room_of(path), path.relative_to(PACKAGE).as_posix()})
        assert invited, f"{names(path)} invites {module}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_the_network_is_asked_in_one_room(path: Path) -> None:
    asked = {module.split(".")[0] for module in imports(path)} & {"yfinance", "requests", "urllib3", "socket", "http"}
    assert not asked or "data/sources/" in path.as_posix(), f"{names(path)} asks the network"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_rooms_are_not_crowded(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef):
            last = node.end_lineno or node.lineno
            body = node.body[1:] if ast.get_docstring(node) else node.body
            size = last - body[0].lineno + 1 if body else 0
            assert size <= 60, f"{node.name} has {size} lines"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_one_helper_knows_the_name_of_the_accelerator(path: Path) -> None:
    assert path.name == "types.py" or room_of(path) == "cli" or "cuda" not in path.read_text()


def test_the_finance_free_rooms_know_no_finance() -> None:
    for path in FILES:
        if room_of(path) in {"models", "training", "samplers"}:
            rooms = {m.split(".")[1] for m in imports(path) if m.startswith("portfolio_ebm.") and "." in m}
            assert rooms <= {"errors", "types", "linear", "energy", "models", "training", "samplers"}, names(path)
