"""Estimates with intervals: win rates, differences, length control, power."""
