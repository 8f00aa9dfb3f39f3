"""The data doctor: what is wrong with a user's data, where, how sure, and what to do about it.

    report = examine(prices, volume=volume)      # never raises on bad data: that is what it is for
    print(report)
    cleaned, changes = fix(prices, report)       # safe remedies only, on a copy
    write_fixed("prices.csv", "prices.clean.csv", cleaned, changes)

One file a family of rules; `examine.RULES` is the table of all of them.
"""

from portfolio_ebm.data.doctor.examine import examine
from portfolio_ebm.data.doctor.finding import Edit, Finding, Report
from portfolio_ebm.data.doctor.fixing import fix, write_fixed
from portfolio_ebm.data.doctor.loose import Loose, loose

__all__ = ["Edit", "Finding", "Loose", "Report", "examine", "fix", "loose", "write_fixed"]
