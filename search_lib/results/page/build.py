"""Puts the page together: the templates, styles and scripts of this folder, and the runs' data."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from search_lib.results.page.packing import (
    TEXT_BUDGET,
    compress,
    longest_that_fits,
    to_json,
)
from search_lib.results.page.run_pages import RunPage
from search_lib.results.run_trees import COSTS

SCRIPTS = (
    *("dom.js", "charts.js", "overview.js", "tree.js", "problem.js", "values.js", "dvo.js"),
    "page.js",
)
"""Scripts in the order in which they run."""

_SAMPLE = 5
"""Searches whose texts are compressed to learn how well the others will be."""

_CAUTION = 0.8
"""Share of the room that the first guess fills: texts without their middle compress worse."""

_SNIPPET = 120
"""Characters of a question in the table."""

_FOLDER = files("search_lib.results.page")


def read_asset(name: str) -> str:
    """Returns a file of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def overview_data(
    pages: Sequence[RunPage], longest: int | None = None, num_dvo_trees: int = 0
) -> dict[str, Any]:
    """Returns what the page opens with, as JSON types.

    Args:
        pages: The runs, of the same problems.
        longest: Characters to which texts are shortened; None if they are whole.
        num_dvo_trees: Trees of DVO of which the page has paths.
    """
    first = pages[0]
    problems = []
    for problem_id in first.graded:
        question = " ".join(first.searches[problem_id][0].record.problem.split())
        problems.append(
            {
                "id": problem_id,
                "question": question[:_SNIPPET] + "…" * (len(question) > _SNIPPET),
                "reference": first.graded[problem_id].reference,
                "runs": [page.row(problem_id) for page in pages],
            }
        )
    return {
        "rules": first.rules.name,
        "costs": COSTS,
        "shortened": longest,
        "num_dvo_trees": num_dvo_trees,
        "runs": [page.overview() for page in pages],
        "problems": problems,
    }


def _parts(
    pages: Sequence[RunPage], problems: Sequence[Sequence[str]], longest: int | None
) -> Iterator[tuple[str, str]]:
    """Yields the (id, content) of what is unpacked when opened: problems, and texts of trees."""
    for run, page in enumerate(pages):
        for number, problem_id in enumerate(page.graded):
            yield f"problem-{run}-{number}", problems[run][number]
            for tree, search in enumerate(page.searches[problem_id]):
                yield f"texts-{run}-{number}-{tree}", compress(search.texts(longest))


def _fitting_parts(
    pages: Sequence[RunPage], budget: int
) -> tuple[list[tuple[str, str]], int | None]:
    """Returns the parts with their texts as long as the page has room for, and that length."""
    searches = [search for page in pages for search in page.every_search]
    lengths = [length for search in searches for length in search.lengths]
    some = searches[:: max(1, len(searches) // _SAMPLE)]
    packed = sum(len(compress(search.texts(None))) for search in some)
    ratio = packed / max(1, sum(sum(search.lengths) for search in some))
    longest = longest_that_fits(lengths, ratio, int(_CAUTION * budget))
    problems = [[compress(page.problem(name)) for name in page.graded] for page in pages]
    while True:
        parts = list(_parts(pages, problems, longest))
        size = sum(len(content) for name, content in parts if name.startswith("texts"))
        if size <= budget or longest == 0:
            return parts, longest
        # The sample compressed better than the others.
        longest = int((longest or max(lengths)) * 0.9 * budget / size)


def build_page(
    pages: Sequence[RunPage],
    title: str,
    dvo_trees: Sequence[dict[str, Any]] = (),
    budget: int = TEXT_BUDGET,
) -> str:
    """Returns the page.

    Args:
        pages: The runs, of the same problems.
        title: Its heading.
        dvo_trees: Paths of trees with the credits of their steps; see `dvo_lib.path_pages`.
        budget: Most bytes of compressed texts.
    """
    parts, longest = _fitting_parts(pages, budget)
    parts += [(f"dvo-{number}", compress(tree)) for number, tree in enumerate(dvo_trees)]
    script = "\n".join(map(read_asset, SCRIPTS))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(read_asset("page.html.jinja"))
    return template.render(
        title=title,
        style=read_asset("page.css"),
        script=script,
        # The browser runs this one script, and no other that might come in by some text.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=to_json(overview_data(pages, longest, len(dvo_trees))),
        parts=parts,
    )
