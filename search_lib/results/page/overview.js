// The overview: runs side by side, accuracy against cost, and the table of problems.

const state = {
  cost: "budget",
  method: null,
  wrongOnly: false,
  sort: { key: "order", down: false },
};

const methodsOf = (run) => Object.keys(run.curves);
const commonMethods = methodsOf(DATA.runs[0]).filter((method) =>
  DATA.runs.every((run) => run.curves[method]),
);
state.method = commonMethods.includes("WMV") ? "WMV" : "MV";

function accuracyText(point) {
  return `${percent(point.mean)}${point.half === null ? "" : ` ± ${(100 * point.half).toFixed(1)}`}`;
}

function overview() {
  return h(
    "section",
    { "data-view": "overview" },
    h(
      "p",
      { class: "lede" },
      `${plural(DATA.runs.length, "run")} on the same ${plural(DATA.problems.length, "problem")}. Answers are counted by the ${DATA.rules} rules` +
        (HAS_REFERENCES
          ? "; intervals are of 95 %, over problems."
          : ". Reference: unknown, so nothing here is right or wrong."),
    ),
    h("div", { class: "cards" }, DATA.runs.map(runCard)),
    HAS_REFERENCES && [h("h2", null, "Accuracy against cost"), accuracyCharts()],
    h("h2", null, "Problems"),
    problemTable(),
  );
}

function runCard(run, index) {
  const flags = run.flags;
  const rows = Object.entries(run.curves).map(([method, points]) => {
    const last = points[points.length - 1];
    return h("tr", null, h("th", { scope: "row" }, method), h("td", null, accuracyText(last)));
  });
  const cost = [
    `budget ${compact(run.costs.budget)}`,
    run.costs.flops !== undefined && compact(run.costs.flops, "FLOPs"),
    run.costs.seconds !== undefined && compact(run.costs.seconds, "s"),
  ]
    .filter(Boolean)
    .join(" · ");
  const pruning = run.pruning;
  return h(
    "article",
    { class: "card" },
    h("h3", null, swatch(index), run.label),
    h(
      "p",
      { class: "quiet" },
      `${flags.search_type} · ${flags.num_blocks} blocks × ${plural(run.trees, "tree")}` +
        (run.mean_trees === null
          ? ""
          : ` at most, ${run.mean_trees} on average (--stop ${flags.stop})`) +
        (flags.block_size && flags.search_type !== "bon"
          ? ` · ${flags.block_size} tokens a block`
          : ""),
    ),
    rows.length > 0 && h("table", { class: "figures" }, h("tbody", null, rows)),
    h("p", { class: "quiet" }, `${cost} a problem`),
    pruning?.dropping > 0 &&
      h(
        "p",
        { class: "pruning" },
        h(
          "strong",
          null,
          `Right path pruned in ${pruning.pruned} of ${plural(pruning.trees, "tree")}`,
        ),
        `; ${pruning.mixed} have both right and wrong responses. `,
        h(
          "details",
          null,
          h("summary", null, "What this counts"),
          h(
            "p",
            null,
            "Trees with a dropped block whose preceding text led another block to a right answer, while a block of the same round was kept that led to wrong ones only. Where dropped blocks would have led is not known: trees without a right response are never counted.",
          ),
        ),
      ),
    run.lacks.length > 0 &&
      h(
        "details",
        { class: "lacks" },
        h("summary", null, "What this run lacks"),
        h(
          "ul",
          null,
          run.lacks.map((line) => h("li", null, line)),
        ),
      ),
    h(
      "details",
      null,
      h("summary", null, "Settings"),
      h(
        "dl",
        null,
        Object.entries(flags).map(([name, value]) => [
          h("dt", null, name),
          h("dd", null, String(value)),
        ]),
      ),
    ),
  );
}

function accuracyCharts() {
  const holder = h("div", null);
  const draw = () => {
    const methods = ["MV", "WMV", "BoN", "pass@k"].filter((method) =>
      DATA.runs.some((run) => run.curves[method]),
    );
    const known = methods.map((method) => ({
      method,
      series: DATA.runs.flatMap((run, index) => {
        const points = (run.curves[method] ?? []).filter(
          (point) => point.costs[state.cost] !== undefined,
        );
        return points.length === 0
          ? []
          : [
              {
                label: run.label,
                colour: runColour(index),
                dash: DASHES[index % 6],
                points: points.map((point) => ({
                  x: point.costs[state.cost],
                  y: point.mean,
                  half: point.half,
                  note: `${accuracyText(point)}, ${plural(point.trees, "tree")}, ${compact(point.costs[state.cost])}`,
                })),
              },
            ];
      }),
    }));
    const all = known.flatMap((one) => one.series.flatMap((series) => series.points));
    holder.replaceChildren(
      choice(
        "Cost",
        [
          ["budget", "Budget"],
          ["flops", "FLOPs"],
          ["seconds", "Wall time"],
          ["tokens", "Tokens"],
        ],
        state.cost,
        (cost) => {
          state.cost = cost;
          draw();
        },
      ),
      h(
        "p",
        { class: "key-line" },
        DATA.runs.map((run, index) => h("span", null, swatch(index), run.label)),
      ),
      all.length === 0
        ? h("p", { class: "note" }, "This cost is not known for any of the runs.")
        : h(
            "div",
            { class: "grid-charts" },
            known
              .filter((one) => one.series.length > 0)
              .map((one) =>
                h(
                  "figure",
                  null,
                  h(
                    "figcaption",
                    null,
                    one.method,
                    h("span", { class: "quiet" }, ` ${METHOD_NAMES[one.method]}, %`),
                  ),
                  lineChart(one.series, {
                    label: `${one.method} against ${DATA.costs[state.cost]}`,
                    xLabel: AXIS_NAMES[state.cost],
                    log: state.cost === "budget" ? 2 : 10,
                    yRange: niceRange(all),
                    percents: true,
                  }),
                ),
              ),
          ),
      h(
        "p",
        { class: "quiet" },
        `${DATA.costs[state.cost]}. Means over random subsets of each problem's trees; neighbouring points share trees.`,
      ),
    );
  };
  draw();
  return holder;
}

