"""Engines that generate blocks."""
