"""Comparison of runs: tables and one self-contained report."""
