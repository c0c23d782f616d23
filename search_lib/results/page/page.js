// What the address shows, and the keys.

/** What the address names: {view, problem, run, tree, block}; the overview for what isn't there. */
function readAddress() {
  const [view, ...rest] = location.hash.slice(1).split("/");
  if (view === "values") return { view };
  if (view === "dvo" && DATA.num_dvo_trees) {
    const [tree, path] = rest.map((number) => Math.max(0, Math.trunc(Number(number)) || 0));
    return { view, tree: Math.min(tree ?? 0, DATA.num_dvo_trees - 1), path: path ?? 0 };
  }
  if (view !== "problem") return { view: "overview" };
  const [problem, run, tree, block] = rest.map(Number);
  const within = (value, count) => Number.isInteger(value) && value >= 0 && value < count;
  if (!within(problem, DATA.problems.length)) return { view: "overview" };
  const shownRun = within(run, DATA.runs.length) ? run : 0;
  const shownTree = within(tree, countTrees(problem, shownRun)) ? tree : 0;
  return {
    view,
    problem,
    run: shownRun,
    tree: shownTree,
    block: Number.isInteger(block) && block >= 0 ? block : null,
  };
}

/** How many trees a run has of a problem: it may have stopped early. */
function countTrees(problem, run) {
  return DATA.problems[problem].runs[run].trees;
}

let shown = {};
let turn = 0;

async function show() {
  const place = readAddress();
  turn += 1;
  const mine = turn;
  const isCurrent = () => mine === turn;
  const main = document.getElementById("main");
  const isSameTree =
    place.view === "problem" &&
    ["view", "problem", "run", "tree"].every((key) => shown[key] === place[key]);
  const isSameProblem =
    place.view === "dvo"
      ? shown.view === "dvo" && shown.tree === place.tree
      : place.view === "problem" && shown.view === "problem" && shown.problem === place.problem;
  try {
    if (place.view === "problem") {
      const content = await unpack(`problem-${place.run}-${place.problem}`);
      if (!isCurrent()) return;
      const tree = content.trees[place.tree];
      if (place.block !== null && place.block >= tree.parent.length) place.block = null;
      if (isSameTree && document.getElementById("block")) await showBlock(place, tree, isCurrent);
      else await showProblem(main, place, isCurrent);
    } else if (place.view === "dvo") await showDvo(main, place, isCurrent);
    else main.replaceChildren(place.view === "values" ? valueModel() : overview());
  } catch (error) {
    main.replaceChildren(
      h(
        "p",
        { class: "note" },
        typeof DecompressionStream === "undefined"
          ? "This browser is too old to unpack the page's texts."
          : `This part of the page is damaged: ${error}`,
      ),
    );
  }
  if (!isCurrent()) return;
  if (!isSameProblem && shown.view !== undefined) scrollTo(0, 0);
  shown = place;
  drawNavigation(place);
}

function drawNavigation(place) {
  const link = (view, text, href) =>
    h("a", { href, "aria-current": place.view === view ? "page" : null }, text);
  document
    .getElementById("nav")
    .replaceChildren(
      link("overview", "Overview", "#"),
      link("problem", "Trees", "#problem/0/0/0"),
      link("values", "Value model", "#values"),
      ...(DATA.num_dvo_trees ? [link("dvo", "DVO", "#dvo/0/0")] : []),
    );
}

// Arrows are the tree's own, see treePanel.
document.addEventListener("keydown", async (event) => {
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    event.target.closest("input, textarea, select")
  )
    return;
  if (event.key === "o") {
    location.hash = "";
    return;
  }
  if (shown.view === "dvo" && "np".includes(event.key)) {
    const tree = shown.tree + (event.key === "n" ? 1 : -1);
    if (tree >= 0 && tree < DATA.num_dvo_trees) location.hash = dvoAddress({ tree, path: 0 });
    return;
  }
  if (shown.view !== "problem") {
    if (event.key === "n") location.hash = "#problem/0/0/0";
    return;
  }
  const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
  const place = { ...shown };
  const step = { n: 1, p: -1, t: 1, T: -1, j: 1, k: -1, r: 1 }[event.key];
  if (step === undefined) return;
  if ("np".includes(event.key)) {
    const problem = within(place.problem + step, DATA.problems.length);
    Object.assign(place, {
      problem,
      tree: within(place.tree, countTrees(problem, place.run)),
      block: null,
    });
  }
  if ("tT".includes(event.key))
    Object.assign(place, {
      tree: within(place.tree + step, countTrees(place.problem, place.run)),
      block: null,
    });
  if (event.key === "r") {
    const run = (place.run + 1) % DATA.runs.length;
    Object.assign(place, {
      run,
      tree: within(place.tree, countTrees(place.problem, run)),
      block: null,
    });
  }
  if ("jk".includes(event.key)) {
    const { trees } = await unpack(`problem-${place.run}-${place.problem}`);
    if (trees[place.tree].parent.length === 0) return;
    place.block = following(trees[place.tree], place.block, step);
  }
  location.hash = problemAddress(place);
});

const KEYS = [
  [["n", "p"], "next, previous problem"],
  [["t", "T"], "tree"],
  [["j", "k"], "block"],
  [["←", "→", "↑", "↓"], "within the tree"],
  [["r"], "next run"],
  [["o"], "overview"],
];

document.getElementById("foot").append(
  h(
    "div",
    null,
    h(
      "p",
      { class: "keys" },
      KEYS.map(([keys, meaning]) =>
        h(
          "span",
          null,
          keys.map((key) => h("kbd", null, key)),
          meaning,
        ),
      ),
    ),
    DATA.shortened !== null &&
      h(
        "p",
        null,
        `Texts longer than about ${plural(DATA.shortened, "character")} are shown without their middle, so that this page stays small.`,
      ),
  ),
);
addEventListener("hashchange", show);
show();
