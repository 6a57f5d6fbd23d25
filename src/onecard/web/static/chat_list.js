// The list of conversations on the left: search, days, more.

import { $, el, fill, get, language, t, toast } from "./api.js";

const PAGE = 50;
const DAY_S = 24 * 3600;

export class ChatList {
  /** `open(id, message)` shows a conversation. */
  constructor(open) {
    this.open = open;
    this.node = $("#chat-list");
    this.note = $("#list-note");
    this.archived = false;
    this.current = "";
    this.size = PAGE;
    this.turn = 0;
    let timer = null;
    $("#search").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        this.size = PAGE;
        this.load();
      }, 200);
    });
    $("#more-chats").addEventListener("click", () => {
      this.size += PAGE;
      this.load();
    });
    $("#show-archived").addEventListener("click", (event) => {
      this.archived = !this.archived;
      event.target.setAttribute("aria-pressed", String(this.archived));
      event.target.textContent = this.archived ? t("Show the others") : t("Show the archive");
      this.load();
    });
  }

  async load() {
    const turn = ++this.turn, query = $("#search").value.trim();
    let data;
    try {
      data = await get(
        `/chats?q=${encodeURIComponent(query)}&limit=${
          Math.min(this.size, 200)
        }&archived=${this.archived}`,
      );
    } catch (fault) {
      toast(fault);
      return;
    }
    if (turn !== this.turn) return; // a later search has answered already
    this.rows = data.chats;
    this.note.textContent = "";
    if (query) {
      this.note.textContent = data.total
        ? t("{n} found", { n: data.total })
        : t("Nothing is found.");
    } else if (!data.total) {
      this.note.textContent = this.archived
        ? t("The archive is empty.")
        : t("No conversation yet.");
    } else if (this.archived) this.note.textContent = t("Archive");
    $("#more-chats").hidden = data.total <= data.chats.length || this.size >= 200;
    let day = "";
    const nodes = [];
    for (const row of data.chats) {
      const heading = query ? "" : dayOf(row.updated);
      if (heading !== day) nodes.push(el("li", { class: "day" }, day = heading));
      nodes.push(el("li", {}, this.link(row)));
    }
    fill(this.node, nodes);
    this.mark(this.current);
  }

  link(row) {
    const address = `/chat?id=${row.id}`;
    const title = row.title || t("New conversation");
    return el(
      "a",
      {
        href: address,
        "data-id": row.id,
        title,
        onclick: (event) => {
          if (event.metaKey || event.ctrlKey || event.shiftKey) return;
          event.preventDefault();
          this.open(row.id, row.message || 0);
        },
      },
      el("span", { class: "line" }, title),
      row.passage ? passage(row.passage) : null,
    );
  }

  mark(id) {
    this.current = id;
    for (const link of this.node.querySelectorAll("a")) {
      if (link.dataset.id === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
}

function passage({ text, start, end }) {
  return el(
    "span",
    { class: "passage" },
    text.slice(0, start),
    el("mark", {}, text.slice(start, end)),
    text.slice(end),
  );
}

function dayOf(seconds) {
  const today = new Date();
  today.setHours(0, 0, 0, 0);
  const age = today.getTime() / 1000 - seconds;
  if (age <= 0) return t("Today");
  if (age <= DAY_S) return t("Yesterday");
  if (age <= 7 * DAY_S) return t("Last 7 days");
  return new Date(seconds * 1000).toLocaleDateString(language, { year: "numeric", month: "long" });
}
