// The page of a job; when its run ends, the proof below.

import { $, el, faultBlock, fill, get, t } from "./api.js";
import { jobView } from "./job_view.js";
import { runSummary } from "./run_summary.js";

const root = $("#job");
const result = el("div");
try {
  const job = await get(`/jobs/${root.dataset.job}`);
  const view = jobView(job.id, {
    ended: async (row) => {
      if (row.run) fill(result, await runSummary(row.run));
      else if (row.text) fill(result, el("section", { class: "panel" }, el("h2", {}, t("Result")), el("pre", { class: "log", tabindex: "0" }, row.text)));
    },
  });
  fill(root, view.node, result, el("p", {}, el("a", { href: `/tasks/${job.task}#${job.command}` }, `${job.task} ${job.command}`)));
} catch (fault) {
  fill(root, faultBlock(fault));
}
