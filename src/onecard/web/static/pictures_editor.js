// Pictures of a data set: looked at, taken out of it and put back. Nothing is deleted.

import { action, el, fill, get, post, t, toast } from "./api.js";

const PAGE = 24;

/** A panel over the pictures of the folder `path`. */
export function picturesEditor(path) {
  const state = { start: 0, total: 0, rejected: false };
  const list = el("div", { class: "gallery" });
  const status = el("p", { class: "help", role: "status" });
  const box = el("input", {
    type: "checkbox",
    onchange: action(async () => {
      state.rejected = box.checked;
      state.start = 0;
      await load();
    }),
  });

  const url = (name) =>
    `/api/pictures/file?path=${encodeURIComponent(path)}&name=${
      encodeURIComponent(name)
    }&rejected=${state.rejected}`;

  async function move(name, restore) {
    await post("/pictures", { path, name, restore });
    toast(restore ? t("{name} is back.", { name }) : t("{name} is rejected.", { name }), {
      text: t("Undo"),
      run: action(async () => {
        await post("/pictures", { path, name, restore: !restore });
        await load();
      }),
    });
    await load();
  }

  async function load() {
    const data = await get(
      `/pictures?path=${
        encodeURIComponent(path)
      }&start=${state.start}&limit=${PAGE}&rejected=${state.rejected}`,
    );
    state.total = data.total;
    status.textContent = t("pictures {from} to {to} of {total}", {
      from: data.total ? state.start + 1 : 0,
      to: Math.min(state.start + PAGE, data.total),
      total: data.total,
    });
    fill(
      list,
      data.names.map((name) =>
        el(
          "figure",
          {},
          el("img", { src: url(name), alt: name, loading: "lazy" }),
          el(
            "figcaption",
            { class: "row" },
            el("span", { class: "help" }, name),
            el("span", { class: "grow" }),
            el("button", {
              type: "button",
              "aria-label": state.rejected
                ? t("restore {name}", { name })
                : t("reject {name}", { name }),
              onclick: action(() => move(name, state.rejected)),
            }, state.rejected ? t("restore") : t("reject")),
          ),
        )
      ),
    );
  }
  const turn = (step) =>
    action(async () => {
      state.start = Math.max(0, Math.min(state.start + step, Math.max(0, state.total - 1)));
      await load();
    });
  load().catch((fault) => {
    status.textContent = fault.what || String(fault);
  });
  return el(
    "section",
    { class: "panel" },
    el("h3", {}, t("Pictures of {path}", { path })),
    el(
      "div",
      { class: "row" },
      el("button", { type: "button", onclick: turn(-PAGE) }, t("Previous")),
      el("button", { type: "button", onclick: turn(PAGE) }, t("Next")),
      el("label", { class: "row" }, box, t("show the rejected ones")),
    ),
    status,
    list,
  );
}
