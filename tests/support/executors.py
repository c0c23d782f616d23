"""Executors without threads."""

from concurrent.futures import Executor, Future


class Inline(Executor):
    """Runs everything at once, in the thread of the loop: nothing is left to chance."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future
