// The page of a run: status, curves, memory, proof, items, files, settings, notes.

import {
  $,
  action,
  badge,
  call,
  confirmed,
  copy,
  el,
  fill,
  get,
  t,
  table,
  toast,
  when,
} from "./api.js";
import { drawCurves, jobView, runView } from "./job_view.js";
import { memoryBar } from "./memory_bar.js";
import { runSummary } from "./run_summary.js";

const root = $("#run");
const id = root.dataset.run;
const run = await get(`/runs/${id}`);
const summary = el("div"), live = el("div"), curvesNode = el("div", { class: "columns" });

fill(
  root,
  head(),
  run.status === "running" && run.job ? "" : null,
  live,
  summary,
  details(),
  note(),
);
if (run.status === "running") follow();
else {
  const data = await get(`/runs/${id}/events`);
  if (run.plan.terms) {
    fill(
      live,
      el(
        "section",
        { class: "panel" },
        el("h2", {}, t("Memory")),
        memoryBar(run.plan, { measured: run.measured_bytes }),
      ),
    );
  }
  if (Object.keys(data.curves).length) {
    live.append(el("section", { class: "panel" }, el("h2", {}, t("Curves")), curvesNode));
  }
  drawCurves(curvesNode, data.curves);
  fill(summary, await runSummary(id));
}
if (run.error) {
  live.prepend(
    el(
      "details",
      { class: "panel" },
      el("summary", {}, t("Why it ended")),
      el("pre", { class: "log", tabindex: "0" }, run.error),
    ),
  );
}

function follow() {
  if (run.job) {
    live.append(jobView(run.job, { ended: () => location.reload() }).node);
  } else {
    const node = el("section", { class: "panel" }, el("h2", {}, t("Running in a terminal")));
    live.append(node);
    runView(id, node);
  }
}

function head() {
  return el(
    "div",
    { class: "row" },
    badge(run.status),
    el("a", { href: `/tasks/${run.task}#${run.command}` }, `${run.task} ${run.command}`),
    el("span", { class: "help" }, when(run.started)),
    el("span", { class: "grow" }),
    el("button", {
      type: "button",
      class: "danger",
      onclick: action(async () => {
        if (!(await confirmed(t("Move this run to the trash?"), t("Move to the trash")))) return;
        await call("DELETE", `/runs/${id}`);
        location.href = `/runs?trashed=${id}`;
      }),
    }, t("Delete")),
  );
}

function details() {
  const settings = Object.entries(run.settings);
  const line = run.argv.map((
    word,
  ) => (/^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
  return el(
    "details",
    { class: "panel" },
    el("summary", {}, t("Settings and environment")),
    line
      ? el(
        "p",
        {},
        el("code", {}, line),
        " ",
        el("button", { type: "button", onclick: () => copy(line) }, t("Copy as command")),
      )
      : null,
    table(
      [t("setting"), t("value")],
      settings.map((
        [name, value],
      ) => [
        el("span", { "data-word": name }, name),
        typeof value === "object" ? JSON.stringify(value) : String(value),
      ]),
    ),
    el("h3", {}, t("Environment")),
    el(
      "pre",
      { class: "log", tabindex: "0" },
      JSON.stringify({ ...run.env, data: run.data }, null, 1),
    ),
  );
}

function note() {
  const area = el("textarea", { id: "note", rows: 4 });
  area.value = run.note;
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, el("label", { for: "note" }, t("Notes on this run"))),
    area,
    el("button", {
      type: "button",
      onclick: action(async () => {
        await call("PUT", `/runs/${id}/note`, { text: area.value });
        toast(t("Saved."));
      }),
    }, t("Save")),
  );
}
