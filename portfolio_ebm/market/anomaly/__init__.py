"""What a market finds unlikely: single cells, whole days, and states in which the next days are dangerous."""
