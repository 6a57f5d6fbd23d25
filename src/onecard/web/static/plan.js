// The plan at the move of a slider: memory as a bar, speed, what to change, the command.

import { $, action, copy, el, faultBlock, fill, get, post, t } from "./api.js";
import { form } from "./form.js";
import { changes, memoryBar } from "./memory_bar.js";

const tasks = await get("/tasks");
const names = await get("/models/names");
const select = $("#plan"), model = $("#model"), card = $("#card");
let settings = null, turn = 0, opened = 0, timer = 0, task = "", onlyPlanned = [];

for (const row of tasks) {
  select.append(
    el(
      "optgroup",
      { label: row.name },
      row.plans.map((plan) => el("option", { value: plan.name }, `${plan.name}: ${plan.summary}`)),
    ),
  );
}
fill($("#models"), names.models.map((name) => el("option", { value: name })));
fill($("#cards"), names.cards.map((name) => el("option", { value: name })));

/** What another page asked for behind the number sign: {plan, values, card}. */
function wanted() {
  try {
    return JSON.parse(decodeURIComponent(location.hash.slice(1)));
  } catch {
    return {};
  }
}

async function open(name, values = {}) {
  clearTimeout(timer);
  const mine = opened += 1;
  const before = model.value;
  settings = null; // until the form is there, nothing is planned
  const data = await get(`/plans/${name}`);
  if (mine !== opened) return;
  task = data.task;
  onlyPlanned = data.only_planned;
  select.value = name;
  const { model: chosen, ...rest } = values;
  const typed = model.value === before ? "" : model.value; // while it was loaded
  model.value = chosen || typed || data.example || "";
  settings = form(data.groups, {
    values: rest,
    change: later,
    sliders: true,
    hide: ["model"],
    open: 3,
  });
  fill($("#settings"), settings.node);
  fill($("#changes"));
  await plan();
  try {
    const rows = await post("/plan/levers", body());
    if (select.value === name) {
      settings.lift(rows.slice(0, 12).map((row) => row.name), t("What moves the memory"));
    }
  } catch { /* no plan, no levers: the refusal stands in the bar's place */ }
}

const body = () => ({
  plan: select.value,
  card: card.value || "auto",
  values: { ...(model.value ? { model: model.value } : {}), ...settings.values() },
});

async function plan() {
  if (!settings) return;
  const mine = turn += 1;
  const asked = body();
  history.replaceState(
    null,
    "",
    `#${encodeURIComponent(JSON.stringify(asked))}`,
  );
  try {
    const data = await post("/plan", asked);
    if (mine !== turn) return;
    const open = $("#bar details")?.open ?? true;
    fill($("#bar"), memoryBar(data));
    $("#bar details").open = open;
    line(data.command);
  } catch (fault) {
    if (mine === turn) {
      fill($("#bar"), faultBlock(fault));
      line("");
    }
  }
  begin(asked);
}

/** The command of the plan that is shown: none for settings that were refused. */
function line(text) {
  $("#line").textContent = text;
  $("#copy").disabled = !text;
}

// a slider sends many events: the last one within a frame counts
function later() {
  clearTimeout(timer);
  timer = setTimeout(plan, 15);
}

/** The link to the page that does this work, with the plan's own settings and the chosen ones. */
function begin(asked) {
  const row = tasks.find((each) => each.name === task);
  const { command, values } = row.plans.find((each) => each.name === asked.plan);
  $("#begin").href = !row.trains && row.commands.some((each) => each.service === "chat")
    ? `/chat?model=${encodeURIComponent(asked.values.model || "auto")}`
    : `/tasks/${task}#${command}?${
      encodeURIComponent(JSON.stringify({ ...values, ...asked.values }))
    }`;
  const left = Object.keys({ ...values, ...asked.values }).filter((each) =>
    onlyPlanned.includes(each)
  );
  fill(
    $("#without"),
    left.length && !$("#begin").href.includes("/chat?")
      ? t("{command} starts without {names}: the plan alone has such a setting.", {
        command: `${task} ${command}`,
        names: left.join(", "),
      })
      : "",
  );
}

$("#fit").addEventListener(
  "click",
  action(async () => {
    if (!settings) return;
    const data = await post("/fit", body());
    fill($("#changes"), data.error ? faultBlock(data.error) : changes(data.changes));
    for (const row of data.changes) {
      const { model: other, ...rest } = row.changes;
      if (other) model.value = other;
      settings.set(rest);
    }
    await plan();
  }),
);
$("#copy").addEventListener("click", () => copy($("#line").textContent));
select.addEventListener("change", action(() => open(select.value)));
model.addEventListener("input", later);
card.addEventListener("input", later);

const start = wanted();
if (typeof start.card === "string") card.value = start.card;
const known = tasks.flatMap((row) => row.plans.map((each) => each.name));
await open(
  known.includes(start.plan) ? start.plan : known.includes("qlora") ? "qlora" : known[0],
  start.values || {},
);
