// The search tree: a column a round, a row a block, coloured by value.

const KEPT = 1,
  DROPPED = 2,
  FINISHED = 4,
  TRUNCATED = 8,
  LOOKAHEAD = 16;
const CELL = { width: 44, height: 22, gapY: 10, left: 10, top: 30, leastStep: 64, mostStep: 128 };

const CHECK = "M-4 0 L-1 3.5 L4.5 -4";
const CROSS = "M-3.5 -3.5 L3.5 3.5 M3.5 -3.5 L-3.5 3.5";
const SQUARE = "M-3 -3 H3 V3 H-3 Z";
const CUT = "M-3 -6 L0 -2 L-3 2 L0 6 M3 -6 V6";
const FLAG = "M0 8 V-8 L9 -4.5 L0 -1";

/** What a response is, in words; null where it has an answer and nobody knows the right one. */
function judge(response) {
  if (response.right) return "right";
  if (response.answer === null) return "no answer";
  return response.right === null ? null : "wrong";
}

/** Says what became of a block, in words. */
function describeState(tree, block) {
  const state = tree.state[block];
  const unkept = state & LOOKAHEAD ? "lookahead, thrown away" : "dropped";
  const words = [state & KEPT ? "kept" : unkept];
  if (state & FINISHED) words.push("finished");
  if (state & TRUNCATED) words.push("truncated at the length limit");
  const response = tree.responses.find((one) => one.node === block);
  if (response && judge(response)) words.push(judge(response));
  if (tree.pruned === block) words.push("right path pruned here");
  return words.join(", ");
}

/** The mark at the end of a block: right, wrong, finished and dropped, or truncated. */
function endMark(tree, block) {
  const response = tree.responses.find((one) => one.node === block);
  if (tree.state[block] & TRUNCATED) return ["cut", CUT];
  if (response?.right) return ["right", CHECK];
  if (response && response.right !== null) return ["wrong", CROSS];
  if (tree.state[block] & FINISHED) return ["ended", SQUARE];
  return null;
}

/** Draws a tree as wide as there is room; `choose(block)` is called at a click. */
function drawTree(tree, chosen, room, choose) {
  const count = tree.parent.length;
  const rounds = Math.max(...tree.round) + 1;
  const rows = Math.max(...tree.row) + 1;
  const stepX = Math.min(Math.max((room - CELL.left) / rounds, CELL.leastStep), CELL.mostStep);
  const stepY = CELL.height + CELL.gapY;
  const X = (block) => CELL.left + tree.round[block] * stepX;
  const Y = (block) => CELL.top + tree.row[block] * stepY;
  const width = CELL.left + rounds * stepX,
    height = CELL.top + rows * stepY + 4;
  const right = new Set(tree.right);
  const edges = [],
    blocks = [];
  for (let block = 0; block < count; block += 1) {
    const parent = tree.parent[block];
    if (parent === null) continue;
    const x1 = X(parent) + CELL.width,
      y1 = Y(parent) + CELL.height / 2;
    const x2 = X(block),
      y2 = Y(block) + CELL.height / 2,
      bend = (x1 + x2) / 2;
    const kind = right.has(block) ? "right" : tree.state[block] & KEPT ? "kept" : "dropped";
    edges.push(
      s("path", {
        class: `edge ${kind}`,
        d: `M${x1} ${y1} C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`,
      }),
    );
  }
  const order = [...Array(count).keys()].sort(
    (a, b) => tree.round[a] - tree.round[b] || tree.row[a] - tree.row[b],
  );
  for (const block of order) {
    const value = tree.value[block];
    const isKept = Boolean(tree.state[block] & KEPT);
    const inset = isKept ? 0 : 3;
    const mark = endMark(tree, block);
    const name = `Round ${tree.round[block] + 1}, value ${short(value)}, ${plural(tree.tokens[block], "token")}, ${describeState(tree, block)}`;
    blocks.push(
      s(
        "g",
        {
          class: `block ${isKept ? "kept" : "dropped"}`,
          transform: `translate(${X(block)} ${Y(block)})`,
          role: "button",
          tabindex: block === (chosen ?? order[0]) ? 0 : -1,
          "aria-label": name,
          "aria-pressed": String(block === chosen),
          "data-block": block,
          onclick: () => choose(block),
        },
        s("title", null, name),
        s("rect", {
          class: "ring",
          x: -3,
          y: -3,
          width: CELL.width + 6,
          height: CELL.height + 6,
          rx: 7,
        }),
        s("rect", {
          class: "face",
          x: inset,
          y: inset,
          width: CELL.width - 2 * inset,
          height: CELL.height - 2 * inset,
          rx: 4,
          fill: valueColour(value),
        }),
        s(
          "text",
          {
            class: "value",
            x: CELL.width / 2,
            y: CELL.height / 2 + 4,
            "text-anchor": "middle",
            fill: inkOn(value),
          },
          value === null ? "–" : value.toFixed(2).replace(/^0/, ""),
        ),
        mark &&
          s("path", {
            class: `mark ${mark[0]}`,
            d: mark[1],
            transform: `translate(${CELL.width + 9} ${CELL.height / 2})`,
          }),
        tree.pruned === block &&
          s("path", { class: "mark flag", d: FLAG, transform: "translate(-1 -2)" }),
      ),
    );
  }
  const heads = [...Array(rounds).keys()].map((round) =>
    s(
      "text",
      {
        class: "tick",
        x: CELL.left + round * stepX + CELL.width / 2,
        y: 14,
        "text-anchor": "middle",
      },
      round === 0 && rounds < 100 ? "round 1" : String(round + 1),
    ),
  );
  return s(
    "svg",
    {
      class: "tree",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": "Search tree",
    },
    heads,
    edges,
    blocks,
  );
}

