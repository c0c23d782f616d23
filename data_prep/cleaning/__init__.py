"""The rules of `data_prep.clean`."""
