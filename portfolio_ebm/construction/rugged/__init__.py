"""The gradient engine: annealed Langevin chains, walkers and kicks, where an energy has a gradient and no more."""
