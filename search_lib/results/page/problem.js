// The view of one problem: tree, text of a block, and vote.

function problemAddress(place) {
  const parts = [place.problem, place.run, place.tree];
  if (place.block !== null) parts.push(place.block);
  return `#problem/${parts.join("/")}`;
}

/** Draws the view of a problem into `main`; resolves when it is there. */
async function showProblem(main, place, isCurrent) {
  const problem = DATA.problems[place.problem];
  const content = await unpack(`problem-${place.run}-${place.problem}`);
  const tree = content.trees[place.tree];
  if (!isCurrent()) return;
  const go = (change) => {
    location.hash = problemAddress({ ...place, ...change });
  };
  const count = DATA.problems.length;
  const view = h(
    "section",
    { class: "problem", "data-view": "problem" },
    h(
      "div",
      { class: "head" },
      h("h2", null, `Problem ${problem.id}`),
      h(
        "div",
        { class: "steps" },
        h(
          "button",
          {
            type: "button",
            disabled: place.problem === 0,
            onclick: () => go({ problem: place.problem - 1, block: null }),
          },
          "← previous",
        ),
        h("span", { class: "quiet" }, `${place.problem + 1} of ${count}`),
        h(
          "button",
          {
            type: "button",
            disabled: place.problem === count - 1,
            onclick: () => go({ problem: place.problem + 1, block: null }),
          },
          "next →",
        ),
      ),
    ),
    h("p", { class: "question" }, content.question),
    h(
      "p",
      { class: "quiet" },
      HAS_REFERENCES
        ? ["Reference answer ", h("strong", { class: "answer" }, problem.reference)]
        : "Reference: unknown",
    ),
    DATA.runs.length > 1 &&
      choice(
        "Run",
        DATA.runs.map((run, index) => [index, run.label]),
        place.run,
        (run) => go({ run, tree: 0, block: null }),
      ),
    treePicker(content.trees, place, go),
    h("h3", null, `Tree ${place.tree + 1}`),
    treePanel(tree, place, go),
    h(
      "div",
      { class: "columns" },
      h("section", { class: "panel", id: "block", "aria-live": "polite" }),
      h("section", { class: "panel", id: "vote" }, votePanel(content, place, go)),
    ),
  );
  main.replaceChildren(view);
  await showBlock(place, tree, isCurrent);
}

/** The trees of the problem as buttons, each with the share of its responses that are right. */
function treePicker(trees, place, go) {
  const title = (tree, index) => {
    if (!HAS_REFERENCES) return `Tree ${index + 1}: ${plural(tree.responses.length, "response")}`;
    const right = tree.responses.filter((response) => response.right).length;
    const pruned = tree.pruned === null ? "" : ", right path pruned";
    return `Tree ${index + 1}: ${right} of ${tree.responses.length} responses right${pruned}`;
  };
  return h(
    "div",
    { class: "trees", role: "group", "aria-label": "Tree" },
    h("span", { class: "label" }, "Tree"),
    trees.map((tree, index) => {
      const share =
        tree.responses.filter((response) => response.right).length /
        Math.max(1, tree.responses.length);
      return h(
        "button",
        {
          type: "button",
          class: "tree-button",
          "aria-pressed": String(index === place.tree),
          title: title(tree, index),
          "aria-label": title(tree, index),
          onclick: () => go({ tree: index, block: null }),
        },
        String(index + 1),
        tree.pruned !== null && h("span", { class: "flagged" }, "⚑"),
        HAS_REFERENCES &&
          h("span", { class: "share" }, h("span", { style: `width: ${100 * share}%` })),
      );
    }),
  );
}

