"""Pipelines that make training data."""
