// The queue: what runs, what waits, what ended; the model servers beside it.

import { $, el, fill, get, poll, t } from "./api.js";
import { jobTable } from "./job_table.js";

poll(2000, async () => {
  const rows = await get("/jobs?limit=100");
  const active = rows.filter((job) => ["queued", "running"].includes(job.status)).reverse();
  const ended = rows.filter((job) => !["queued", "running"].includes(job.status));
  fill(
    $("#active"),
    active.length ? jobTable(active) : el("p", { class: "help" }, t("Nothing runs or waits.")),
  );
  const key = ended.map((job) => job.id).join();
  if ($("#ended").dataset.key !== key) {
    $("#ended").dataset.key = key;
    fill($("#ended"), ended.length ? jobTable(ended) : el("p", { class: "help" }, t("None yet.")));
  }
});
