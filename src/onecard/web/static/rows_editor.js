// Rows of a data file: read, changed, rejected. What is saved is a copy; the file stays as it is.

import { action, el, fill, get, post, t, toast } from "./api.js";

const PAGE = 20;

/** A panel over the rows of `path` from `start` on; `saved(path)` gets the copy's. */
export function rowsEditor(path, { start = 0, saved = () => {} } = {}) {
  const edits = new Map();
  const list = el("div", { class: "rows" });
  const status = el("p", { class: "help", role: "status" });
  const search = el("input", {
    type: "search",
    "aria-label": t("Search the rows"),
    placeholder: t("Search the rows"),
  });
  const state = { start: Math.max(0, start), total: 0 };
  const save = el("button", {
    type: "button",
    class: "primary",
    disabled: true,
    onclick: action(async () => {
      const body = { path, edits: Object.fromEntries(edits) };
      const done = await post("/rows", body);
      edits.clear();
      toast(t("{path}: {changed} changed, {rejected} rejected, {kept} kept.", done));
      saved(done.path);
    }),
  }, t("Save a copy with these changes"));

  function note() {
    const rejected = [...edits.values()].filter((text) => text === null).length;
    save.disabled = edits.size === 0;
    status.textContent = t(
      "rows {from} to {to} of {total}; {changed} changed, {rejected} rejected",
      {
        from: state.total ? state.start + 1 : 0,
        to: Math.min(state.start + PAGE, state.total),
        total: state.total,
        changed: edits.size - rejected,
        rejected,
      },
    );
  }

  function rowNode(row) {
    const area = el("textarea", {
      class: "mono",
      rows: Math.min(6, 1 + Math.ceil(row.text.length / 90)),
      "aria-label": t("row {place}", { place: row.place }),
    });
    area.value = typeof edits.get(row.number) === "string" ? edits.get(row.number) : row.text;
    const box = el("input", { type: "checkbox", checked: edits.get(row.number) === null });
    area.addEventListener("input", () => {
      edits.set(row.number, area.value);
      box.checked = false;
      note();
    });
    box.addEventListener("change", () => {
      if (box.checked) edits.set(row.number, null);
      else edits.delete(row.number);
      note();
    });
    return el(
      "div",
      { class: `data-row${row.fault ? " broken" : ""}` },
      el(
        "div",
        { class: "row" },
        el("code", {}, row.place),
        row.fault ? el("span", { class: "badge bad" }, row.fault) : null,
        el("span", { class: "grow" }),
        el("label", { class: "row" }, box, t("reject")),
      ),
      area,
    );
  }

  async function load() {
    const data = await get(
      `/rows?path=${encodeURIComponent(path)}&start=${state.start}&limit=${PAGE}&q=${
        encodeURIComponent(search.value)
      }`,
    );
    state.total = data.total;
    fill(list, data.rows.map(rowNode));
    note();
  }
  const turn = (step) =>
    action(async () => {
      state.start = Math.max(0, Math.min(state.start + step, state.total - 1));
      await load();
    });
  search.addEventListener(
    "change",
    action(async () => {
      state.start = 0;
      await load();
    }),
  );
  load().catch(toast);
  return el(
    "section",
    { class: "panel" },
    el("h3", {}, t("Rows of {path}", { path })),
    el(
      "div",
      { class: "row" },
      search,
      el("button", { type: "button", onclick: turn(-PAGE) }, t("Previous")),
      el("button", { type: "button", onclick: turn(PAGE) }, t("Next")),
      save,
    ),
    status,
    list,
  );
}
