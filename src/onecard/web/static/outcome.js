// What an ended job left: its result, the files that it wrote, its run.

import { el, get, t } from "./api.js";
import { outputs, runSummary } from "./run_summary.js";

/** Nodes for a job that has ended; empty for one that left nothing. */
export async function outcome(job) {
  const parts = job.run
    ? await runSummary(job.run).catch(() => [])
    : outputs(await get(`/jobs/${job.id}/files`).catch(() => []));
  // where there is a proof, the text says the same once more
  const isProven = [parts].flat().some((node) => node?.classList.contains("proof"));
  const text = job.text
    ? el(
      "details",
      { class: "panel", open: !isProven },
      el("summary", {}, t("Result")),
      el("pre", { class: "result", tabindex: "0" }, job.text),
    )
    : null;
  return [text, ...[parts].flat()].filter(Boolean);
}
