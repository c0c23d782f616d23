"""One HTML page of finished runs: what `scripts/report.py` writes."""
