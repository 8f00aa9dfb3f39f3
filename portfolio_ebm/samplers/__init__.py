"""Samplers: pure kernels and the one loop that runs them. No finance here.

kernel.py       what a kernel is: init, step; draw, propose
langevin.py     ULA
wrappers.py     Projected
schedules.py    Constant, Geometric
anneal.py       the sampling loop
diagnostics.py  R-hat, effective sample size

On convex sets, chains in columns, exact for any number of steps:
polyhedron.py   box, rows, L1 balls, and their chords
chords.py       one exact draw on a chord
pair_gibbs.py   moves of weight between two coordinates, for quadratic energies with kinks
hit_and_run.py  moves in any direction, for the same
planned.py      what these and the kernels below share: a plan, then the moves; there and back
surrogate.py    Metropolis over either, for every other energy

On unions of such sets, one for each pattern of names held:
pattern_set.py    the set, and the measure on slices of different dimensions
heavy.py          limits on the sum of large weights
pattern_gibbs.py  names and weights by exact conditional draws
exchange.py       replicas at rising temperatures change places
"""
