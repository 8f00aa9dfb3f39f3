"""Whole lots: portfolios on a grid, found, and proven by columns."""
