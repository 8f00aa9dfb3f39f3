"""A small Yahoo for tests: stocks as they were traded, answered in the way of the chart service.

The world is written down as it was on the day (prices, dividends and splits of that time); what the service says of it
is derived: every price, dividend and volume adjusted for all splits up to `today`, and adjusted closes for dividends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any
from zoneinfo import ZoneInfo

from web import Reply, Request, Web

QUERY = "query2.finance.yahoo.com"
CHART = "/v8/finance/chart/"
NOT_FOUND = {"code": "Not Found", "description": "No data found, symbol may be delisted"}


@dataclass
class Stock:
    """Closes as traded by day; `gains` and `dividends` in cash per share and `splits` as ratios, by ex-date."""

    closes: dict[str, float]
    dividends: dict[str, float] = field(default_factory=dict)
    splits: dict[str, float] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    volume: float = 1000.0
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.meta.get("exchangeTimezoneName", "America/New_York"))

    def stamp(self, day: str, at: clock = clock(9, 30)) -> int:
        return int(datetime.combine(date.fromisoformat(day), at, self.zone).timestamp())

    def later(self, day: str, today: str) -> float:
        """The splits after `day` that Yahoo knows of."""
        product = 1.0
        for when, ratio in self.splits.items():
            product *= ratio if day < when <= today else 1.0
        return product


@dataclass
class Yahoo:
    """The service: `stocks` by ticker, and the day that it is there."""

    stocks: Mapping[str, Stock]
    today: str = "2024-12-31"

    def chart(self, request: Request) -> Reply:
        symbol = request.path.removeprefix(CHART)
        stock = self.stocks.get(symbol)
        if stock is None:
            return Reply(404, json.dumps({"chart": {"result": None, "error": NOT_FOUND}}))
        since, until = int(request.query.get("period1", 0)), int(request.query.get("period2", 2**40))
        days = [day for day in sorted(stock.closes) if day <= self.today]
        shown = [day for day in days if since <= stock.stamp(day) < until]
        if request.query.get("range") == "1d":
            shown = shown[-1:]
        result = {"meta": self.meta(symbol, stock, days), "indicators": {"quote": [{}], "adjclose": [{}]}}
        if shown:
            result |= self.rows(stock, shown)
        return Reply(body=json.dumps({"chart": {"result": [result], "error": None}}))

    def rows(self, stock: Stock, shown: list[str]) -> dict[str, Any]:
        known = {day: stock.closes[day] / stock.later(day, self.today) for day in sorted(stock.closes)}
        close = [known[day] for day in shown]
        quote = dict.fromkeys(("open", "high", "low", "close"), close)
        quote |= {"volume": [int(stock.volume * stock.later(day, self.today)) for day in shown]}
        adjusted = [value * self.factor(stock, day, known) for day, value in zip(shown, close, strict=True)]
        events: dict[str, Any] = {}
        for kind, paid in (("dividends", stock.dividends), ("capitalGains", stock.gains)):
            cash = {day: amount / stock.later(day, self.today) for day, amount in paid.items() if day in shown}
            events[kind] = {str(stock.stamp(d)): {"amount": v, "date": stock.stamp(d)} for d, v in cash.items()}
        events["splits"] = {
            str(stock.stamp(day)): {"date": stock.stamp(day), "numerator": ratio, "denominator": 1.0}
            for day, ratio in stock.splits.items()
            if day in shown
        }
        return {
            "timestamp": [stock.stamp(day) for day in shown],
            "events": {kind: some for kind, some in events.items() if some},
            "indicators": {"quote": [quote], "adjclose": [{"adjclose": adjusted}]},
        }

    def factor(self, stock: Stock, day: str, known: Mapping[str, float]) -> float:
        """What later dividends take off: the product of 1 - cash / close of the day before."""
        product = 1.0
        for paid in (stock.dividends, stock.gains):
            for when, amount in paid.items():
                if day < when <= self.today:
                    before = max(other for other in known if other < when)
                    product *= 1.0 - amount / stock.later(when, self.today) / known[before]
        return product

    def meta(self, symbol: str, stock: Stock, days: list[str]) -> dict[str, Any]:
        last = days[-1]
        regular = {"start": stock.stamp(last), "end": stock.stamp(last, clock(16)), "timezone": "X", "gmtoffset": 0}
        return {
            "symbol": symbol,
            "currency": "USD",
            "exchangeName": "NMS",
            "fullExchangeName": "NasdaqGS",
            "instrumentType": "EQUITY",
            "longName": f"{symbol} Inc.",
            "firstTradeDate": stock.stamp(days[0]),
            "regularMarketTime": stock.stamp(last, clock(16)),
            "exchangeTimezoneName": "America/New_York",
            "gmtoffset": -18000,
            "currentTradingPeriod": {"pre": regular, "regular": regular, "post": regular},
            "validRanges": ["1d", "max"],
            "priceHint": 2,
            **stock.meta,
        }

    def open(self, web: Web) -> None:
        """Answer on `web`: the cookie, the crumb, and charts."""
        week = datetime.now(UTC) + timedelta(days=7)
        cookie = f"A3=d=made-up; Expires={week:%a, %d %b %Y %H:%M:%S} GMT; Domain=.yahoo.com; Path=/; Secure"
        web.on("fc.yahoo.com", "/", Reply(404, headers={"Set-Cookie": cookie}))
        for host in ("query1.finance.yahoo.com", QUERY):
            web.on(host, "/v1/test/getcrumb", Reply(body="crumb"))
        web.on(QUERY, CHART, self.chart)


def weekdays(start: str, n: int) -> list[str]:
    """So many days from `start` on, Saturdays and Sundays left out."""
    day, found = date.fromisoformat(start), []
    while len(found) < n:
        if day.weekday() < 5:
            found.append(day.isoformat())
        day += timedelta(days=1)
    return found


def walk(start: str, n: int, first: float = 100.0, step: Callable[[int], float] = lambda i: 0.25) -> dict[str, float]:
    """Closes on `weekdays`: each is the one before and a step."""
    closes, value = {}, first
    for i, day in enumerate(weekdays(start, n)):
        closes[day] = value
        value += step(i)
    return closes
