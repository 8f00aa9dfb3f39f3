"""How long a cache of prices takes to load, and how much memory: 1,000 names of 20 years, made up.

    python benchmarks/data_loading.py [--names 1000] [--rows 5040]

Two lines: frames of prices as traded, volume, dividends and splits; and the whole panel that a user gets, total returns
and built factors in it. Each runs in five processes of its own, the files in the system's cache. Printed are seconds on
the clock, the least and the middle of the five, the least of the processor's (on a busy machine the clock says more),
and the largest memory of a process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

STEPS = {
    "frames as traded": "from portfolio_ebm.data.sources.cache import Cache; "
    "from portfolio_ebm.data.sources.yahoo_load import load; "
    "names = Cache.default('yahoo').keys(); begin(); raw = load(names, '2000-01-01'); raw.close, raw.extras",
    "panel with built factors": "from portfolio_ebm import Panel; from portfolio_ebm.data.sources.cache import Cache; "
    "names = Cache.default('yahoo').keys(); begin(); Panel.from_yahoo(names, '2000-01-01', offline=True)",
}
FRAME = """
import resource, time
def begin():
    global clock, cpu
    clock, cpu = time.perf_counter(), time.process_time()
{step}
clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
print(clock, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


RUNS = 5


def fill(names: int, rows: int) -> None:
    """Series with a dividend a quarter and one split, a fifth of them shorter than the others."""
    import numpy as np
    import pandas as pd

    from portfolio_ebm.data.sources.cache import Cache
    from portfolio_ebm.data.sources.yahoo_ask import COLUMNS

    cache, rng = Cache.default("yahoo"), np.random.default_rng(0)
    days = pd.bdate_range("2000-01-03", periods=rows).to_numpy().astype("datetime64[ns]")
    for i in range(names):
        dates = days[rng.integers(0, rows // 2) if i % 5 == 0 else 0 :]
        price = np.round(100 * np.exp(np.cumsum(0.01 * rng.standard_normal(len(dates)))), 6)
        columns = dict.fromkeys(COLUMNS, price) | {
            "volume": rng.integers(1, 10**7, len(dates)).astype(float),
            "dividends": np.where(np.arange(len(dates)) % 63 == 60, 0.2, 0.0),
            "splits": np.where(np.arange(len(dates)) == len(dates) // 2, 2.0, 0.0),
            "capital_gains": np.zeros(len(dates)),
        }
        # The split shows in prices as traded and not in Yahoo's: here the prices are as Yahoo gives them.
        cache.write(f"N{i:04d}", dates, columns, {"asked_from": "2000-01-01", "currency": "USD"})


def measured(step: str) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of the processor, and GiB."""
    done = subprocess.run([sys.executable, "-c", FRAME.format(step=step)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, cpu, memory = map(float, done.stdout.split())
    return seconds, cpu, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=5040)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="portfolio_ebm-") as home:
        os.environ["PORTFOLIO_EBM_HOME"] = home
        fill(given.names, given.rows)
        print(f"{given.names} names of {given.rows} rows; the aim for the panel is under 2 s and 1 GiB")
        print(f"{'step':28s} {'seconds':>8s} {'middle':>8s} {'cpu':>8s} {'GiB':>6s}")
        for name, step in STEPS.items():
            seconds, cpu, memory = zip(*(measured(step) for _ in range(RUNS)), strict=True)
            middle = sorted(seconds)[RUNS // 2]
            print(f"{name:28s} {min(seconds):8.2f} {middle:8.2f} {min(cpu):8.2f} {max(memory):6.2f}")


if __name__ == "__main__":
    main()