function treePanel(tree, place, go) {
  if (tree.parent.length === 0)
    return h("p", { class: "note" }, "The record of this search has no tree.");
  const panel = h(
    "div",
    { class: "scroll", id: "tree", tabindex: "-1" },
    drawTree(tree, place.block, document.getElementById("main").clientWidth, (block) =>
      go({ block }),
    ),
  );
  panel.addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow") && event.key !== "Enter" && event.key !== " ") return;
    const focused = event.target.closest("[data-block]");
    if (!focused || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const block = Number(focused.dataset.block);
    go({ block: event.key.startsWith("Arrow") ? neighbour(tree, block, event.key) : block });
  });
  return [panel, legend()];
}

/** Marks the chosen block in the tree and shows its text. */
async function showBlock(place, tree, isCurrent) {
  for (const element of document.querySelectorAll("#tree [data-block]")) {
    const isChosen = Number(element.dataset.block) === place.block;
    element.setAttribute("aria-pressed", String(isChosen));
    if (place.block !== null) element.setAttribute("tabindex", isChosen ? "0" : "-1");
    if (isChosen) element.focus({ preventScroll: false });
  }
  const panel = document.getElementById("block");
  const hasTree = tree.parent.length > 0;
  if (place.block === null && hasTree) {
    panel.replaceChildren(
      h("h3", null, "Block"),
      h("p", { class: "note" }, "Choose a block of the tree to read it."),
    );
    return;
  }
  const texts = await unpack(`texts-${place.run}-${place.problem}-${place.tree}`);
  if (!isCurrent()) return;
  if (!hasTree) {
    const all = tree.responses.map((response, index) =>
      responseText(tree, texts, index, index === 0),
    );
    panel.replaceChildren(h("h3", null, "Responses"), ...all);
    return;
  }
  const block = place.block;
  panel.replaceChildren(
    h("h3", null, `Block ${block + 1}`),
    h(
      "p",
      { class: "quiet" },
      `Round ${tree.round[block] + 1} · value ${short(tree.value[block])} · ${plural(tree.tokens[block], "token")} · ${describeState(tree, block)}`,
    ),
    ...(texts.blocks ? blockText(texts.blocks[block]) : responseTexts(tree, texts, block)),
  );
}

function blockText(content) {
  const values = content.parts.flatMap((part) => part.values ?? []);
  const text = h(
    "pre",
    { class: values.length ? "text heat" : "text", tabindex: "0" },
    textParts(content, "token"),
  );
  if (values.length === 0) return [text];
  const strip = s(
    "svg",
    {
      class: "strip",
      viewBox: `0 0 ${values.length} 1`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": "Value after each token",
    },
    values.map((value, index) =>
      s(
        "rect",
        { x: index, y: 0, width: 1.05, height: 1, fill: valueColour(value / 255) },
        s("title", null, short(value / 255)),
      ),
    ),
  );
  return [strip, text];
}

/** A text as it stands in the page: what is before and after what was left out. */
function textParts(content, unit) {
  const [start, end] = content.parts.map(
    (part) =>
      part.text ??
      part.pieces.map((piece, index) => {
        const value = part.values[index] / 255;
        return h(
          "span",
          { style: `border-color: ${valueColour(value)}`, title: short(value) },
          piece,
        );
      }),
  );
  if (content.left_out === 0) return [start];
  return [
    start,
    h(
      "em",
      { class: "left-out" },
      `[ ${plural(content.left_out, unit)} left out to keep this page small ]`,
    ),
    end,
  ];
}

/** Where blocks have no text of their own: the responses whose paths hold the block. */
function responseTexts(tree, texts, block) {
  const holds = (response) => {
    for (let node = response.node; node !== null; node = tree.parent[node])
      if (node === block) return true;
    return false;
  };
  const found = [...tree.responses.keys()].filter((index) => holds(tree.responses[index]));
  if (found.length === 0)
    return [
      h(
        "p",
        { class: "note" },
        "No response holds this block, and the page has no texts of this run's blocks.",
      ),
    ];
  return [
    h(
      "p",
      { class: "note" },
      "The page has no texts of this run's blocks. ",
      found.length === 1
        ? "This is the whole response that holds it."
        : "These are the whole responses that hold it.",
    ),
    ...found.map((index, place) => responseText(tree, texts, index, place === 0)),
  ];
}

