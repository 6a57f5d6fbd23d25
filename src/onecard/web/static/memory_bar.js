// A plan as a bar: its terms stacked, the device's limit as a line, the verdict in words.

import { bytes, el, number, t } from "./api.js";

const VERDICTS = { fits: "fits", "fits closely": "closely", "does not fit": "no" };

/** The bar with its legend. */
export function memoryBar(plan, { measured = 0, live = false } = {}) {
  const limit = plan.device.free_bytes;
  const widest = Math.max(plan.total_bytes, plan.high_bytes || 0, limit, measured) * 1.03 || 1;
  const share = (n) => `${(n / widest) * 100}%`;
  const terms = plan.terms.filter((term) => term.bytes > 0);
  const bar = el("div", {
    class: "memory-bar",
    role: "img",
    "aria-label": t("{total} of {limit}", { total: bytes(plan.total_bytes), limit: bytes(limit) }),
  });
  terms.forEach((term, i) => {
    const part = el("span", {
      class: `s${(i % 8) + 1}`,
      title: `${term.name}: ${bytes(term.bytes)}`,
    });
    part.style.width = share(term.bytes);
    bar.append(part);
  });
  const line = el("span", {
    class: "limit",
    title: t("free on the device: {n}", { n: bytes(limit) }),
  });
  line.style.left = share(limit);
  bar.append(line);
  if (measured) {
    const mark = el("span", {
      class: "limit measured",
      title: t("measured: {n}", { n: bytes(measured) }),
    });
    mark.style.left = share(measured);
    bar.append(mark);
  }
  return el(
    "div",
    { class: "memory" },
    headline(plan, limit),
    bar,
    measured ? el("p", {}, measuredText(measured, plan, live)) : null,
    speeds(plan),
    legend(plan.terms.filter((term) => term.bytes > 0)),
    plan.notes.map((note) => el("p", { class: "help" }, note)),
  );
}

function measuredText(measured, plan, live) {
  const values = {
    n: bytes(measured),
    percent: Math.round((100 * measured) / (plan.total_bytes || 1)),
  };
  return live
    ? t("measured now: {n} ({percent} % of the plan)", values)
    : t("measured at most: {n} ({percent} % of the plan)", values);
}

function headline(plan, limit) {
  const word = {
    fits: t("fits"),
    "fits closely": t("fits closely"),
    "does not fit": t("does not fit"),
  }[plan.verdict] || plan.verdict;
  const band = plan.low_bytes
    ? t("({low} to {high})", { low: bytes(plan.low_bytes), high: bytes(plan.high_bytes) })
    : "";
  return el(
    "p",
    { class: "row" },
    el("span", { class: `badge ${VERDICTS[plan.verdict] || ""}` }, word),
    el("strong", {}, bytes(plan.total_bytes)),
    el("span", {}, band),
    el(
      "span",
      {},
      t("of {free} free on {device}", { free: bytes(limit), device: plan.device.name }),
    ),
  );
}

function speeds(plan) {
  const rows = Object.entries(plan.choices).map((
    [name, value],
  ) => [el("dt", {}, name), el("dd", {}, number(value))]);
  return rows.length ? el("dl", { class: "choices" }, rows) : null;
}

function legend(terms) {
  return el(
    "details",
    { open: true },
    el("summary", {}, t("What takes the memory")),
    el(
      "table",
      { class: "legend" },
      el(
        "thead",
        { class: "hidden" },
        el("tr", {}, el("th", {}, t("part")), el("th", {}, t("bytes")), el("th", {}, t("because"))),
      ),
      el(
        "tbody",
        {},
        terms.map((term, i) =>
          el(
            "tr",
            {},
            el(
              "td",
              {},
              el("span", { class: `swatch s${(i % 8) + 1}` }),
              el("span", { "data-word": term.name }, term.name),
            ),
            el("td", { class: "number" }, bytes(term.bytes)),
            el("td", { class: "help" }, term.because),
          )
        ),
      ),
    ),
  );
}

/** The changes that make it fit, each with what it costs. */
export function changes(rows) {
  if (!rows.length) return el("p", {}, t("Nothing needs to change."));
  return el(
    "ol",
    {},
    rows.map((row) =>
      el(
        "li",
        {},
        el(
          "code",
          {},
          Object.entries(row.changes).map(([name, value]) => `${name}=${value}`).join(", "),
        ),
        " ",
        t("saves {n}", { n: bytes(row.saved_bytes) }),
        "; ",
        row.cost,
      )
    ),
  );
}
