"""The report in a real browser: what is seen, keys, and that it is quiet and accessible."""

import contextlib
import shutil
from dataclasses import replace

import pytest

from search_lib.answer_rules import STRICT
from search_lib.results.page import run_pages
from search_lib.results.page.block_texts import BlockReader, BlockTokens
from search_lib.results.page.build import build_page
from search_lib.results.page.run_pages import load_runs
from search_lib.results.selection import parse_selections
from tests.support.runs import write_records
from tests.support.search_trees import record_of

PLANTED = "</script><script>document.title = 'planted'</script>"
DVO_TREE = {
    "id": "a",
    "question": PLANTED,
    "reference": "7",
    "value": 0.25,
    "paths": [
        {
            "right": right,
            "steps": [
                {"text": PLANTED, "credit": 0.25, "value": 0.5, "reward": None, "visits": 3},
                {
                    "text": "So.",
                    "credit": reward - 0.5,
                    "value": None,
                    "reward": reward,
                    "visits": 1,
                },
            ],
        }
        for right, reward in ((True, 1.0), (False, -1.0))
    ],
}
PARENTS = [None, None, None, None, 0, 0, 2, 2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright, of the dev dependencies, is not installed"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no browser: no chromium on PATH")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of a run with the texts of its blocks, and of one without them."""
    folder = tmp_path_factory.mktemp("report")
    records = [
        record_of(PARENTS, {4: "1", 7: "2"}, "a", 0, problem=PLANTED),
        record_of(PARENTS, {4: "1", 7: "1"}, "a", 1, problem=PLANTED),
        record_of(PARENTS, {4: "2", 7: "2"}, "b", 0),
        record_of(PARENTS, {4: "3", 7: None}, "b", 1),
    ]
    # By less than the page shows, the best response of `a` is a right one.
    best = replace(records[1].responses[1], value=0.08001)
    records[1] = replace(records[1], responses=[records[1].responses[0], best])
    for name in ("whole", "old"):
        write_records(folder / name, records, search_type="beam2", num_blocks=4)

    class Texts:
        def pieces(self, token_ids):
            return [f"block {one} {PLANTED}" if one >= 0 else " end" for one in token_ids]

    def reader(records, config, values_of):
        def saved(record):
            return [
                BlockTokens([index, -1], [0.1, 0.9], Texts()) for index in range(len(record.tree))
            ]

        if records.parent.name == "whole":
            return BlockReader(saved, None)
        return BlockReader(lambda record: None, "They were not saved")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pages, "block_reader", reader)
        names = [str(folder / name) for name in ("whole", "old")]
        page = build_page(load_runs(parse_selections(names), STRICT), "Report", [DVO_TREE] * 2)
    (folder / "report.html").write_text(page)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def unknown_address(tmp_path_factory):
    """A page of a run whose right answers nobody knows."""
    folder = tmp_path_factory.mktemp("unknown")
    record = record_of(PARENTS, {4: "1", 7: None}, "a", reference=None)
    write_records(folder / "run", [record], search_type="beam2", num_blocks=4)
    page = build_page(load_runs(parse_selections([str(folder / "run")]), STRICT), "Report")
    (folder / "report.html").write_text(page)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address, unknown_address):
    """Opens a view; fails on any message of the console, error, or request."""
    noise = []

    @contextlib.contextmanager
    def open_view(view="", address=address, **settings):
        with contextlib.closing(browser.new_context(offline=True, **settings)) as context:
            page = context.new_page()
            page.on("console", lambda message: noise.append(message.text))
            page.on("pageerror", lambda error: noise.append(str(error)))
            page.on("request", lambda request: noise.append(request.url))
            page.goto(address + view)
            page.wait_for_selector("[data-view]")
            yield page

    yield open_view
    pages = (address, unknown_address, "data:")
    assert [line for line in noise if not line.startswith(pages)] == []


def test_a_problem_a_tree_and_a_block_open_and_planted_markup_is_text(opened):
    with opened() as page:
        page.click(".problems tbody tr:first-child th a")
        page.wait_for_selector("[data-view=problem]")
        assert page.inner_text(".question") == PLANTED
        page.click("button[aria-label^='Tree 2']")
        page.wait_for_selector("h3:has-text('Tree 2')")
        page.click("[data-block='5']")
        page.wait_for_selector("#block .strip")
        assert page.inner_text("#block pre") == f"block 5 {PLANTED} end"
        assert page.locator("#block .strip rect").count() == 2
        assert page.title() == "Report"
        assert page.evaluate("location.hash") == "#problem/0/0/1/5"


def test_the_pruned_block_is_flagged_and_the_vote_has_its_members(opened):
    with opened("#problem/0/0/0") as page:
        flagged = page.locator("[data-block]:has(.flag)")
        assert flagged.count() == 1
        assert flagged.get_attribute("data-block") == "5"
        assert "right path pruned here" in flagged.get_attribute("aria-label")
        assert page.locator("#vote .classes > li").count() == 2
        badges = page.locator("#vote li:first-child .badge").all_inner_texts()
        assert badges == ["wins MV", "wins WMV", "wins BoN"]
        assert page.locator("#vote li:nth-child(2) .badge").count() == 0
        page.click("#vote li:nth-child(2) summary")
        page.click("#vote li:nth-child(2) .members button")
        page.wait_for_selector("#block h3:has-text('Block 8')")


def test_without_texts_of_blocks_a_response_is_shown_or_said_to_be_missing(opened):
    with opened("#problem/0/1/0/0") as page:
        page.wait_for_selector("#block details")
        assert page.inner_text("#block pre") == "answer 1"
        page.click("[data-block='1']")
        page.wait_for_selector("#block:has-text('No response holds this block')")


def test_keys_lead_to_problems_trees_runs_and_blocks(opened):
    with opened() as page:
        for key, expected in [
            ("n", "#problem/0/0/0"),
            ("n", "#problem/1/0/0"),
            ("n", "#problem/1/0/0"),
            ("p", "#problem/0/0/0"),
            ("t", "#problem/0/0/1"),
            ("T", "#problem/0/0/0"),
            ("r", "#problem/0/1/0"),
            ("r", "#problem/0/0/0"),
            ("j", "#problem/0/0/0/0"),
            ("ArrowRight", "#problem/0/0/0/4"),
            ("ArrowDown", "#problem/0/0/0/5"),
            ("ArrowLeft", "#problem/0/0/0/0"),
            ("j", "#problem/0/0/0/1"),
            ("k", "#problem/0/0/0/0"),
            ("o", ""),
        ]:
            page.keyboard.press(key)
            page.wait_for_function("expected => location.hash === expected", arg=expected)
            view = "problem" if expected else "overview"
            page.wait_for_selector(f"[data-view={view}]")
            if expected.count("/") == 4:
                page.wait_for_selector(f"[data-block='{expected[-1]}']:focus")


def test_the_table_is_sorted_and_filtered(opened):
    with opened() as page:
        names = "[...document.querySelectorAll('.problems tbody th a')].map(a => a.textContent)"
        assert page.evaluate(names) == ["a", "b"]
        page.click(".problems thead th:nth-child(3) button")
        assert page.evaluate(names) == ["b", "a"]
        page.check("#wrong-only")
        assert page.evaluate(names) == ["b"]


def test_accuracy_is_drawn_against_each_cost(opened):
    with opened() as page:
        assert page.locator(".grid-charts .chart").count() == 4
        page.click("button:has-text('Wall time')")
        page.wait_for_selector("text=seconds a problem")
        assert page.locator(".grid-charts .chart").count() == 4


def test_a_path_of_dvo_shows_the_credit_of_each_step(opened):
    with opened("#dvo/0/0") as page:
        page.click("button:has-text('✗ 2')")
        page.wait_for_function("location.hash === '#dvo/0/1'")
        page.wait_for_selector("text=A wrong response")
        assert page.locator(".credit strong").all_inner_texts() == ["+0.25", "−1.50"]
        assert page.locator(".credits pre").first.inner_text() == PLANTED
        page.keyboard.press("n")
        page.wait_for_function("location.hash === '#dvo/1/0'")


def test_without_references_nothing_is_called_right_or_wrong(opened, unknown_address):
    with opened(address=unknown_address) as page:
        assert page.locator("h2").all_inner_texts() == ["Problems"]
        assert page.inner_text(".problems tbody td").split("\n") == ["1", "from 2 responses"]
        assert page.locator(".verdict, .figures, .share, #wrong-only").count() == 0
        assert "false" not in page.inner_text("main")
    with opened("#problem/0/0/0/4", address=unknown_address) as page:
        page.wait_for_selector("#block details")
        assert "Reference: unknown" in page.inner_text("main")
        assert page.locator("#vote .answer").all_inner_texts() == ["1"]
        assert "answer 1" in page.inner_text("#block summary")
        assert page.locator(".verdict, .is-right, .mark.right, .mark.wrong").count() == 0
    with opened("#values", address=unknown_address) as page:
        assert "Reference: unknown" in page.inner_text("main")


VIEWS = ["", "#problem/0/0/0/5", "#problem/0/1/0/0", "#values", "#dvo/0/1"]


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_needs_no_horizontal_scrolling(opened, view):
    with opened(view, viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, scheme):
    axe = pytest.importorskip("axe_core_python.sync_playwright").Axe()
    for view in VIEWS:
        with opened(view, color_scheme=scheme) as page:
            if "problem" in view:
                page.wait_for_selector("#block pre")
            found = axe.run(page)["violations"]
        serious = [
            (rule["id"], node["target"], node.get("failureSummary"))
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert serious == [], view
