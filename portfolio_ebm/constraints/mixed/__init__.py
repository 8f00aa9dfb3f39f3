"""Choices that are not convex, on arrays: units and their modes, relaxations, swap search, branch and bound."""
