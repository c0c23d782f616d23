"""The data of Direct Value Optimization: trees of steps, and what is made of them."""
