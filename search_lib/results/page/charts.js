// Plots as inline SVG.

const CHART = { width: 300, height: 226, left: 38, right: 10, top: 10, bottom: 40 };

function linearTicks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step)
    ticks.push(tick);
  return ticks;
}

function logTicks(low, high, base) {
  if (base === 2) {
    const ticks = [];
    const step = Math.max(1, Math.ceil(Math.log2(high / low) / 5));
    for (let power = Math.ceil(Math.log2(low) - 1e-9); 2 ** power <= high * 1.0001; power += step)
      ticks.push(2 ** power);
    return ticks;
  }
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1)
    for (const factor of [1, 2, 5]) ticks.push(factor * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const step = Math.ceil(inside.length / 5);
  return inside.filter((_, index) => index % step === 0);
}

/**
 * A plot of lines.
 *
 * series: of {label, colour, dash, points: [{x, y, half, note}]}; `half` is the half-width of the
 * interval, or null. options: {label, xLabel, log (base, or none), yRange, xRange, percents,
 * diagonal, level (of a dashed line)}.
 */
function lineChart(series, options) {
  const { width, height, left, right, top, bottom } = CHART;
  const points = series.flatMap((one) => one.points);
  const lowX = options.xRange?.[0] ?? Math.min(...points.map((point) => point.x));
  const highX = options.xRange?.[1] ?? Math.max(...points.map((point) => point.x));
  const [lowY, highY] = options.yRange ?? niceRange(points);
  const scale = options.log ? Math.log : (value) => value;
  const spread = scale(highX) - scale(lowX) || 1;
  const X = (value) =>
    left + 6 + ((scale(value) - scale(lowX)) / spread) * (width - left - right - 12);
  const Y = (value) =>
    top +
    (1 - (Math.min(Math.max(value, lowY), highY) - lowY) / (highY - lowY)) *
      (height - top - bottom);
  const xTicks = options.log ? logTicks(lowX, highX, options.log) : linearTicks(lowX, highX, 5);
  const yTicks = linearTicks(lowY, highY, 5);
  const parts = [
    yTicks.map((tick) => [
      s("line", { class: "grid", x1: left, x2: width - right, y1: Y(tick), y2: Y(tick) }),
      s(
        "text",
        { class: "tick", x: left - 6, y: Y(tick) + 3.5, "text-anchor": "end" },
        options.percents ? `${Math.round(100 * tick)}` : String(Number(tick.toFixed(2))),
      ),
    ]),
    xTicks.map((tick) =>
      s(
        "text",
        { class: "tick", x: X(tick), y: height - bottom + 16, "text-anchor": "middle" },
        options.log ? compact(tick) : String(Number(tick.toFixed(2))),
      ),
    ),
    s("line", {
      class: "axis",
      x1: left,
      x2: width - right,
      y1: height - bottom,
      y2: height - bottom,
    }),
    s(
      "text",
      { class: "tick", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" },
      options.xLabel,
    ),
  ];
  if (options.diagonal)
    parts.push(s("line", { class: "ideal", x1: X(0), y1: Y(0), x2: X(1), y2: Y(1) }));
  if (options.level !== undefined)
    parts.push(
      s("line", {
        class: "ideal",
        x1: left,
        x2: width - right,
        y1: Y(options.level),
        y2: Y(options.level),
      }),
    );
  for (const one of series) {
    const banded = one.points.filter((point) => point.half !== null && point.half !== undefined);
    if (banded.length > 1 && banded.length === one.points.length) {
      const above = banded.map((point) => `${X(point.x)},${Y(point.y + point.half)}`);
      const below = banded.map((point) => `${X(point.x)},${Y(point.y - point.half)}`).reverse();
      parts.push(
        s("polygon", { points: [...above, ...below].join(" "), fill: one.colour, class: "band" }),
      );
    }
  }
  for (const one of series) {
    parts.push(
      s("polyline", {
        points: one.points.map((point) => `${X(point.x)},${Y(point.y)}`).join(" "),
        fill: "none",
        stroke: one.colour,
        "stroke-width": 2,
        "stroke-dasharray": one.dash,
      }),
    );
    for (const point of one.points)
      parts.push(
        s(
          "circle",
          { cx: X(point.x), cy: Y(point.y), r: point.size ?? 3, fill: one.colour, class: "dot" },
          s("title", null, `${one.label}: ${point.note}`),
        ),
      );
  }
  return s(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label },
    parts,
  );
}

/** A range around all points that ends at tenths and lies in [0, 1]. */
function niceRange(points) {
  const lows = points.map((point) => point.y - (point.half ?? 0));
  const highs = points.map((point) => point.y + (point.half ?? 0));
  const low = Math.max(0, Math.floor(Math.min(...lows) * 10) / 10);
  const high = Math.min(1, Math.ceil(Math.max(...highs) * 10) / 10);
  return high > low ? [low, high] : [Math.max(0, low - 0.1), Math.min(1, low + 0.1)];
}

/** Bars of counts below a reliability curve. */
function countBars(rows) {
  const { width, left, right } = CHART;
  const most = Math.max(...rows.map((row) => row.count));
  const inner = width - left - right - 12;
  return s(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${width} 58`,
      role: "img",
      "aria-label": "Responses in each bin of values",
    },
    s("line", { class: "axis", x1: left, x2: width - right, y1: 46, y2: 46 }),
    s("text", { class: "tick", x: left - 6, y: 46, "text-anchor": "end" }, "count"),
    rows.map((row) => {
      const bin = Math.min(9, Math.floor(row.value * 10));
      const height = Math.max(1, (34 * row.count) / most);
      const x = left + 6 + (bin / 10) * inner;
      return [
        s("rect", { x: x + 2, y: 46 - height, width: inner / 10 - 4, height, class: "count" }),
        s(
          "text",
          { class: "tick small", x: x + inner / 20, y: 56, "text-anchor": "middle" },
          compact(row.count),
        ),
      ];
    }),
  );
}