/** The block to which an arrow key leads from another; itself where there is none. */
function neighbour(tree, block, key) {
  const blocks = [...tree.parent.keys()];
  if (key === "ArrowLeft") return tree.parent[block] ?? block;
  if (key === "ArrowRight") {
    const children = blocks.filter((other) => tree.parent[other] === block);
    return children.find((child) => tree.state[child] & KEPT) ?? children[0] ?? block;
  }
  const step = key === "ArrowUp" ? -1 : 1;
  return (
    blocks.find(
      (other) =>
        tree.round[other] === tree.round[block] && tree.row[other] === tree.row[block] + step,
    ) ?? block
  );
}

/** The next or previous block, round by round. */
function following(tree, block, step) {
  const order = [...tree.parent.keys()].sort(
    (a, b) => tree.round[a] - tree.round[b] || tree.row[a] - tree.row[b],
  );
  const place = block === null ? (step > 0 ? -1 : order.length) : order.indexOf(block);
  return order[Math.min(Math.max(place + step, 0), order.length - 1)];
}

function legend() {
  const icon = (...parts) =>
    s("svg", { viewBox: "-2 -2 34 22", class: "key", "aria-hidden": "true" }, parts);
  const mark = (kind, path) =>
    icon(s("path", { class: `mark ${kind}`, d: path, transform: "translate(14 9)" }));
  const entry = (picture, text) => h("li", null, picture, text);
  const gradient = VALUE_COLOURS.map((colour) => `rgb(${colour.join(" ")})`).join(", ");
  return h(
    "ul",
    { class: "legend", "aria-label": "Legend" },
    h(
      "li",
      null,
      "value 0",
      h("span", { class: "scale", style: `background: linear-gradient(90deg, ${gradient})` }),
      "1",
    ),
    entry(
      icon(
        s(
          "g",
          { class: "block kept" },
          s("rect", {
            class: "face",
            x: 1,
            y: 0,
            width: 28,
            height: 18,
            rx: 4,
            fill: "var(--unknown)",
          }),
        ),
      ),
      "kept",
    ),
    entry(
      icon(
        s(
          "g",
          { class: "block dropped" },
          s("rect", {
            class: "face",
            x: 4,
            y: 3,
            width: 22,
            height: 12,
            rx: 4,
            fill: "var(--unknown)",
          }),
        ),
      ),
      "dropped",
    ),
    HAS_REFERENCES && entry(mark("right", CHECK), "finished, right"),
    HAS_REFERENCES && entry(mark("wrong", CROSS), "finished, wrong"),
    entry(mark("ended", SQUARE), HAS_REFERENCES ? "finished, dropped" : "finished"),
    entry(mark("cut", CUT), "truncated"),
    HAS_REFERENCES && entry(mark("flag", FLAG), "right path pruned here"),
  );
}
