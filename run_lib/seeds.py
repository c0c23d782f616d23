"""Seeds derived from what they are for, so that no draw depends on the order of the work."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts that name a draw, e.g. (run seed, problem id, tree, round).

    Stable over processes and Python versions, unlike ``hash``.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
