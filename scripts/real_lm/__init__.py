"""A real language model through the whole pipeline; see `scripts/real_lm.sh`."""
