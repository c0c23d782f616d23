// Overview, view of the value model, keys, and what the address shows.

const state = { cost: "budget", method: null, wrongOnly: false, sort: { key: "order", down: false } };

const methodsOf = (run) => Object.keys(run.curves);
const commonMethods = methodsOf(DATA.runs[0]).filter((method) => DATA.runs.every((run) => run.curves[method]));
state.method = commonMethods.includes("WMV") ? "WMV" : "MV";

function accuracyText(point) {
  return `${percent(point.mean)}${point.half === null ? "" : ` ± ${(100 * point.half).toFixed(1)}`}`;
}

function overview() {
  return h("section", { "data-view": "overview" },
    h("p", { class: "lede" },
      `${plural(DATA.runs.length, "run")} on the same ${plural(DATA.problems.length, "problem")}. Answers are counted by the ${DATA.rules} rules; intervals are of 95 %, over problems.`),
    h("div", { class: "cards" }, DATA.runs.map(runCard)),
    h("h2", null, "Accuracy against cost"),
    accuracyCharts(),
    h("h2", null, "Problems"),
    problemTable());
}

function runCard(run, index) {
  const flags = run.flags;
  const rows = Object.entries(run.curves).map(([method, points]) => {
    const last = points[points.length - 1];
    return h("tr", null, h("th", { scope: "row" }, method), h("td", null, accuracyText(last)));
  });
  const last = Object.values(run.curves)[0].at(-1);
  const cost = [
    `budget ${compact(last.costs.budget)}`,
    last.costs.flops !== undefined && compact(last.costs.flops, "FLOPs"),
    last.costs.seconds !== undefined && compact(last.costs.seconds, "s"),
  ].filter(Boolean).join(" · ");
  const pruning = run.pruning;
  return h("article", { class: "card" },
    h("h3", null, swatch(index), run.label),
    h("p", { class: "quiet" }, `${flags.search_type} · ${flags.num_blocks} blocks × ${plural(run.trees, "tree")}` + (flags.block_size && flags.search_type !== "bon" ? ` · ${flags.block_size} tokens a block` : "")),
    h("table", { class: "figures" }, h("tbody", null, rows)),
    h("p", { class: "quiet" }, `${cost} a problem`),
    pruning.dropping > 0 && h("p", { class: "pruning" },
      h("strong", null, `Right path pruned in ${pruning.pruned} of ${plural(pruning.trees, "tree")}`),
      `; ${pruning.mixed} have both right and wrong responses. `,
      h("details", null, h("summary", null, "What this counts"),
        h("p", null, "Trees with a dropped block whose preceding text led another block to a right answer, while a block of the same round was kept that led to wrong ones only. Where dropped blocks would have led is not known: trees without a right response are never counted."))),
    run.lacks.length > 0 && h("details", { class: "lacks" }, h("summary", null, "What this run lacks"), h("ul", null, run.lacks.map((line) => h("li", null, line)))),
    h("details", null, h("summary", null, "Settings"), h("dl", null, Object.entries(flags).map(([name, value]) => [h("dt", null, name), h("dd", null, String(value))]))));
}

function accuracyCharts() {
  const holder = h("div", null);
  const draw = () => {
    const methods = ["MV", "WMV", "BoN", "pass@k"].filter((method) => DATA.runs.some((run) => run.curves[method]));
    const known = methods.map((method) => ({
      method,
      series: DATA.runs.flatMap((run, index) => {
        const points = (run.curves[method] ?? []).filter((point) => point.costs[state.cost] !== undefined);
        return points.length === 0 ? [] : [{
          label: run.label, colour: runColour(index), dash: DASHES[index % 6],
          points: points.map((point) => ({
            x: point.costs[state.cost], y: point.mean, half: point.half,
            note: `${accuracyText(point)}, ${plural(point.trees, "tree")}, ${compact(point.costs[state.cost])}`,
          })),
        }];
      }),
    }));
    const all = known.flatMap((one) => one.series.flatMap((series) => series.points));
    holder.replaceChildren(
      choice("Cost", [["budget", "Budget"], ["flops", "FLOPs"], ["seconds", "Wall time"], ["tokens", "Tokens"]], state.cost, (cost) => { state.cost = cost; draw(); }),
      h("p", { class: "key-line" }, DATA.runs.map((run, index) => h("span", null, swatch(index), run.label))),
      all.length === 0 ? h("p", { class: "note" }, "This cost is not known for any of the runs.") :
      h("div", { class: "grid-charts" }, known.filter((one) => one.series.length > 0).map((one) => h("figure", null,
        h("figcaption", null, one.method, h("span", { class: "quiet" }, ` ${METHOD_NAMES[one.method]}, %`)),
        lineChart(one.series, {
          label: `${one.method} against ${DATA.costs[state.cost]}`, xLabel: AXIS_NAMES[state.cost], log: state.cost === "budget" ? 2 : 10,
          yRange: niceRange(all), percents: true,
        })))),
      h("p", { class: "quiet" }, `${DATA.costs[state.cost]}. Means over random subsets of each problem's trees; neighbouring points share trees.`));
  };
  draw();
  return holder;
}

