// Two or more runs side by side: what differs, curves on one plot, scores and tests.

import { $, badge, el, faultBlock, fill, get, number, t, table } from "./api.js";
import { curves } from "./chart.js";

const root = $("#compare");
const ids = new URLSearchParams(location.search).get("ids") || "";
try {
  const data = await get(`/runs/compare?ids=${encodeURIComponent(ids)}`);
  const names = data.runs.map((run) => el("a", { href: `/runs/${run.id}` }, run.id));
  fill(
    root,
    el(
      "ul",
      {},
      data.runs.map((run, i) => el("li", {}, names[i].cloneNode(true), " ", badge(run.status))),
    ),
    data.data_differs
      ? el(
        "p",
        { class: "notice" },
        t("The data differ: the scores are of different questions or documents."),
      )
      : null,
    el("h2", {}, t("Scores")),
    scoreTable(data),
    el("h2", {}, t("Settings that differ")),
    settingsTable(data),
    el("h2", {}, t("Curves")),
    el("div", { class: "columns" }, plots(data.runs)),
  );
} catch (fault) {
  fill(root, faultBlock(fault));
}

function short(run) {
  return run.id.split("-").slice(-2).join("-");
}

function scoreTable(data) {
  const all = [...new Set(data.runs.flatMap((run) => Object.keys(run.metrics)))];
  if (!all.length) return el("p", { class: "help" }, t("None of them has scores."));
  return table(
    [
      t("score"),
      ...data.runs.map(short),
      ...data.runs.slice(1).map((run) => t("{run} against the first", { run: short(run) })),
    ],
    all.map((name) => [
      el("span", { "data-score": name }, name),
      ...data.runs.map((run) => cell(run.metrics[name])),
      ...data.tests.map((test) => verdict(test[name]?.test)),
    ]),
  );
}

function cell(row) {
  if (!row) return "–";
  return Number.isFinite(row.low)
    ? `${number(row.value)} [${number(row.low)}, ${number(row.high)}]`
    : number(row.value);
}

function verdict(test) {
  if (!test) return t("not tested: no items in common");
  const words = {
    better: t("better"),
    worse: t("worse"),
    inconclusive: t("inconclusive"),
    equal: t("a tie"),
    "a tie": t("a tie"),
  };
  return el(
    "span",
    {},
    words[test.verdict] || test.verdict,
    el("span", { class: "help" }, ` p=${number(test.p_value)}, ${test.test}`),
  );
}

function settingsTable(data) {
  const rows = Object.entries(data.settings);
  if (!rows.length) return el("p", { class: "help" }, t("None: they are equal."));
  return table(
    [t("setting"), ...data.runs.map(short)],
    rows.map(([name, values]) => [
      el("span", { "data-word": name }, name),
      ...values.map((
        value,
      ) => (value === null
        ? "–"
        : typeof value === "object"
        ? JSON.stringify(value)
        : String(value))
      ),
    ]),
  );
}

function plots(runs) {
  const all = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  return all.map((name) =>
    curves(
      runs.filter((run) => run.curves[name]).map((run) => ({
        name: short(run),
        points: run.curves[name],
      })),
      { title: name },
    )
  );
}
