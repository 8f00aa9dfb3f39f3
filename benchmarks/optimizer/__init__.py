"""Choices of names beside SCIP, HiGHS, textbook rounding and greedy, each judged by one evaluator of no side."""
