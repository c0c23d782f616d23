"""Where things lie in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data_prep" / "openr1_math_sample.jsonl"
