// A job as it is now: its place in the queue, progress, curves, memory, log, end. It looks at the
// server's truth every second, so a page that was closed or slept shows the same when it is back.

import { $, action, badge, copy, el, faultBlock, fill, get, poll, post, t, when } from "./api.js";
import { curves } from "./chart.js";
import { memoryBar } from "./memory_bar.js";

const MAX_LOG = 200000;

/** A node that follows a job; `ended(job)` is called once when it ends. */
export function jobView(id, { ended = () => {}, title = "" } = {}) {
  const head = el("div", { class: "row" });
  const bar = el("progress", { hidden: true, "aria-label": t("progress") });
  const what = el("p", { class: "help", role: "status" });
  const live = el("div", { class: "live" });
  const log = el("pre", { class: "log", tabindex: "0", "aria-label": t("log") });
  const fault = el("div"), address = el("div");
  const logNode = el("details", { open: true, hidden: true }, el("summary", {}, t("Log")), log);
  const node = el(
    "section",
    { class: "panel job", "data-job": id },
    head,
    address,
    bar,
    what,
    fault,
    live,
    logNode,
  );
  let next = 0, run = null;

  const watch = poll(1000, async () => {
    const job = await get(`/jobs/${id}?start=${next}`);
    next = job.next;
    if (job.output) append(log, job.output);
    logNode.hidden = !log.textContent.trim();
    header(head, job, title);
    progress(bar, what, job);
    server(address, job);
    if (job.run && !run) run = runView(job.run, live);
    if (job.error) fill(fault, faultBlock(job.error));
    if (["queued", "running"].includes(job.status)) return true;
    if (run) await run.now();
    run?.stop();
    // the result stands below; a log with a warning stays open
    if (job.status === "done" && job.text && !/warning|警告/i.test(log.textContent)) {
      logNode.open = false;
    }
    ended(job);
    return false;
  });
  return {
    node,
    stop: () => {
      watch.stop();
      run?.stop();
    },
  };
}

function append(log, text) {
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
  log.append(text);
  if (log.textContent.length > MAX_LOG) log.textContent = log.textContent.slice(-MAX_LOG / 2);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function header(head, job, title) {
  const active = ["queued", "running"].includes(job.status);
  const key = `${job.status} ${job.run} ${job.place}`;
  if (head.dataset.key === key) return;
  head.dataset.key = key;
  const isTraining = Boolean(job.run);
  fill(
    head,
    el("strong", {}, title || `${job.task} ${job.command}`),
    badge(job.status),
    job.place ? el("span", {}, t("place {n} in the queue", { n: job.place })) : null,
    el("span", { class: "help" }, when(job.created)),
    el("span", { class: "grow" }),
    active
      ? el(
        "button",
        { type: "button", onclick: action(async () => post(`/jobs/${job.id}/stop`)) },
        job.status === "queued"
          ? t("Cancel")
          : isTraining
          ? t("Stop and keep a checkpoint")
          : t("Stop"),
      )
      : null,
    !active
      ? el("button", {
        type: "button",
        onclick: action(async () => {
          location.href = `/jobs/${(await post(`/jobs/${job.id}/again`)).id}`;
        }),
      }, t("Run again"))
      : null,
    job.run ? el("a", { class: "button", href: `/runs/${job.run}` }, t("Open the run")) : null,
  );
}

/** Where a model's server answers, and the token that it demands. */
function server(node, job) {
  const key = `${job.status} ${job.url}`;
  if (!job.server || node.dataset.key === key) return;
  node.dataset.key = key;
  fill(
    node,
    job.status !== "running" ? null : job.url
      ? el(
        "p",
        { class: "row" },
        el("b", {}, t("It answers at")),
        el("code", { class: "url" }, job.url),
        el("button", { type: "button", onclick: () => copy(job.url) }, t("Copy the address")),
        el("button", { type: "button", onclick: () => copy(job.token) }, t("Copy the token")),
      )
      : el("p", { class: "help", role: "status" }, t("The model is being loaded.")),
  );
}

function progress(bar, what, job) {
  const { what: name, done, total } = job.progress;
  const active = job.status === "running" && !job.url;
  bar.hidden = !active;
  if (!active) {
    what.textContent = "";
    return;
  }
  if (total) {
    bar.max = total;
    bar.value = done;
  } else bar.removeAttribute("value");
  what.textContent = name ? `${name}  ${done} / ${total || "?"}` : t("working");
}

/** Curves and memory of a run into a node, once a second while it runs. */
export function runView(id, node) {
  const plots = el("div", { class: "columns" });
  const memory = el("div"), pictures = el("div", { class: "gallery" });
  node.append(memory, plots, pictures);
  let plan = null;
  return poll(1000, async () => {
    const data = await get(`/runs/${id}/events`);
    if (!plan) plan = (await get(`/runs/${id}`)).plan;
    if (plan?.terms) fill(memory, bar(plan, data));
    drawCurves(plots, data.curves);
    // what an ended run left is shown with its files
    samples(pictures, id, data.status === "running" ? data.pictures : []);
    return data.status === "running";
  });
}

/** The pictures that a training wrote last. */
function samples(node, id, names) {
  if (node.dataset.names === names.join()) return;
  node.dataset.names = names.join();
  fill(
    node,
    names.map((name) =>
      el(
        "figure",
        {},
        el("img", {
          src: `/api/runs/${id}/files/${name.split("/").map(encodeURIComponent).join("/")}`,
          alt: name,
        }),
        el("figcaption", { class: "help" }, name),
      )
    ),
  );
}

function bar(plan, data) {
  const node = memoryBar(plan, { measured: data.measured_bytes, live: data.status === "running" });
  $("details", node).open = false;
  return node;
}

/** One plot for each quantity; losses of training and validation together. */
export function drawCurves(node, all, marker = []) {
  const groups = new Map();
  for (const [name, points] of Object.entries(all)) {
    const key = name.replace(/^(val|eval|train|quick_val|base)_/, "").replace(
      /_(val|eval|train)$/,
      "",
    );
    groups.set(key, [...(groups.get(key) || []), { name, points }]);
  }
  const order = [...groups].sort((one, other) =>
    Number(other[0] === "loss") - Number(one[0] === "loss")
  );
  fill(node, order.map(([name, series]) => curves(series, { title: name, marker })));
}
