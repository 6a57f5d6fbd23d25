// Curves and intervals as SVG. Numbers are also given as a table, for whoever cannot see them.

import { bytes, el, number, t, table } from "./api.js";

const W = 640, H = 240, LEFT = 58, RIGHT = 12, TOP = 12, BOTTOM = 30;

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Round steps over a range: 1, 2 or 5 times a power of ten. */
function ticks(low, high, n = 4) {
  const raw = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const out = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) {
    out.push(Number(x.toPrecision(12)));
  }
  return out;
}

/** Curves on one plot: series = [{name, points: [[x, y], ...]}]. */
export function curves(series, { title = "", marker = [] } = {}) {
  const rows = series.filter((row) => row.points.length);
  if (!rows.length) return el("p", { class: "help" }, t("No points yet."));
  const xs = rows.flatMap((row) => row.points.map((p) => p[0]));
  const ys = rows.flatMap((row) => row.points.map((p) => p[1])).filter(Number.isFinite).concat(
    marker.map((m) => m.value),
  );
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  if (x0 === x1) x1 = x0 + 1;
  if (y0 === y1) {
    y0 -= Math.abs(y0) * 0.05 || 0.5;
    y1 += Math.abs(y1) * 0.05 || 0.5;
  }
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (W - LEFT - RIGHT);
  const py = (y) => TOP + (1 - (y - y0) / (y1 - y0)) * (H - TOP - BOTTOM);
  const text = title.endsWith("bytes") ? bytes : number;
  const last = rows.map((row) => `${row.name} ${number(row.points.at(-1)[1])}`).join(", ");
  const node = svg("svg", {
    viewBox: `0 0 ${W} ${H}`,
    class: "chart",
    role: "img",
    "aria-label": `${title}: ${last}`,
  });
  for (const y of ticks(y0, y1)) {
    node.append(
      svg("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y) }),
      svg("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, text(y)),
    );
  }
  for (const x of ticks(x0, x1, 6).filter(Number.isInteger)) {
    node.append(svg("text", { x: px(x), y: H - 10, "text-anchor": "middle" }, number(x)));
  }
  marker.forEach((m) =>
    node.append(
      svg("line", {
        x1: LEFT,
        x2: W - RIGHT,
        y1: py(m.value),
        y2: py(m.value),
        stroke: "var(--bad)",
        "stroke-dasharray": "6 4",
      }),
      svg("text", { x: W - RIGHT, y: py(m.value) - 4, "text-anchor": "end" }, m.name),
    )
  );
  rows.forEach((row, i) => {
    const path = row.points.filter((p) => Number.isFinite(p[1])).map((p, j) =>
      `${j ? "L" : "M"}${px(p[0]).toFixed(1)} ${py(p[1]).toFixed(1)}`
    ).join("");
    node.append(
      svg("path", {
        d: path,
        fill: "none",
        stroke: `var(--series-${(i % 8) + 1})`,
        "stroke-width": 2,
      }),
    );
    if (row.points.length === 1) {
      node.append(
        svg("circle", {
          cx: px(row.points[0][0]),
          cy: py(row.points[0][1]),
          r: 3,
          fill: `var(--series-${(i % 8) + 1})`,
        }),
      );
    }
  });
  return el(
    "figure",
    { class: "figure" },
    el(
      "figcaption",
      {},
      el("b", { "data-score": title }, title),
      " ",
      rows.map((row, i) =>
        el(
          "span",
          { class: "key" },
          el("span", { class: `swatch s${(i % 8) + 1}` }),
          row.name,
          " ",
          text(row.points.at(-1)[1]),
          "  ",
        )
      ),
    ),
    node,
  );
}

/** Scores with their intervals: rows = [{name, value, low, high}]; a table with a plot. */
export function intervals(rows, { caption = "" } = {}) {
  const known = rows.filter((row) => Number.isFinite(row.low) && Number.isFinite(row.high));
  const low = Math.min(0, ...known.map((row) => row.low)),
    high = Math.max(...known.map((row) => row.high), 0) || 1;
  const px = (x) => 4 + ((x - low) / (high - low || 1)) * 192;
  return table(
    [t("score"), t("value"), t("95 % interval"), t("items"), ""],
    rows.map((row) => [
      el("span", { "data-score": row.name }, row.name),
      number(row.value),
      Number.isFinite(row.low) ? `${number(row.low)} … ${number(row.high)}` : "–",
      row.n ?? "",
      Number.isFinite(row.low)
        ? svg(
          "svg",
          { viewBox: "0 0 200 16", width: 200, height: 16, "aria-hidden": "true" },
          svg("line", {
            x1: px(row.low),
            x2: px(row.high),
            y1: 8,
            y2: 8,
            stroke: "var(--series-1)",
            "stroke-width": 4,
            "stroke-opacity": .45,
          }),
          svg("circle", { cx: px(row.value), cy: 8, r: 4, fill: "var(--series-1)" }),
        )
        : "",
    ]),
    { caption },
  );
}
