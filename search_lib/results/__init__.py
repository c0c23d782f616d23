"""Results of searches on disk, and what they add up to. Imports no torch."""
