// Elements, numbers as text, and the data of the page. Texts of models only ever become text nodes.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);

/** Makes an element: attributes that start with "on" are listeners, null ones are left out. */
function make(create, attributes, children) {
  const element = create();
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children
      .flat(Infinity)
      .filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

const h = (tag, attributes, ...children) =>
  make(() => document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  make(() => document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Whether somebody knows the right answers. */
const HAS_REFERENCES = DATA.problems.every((problem) => problem.reference !== null);

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const short = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** A number with a metric prefix: 1.2k, 3.4M, 5.6 TFLOPs. */
function compact(value, unit = "") {
  const prefixes = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
  let step = 0;
  let scaled = value;
  while (Math.abs(scaled) >= 999.5 && step < prefixes.length - 1) {
    scaled /= 1000;
    step += 1;
  }
  return `${Number(scaled.toPrecision(scaled >= 100 ? 3 : 2))}${unit && " "}${prefixes[step]}${unit}`;
}

// viridis
const VALUE_COLOURS = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];

/** The colour of a value in [0, 1], of a scale that also the colour-blind read. */
function valueColour(value) {
  if (value === null || value === undefined) return "var(--unknown)";
  const place = Math.min(Math.max(value, 0), 1) * (VALUE_COLOURS.length - 1);
  const low = Math.min(Math.floor(place), VALUE_COLOURS.length - 2);
  const mix = VALUE_COLOURS[low].map(
    (part, i) => part + (VALUE_COLOURS[low + 1][i] - part) * (place - low),
  );
  return `rgb(${mix.map(Math.round).join(" ")})`;
}

/** Black or white, whichever is read on the colour of a value. */
const inkOn = (value) =>
  value === null || value === undefined ? "var(--ink)" : value > 0.42 ? "#111" : "#fff";

const runColour = (run) => `var(--run-${run % 6})`;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 2"];

/** A row of buttons of which one is pressed. */
function choice(label, options, chosen, choose) {
  return h(
    "div",
    { class: "choice", role: "group", "aria-label": label },
    h("span", { class: "label" }, label),
    options.map(([value, text]) =>
      h(
        "button",
        { type: "button", "aria-pressed": String(value === chosen), onclick: () => choose(value) },
        text,
      ),
    ),
  );
}

const swatch = (run) =>
  s(
    "svg",
    { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" },
    s("line", {
      x1: 1,
      x2: 21,
      y1: 5,
      y2: 5,
      stroke: runColour(run),
      "stroke-width": 3,
      "stroke-dasharray": DASHES[run % 6],
    }),
  );

const unpacked = new Map();

/** Unpacks a compressed part of the page; each only once. */
function unpack(name) {
  if (!unpacked.has(name)) unpacked.set(name, inflate(document.getElementById(name).textContent));
  return unpacked.get(name);
}

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}
