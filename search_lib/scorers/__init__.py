"""Scorers that value blocks."""

from search_lib.scorers.base import Scorer
from search_lib.scorers.hf import HfScorer

__all__ = ["HfScorer", "Scorer"]
