"""A bar on the terminal: searches done, and tokens generated a second."""

from typing import Self

from tqdm import tqdm

from search_lib.results.cost import SearchCost


class SearchProgress:
    """Shows how far the searches of a run are; quiet where there is no terminal.

    Args:
        total: Searches to run.
        unit: What one is called.
    """

    def __init__(self, total: int, unit: str):
        self._bar = tqdm(total=total, unit=unit, disable=None, smoothing=0.05)
        self._tokens = self._saved = 0

    def add(self, cost: SearchCost) -> None:
        """Counts a search that has ended."""
        self._tokens += cost.tokens_generated
        seconds = self._bar.format_dict["elapsed"] or 1e-9
        self._bar.set_postfix_str(f"{self._tokens / seconds:,.0f} tok/s", refresh=False)
        self._bar.update()

    def save(self, total: int) -> None:
        """Takes the searches that are not needed, so far, out of the total."""
        self._bar.total -= total - self._saved
        self._saved = total

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