const METHOD_NAMES = { MV: "majority vote", WMV: "vote weighted by values", BoN: "highest value", "pass@k": "any response right" };
const AXIS_NAMES = { budget: "budget", flops: "FLOPs a problem", seconds: "seconds a problem", tokens: "tokens a problem" };

function verdict(score) {
  if (score === 1) return h("span", { class: "verdict right", title: "right" }, "✓");
  if (score === 0) return h("span", { class: "verdict wrong", title: "wrong" }, "✗");
  return h("span", { class: "verdict tie", title: `a tie, right with probability ${short(score)}` }, "≈");
}

const SORTS = {
  order: (problem, index) => index,
  reference: (problem) => problem.reference,
};
DATA.runs.forEach((run, index) => {
  SORTS[`run-${index}`] = (problem) => problem.runs[index].right / Math.max(1, problem.runs[index].responses) + problem.runs[index].votes[state.method];
});

function problemTable() {
  const holder = h("div", null);
  const draw = () => {
    const rows = DATA.problems.map((problem, index) => ({ problem, index, key: SORTS[state.sort.key](problem, index) }));
    rows.sort((a, b) => (typeof a.key === "string" ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key) || a.index - b.index);
    if (state.sort.down) rows.reverse();
    const shown = rows.filter((row) => !state.wrongOnly || row.problem.runs.some((run) => run.votes[state.method] < 1));
    const head = (key, ...label) => h("th", { scope: "col", "aria-sort": state.sort.key === key ? (state.sort.down ? "descending" : "ascending") : null },
      h("button", { type: "button", onclick: () => { state.sort = { key, down: state.sort.key === key && !state.sort.down }; draw(); } }, ...label,
        h("span", { class: "arrow", "aria-hidden": "true" }, state.sort.key === key ? (state.sort.down ? "↓" : "↑") : "")));
    holder.replaceChildren(
      h("div", { class: "filters" },
        choice("Vote", commonMethods.map((method) => [method, method]), state.method, (method) => { state.method = method; draw(); }),
        h("label", { class: "check" }, h("input", { type: "checkbox", id: "wrong-only", checked: state.wrongOnly, onchange: (event) => { state.wrongOnly = event.target.checked; draw(); } }), "incorrect only"),
        h("span", { class: "quiet", role: "status" }, `${shown.length} of ${plural(DATA.problems.length, "problem")}`)),
      h("table", { class: "problems" },
        h("thead", null, h("tr", null, head("order", "Problem"), head("reference", "Answer"), DATA.runs.map((run, index) => head(`run-${index}`, swatch(index), run.label)))),
        h("tbody", null, shown.map(({ problem, index }) => h("tr", null,
          h("th", { scope: "row" }, h("a", { href: `#problem/${index}/0/0` }, problem.id), h("span", { class: "snippet" }, problem.question)),
          h("td", { class: "reference", "data-label": "Answer" }, problem.reference),
          problem.runs.map((run, number) => h("td", { "data-label": DATA.runs[number].label },
            h("a", { class: "cell", href: `#problem/${index}/${number}/0` },
              verdict(run.votes[state.method]),
              h("span", { class: "share", title: `${run.right} of ${run.responses} responses right` }, h("span", { style: `width: ${(100 * run.right) / Math.max(1, run.responses)}%` })),
              h("span", { class: "ratio" }, `${run.right}/${run.responses}`),
              h("span", { class: "flagged", title: run.pruned ? `right path pruned in ${plural(run.pruned, "tree")}` : null }, run.pruned ? `⚑${run.pruned}` : "")))))))));
  };
  draw();
  return holder;
}

function valueModel() {
  const known = DATA.runs.map((run, index) => ({ run, index })).filter(({ run }) => run.values);
  return h("section", { "data-view": "values" },
    h("h2", null, "Value model"),
    known.length === 0 ? h("p", { class: "note" }, "No run has values.") :
      h("p", { class: "lede" }, "Values against outcomes: the last value of each response, and those along its path. Where a search chose blocks by their values, the ones shown are those that won: high values are too good there."),
    known.map(({ run, index }) => h("article", { class: "values" },
      h("h3", null, swatch(index), run.label),
      h("p", { class: "numbers" }, [["AUROC", run.values.auroc], ["Brier score", run.values.brier], ["calibration error", run.values.calibration_error]].map(([name, value]) =>
        h("span", null, h("strong", null, value === null ? "–" : value.toFixed(3)), ` ${name}`)), h("span", { class: "quiet" }, plural(run.values.count, "response"))),
      h("div", { class: "grid-charts three" }, valueCharts(run, index)))));
}

