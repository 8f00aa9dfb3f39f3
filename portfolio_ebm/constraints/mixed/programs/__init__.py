"""The convex program that is left once modes are chosen: its slices, their minima, and what those leave open."""
