// All runs: filter, choose two or more to compare, throw away and take back.

import {
  $,
  action,
  badge,
  call,
  el,
  fill,
  get,
  number,
  post,
  t,
  table,
  toast,
  when,
} from "./api.js";

const chosen = new Set();
const tasks = await get("/tasks");
fill(
  $("#task"),
  el("option", { value: "" }, t("all")),
  tasks.map((task) => el("option", { value: task.name }, task.name)),
);
const STATUSES = {
  running: t("running"),
  done: t("done"),
  failed: t("failed"),
  stopped: t("stopped"),
  killed: t("killed"),
};
fill(
  $("#status"),
  el("option", { value: "" }, t("all")),
  Object.entries(STATUSES).map(([value, text]) => el("option", { value }, text)),
);

async function load() {
  const inTrash = $("#trash").checked;
  const query = new URLSearchParams({
    q: $("#words").value,
    task: $("#task").value,
    status: $("#status").value,
    trash: inTrash,
  });
  const rows = await get(`/runs?${query}`);
  fill(
    $("#list"),
    rows.length
      ? table(
        ["", t("run"), t("status"), t("begun"), t("scores"), t("note"), ""],
        rows.map((run) => [
          inTrash ? "" : box(run),
          inTrash ? run.id : el("a", { href: `/runs/${run.id}` }, run.id),
          badge(run.status),
          when(run.started),
          scores(run),
          run.note.slice(0, 60),
          inTrash
            ? button(t("Restore"), () => restore(run.id))
            : button(t("Delete"), () => trash(run.id), run.status === "running"),
        ]),
      )
      : el("p", { class: "help" }, inTrash ? t("The trash is empty.") : t("No run matches.")),
  );
}

function box(run) {
  return el("input", {
    type: "checkbox",
    checked: chosen.has(run.id),
    "aria-label": t("choose {run}", { run: run.id }),
    onchange: (event) => {
      if (event.target.checked) chosen.add(run.id);
      else chosen.delete(run.id);
      $("#compare").disabled = chosen.size < 2;
    },
  });
}

const button = (text, work, disabled = false) =>
  el("button", { type: "button", disabled, onclick: action(work) }, text);

const scores = (run) =>
  Object.entries(run.metrics).filter(([name]) => !name.startsWith("base_")).slice(0, 3)
    .map(([name, row]) => `${name} ${number(row.value)}`).join(", ");

async function restore(id) {
  await post(`/runs/${id}/restore`);
  await load();
}

async function trash(id) {
  await call("DELETE", `/runs/${id}`);
  chosen.delete(id);
  undo(id);
  await load();
}

function undo(id) {
  toast(t("{run} lies in the trash.", { run: id }), {
    text: t("Undo"),
    run: action(() => restore(id)),
  });
}

$("#filter").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["words", "task", "status", "trash"]) {
  $(`#${id}`).addEventListener("input", action(load));
}
$("#compare").addEventListener("click", () => {
  location.href = `/runs/compare?ids=${[...chosen].join(",")}`;
});
const trashed = new URLSearchParams(location.search).get("trashed");
if (trashed) {
  history.replaceState(null, "", "/runs");
  undo(trashed);
}
await load();
