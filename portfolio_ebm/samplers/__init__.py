"""Samplers: pure kernels and the one loop that runs them. No finance here.

kernel.py       what a kernel is: init, step; draw, propose, settle
langevin.py     ULA and MALA
wrappers.py     Projected
schedules.py    Constant, Linear, Geometric
anneal.py       the sampling loop
diagnostics.py  R-hat, effective sample size, energy trace
"""
