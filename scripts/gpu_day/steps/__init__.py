"""The steps of a GPU day. Each has a `Row`, and a `measure` that reports some."""
