"""What becomes a dataclass, and what is told of what doesn't."""

import json
from dataclasses import asdict, dataclass, field

import pytest

from search_lib.results.typed_json import Misfit, read_typed


@dataclass(frozen=True)
class Part:
    name: str
    share: float

    def __post_init__(self):
        if self.share > 1:
            raise ValueError(f"share is {self.share}")


@dataclass(frozen=True)
class Whole:
    number: int
    parts: list[Part]
    ids: list[int]
    shares: list[float]
    rows: list[list[float]]
    best: Part | None
    note: str | float | None = None
    tags: list[str] = field(default_factory=list)


WHOLE = Whole(
    3, [Part("a", 0.5), Part("b", 1.0)], [1, 2], [0.25, 1.5], [[0.5], []], Part("c", 0.0), 2.5
)


def changed(**changes):
    return asdict(WHOLE) | changes


def test_what_was_written_is_read():
    assert read_typed(Whole, json.loads(json.dumps(asdict(WHOLE)))) == WHOLE


def test_what_has_a_default_may_be_missing():
    content = changed()
    del content["note"], content["tags"]
    assert read_typed(Whole, content) == Whole(**vars(WHOLE) | {"note": None})


@pytest.mark.parametrize(
    "content",
    [
        changed(best=None),
        changed(note="x"),
        changed(note=1),
        changed(shares=[1, 0.5]),
        changed(shares=[0.5, 10**400]),
        changed(ids=[]),
    ],
)
def test_what_fits_its_type_is_kept_as_it_is(content):
    assert asdict(read_typed(Whole, content)) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(number=True), "number is a value of another type: True"),
        (changed(number=1.0), "number is a value of another type: 1.0"),
        (changed(note=float("inf")), "note is inf"),
        (changed(note=[1]), "note is a value of another type: [1]"),
        (changed(ids=[1, True]), "ids[1] is a value of another type: True"),
        (changed(shares=[0.5, float("nan")]), "shares[1] is nan"),
        (changed(shares=(0.5,)), "shares is a value of another type"),
        (changed(rows=[[0.5], [0.5, None]]), "rows[1][1] is a value of another type: None"),
        (changed(rows=[[0.5], 0.5]), "rows[1] is a value of another type: 0.5"),
        (changed(best={"name": "c"}), "best.share is missing"),
        (changed(best=1), "best is a value of another type: 1"),
        (changed(parts=[{"name": "a", "share": 0, "x": 1}]), "parts[0].x is no key of a record"),
        (changed(parts=[{"name": "a", "share": 2}]), "parts[0].share is 2"),
        (changed(parts=[None]), "parts[0] is not an object"),
        (changed(best={"": 1, "name": "c", "share": 0}), "best. is no key of a record"),
        (changed(best={"[0]": 1, "name": "c", "share": 0}), "best.[0] is no key of a record"),
        ([], " is not an object"),
    ],
)
def test_what_does_not_fit_is_named(content, message):
    with pytest.raises(Misfit) as found:
        read_typed(Whole, content)
    assert str(found.value).startswith(message)
