"""Orders as files that brokers read. Nothing is sent: a person, or a program of theirs, uploads the file.

IBKR: the CSV of TWS BasketTrader, market orders. Alpaca: one JSON object a line, the body of POST /v2/orders.
Sources: Interactive Brokers, TWS Users' Guide, BasketTrader; Alpaca, Trading API reference, Create an order.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any, Literal

from portfolio_ebm.errors import SpecError
from portfolio_ebm.orders.sizing import Orders

IBKR_COLUMNS = ("Action", "Quantity", "Symbol", "SecType", "Exchange", "Currency", "TimeInForce", "OrderType")


def ibkr_basket(orders: Orders, *, currency: str = "USD", exchange: str = "SMART") -> str:
    """The trades as a BasketTrader CSV of day market orders; share classes are written with a blank ("BRK B").

    Example:
        >>> print(ibkr_basket(orders))
        Action,Quantity,Symbol,SecType,Exchange,Currency,TimeInForce,OrderType
        SELL,3,A,STK,SMART,USD,DAY,MKT
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(IBKR_COLUMNS)
    for ticker, shares in orders.trades["trade"].items():
        symbol = re.sub(r"[.\-/]", " ", str(ticker))
        side = "BUY" if shares > 0 else "SELL"
        writer.writerow((side, plain(abs(shares)), symbol, "STK", exchange, currency, "DAY", "MKT"))
    return text.getvalue()


def alpaca_lines(orders: Orders, *, size: Literal["qty", "notional"] = "qty", tag: str = "") -> str:
    """The trades as JSON lines of day market orders with `qty` or `notional`, never both.

    Args:
        orders: what to trade.
        size: "qty" in shares; "notional" in money, rounded down to the cent. A sale of everything is always in shares,
            so that nothing is left of it.
        tag: start of `client_order_id`; with it, the same file sent twice is refused the second time.

    Raises:
        SpecError: another `size`.
    """
    if size not in ("qty", "notional"):
        raise SpecError(f"size='{size}': Alpaca takes 'qty' or 'notional'.")
    lines = []
    for ticker, row in orders.trades.iterrows():
        shares = float(row["trade"])
        cents = int(abs(float(row["value"])) * 100 + 1e-6)
        order: dict[str, Any] = {
            "symbol": re.sub(r"[\-/ ]", ".", str(ticker)),
            "side": "buy" if shares > 0 else "sell",
            "type": "market",
            "time_in_force": "day",
        }
        if size == "qty" or float(row["target"]) == 0.0:
            order["qty"] = plain(abs(shares))
        elif cents > 0:
            order["notional"] = f"{cents / 100:.2f}"
        else:
            continue
        if tag:
            order["client_order_id"] = f"{tag}-{ticker}"[:128]
        lines.append(json.dumps(order))
    return "".join(f"{line}\n" for line in lines)


def plain(shares: float) -> str:
    """A number of shares without exponent or trailing zeros, to nine decimals."""
    text = f"{shares:.9f}".rstrip("0").rstrip(".")
    return text or "0"
