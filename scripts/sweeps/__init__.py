"""Sweeps of search settings: what `scripts/sweep.py` reads, and what it makes of the runs."""
