// A task's page: a tab for each of its commands, each with form, plan, start, and what came of it.

import { $, action, copy, el, faultBlock, fill, get, post, t, table } from "./api.js";
import { form } from "./form.js";
import { jobView } from "./job_view.js";
import { outcome } from "./outcome.js";
import { changes, memoryBar } from "./memory_bar.js";
import { picturesEditor } from "./pictures_editor.js";
import { rowsEditor } from "./rows_editor.js";

const root = $("#task");
const name = root.dataset.task;
const task = await get(`/tasks/${name}`);
const commands = task.commands.filter((command) => !command.terminal);
const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": t("Commands") });
const panel = el("div", { role: "tabpanel", id: "panel", tabindex: "-1" });
let view = null;

const STEPS = ["check", "train", "evaluate", "export"];
commands.sort((one, other) => order(one) - order(other));
function order(command) {
  const i = STEPS.indexOf(command.name);
  return i < 0 ? STEPS.length + commands.indexOf(command) : i;
}

for (const command of commands) {
  tabs.append(
    el("button", {
      type: "button",
      role: "tab",
      id: `tab-${command.name}`,
      "aria-controls": "panel",
      onclick: () => show(command),
    }, command.name),
  );
}
tabs.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const all = [...tabs.children];
  const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
  next.focus();
  next.click();
});
fill(root, tabs, panel);

/** Values that a page before asked for: #train?model=x&... as JSON behind the question mark. */
function wanted() {
  const [command, query] = location.hash.slice(1).split("?");
  try {
    return [command, query ? JSON.parse(decodeURIComponent(query)) : {}];
  } catch {
    return [command, {}];
  }
}

const CARD = "card"; // the device that a page of this tab planned with last
const draftKey = (command) => `draft ${name} ${command}`;
function draft(command) {
  try {
    return JSON.parse(sessionStorage.getItem(draftKey(command)) || "{}");
  } catch {
    return {};
  }
}
function keep(command, values, card) {
  try {
    sessionStorage.setItem(draftKey(command), JSON.stringify(values));
    sessionStorage.setItem(CARD, card);
  } catch { /* storage is off */ }
}

function lastCard() {
  try {
    return sessionStorage.getItem(CARD) || "auto";
  } catch {
    return "auto";
  }
}

async function show(command, values = {}) {
  for (const tab of tabs.children) {
    const isThis = tab.id === `tab-${command.name}`;
    tab.setAttribute("aria-selected", String(isThis));
    tab.tabIndex = isThis ? 0 : -1;
  }
  panel.setAttribute("aria-labelledby", `tab-${command.name}`);
  history.replaceState(null, "", `#${command.name}`);
  view?.stop();
  view = commandView(command, { ...draft(command.name), ...values });
  fill(panel, view.node);
}

