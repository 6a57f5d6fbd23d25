// The page of a job; when it has ended, what it left below.

import { $, el, faultBlock, fill, get } from "./api.js";
import { jobView } from "./job_view.js";
import { outcome } from "./outcome.js";

const root = $("#job");
const result = el("div");
try {
  const job = await get(`/jobs/${root.dataset.job}`);
  const view = jobView(job.id, { ended: async (row) => fill(result, await outcome(row)) });
  fill(
    root,
    view.node,
    result,
    el(
      "p",
      {},
      el("a", { href: `/tasks/${job.task}#${job.command}` }, `${job.task} ${job.command}`),
    ),
  );
} catch (fault) {
  fill(root, faultBlock(fault));
}
