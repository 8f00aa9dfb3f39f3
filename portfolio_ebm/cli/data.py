"""data fetch | doctor | describe: get data, find what is wrong with them, say what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from portfolio_ebm.errors import DataError, SpecError, StoreError

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(help="Get data, find what is wrong with them, say what is in them.", no_args_is_help=True)

Table = Annotated[
    Path, typer.Argument(metavar="FILE", help="Prices or returns, CSV or parquet; or a folder of a panel.")
]


@app.command()
def fetch(
    source: Annotated[str, typer.Option(help="yahoo or french.")],
    tickers: Annotated[str, typer.Option(help="Yahoo: tickers, separated by commas.")] = "",
    universe: Annotated[Path | None, typer.Option(help="Yahoo: a file of tickers, with or without spells.")] = None,
    sets: Annotated[str, typer.Option(help="French: sets, separated by commas (ff5, momentum).")] = "",
    frequency: Annotated[str, typer.Option(help="French: daily or monthly.")] = "daily",
    start: Annotated[str | None, typer.Option(help="First date, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option(help="Last date, YYYY-MM-DD; today if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a panel's folder (Yahoo) or a CSV (French).")] = None,
    offline: Annotated[bool, typer.Option(help="Use what was fetched before, ask nobody.")] = False,
) -> None:  # fmt: skip
    """Bring a cache of prices or factors up to date, and say what came and what did not."""
    if source == "yahoo":
        _yahoo(*_asked(tickers, universe), start, end, out, offline)
    elif source == "french":
        _french([name.strip() for name in sets.split(",") if name.strip()], frequency, start, end, out, offline)
    else:
        raise SpecError(
            f"--source {source}: there is yahoo and french; own files go to --prices of the other commands."
        )


@app.command()
def doctor(
    file: Table,
    what: Annotated[str | None, typer.Option(help="prices or returns; found out by the numbers if not given.")] = None,
    volume: Annotated[Path | None, typer.Option(help="Traded shares, like the prices.")] = None,
    dividends: Annotated[Path | None, typer.Option(help="Cash per share on ex-dates, like the prices.")] = None,
    adjusted: Annotated[Path | None, typer.Option(help="Adjusted closes of another source, like the prices.")] = None,
    forecast: Annotated[Path | None, typer.Option(help="Forecasts, like the prices: do they know the future?")] = None,
    calendar: Annotated[str | None, typer.Option(help="Exchange whose sessions the rows should be (XNYS).")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write a cleaned copy and a log of changes.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --fix: the cleaned copy; NAME.fixed.csv if not given.")] = None,
) -> None:  # fmt: skip
    """Look for stale prices, bad ticks, splits, units, shifted or repeated series, gaps and look-ahead."""
    from portfolio_ebm.data.doctor import examine, write_fixed
    from portfolio_ebm.data.doctor import fix as cured
    from portfolio_ebm.data.doctor.rough import read_rough
    from portfolio_ebm.data.reading import ENDINGS
    from portfolio_ebm.data.sources.gather import gather

    if fix and file.is_dir():
        raise SpecError(f"--fix {file}: is a folder; cure its files one by one (--fix {file / 'prices.csv'}).")
    # Cells as they are written: a doctor has to see what the other doors refuse.
    found = gather(file)
    frame, what = found.frame, what or found.what
    given = {"volume": volume, "dividends": dividends, "adjusted": adjusted}
    beside = found.beside | {name: read_rough(path, name) for name, path in given.items() if path is not None}
    forecasts = found.forecasts | ({} if forecast is None else {forecast.name: read_rough(forecast, "forecasts")})
    first = next(iter(forecasts.values()), None)
    report = examine(frame, what=what, calendar=_sessions(calendar, frame), forecasts=first, **beside)
    print(report.text())
    for name, more in list(forecasts.items())[1:]:
        told = examine(frame, what=what, forecasts=more).where(lambda item: item.kind == "look-ahead")
        print(f"Forecast '{name}': " + (" ".join(item.line().strip() for item in told) or "no look-ahead was found."))
    if fix:
        cleaned, changes = cured(frame, report)
        ending = max((end for end in ENDINGS if file.name.endswith(end)), key=len)
        target = out or file.with_name(file.name.removesuffix(ending) + ".fixed" + ending)
        copy, log = write_fixed(file, target, cleaned, changes)
        print(f"{len(changes)} change(s). The cleaned copy is {copy}, the log {log}; {file} is as it was.")


@app.command()
def describe(file: Table) -> None:
    """What is in a file or folder of data, and what a reader of results should know about it."""
    from portfolio_ebm.data.sources.files import read_panel

    print(read_panel(file).describe())


def _sessions(calendar: str | None, frame: pd.DataFrame) -> Any:
    if calendar is None:
        return None
    import pandas as pd

    from portfolio_ebm.data.sessions import sessions

    dates = pd.to_datetime(frame.iloc[:, 0], errors="coerce", utc=True).dropna()
    if not len(dates):
        raise DataError(f"--calendar {calendar}: no date can be read in the first column; mend the dates first.")
    return sessions(calendar, dates.min().strftime("%Y-%m-%d"), dates.max().strftime("%Y-%m-%d")).dates


def _asked(tickers: str, universe: Path | None) -> tuple[list[str], dict[str, Any]]:
    """The names to fetch, and their spells as membership where the universe has them."""
    names = [name.strip() for name in tickers.split(",") if name.strip()]
    extras: dict[str, Any] = {}
    if universe is not None:
        from portfolio_ebm.data.universe import read_universe

        more, spells = read_universe(universe)
        if spells is not None and names:
            raise SpecError(
                f"--tickers {tickers}: {universe} says when each of its names belongs to the universe, and says "
                "nothing of these; add them to it with a start, or leave --tickers out."
            )
        names += more
        extras = {} if spells is None else {"membership": spells}
    if not names:
        raise SpecError("Nothing to fetch: give --tickers AAPL,MSFT, or --universe FILE with a column of tickers.")
    return list(dict.fromkeys(names)), extras


def _yahoo(
    tickers: list[str], extras: dict[str, Any], start: str | None, end: str | None, out: Path | None, offline: bool
) -> None:
    from portfolio_ebm.data.sources.yahoo import fetch

    if start is None:
        raise SpecError("--start is missing: say the first date, as --start 2005-01-01.")
    if out is not None and out.exists():
        raise StoreError(f"--out {out} is there already; choose another folder, or remove it.")
    fetched = fetch(tickers, start, end, offline=offline, progress=_progress)
    print(fetched)
    if out is not None:
        from portfolio_ebm.data.panel import Panel

        panel = Panel.from_yahoo(fetched.ok, start, end, offline=True, **extras)
        panel.save(out)
        print(f"Written to {out}; give it to the other commands with --prices {out}.")


def _french(
    sets: list[str], frequency: str, start: str | None, end: str | None, out: Path | None, offline: bool
) -> None:
    from portfolio_ebm.data.sources.french import french

    if not sets:
        raise SpecError("Nothing to fetch: give --sets ff5,momentum.")
    if frequency not in ("daily", "weekly", "monthly", "annual"):
        raise SpecError(f"--frequency {frequency}: there is daily, weekly, monthly and annual.")
    frame = french(*sets, frequency=cast("Any", frequency), start=start, end=end, offline=offline)
    first, last = (f"{date:%Y-%m-%d}" for date in (frame.index[0], frame.index[-1]))
    print(f"{len(frame):,} rows from {first} to {last}: {', '.join(map(str, frame.columns))} (decimal returns).")
    if out is not None:
        _csv(frame, out)
        print(f"Written to {out}; give it to the other commands with --factors {out}.")


def _csv(frame: pd.DataFrame, out: Path) -> None:
    if out.exists():
        raise StoreError(f"--out {out} is there already; choose another name, or remove it.")
    try:
        frame.to_csv(out, lineterminator="\n")
    except OSError as error:
        raise StoreError(f"--out {out}: cannot be written ({error.strerror}); choose another place.") from None


def _progress(row: Any, done: int, total: int) -> None:
    import sys

    if sys.stderr.isatty():
        print(f"\r{done}/{total} {row.ticker:<12}", end="\n" if done == total else "", file=sys.stderr, flush=True)