const METHOD_NAMES = {
  MV: "majority vote",
  WMV: "vote weighted by values",
  BoN: "highest value",
  "pass@k": "any response right",
};
const AXIS_NAMES = {
  budget: "budget",
  flops: "FLOPs a problem",
  seconds: "seconds a problem",
  tokens: "tokens a problem",
};

function verdict(score) {
  if (score === 1) return h("span", { class: "verdict right", title: "right" }, "✓");
  if (score === 0) return h("span", { class: "verdict wrong", title: "wrong" }, "✗");
  return h(
    "span",
    { class: "verdict tie", title: `a tie, right with probability ${short(score)}` },
    "≈",
  );
}

const SORTS = {
  order: (problem, index) => index,
  reference: (problem) => problem.reference,
};
DATA.runs.forEach((run, index) => {
  SORTS[`run-${index}`] = (problem, place) =>
    HAS_REFERENCES
      ? problem.runs[index].right / Math.max(1, problem.runs[index].responses) +
        problem.runs[index].votes[state.method]
      : place;
});

/** What a run answers, where nobody knows whether that is right. */
function answerCell(run) {
  return [
    h("strong", { class: "answer" }, run.answer ?? "no answer"),
    h("span", { class: "ratio" }, `from ${plural(run.responses, "response")}`),
  ];
}

/** Whether the vote of a run is right, and its responses. */
function verdictCell(run) {
  return [
    verdict(run.votes[state.method]),
    h(
      "span",
      { class: "share", title: `${run.right} of ${run.responses} responses right` },
      h("span", { style: `width: ${(100 * run.right) / Math.max(1, run.responses)}%` }),
    ),
    h("span", { class: "ratio" }, `${run.right}/${run.responses}`),
    h(
      "span",
      {
        class: "flagged",
        title: run.pruned ? `right path pruned in ${plural(run.pruned, "tree")}` : null,
      },
      run.pruned ? `⚑${run.pruned}` : "",
    ),
  ];
}

function tableKey() {
  return h(
    "p",
    { class: "quiet small" },
    "✓ ✗ the vote over all trees · bar: share of right responses · ",
    h("span", { class: "flagged" }, "⚑"),
    " trees in which a right path was pruned",
  );
}

function problemTable() {
  const holder = h("div", null);
  const draw = () => {
    const rows = DATA.problems.map((problem, index) => ({
      problem,
      index,
      key: SORTS[state.sort.key](problem, index),
    }));
    rows.sort(
      (a, b) =>
        (typeof a.key === "string"
          ? a.key.localeCompare(b.key, "en", { numeric: true })
          : a.key - b.key) || a.index - b.index,
    );
    if (state.sort.down) rows.reverse();
    const shown = rows.filter(
      (row) => !state.wrongOnly || row.problem.runs.some((run) => run.votes[state.method] < 1),
    );
    const head = (key, ...label) =>
      h(
        "th",
        {
          scope: "col",
          "aria-sort":
            state.sort.key === key ? (state.sort.down ? "descending" : "ascending") : null,
        },
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              state.sort = { key, down: state.sort.key === key && !state.sort.down };
              draw();
            },
          },
          ...label,
          h(
            "span",
            { class: "arrow", "aria-hidden": "true" },
            state.sort.key === key ? (state.sort.down ? "↓" : "↑") : "",
          ),
        ),
      );
    holder.replaceChildren(
      h(
        "div",
        { class: "filters" },
        HAS_REFERENCES && [
          choice(
            "Vote",
            commonMethods.map((method) => [method, method]),
            state.method,
            (method) => {
              state.method = method;
              draw();
            },
          ),
          h(
            "label",
            { class: "check" },
            h("input", {
              type: "checkbox",
              id: "wrong-only",
              checked: state.wrongOnly,
              onchange: (event) => {
                state.wrongOnly = event.target.checked;
                draw();
              },
            }),
            "incorrect only",
          ),
        ],
        h(
          "span",
          { class: "quiet", role: "status" },
          `${shown.length} of ${plural(DATA.problems.length, "problem")}`,
        ),
      ),
      ...(HAS_REFERENCES ? [tableKey()] : []),
      h(
        "table",
        { class: "problems" },
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            head("order", "Problem"),
            HAS_REFERENCES && head("reference", "Answer"),
            DATA.runs.map((run, index) => head(`run-${index}`, swatch(index), run.label)),
          ),
        ),
        h(
          "tbody",
          null,
          shown.map(({ problem, index }) =>
            h(
              "tr",
              null,
              h(
                "th",
                { scope: "row" },
                h("a", { href: `#problem/${index}/0/0` }, problem.id),
                h("span", { class: "snippet" }, problem.question),
              ),
              HAS_REFERENCES &&
                h("td", { class: "reference", "data-label": "Answer" }, problem.reference),
              problem.runs.map((run, number) =>
                h(
                  "td",
                  { "data-label": DATA.runs[number].label },
                  h(
                    "a",
                    { class: "cell", href: `#problem/${index}/${number}/0` },
                    run.right === null ? answerCell(run) : verdictCell(run),
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
    );
  };
  draw();
  return holder;
}
