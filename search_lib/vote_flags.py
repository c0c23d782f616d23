"""The flags that choose the votes of a table."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from run_lib.commands import InputError, naming
from run_lib.settings import free
from search_lib.calibration import Calibration
from search_lib.voting import ALL_VOTES, choose_votes, known_votes

VOTE_HELP = (
    "Votes of the table and of metrics.json, beside MV, WMV, BoN, pass@1 and pass@k (rules: "
    f"docs/votes.md): {known_votes()}, as in PV0.25; or {ALL_VOTES}."
)


@dataclass(frozen=True)
class VoteFlags:
    """Which votes are counted."""

    vote: Annotated[tuple[str, ...], tyro.conf.arg(help=VOTE_HELP)] = free(())
    calibration: Path | None = free(None)
    """Of --vote CWMV: what python -m search_lib.results.calibration fitted on other problems."""

    def check(self, features: Collection[str]) -> None:
        """Raises InputError for votes that are none, or whose features will not be there.

        Args:
            features: Keys of `FEATURES` that responses will have, but for calibrated values.
        """
        if self.calibration is not None:
            if "values" not in features:
                raise InputError("--calibration is of values, and there are none")
            features = {*features, "calibrated"}
        with naming("--vote"):
            choose_votes(self.vote, features)

    def open_calibration(
        self, questions: Mapping[str, str], value_model: str | None
    ) -> Calibration | None:
        """Returns the calibration, None without one; see `Calibration.check`.

        Raises:
            InputError: If it is damaged, or was fitted on one of these problems, or on values of
                another model.
        """
        if self.calibration is None:
            return None
        calibration = Calibration.load(self.calibration)
        calibration.check(questions, value_model)
        return calibration
