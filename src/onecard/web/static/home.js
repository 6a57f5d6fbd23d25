// The first page: device, what runs, last runs, what fits, what doctor says.

import {
  $,
  action,
  badge,
  bytes,
  el,
  faultBlock,
  fill,
  get,
  number,
  poll,
  post,
  t,
  table,
  toast,
} from "./api.js";
import { jobTable } from "./job_table.js";

poll(2000, async () => {
  const device = await get("/device");
  const used = device.total_bytes - device.free_bytes;
  const meter = el("progress", { max: device.total_bytes, "aria-label": t("memory used") });
  meter.value = used;
  fill(
    $("#device"),
    el(
      "div",
      { class: "row" },
      el("strong", {}, device.name),
      device.type === "cpu"
        ? el(
          "span",
          { class: "badge missing" },
          t("no GPU: everything runs on the processor, slower"),
        )
        : el("span", { class: "badge good" }, t("GPU")),
    ),
    meter,
    el(
      "p",
      {},
      t("{used} used, {free} free of {total}", {
        used: bytes(used),
        free: bytes(device.free_bytes),
        total: bytes(device.total_bytes),
      }),
    ),
    el(
      "p",
      { class: "help" },
      t("computer: {free} memory free of {total}, processor {percent} % busy", {
        free: bytes(device.ram_free_bytes),
        total: bytes(device.ram_total_bytes),
        percent: Math.round(device.cpu_percent),
      }),
    ),
  );
  $("#device").removeAttribute("aria-busy");
});

poll(2000, async () => {
  const data = await get("/overview");
  fill(
    $("#active"),
    data.jobs.length
      ? jobTable(data.jobs)
      : el("p", { class: "help" }, t("Nothing runs or waits.")),
  );
  fill(
    $("#runs"),
    data.runs.length
      ? table(
        [t("run"), t("status"), t("scores")],
        data.runs.map((run) => [
          el("a", { href: `/runs/${run.id}` }, `${run.task} ${run.command}`),
          badge(run.status),
          scores(run),
        ]),
      )
      : el("p", { class: "help" }, t("None yet.")),
  );
});

function scores(run) {
  return Object.entries(run.metrics).slice(0, 2).map(([name, row]) =>
    `${name} ${number(row.value)}`
  ).join(", ");
}

get("/fit").then((data) => {
  fill(
    $("#fit"),
    table(
      [t("work"), t("largest usual model"), t("format"), t("with"), t("needs"), t("tokens/s"), ""],
      data.rows.map((row) => [
        row.summary,
        row.model || "–",
        row.format || "–",
        row.what,
        row.bytes ? bytes(row.bytes) : "–",
        row.tokens_per_s ? number(Math.round(row.tokens_per_s)) : "–",
        row.bytes
          ? el("a", {
            class: "button",
            href: `/plan#${
              encodeURIComponent(JSON.stringify({ plan: row.workload, values: row.values }))
            }`,
            "aria-label": t("try {work}", { work: row.summary }),
          }, t("try"))
          : "",
      ]),
    ),
  );
}).catch((fault) => fill($("#fit"), faultBlock(fault))).finally(() =>
  $("#fit").removeAttribute("aria-busy")
);

const WORDS = { good: t("good"), missing: t("missing"), bad: t("to mend") };

async function doctor(fresh = false) {
  try {
    const data = await get(`/doctor?fresh=${fresh}`);
    const rows = [...data.checks].sort((one, other) =>
      "bmg".indexOf(one.state[0]) - "bmg".indexOf(other.state[0])
    );
    fill(
      $("#doctor"),
      table(
        [t("state"), t("what"), t("found"), t("fix")],
        rows.map((row) => [
          el("span", { class: `badge ${row.state}` }, WORDS[row.state] || row.state),
          row.name,
          row.summary,
          row.can_fix
            ? el("button", { type: "button", onclick: action(() => mend(row.fix)) }, row.fix)
            : row.fix
            ? el("code", {}, row.fix)
            : "",
        ]),
      ),
      el("button", { type: "button", onclick: action(() => doctor(true)) }, t("Look again")),
    );
  } catch (fault) {
    fill($("#doctor"), faultBlock(fault));
  }
  $("#doctor").removeAttribute("aria-busy");
}

async function mend(fix) {
  toast(t("Installing; this takes a while."));
  const data = await post("/doctor/fix", { fix });
  toast(data.done ? t("Installed.") : el("pre", { class: "log" }, data.output.slice(-600)));
  await doctor(true);
}

doctor();
