"""Seeds derived from the purpose of a draw, so that no draw depends on the order of the work."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """Returns a 63-bit seed from the parts that name a draw: (run seed, problem id, tree, round).

    Stable over processes and Python versions, unlike `hash`.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
