// What came of a run: the proof, the items that changed, its files, and where to go next.

import { action, bytes, el, get, number, PICTURES, post, t, table } from "./api.js";
import { intervals } from "./chart.js";

/** The summary of a run as nodes. */
export async function runSummary(id) {
  const run = await get(`/runs/${id}`);
  const written = await get(`/runs/${id}/outputs`).catch(() => []);
  const parts = [proof(run)];
  if (run.status !== "running") parts.push(await changedItems(run));
  parts.push(outputs(written), artifacts(run), next(run));
  return parts.filter(Boolean);
}

/** Before and after side by side where a run has both; every score with its interval. */
export function proof(run) {
  const names = Object.keys(run.metrics);
  if (!names.length && !run.verdicts.length) return null;
  const plain = (name) => name.replace(/^tuned_/, "");
  const pairs = names.filter((name) => names.includes(`base_${plain(name)}`));
  const bases = pairs.map((name) => `base_${plain(name)}`);
  const singles = names.filter((name) => !pairs.includes(name) && !bases.includes(name));
  const row = (name) => ({ name, ...run.metrics[name] });
  return el(
    "section",
    { class: "panel proof" },
    el("h2", {}, t("Proof")),
    run.verdicts.length
      ? el(
        "ul",
        { class: "verdicts", "data-text": true },
        run.verdicts.map((text) => el("li", {}, String(text))),
      )
      : null,
    pairs.length
      ? table(
        [t("score"), t("before"), t("after")],
        pairs.map((name) => [
          el("span", { "data-score": plain(name) }, plain(name)),
          withInterval(run.metrics[`base_${plain(name)}`]),
          withInterval(run.metrics[name]),
        ]),
        { caption: t("before and after") },
      )
      : null,
    singles.length ? intervals(singles.map(row), { caption: t("scores") }) : null,
  );
}

function withInterval(row) {
  const range = Number.isFinite(row.low) ? ` [${number(row.low)}, ${number(row.high)}]` : "";
  return `${number(row.value)}${range}`;
}

const TOLD = ["id", "question", "prompt", "group", "reference", "audio"];

/** The picture or sound of an item; loaded when it is opened. */
function media(run, item, name, label) {
  const src = `/api/runs/${run.id}/items/media?item=${encodeURIComponent(item.id)}&name=${
    encodeURIComponent(name)
  }`;
  return PICTURES.test(item.media[name])
    ? el("img", { src, alt: label, class: "media", loading: "lazy" })
    : el("audio", { controls: true, preload: "none", src, "aria-label": label });
}

async function changedItems(run) {
  let data;
  try {
    data = await get(`/runs/${run.id}/items?limit=30`);
  } catch {
    return null;
  }
  if (!data.total) return null;
  const rows = data.items.map((item) => {
    const answers = item.answers ||
      Object.fromEntries(
        ["base", "tuned", "heard"].filter((name) => name in item).map((name) => [name, item[name]]),
      );
    const drawn = Object.keys(item.pictures || {}).filter((name) => item.media[name]);
    const facts = Object.entries(item).filter(([name, value]) =>
      !TOLD.includes(name) && !(name in answers) && ["string", "number"].includes(typeof value)
    );
    const scores = Object.entries(item.scores || {}).filter(([, value]) =>
      typeof value === "number"
    );
    return el(
      "details",
      { class: "item" },
      el(
        "summary",
        {},
        String(item.question || item.prompt || item.id).slice(0, 120),
        " ",
        el(
          "span",
          { class: "help" },
          scores.slice(0, 4).map(([name, value]) => `${name} ${number(value)}`).join(", "),
        ),
      ),
      item.media.media ? media(run, item, "media", t("the item itself")) : null,
      facts.length
        ? el("p", { class: "help" }, facts.map(([k, v]) => `${k}: ${number(v)}`).join(", "))
        : null,
      el(
        "div",
        { class: "columns" },
        drawn.map((name) =>
          el("div", {}, el("p", {}, el("b", {}, name)), media(run, item, name, name))
        ),
        Object.entries(answers).map(([name, text]) =>
          el("div", {}, el("b", {}, name), el("p", { class: "answer" }, String(text)))
        ),
        item.reference
          ? el(
            "div",
            {},
            el("b", {}, t("reference")),
            el("p", { class: "answer" }, String(item.reference)),
          )
          : null,
      ),
    );
  });
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, t("Items, those that changed most first")),
    el("p", { class: "help" }, t("{n} of {total}", { n: rows.length, total: data.total })),
    rows,
  );
}

