"""Names of models in requests: the policy, and a search with it."""

import re
from collections.abc import Mapping
from typing import Any

from search_lib.search_flags import SearchFlags
from search_lib.serve.errors import ApiError

FORM = "POLICY:TYPE-BxT, such as {0}:beam2-8x4 or {0}:bon-16, with B blocks a tree and T trees"


class ModelNames:
    """The policy under its own name has the default search; any other one stands behind a colon.

    Args:
        policy: Name of the policy.
        flags: The default search.
    """

    def __init__(self, policy: str, flags: SearchFlags):
        self.policy = policy
        self.default = self.of(flags)

    def of(self, flags: SearchFlags) -> str:
        """Returns the name of a search."""
        return f"{self.policy}:{flags.search_type}-{flags.num_blocks}x{flags.num_repetitions}"

    def settings(self, name: str) -> Mapping[str, Any]:
        """Returns the flags of the search that a model's name chooses.

        Raises:
            ApiError: If there is no such model.
        """
        if name == self.policy:
            return {}
        search = name.removeprefix(f"{self.policy}:")
        found = re.fullmatch(r"(.+)-([0-9]{1,9})(?:x([0-9]{1,9}))?", search, re.ASCII)
        if search == name or found is None:
            raise ApiError(
                404,
                f"There is no model of this name. There are {self.policy}, and searches with it: "
                f"{FORM.format(self.policy)}.",
                param="model",
                code="model_not_found",
            )
        search_type, blocks, trees = found.groups()
        return {
            "search_type": search_type,
            "num_blocks": int(blocks),
            "num_repetitions": int(trees or 1),
        }
