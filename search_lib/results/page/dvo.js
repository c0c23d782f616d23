// The view of paths of DVO: the credit of each step, above or below 0.

function dvoAddress(place) {
  return `#dvo/${place.tree}/${place.path}`;
}

async function showDvo(main, place, isCurrent) {
  const tree = await unpack(`dvo-${place.tree}`);
  if (!isCurrent()) return;
  const path = tree.paths[Math.min(place.path, tree.paths.length - 1)];
  const go = (change) => {
    location.hash = dvoAddress({ ...place, ...change });
  };
  const most = Math.max(
    ...tree.paths.flatMap((one) => one.steps.map((step) => Math.abs(step.credit))),
    1e-9,
  );
  const isZero = (value) => Math.abs(value) < 0.005;
  const signed = (value) =>
    isZero(value) ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
  const kind = (value) => (isZero(value) ? "tie" : value < 0 ? "wrong" : "right");
  main.replaceChildren(
    h(
      "section",
      { "data-view": "dvo" },
      h(
        "div",
        { class: "head" },
        h("h2", null, `Problem ${tree.id}`),
        h(
          "div",
          { class: "steps" },
          h(
            "button",
            {
              type: "button",
              disabled: place.tree === 0,
              onclick: () => go({ tree: place.tree - 1, path: 0 }),
            },
            "← previous",
          ),
          h("span", { class: "quiet" }, `${place.tree + 1} of ${DATA.num_dvo_trees}`),
          h(
            "button",
            {
              type: "button",
              disabled: place.tree === DATA.num_dvo_trees - 1,
              onclick: () => go({ tree: place.tree + 1, path: 0 }),
            },
            "next →",
          ),
        ),
      ),
      h("p", { class: "question" }, tree.question),
      h(
        "p",
        { class: "quiet" },
        "Reference answer ",
        h("strong", { class: "answer" }, tree.reference),
        ` · value of the prompt ${signed(tree.value)}`,
      ),
      choice(
        "Path",
        tree.paths.map((one, index) => [index, `${one.right ? "✓" : "✗"} ${index + 1}`]),
        tree.paths.indexOf(path),
        (chosen) => go({ path: chosen }),
      ),
      h(
        "p",
        { class: "note" },
        `A ${path.right ? "right" : "wrong"} response. A step's credit is the value after it, minus the value before it; the last step has the reward instead of a value. Credits add up to the reward minus the prompt's value, here ${signed(path.steps.reduce((sum, step) => sum + step.credit, 0))}.`,
      ),
      h(
        "ol",
        { class: "credits" },
        path.steps.map((step) =>
          h(
            "li",
            null,
            h(
              "div",
              { class: "credit" },
              h("strong", { class: `verdict ${kind(step.credit)}` }, signed(step.credit)),
              h(
                "span",
                { class: "balance", "aria-hidden": "true" },
                h("span", {
                  class: step.credit < 0 ? "minus" : "plus",
                  style: `width: ${(50 * Math.abs(step.credit)) / most}%`,
                }),
              ),
              h(
                "span",
                { class: "quiet" },
                step.reward === null
                  ? `value ${signed(step.value)}, ${plural(step.visits, "visit")}`
                  : `reward ${signed(step.reward)}`,
              ),
            ),
            h("pre", { class: "text", tabindex: "0" }, step.text),
          ),
        ),
      ),
    ),
  );
}