const fileUrl = (run, name, download = false) =>
  `/api/runs/${run.id}/files/${name.split("/").map(encodeURIComponent).join("/")}${
    download ? "?download=true" : ""
  }`;

function artifacts(run) {
  const visible = run.artifacts.filter((file) => !/(^|\/)\./.test(file.name));
  return filesPanel(t("Files"), visible, (file, download) => fileUrl(run, file.name, download));
}

/** Files outside a run's folder: in an output_dir, or where the result says. */
export function outputs(files) {
  const url = (file, download) =>
    `/api/file?path=${encodeURIComponent(file.path)}${download ? "&download=true" : ""}`;
  return filesPanel(t("Written files"), files, url);
}

const IN_PLACE = ["text", "page", "video"];

/** Pictures and sounds in place, everything as a list with downloads. */
function filesPanel(title, files, url) {
  if (!files.length) return null;
  const of = (kind) => files.filter((file) => file.kind === kind);
  const others = files.filter((file) => file.kind !== "image");
  const name = (file) => el("span", { title: file.path || file.name }, file.name);
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, title),
    of("image").length
      ? el(
        "div",
        { class: "gallery" },
        of("image").slice(0, 60).map((file) =>
          el(
            "figure",
            {},
            el(
              "a",
              { href: url(file), target: "_blank" },
              el("img", { src: url(file), loading: "lazy", alt: file.name }),
            ),
            el(
              "figcaption",
              { class: "row help" },
              name(file),
              el("a", {
                href: url(file, true),
                "aria-label": t("download {name}", { name: file.name }),
              }, t("download")),
            ),
          )
        ),
      )
      : null,
    of("audio").slice(0, 20).map((file) =>
      el(
        "p",
        {},
        el("audio", { controls: true, preload: "none", src: url(file), "aria-label": file.name }),
        " ",
        file.name,
      )
    ),
    others.length
      ? el(
        "details",
        { open: others.length < 15 },
        el("summary", {}, t("{n} files", { n: others.length })),
        table(
          [t("file"), t("size"), ""],
          others.map((file) => [
            IN_PLACE.includes(file.kind)
              ? el("a", { href: url(file), target: "_blank", title: file.path || null }, file.name)
              : name(file),
            bytes(file.bytes),
            el("a", {
              href: url(file, true),
              "aria-label": t("download {name}", { name: file.name }),
            }, t("download")),
          ]),
        ),
      )
      : null,
  );
}

/** Buttons to what a user does next with a run. */
export function next(run) {
  const row = el("div", { class: "row" });
  const go = (path) => async () => {
    location.href = `/jobs/${(await post(path)).id}`;
  };
  if (run.can_resume) {
    row.append(
      el("button", {
        type: "button",
        class: "primary",
        onclick: action(go(`/runs/${run.id}/resume`)),
      }, t("Resume from the checkpoint")),
    );
  }
  if (run.status !== "running") {
    row.append(
      el(
        "button",
        { type: "button", onclick: action(go(`/runs/${run.id}/rerun`)) },
        t("Run again"),
      ),
    );
  }
  if (run.model) {
    row.append(
      el("a", {
        class: "button primary",
        id: "open-in-chat",
        href: `/chat?model=${encodeURIComponent(`run:${run.id}`)}`,
      }, t("Open in chat")),
    );
  }
  for (const command of run.next || []) {
    row.append(
      el("a", {
        class: "button",
        href: `/tasks/${run.task}#${command.name}?${
          encodeURIComponent(JSON.stringify(command.values))
        }`,
      }, `${run.task} ${command.name}`),
    );
  }
  if (run.can_vote) {
    row.append(el("a", { class: "button", href: `/runs/${run.id}/blind` }, t("Compare blindly")));
  }
  const links = ["report.html", "notebook.ipynb"].filter((name) =>
    run.artifacts.some((file) => file.name === name)
  );
  for (const name of links) {
    row.append(
      el("a", {
        class: "button",
        href: fileUrl(run, name, name.endsWith("ipynb")),
        target: "_blank",
      }, name === "report.html" ? t("Report") : t("Notebook")),
    );
  }
  return row.children.length
    ? el("section", { class: "panel" }, el("h2", {}, t("Next")), row)
    : null;
}