function valueCharts(run, index) {
  const values = run.values;
  const of = (name) => values.by_depth.filter((row) => row[name] !== null);
  const line = (name, label, colour, dash) => ({
    label, colour, dash,
    points: of(name).map((row) => ({ x: row.depth, y: row[name], note: `${short(row[name])} up to ${percent(row.depth, 0)} of the response, ${plural(row.count, "block")}` })),
  });
  const depth = { xRange: [0.1, 1], yRange: [0, 1], xLabel: "share of the response" };
  const reliability = { label: run.label, colour: runColour(index), dash: "", points: values.reliability.map((row) => ({
    x: row.value, y: row.right,
    note: `value ${short(row.value)}, ${percent(row.right)} right of ${plural(row.count, "response")}` })) };
  return [
    h("figure", null, h("figcaption", null, "Reliability", h("span", { class: "quiet" }, " share of right responses")),
      lineChart([reliability], { label: "Reliability curve", xLabel: "value", xRange: [0, 1], yRange: [0, 1], diagonal: true }),
      countBars(values.reliability)),
    h("figure", null, h("figcaption", null, "AUROC by position", h("span", { class: "quiet" }, " right above wrong")),
      values.by_depth.length === 1 ? h("p", { class: "note" }, "There are values at the ends of responses only.") : of("auroc").length === 0 ? h("p", { class: "note" }, "All responses are right, or none is.") :
      lineChart([line("auroc", "AUROC", runColour(index), "")], { ...depth, level: 0.5, label: "AUROC by position" })),
    h("figure", null, h("figcaption", null, "Mean value by position"),
      values.by_depth.length === 1 ? h("p", { class: "note" }, `At the ends: ${short(values.by_depth[0].right)} of right responses, ${short(values.by_depth[0].wrong)} of wrong ones.`) :
      [lineChart([line("right", "right responses", "var(--right)", ""), line("wrong", "wrong responses", "var(--wrong)", "5 3")].filter((one) => one.points.length), { ...depth, label: "Mean value by position" }),
      h("p", { class: "key-line small" }, h("span", { class: "verdict right" }, "✓ right"), h("span", { class: "verdict wrong" }, "✗ wrong (dashed)"))]),
  ];
}

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
  const shownTree = within(tree, DATA.runs[shownRun].trees) ? tree : 0;
  return { view, problem, run: shownRun, tree: shownTree, block: Number.isInteger(block) && block >= 0 ? block : null };
}

let shown = {};
let turn = 0;

async function show() {
  const place = readAddress();
  turn += 1;
  const mine = turn;
  const isCurrent = () => mine === turn;
  const main = document.getElementById("main");
  const isSameTree = place.view === "problem" && ["view", "problem", "run", "tree"].every((key) => shown[key] === place[key]);
  const isSameProblem = place.view === "dvo" ? shown.view === "dvo" && shown.tree === place.tree : place.view === "problem" && shown.view === "problem" && shown.problem === place.problem;
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
    main.replaceChildren(h("p", { class: "note" }, typeof DecompressionStream === "undefined" ? "This browser is too old to unpack the page's texts." : `This part of the page is damaged: ${error}`));
  }
  if (!isCurrent()) return;
  if (!isSameProblem && shown.view !== undefined) scrollTo(0, 0);
  shown = place;
  drawNavigation(place);
}

function drawNavigation(place) {
  const link = (view, text, href) => h("a", { href, "aria-current": place.view === view ? "page" : null }, text);
  document.getElementById("nav").replaceChildren(
    link("overview", "Overview", "#"), link("problem", "Trees", "#problem/0/0/0"), link("values", "Value model", "#values"),
    ...(DATA.num_dvo_trees ? [link("dvo", "DVO", "#dvo/0/0")] : []));
}

// Arrows are the tree's own, see treePanel.
document.addEventListener("keydown", async (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  if (event.key === "o") { location.hash = ""; return; }
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
  if ("np".includes(event.key)) Object.assign(place, { problem: within(place.problem + step, DATA.problems.length), block: null });
  if ("tT".includes(event.key)) Object.assign(place, { tree: within(place.tree + step, DATA.runs[place.run].trees), block: null });
  if (event.key === "r") {
    const run = (place.run + 1) % DATA.runs.length;
    Object.assign(place, { run, tree: Math.min(place.tree, DATA.runs[run].trees - 1), block: null });
  }
  if ("jk".includes(event.key)) {
    const { trees } = await unpack(`problem-${place.run}-${place.problem}`);
    if (trees[place.tree].parent.length === 0) return;
    place.block = following(trees[place.tree], place.block, step);
  }
  location.hash = problemAddress(place);
});

const KEYS = [
  [["n", "p"], "next, previous problem"], [["t", "T"], "tree"], [["j", "k"], "block"],
  [["←", "→", "↑", "↓"], "within the tree"], [["r"], "next run"], [["o"], "overview"],
];

document.getElementById("foot").append(h("div", null,
  h("p", { class: "keys" }, KEYS.map(([keys, meaning]) => h("span", null, keys.map((key) => h("kbd", null, key)), meaning))),
  DATA.shortened !== null && h("p", null, `Texts longer than about ${plural(DATA.shortened, "character")} are shown without their middle, so that this page stays small.`)));
addEventListener("hashchange", show);
show();
