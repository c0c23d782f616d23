"""The search: strategies, engines, the runner, votes and records."""