function responseText(tree, texts, index, isOpen) {
  const response = tree.responses[index];
  const kind = judge(response) ?? `answer ${response.answer}`;
  const title = `Response ${index + 1}: ${kind} · value ${short(response.value)} · ${plural(response.tokens, "token")}${response.finished ? "" : " · truncated"}`;
  return h(
    "details",
    { open: isOpen },
    h("summary", null, title),
    h(
      "pre",
      { class: "text", tabindex: "0" },
      texts.responses ? textParts(texts.responses[index], "character") : "",
    ),
  );
}

/** The vote over all trees of the run: a class of answers a line, with its members. */
function votePanel({ trees, winners }, place, go) {
  const classes = new Map();
  let unanswered = 0;
  trees.forEach((tree, treeIndex) => {
    for (const response of tree.responses) {
      if (response.class === null) {
        unanswered += 1;
        continue;
      }
      if (!classes.has(response.class))
        classes.set(response.class, {
          number: response.class,
          answers: new Map(),
          members: [],
          weight: 0,
          right: false,
        });
      const one = classes.get(response.class);
      const answer = response.answer ?? "no answer";
      one.answers.set(answer, (one.answers.get(answer) ?? 0) + 1);
      one.members.push({ tree: treeIndex, ...response });
      one.weight += response.value ?? 0;
      one.right ||= response.right;
    }
  });
  const ordered = [...classes.values()].sort(
    (a, b) => b.members.length - a.members.length || b.weight - a.weight,
  );
  const mostMembers = Math.max(0, ...ordered.map((one) => one.members.length));
  const mostWeight = Math.max(0, ...ordered.map((one) => one.weight));
  const hasValues = mostWeight > 0;
  // Looked up: values are rounded here, and the rules of ties are the run's.
  const wins = (one) =>
    Object.keys(winners).filter((method) => winners[method].includes(one.number));
  const bar = (kind, share, text) =>
    h(
      "div",
      { class: `bar ${kind}` },
      h("span", { class: "fill", style: `width: ${62 * share}%` }),
      h("span", { class: "amount" }, text),
    );
  return [
    h("h3", null, "Vote"),
    h(
      "p",
      { class: "quiet" },
      `${DATA.runs[place.run].label}, ${trees.length > 1 ? "all " : ""}${plural(trees.length, "tree")}` +
        (unanswered ? `; ${plural(unanswered, "response")} without an answer` : ""),
    ),
    h(
      "ul",
      { class: "classes" },
      ordered.map((one) =>
        h(
          "li",
          { class: one.right ? "is-right" : "" },
          h(
            "div",
            { class: "class-head" },
            HAS_REFERENCES &&
              h(
                "span",
                { class: one.right ? "verdict right" : "verdict wrong" },
                one.right ? "✓" : "✗",
              ),
            h("strong", { class: "answer" }, [...one.answers].sort((a, b) => b[1] - a[1])[0][0]),
            wins(one).map((method) => h("span", { class: "badge" }, `wins ${method}`)),
          ),
          bar("votes", one.members.length / mostMembers, plural(one.members.length, "vote")),
          hasValues && bar("weight", one.weight / mostWeight, `Σ value ${one.weight.toFixed(2)}`),
          h(
            "details",
            null,
            h("summary", null, "members"),
            h(
              "div",
              { class: "members" },
              one.members.map((member) =>
                h(
                  "button",
                  {
                    type: "button",
                    title: `Tree ${member.tree + 1}, value ${short(member.value)}: ${member.answer ?? "no answer"}`,
                    onclick: () => go({ tree: member.tree, block: member.node }),
                  },
                  `tree ${member.tree + 1}`,
                  h("span", { class: "quiet" }, ` ${short(member.value)}`),
                ),
              ),
            ),
          ),
        ),
      ),
    ),
  ];
}
