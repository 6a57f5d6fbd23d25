// Tooltips on the terms of the glossary: hover, focus or tap shows the meaning.

import { el, get } from "./api.js";

let terms = null;

/** The terms by every spelling in lower case. */
export async function glossary() {
  if (!terms) {
    terms = new Map();
    for (const row of await get("/glossary")) {
      for (const word of [row.term, row.name, ...row.aliases]) terms.set(word.toLowerCase(), row);
    }
  }
  return terms;
}

const tip = el("div", { class: "tip", id: "tip", role: "tooltip", hidden: true });
document.body.append(tip);

function show(node, row) {
  tip.replaceChildren(el("b", {}, row.name), " ", row.definition);
  tip.hidden = false;
  const box = node.getBoundingClientRect();
  const width = Math.min(360, innerWidth - 16);
  tip.style.maxWidth = `${width}px`;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  const below = box.bottom + 6;
  tip.style.top = `${
    below + tip.offsetHeight > innerHeight ? Math.max(4, box.top - tip.offsetHeight - 6) : below
  }px`;
}

const hide = () => {
  tip.hidden = true;
};

/** Mark a node as a term: focusable, described by the tooltip. */
function mark(node, row) {
  node.classList.add("term");
  node.dataset.term = row.term;
  if (node.tabIndex < 0) node.tabIndex = 0;
  node.setAttribute("aria-describedby", "tip");
  node.addEventListener("mouseenter", () => show(node, row));
  node.addEventListener("focus", () => show(node, row));
  node.addEventListener("click", () => show(node, row));
  node.addEventListener("mouseleave", hide);
  node.addEventListener("blur", hide);
}

/** The term of a score: "onnx: macro_f1" is f1, "recall@5" recall, "q8_0_file_loss" loss. */
function termOfScore(known, name) {
  const words = name.toLowerCase().split(": ").at(-1).replace(/@\d+$/, "").split("_");
  for (let i = 0; i < words.length; i += 1) {
    const row = known.get(words.slice(i).join("_"));
    if (row) return row;
  }
  return null;
}

/** Mark each term in a text where it stands first; short words mean too many things. */
function markText(known, node) {
  const words = [...known.keys()].filter((word) => word.length > 3)
    .sort((one, other) => other.length - one.length)
    .map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`(?<![\\w-])(${words.join("|")})(?![\\w-])`, "i");
  const seen = new Set();
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const text of texts) {
    const parts = text.data.split(pattern).map((part, i) => {
      const row = i % 2 ? known.get(part.toLowerCase()) : null;
      if (!row || seen.has(row)) return part;
      seen.add(row);
      const span = el("span", {}, part);
      mark(span, row);
      return span;
    });
    if (parts.length > 1) text.replaceWith(...parts);
  }
}

/** Elements get the tooltip of their data-word or data-score, a data-text those of the terms in
 * it; elements that come later too. */
export async function watchTerms() {
  const known = await glossary();
  const look = (root) => {
    for (const node of root.querySelectorAll("[data-word]:not(.term), [data-score]:not(.term)")) {
      const row = "score" in node.dataset
        ? termOfScore(known, node.dataset.score)
        : known.get(node.dataset.word.toLowerCase());
      if (row) mark(node, row);
    }
    for (const node of root.querySelectorAll("[data-text]")) {
      node.removeAttribute("data-text");
      markText(known, node);
    }
  };
  look(document);
  new MutationObserver((records) => {
    for (const record of records) {
      for (const node of record.addedNodes) if (node.nodeType === 1) look(node.parentNode || node);
    }
  }).observe(document.body, { childList: true, subtree: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  addEventListener("scroll", hide, { passive: true });
}
