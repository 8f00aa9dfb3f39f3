"""python -m portfolio_ebm.cli"""

from portfolio_ebm.cli import main

main()
