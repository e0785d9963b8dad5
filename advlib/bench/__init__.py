"""Measuring and judging: success rates, result tables, claims, experiments, plots."""