function commandView(command, start) {
  const left = el("div"), right = el("div", { class: "sticky" }), below = el("div");
  const node = el(
    "div",
    {},
    el("p", {}, command.summary),
    el("div", { class: "columns" }, left, right),
    below,
  );
  const timer = { id: 0, turn: 0 };
  let settings = null, job = null, card = lastCard();
  const planNode = el("div"), lineNode = el("div"), extra = el("div"), jump = el("span");

  const body = () => ({ task: name, command: command.name, values: settings.values(), card });

  async function plan() {
    const turn = timer.turn += 1;
    keep(command.name, settings.values(), card);
    if (command.service === "" && command.missing.length) return;
    try {
      const data = await post("/plan", body());
      if (turn !== timer.turn) return;
      fill(planNode, memoryBar(data));
      const line = data.command.replace(`${name} plan ${command.name}`, `${name} ${command.name}`);
      fill(
        lineNode,
        el("code", {}, line),
        " ",
        el("button", { type: "button", onclick: () => copy(line) }, t("Copy as command")),
      );
    } catch (fault) {
      // a command of settings that were refused would be another one's
      if (turn === timer.turn) {
        fill(planNode, faultBlock(fault));
        fill(lineNode);
      }
    }
  }
  const later = () => {
    clearTimeout(timer.id);
    timer.id = setTimeout(plan, 80);
  };

  const makeFit = action(async () => {
    const data = await post("/fit", body());
    if (data.error) {
      fill(extra, faultBlock(data.error));
      return;
    }
    fill(extra, el("h3", {}, t("What was changed")), changes(data.changes));
    for (const row of data.changes) settings.set(row.changes);
    await plan();
  });
  const begin = action(async () => {
    const row = await post("/jobs", { ...body(), free_models: true });
    follow(row.id);
    job.node.scrollIntoView({ block: "nearest" });
  });

  function follow(id) {
    job?.stop();
    const result = el("div", { id: "outcome" });
    job = jobView(id, {
      ended: async (row) => fill(result, await ended(row, command, settings, later, result)),
    });
    fill(below, el("h2", {}, t("This job")), job.node, result);
    fill(
      jump,
      el(
        "button",
        { type: "button", onclick: () => below.scrollIntoView() },
        t("To the job below"),
      ),
    );
  }

  (async () => {
    const data = await get(`/tasks/${name}/commands/${command.name}`);
    settings = form(data.groups, { values: start, change: later, hide: ["token", "allow_origin"] });
    fill(
      left,
      el(
        "div",
        { class: "panel" },
        presets(settings, later),
        settings.node,
        el("button", {
          type: "button",
          onclick: () => {
            settings.reset();
            later();
          },
        }, t("Defaults")),
      ),
    );
    const cardInput = el("input", { id: "card", value: card, spellcheck: "false", list: "cards" });
    const names = el("datalist", { id: "cards" });
    get("/models/names").then((all) => {
      fill(names, all.cards.map((value) => el("option", { value })));
    }).catch(() => {}); // any name may be typed
    cardInput.addEventListener("change", () => {
      card = cardInput.value || "auto";
      later();
    });
    fill(
      right,
      el(
        "div",
        { class: "panel" },
        el("h2", {}, t("Plan")),
        planNode,
        el(
          "div",
          { class: "row" },
          el("label", { for: "card" }, t("device")),
          cardInput,
          names,
          el("button", { type: "button", onclick: makeFit }, t("Make it fit")),
          command.missing.length
            ? el(
              "div",
              { class: "notice" },
              t("{names} is not installed.", { names: command.missing.join(", ") }),
              " ",
              el("code", {}, command.fix),
            )
            : command.service
            ? serviceButton(() => body())
            : el(
              "button",
              { type: "button", class: "primary", id: "start", onclick: begin },
              t("Start"),
            ),
          jump,
        ),
        extra,
        lineNode,
      ),
    );
    plan();
    const rows = await get("/jobs?limit=200");
    const last = rows.find((row) =>
      row.task === name && row.command === command.name && !row.server
    );
    if (last && !job) {
      if (!Object.keys(start).length) {
        settings.set(afresh(last.settings));
        plan();
      }
      follow(last.id);
    }
  })().catch((fault) => fill(left, faultBlock(fault)));
  return {
    node,
    stop: () => {
      job?.stop();
      clearTimeout(timer.id);
    },
  };
}

/** A preset fills in its settings, to be seen and changed; the one before it is taken back. */
function presets(settings, change) {
  if (!task.presets.length) return null;
  let before = {};
  const select = el(
    "select",
    {
      id: "preset",
      onchange: action(async () => {
        const values = select.value
          ? await get(`/tasks/${name}/presets/${encodeURIComponent(select.value)}`)
          : {};
        settings.set(before);
        const known = Object.keys(values).filter((each) => settings.fields.has(each));
        before = Object.fromEntries(known.map((each) => [each, settings.fields.get(each).value()]));
        settings.set(values);
        change();
      }),
    },
    el("option", { value: "" }, t("(none)")),
    task.presets.map((each) => el("option", { value: each }, each)),
  );
  return el("div", { class: "row field" }, el("label", { for: "preset" }, t("preset")), select);
}

