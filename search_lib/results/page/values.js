// The view of the value model.

function valueModel() {
  const known = DATA.runs.map((run, index) => ({ run, index })).filter(({ run }) => run.values);
  return h(
    "section",
    { "data-view": "values" },
    h("h2", null, "Value model"),
    known.length === 0
      ? h(
          "p",
          { class: "note" },
          HAS_REFERENCES
            ? "No run has values."
            : "Reference: unknown. How well values tell right from wrong is known where the right answers are.",
        )
      : h(
          "p",
          { class: "lede" },
          "Values against outcomes: the last value of each response, and those along its path. Where a search chose blocks by their values, the ones shown are those that won: high values are too good there.",
        ),
    known.map(({ run, index }) =>
      h(
        "article",
        { class: "values" },
        h("h3", null, swatch(index), run.label),
        h(
          "p",
          { class: "numbers" },
          [
            ["AUROC", run.values.auroc],
            ["Brier score", run.values.brier],
            ["calibration error", run.values.calibration_error],
          ].map(([name, value]) =>
            h("span", null, h("strong", null, value === null ? "–" : value.toFixed(3)), ` ${name}`),
          ),
          h("span", { class: "quiet" }, plural(run.values.count, "response")),
        ),
        h("div", { class: "grid-charts three" }, valueCharts(run, index)),
      ),
    ),
  );
}

function valueCharts(run, index) {
  const values = run.values;
  const of = (name) => values.by_depth.filter((row) => row[name] !== null);
  const line = (name, label, colour, dash) => ({
    label,
    colour,
    dash,
    points: of(name).map((row) => ({
      x: row.depth,
      y: row[name],
      note: `${short(row[name])} up to ${percent(row.depth, 0)} of the response, ${plural(row.count, "block")}`,
    })),
  });
  const depth = { xRange: [0.1, 1], yRange: [0, 1], xLabel: "share of the response" };
  const reliability = {
    label: run.label,
    colour: runColour(index),
    dash: "",
    points: values.reliability.map((row) => ({
      x: row.value,
      y: row.right,
      note: `value ${short(row.value)}, ${percent(row.right)} right of ${plural(row.count, "response")}`,
    })),
  };
  return [
    h(
      "figure",
      null,
      h(
        "figcaption",
        null,
        "Reliability",
        h("span", { class: "quiet" }, " share of right responses"),
      ),
      lineChart([reliability], {
        label: "Reliability curve",
        xLabel: "value",
        xRange: [0, 1],
        yRange: [0, 1],
        diagonal: true,
      }),
      countBars(values.reliability),
    ),
    h(
      "figure",
      null,
      h(
        "figcaption",
        null,
        "AUROC by position",
        h("span", { class: "quiet" }, " right above wrong"),
      ),
      values.by_depth.length === 1
        ? h("p", { class: "note" }, "There are values at the ends of responses only.")
        : of("auroc").length === 0
          ? h("p", { class: "note" }, "All responses are right, or none is.")
          : lineChart([line("auroc", "AUROC", runColour(index), "")], {
              ...depth,
              level: 0.5,
              label: "AUROC by position",
            }),
    ),
    h(
      "figure",
      null,
      h("figcaption", null, "Mean value by position"),
      values.by_depth.length === 1
        ? h(
            "p",
            { class: "note" },
            `At the ends: ${short(values.by_depth[0].right)} of right responses, ${short(values.by_depth[0].wrong)} of wrong ones.`,
          )
        : [
            lineChart(
              [
                line("right", "right responses", "var(--right)", ""),
                line("wrong", "wrong responses", "var(--wrong)", "5 3"),
              ].filter((one) => one.points.length),
              { ...depth, label: "Mean value by position" },
            ),
            h(
              "p",
              { class: "key-line small" },
              h("span", { class: "verdict right" }, "✓ right"),
              h("span", { class: "verdict wrong" }, "✗ wrong (dashed)"),
            ),
          ],
    ),
  ];
}
