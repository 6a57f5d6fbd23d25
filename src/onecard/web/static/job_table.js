// Jobs as a table: on the first page and on that of the queue.

import { action, badge, el, post, t, table, when } from "./api.js";

/** Rows of jobs as a table; with buttons where they are active. */
export function jobTable(rows) {
  return table(
    [t("job"), t("status"), t("progress"), t("begun"), ""],
    rows.map((job) => [
      el(
        "a",
        { href: `/jobs/${job.id}` },
        `${job.task} ${job.command}`,
        job.settings.model ? ` (${job.settings.model})` : "",
      ),
      badge(job.status),
      job.progress.total
        ? `${job.progress.what} ${job.progress.done} / ${job.progress.total}`
        : job.error?.what || "",
      when(job.created),
      ["queued", "running"].includes(job.status)
        ? el(
          "button",
          { type: "button", onclick: action(() => post(`/jobs/${job.id}/stop`)) },
          t("Stop"),
        )
        : job.run
        ? el("a", { href: `/runs/${job.run}` }, t("run"))
        : "",
    ]),
  );
}
