"""Scorers that value blocks."""
