"""Direct Value Optimization (arXiv 2502.13723): trains a policy with stepwise values."""
