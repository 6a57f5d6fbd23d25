// A cited passage in its document: highlighted, with line numbers, rendered Markdown or a PDF page.

import { el, fill, get, t } from "./api.js";

const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

/** Show the passage of a citation {path, line, last_line, page, quote, text} in a node. */
export async function showPassage(node, row) {
  const asked = {
    path: row.path,
    line: row.line,
    last_line: row.last_line,
    page: row.page,
    quote: (row.quote || row.text || "").slice(0, 2000),
  };
  const data = await get(`/passage?${query(asked)}`);
  const body = { pdf, lines, markdown, blocks }[data.kind](data, asked, node);
  fill(node, el("h2", {}, data.name), el("p", { class: "help mono" }, data.path), body);
  const quote = words(asked.quote);
  const exact = [...node.querySelectorAll(".block.hit")].find((block) =>
    quote && words(block.textContent).includes(quote)
  );
  exact?.classList.add("exact");
  const hit = exact || node.querySelector(".hit");
  if (hit) hit.scrollIntoView({ block: "center" });
  else node.scrollIntoView({ block: "nearest" });
}

const words = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();

function pdf(data, asked, node) {
  const sheet = el(
    "div",
    { class: "sheet" },
    el("img", {
      alt: t("page {page} of {pages}", data),
      src: `/api/passage/page.png?${query({ ...asked, page: data.page })}`,
    }),
  );
  for (const [left, top, width, height] of data.boxes) {
    const mark = el("span", { class: "hit-box hit" });
    Object.assign(mark.style, {
      left: `${left * 100}%`,
      top: `${top * 100}%`,
      width: `${width * 100}%`,
      height: `${height * 100}%`,
    });
    sheet.append(mark);
  }
  const turn = (step) => () => showPassage(node, { ...asked, page: data.page + step });
  return el(
    "div",
    {},
    el(
      "div",
      { class: "row" },
      el(
        "button",
        { type: "button", disabled: data.page <= 1, onclick: turn(-1) },
        t("Previous page"),
      ),
      el("span", {}, t("page {page} of {pages}", data)),
      el(
        "button",
        { type: "button", disabled: data.page >= data.pages, onclick: turn(1) },
        t("Next page"),
      ),
    ),
    sheet,
  );
}

function lines(data) {
  return el(
    "pre",
    { class: "code-view", tabindex: "0" },
    data.lines.map((text, i) => {
      const n = data.first + i;
      const isHit = n >= data.line && n <= data.last_line;
      return el(
        isHit ? "mark" : "span",
        { class: isHit ? "line hit" : "line" },
        el("span", { class: "number", "aria-hidden": "true" }, String(n)),
        `${text}\n`,
      );
    }),
  );
}

function markdown(data) {
  return el(
    "div",
    { class: "document" },
    data.blocks.map((block) => {
      const node = el("div", { class: block.hit ? "block hit" : "block" });
      // sanitised on the server (web/markdown.py); the page's policy runs no script besides its own
      node.innerHTML = block.html;
      return node;
    }),
  );
}

function blocks(data) {
  return el(
    "div",
    { class: "document" },
    data.blocks.map((block) =>
      el(
        "p",
        { class: block.hit ? "block hit answer" : "block answer" },
        block.page ? el("span", { class: "badge" }, t("page {page}", { page: block.page })) : null,
        " ",
        block.text,
      )
    ),
  );
}
