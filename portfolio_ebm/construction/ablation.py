"""The names of the stages whose worth a Solution records, in the order of their work."""

ROUNDING = "rounding + polish"
NO_SWAPS = "chains, no swaps + polish"
NO_NOISE = "swaps, no noise"
FRACTIONS = "without whole lots"
BEFORE = "before polish"
FINAL = "final"