/** The settings of a job without what made it go on with an older one: a start is a new one. */
function afresh({ resume, output_dir, ...rest }) {
  return resume || !output_dir ? rest : { ...rest, output_dir };
}

function serviceButton(body) {
  return el("button", {
    type: "button",
    class: "primary",
    onclick: action(async () => {
      const { task: owner, command, values, card } = body();
      const service = task.commands.find((row) => row.name === command).service;
      const job = await post("/services", { service, values, card, task: owner });
      location.href = `/jobs/${job.id}`;
    }),
  }, t("Start the server"));
}

/** What an ended job left; after a check its findings first, and the way to the training. */
async function ended(job, command, settings, change, node) {
  const parts = await outcome(job);
  if (command.name !== "check" || job.status !== "done") return parts;
  const result = await get(`/jobs/${job.id}/result`).catch(() => null);
  return [findings(result?.findings, settings, command, change, node), onwards(settings), ...parts];
}

/** To the training, with all settings that it shares with the check. */
function onwards(settings) {
  if (!commands.some((each) => each.name === "train")) return null;
  const go = () => {
    location.hash = `train?${encodeURIComponent(JSON.stringify(settings.values()))}`;
  };
  return el(
    "p",
    {},
    el("button", { type: "button", class: "primary", onclick: go }, t("Train on these data")),
  );
}

/** What a check of data came upon, with a way to the rows. */
function findings(rows, settings, command, change, node) {
  const path = settings.fields.get(command.positional)?.value();
  if (!Array.isArray(rows)) return lookAtPictures(path);
  const first = Array.isArray(path) ? path[0] : path;
  const open = (example) => {
    const line = Number((String(example).match(/\.\w+[:[](\d+)/) || [])[1] || 1);
    const editor = rowsEditor(first, {
      start: Math.max(0, line - 3),
      saved: (copyPath) => {
        settings.set({ [command.positional]: Array.isArray(path) ? [copyPath] : copyPath });
        change();
      },
    });
    $("#editor", node)?.remove();
    node.append(el("div", { id: "editor" }, editor));
    editor.scrollIntoView();
  };
  const canEdit = /\.(jsonl|ndjson|json|csv|tsv|parquet)$/i.test(first || "");
  return el(
    "div",
    {},
    rows.length
      ? table(
        [t("rows"), t("what"), t("done"), t("for example")],
        rows.map((row) => [
          String(row.count),
          row.what,
          row.done,
          el(
            "ul",
            {},
            row.examples.slice(0, 3).map((example) =>
              el(
                "li",
                {},
                canEdit
                  ? el(
                    "button",
                    { type: "button", class: "quiet", onclick: () => open(example) },
                    String(example).slice(0, 120),
                  )
                  : String(example).slice(0, 120),
              )
            ),
          ),
        ]),
      )
      : el("p", {}, t("The data have no faults.")),
    canEdit
      ? el("button", { type: "button", onclick: () => open(1) }, t("Look at the rows"))
      : lookAtPictures(first),
  );
}

/** A button to the pictures of a data set in a folder. */
function lookAtPictures(path) {
  const folder = String(path || "").replace(/\/[^/]+\.(ya?ml|json)$/i, "");
  if (!folder || /\.\w{2,7}$/.test(folder)) return null;
  const place = el("div");
  return el(
    "div",
    {},
    el(
      "button",
      { type: "button", onclick: () => fill(place, picturesEditor(folder)) },
      t("Look at the pictures"),
    ),
    place,
  );
}

const [hash, values] = wanted();
const first = commands.find((command) => command.name === hash) ||
  commands.find((command) => command.name === "train") || commands[0];
await show(first, values);
addEventListener("hashchange", () => {
  const [command, more] = wanted();
  const row = commands.find((each) => each.name === command);
  if (row) show(row, more);
});
