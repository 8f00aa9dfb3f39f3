"""One decision for terminals: target weights, and the trades that lead there."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from portfolio_ebm.allocation import Allocation
from portfolio_ebm.orders.sizing import Orders


def weights_table(allocation: Allocation) -> Table:
    """Target weights above zero, largest first, and cash."""
    shown = _table(f"Target at {allocation.date}", (" " * 12, "weight"))
    held = allocation.weights[allocation.weights.abs() > 1e-12]
    for name, value in held.sort_values(ascending=False, kind="stable").items():
        shown.add_row(Text(str(name)), f"{value:.2%}")
    shown.add_row("cash", f"{1.0 - float(held.sum()):.2%}".replace("-0.00%", "0.00%"))
    return shown


def orders_table(orders: Orders) -> Table:
    """Trades in shares and money, sells first; then what they cost and the cash that is left."""
    headings = ("", "side", "shares", "price", "value", "weight", "target")
    shown = _table(f"Trades of a portfolio worth {orders.value:,.2f}", headings)
    for name, row in orders.trades.iterrows():
        shares = float(row["trade"])
        shown.add_row(
            Text(str(name)), "buy" if shares > 0 else "sell", f"{abs(shares):,.6f}".rstrip("0").rstrip("."),
            f"{row['price']:,.2f}", f"{row['value']:,.2f}", f"{row['weight_after']:.2%}", f"{row['target_weight']:.2%}",
        )  # fmt: skip
    shown.add_section()
    after = orders.cash_after
    # Cash stands against the value that is left after costs, as the weights do.
    share = after / (orders.value - orders.costs)
    shown.add_row("cash after", "", "", "", f"{after:,.2f}", f"{share:.2%}", "")
    shown.add_row("costs", "", "", "", f"{orders.costs:,.2f}", "", "")
    return shown


def _table(title: str, headings: tuple[str, ...]) -> Table:
    shown = Table(
        box=box.SIMPLE_HEAD, title=Text(title, no_wrap=True), title_justify="left", title_style="bold", pad_edge=False
    )
    for place, heading in enumerate(headings):
        shown.add_column(heading, justify="left" if place == 0 or heading == "side" else "right")
    return shown
