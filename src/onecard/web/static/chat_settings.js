// The drawer with a conversation's settings, and the picker of its model.

import { $, bytes, el, fill, get, t, toast } from "./api.js";

const KEPT = "chat-settings";
const BOUNDS = {
  temperature: [0, 2, 0.05],
  top_p: [0.05, 1, 0.05],
  max_tokens: [1, 131072, 1],
  n_ctx: [256, 1048576, 256],
};

/** What the next conversation begins with: that of the last one. */
export function remembered() {
  try {
    const row = JSON.parse(localStorage.getItem(KEPT) || "{}");
    return typeof row === "object" && row ? row : {};
  } catch {
    return {};
  }
}

function remember(facts) {
  const { service, model, settings } = facts;
  try {
    localStorage.setItem(KEPT, JSON.stringify({ service, model, settings }));
  } catch { /* storage is off */ }
}

export class Settings {
  /** `facts()`: the conversation's; `save(changes)` keeps some of them. */
  constructor(facts, save) {
    this.facts = facts;
    this.keep = async (changes) => {
      try {
        await save(changes);
        remember(this.facts());
        this.draw();
      } catch (fault) {
        toast(fault);
        this.draw();
      }
    };
    this.dialog = $("#settings");
    $("#settings-button").addEventListener("click", () => {
      this.draw();
      this.dialog.showModal();
    });
    for (const radio of this.dialog.querySelectorAll("input[name=service]")) {
      radio.addEventListener("change", () => this.keep({ service: radio.value, model: "auto" }));
    }
    $("#system").addEventListener("change", (event) => this.keep({ system: event.target.value }));
    this.fields = this.makeFields();
    for (const dialog of [this.dialog, $("#models")]) {
      dialog.addEventListener("click", (event) => {
        if (event.target === dialog) dialog.close();
      });
    }
    $("#model-button").addEventListener("click", () => this.pick());
    $("#model-search").addEventListener("input", () => this.drawModels());
    $("#model-search").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault();
        if (this.models) $("#model-list button")?.click();
      }
      if (event.key === "ArrowDown") {
        event.preventDefault();
        $("#model-list button")?.focus();
      }
    });
    $("#model-list").addEventListener("keydown", (event) => this.arrows(event));
  }

  makeFields() {
    const texts = {
      temperature: [
        t("Temperature"),
        "temperature",
        t("0 always takes the likeliest word; higher is more varied."),
      ],
      top_p: [t("Top-p"), "top-p", t("Only words that together have this probability are drawn.")],
      max_tokens: [t("Longest answer (tokens)"), "token", ""],
      n_ctx: [
        t("Context (tokens)"),
        "context length",
        t("How much of the conversation the model sees at once. More needs more memory."),
      ],
      seed: [t("Seed"), "", t("The same seed gives the same answer; empty draws one each time.")],
    };
    const fields = {};
    fill(
      $("#sampling"),
      Object.entries(texts).map(([name, [label, word, help]]) => {
        const [min, max, step] = BOUNDS[name] || [0, 2147483647, 1];
        const number = el("input", {
          type: "number",
          id: `set-${name}`,
          min,
          max,
          step: "any",
          "aria-describedby": `help-${name}`,
        });
        const isShare = name === "temperature" || name === "top_p";
        const range = isShare
          ? el("input", { type: "range", min, max, step, "aria-label": label, tabindex: "-1" })
          : null;
        const keep = (text) => {
          const value = text === "" ? null : Number(text);
          if (value === null && name !== "seed") return this.draw();
          return this.keep({
            settings: {
              ...this.facts().settings,
              [name]: isShare || value === null ? value : Math.round(value),
            },
          });
        };
        number.addEventListener("change", () => keep(number.value));
        range?.addEventListener("input", () => {
          number.value = range.value;
        });
        range?.addEventListener("change", () => keep(range.value));
        const node = el(
          "div",
          { class: "field" },
          el("label", { for: `set-${name}`, "data-word": word || null }, label),
          help
            ? el("p", { class: "help", id: `help-${name}` }, help)
            : el("span", { id: `help-${name}` }),
          range ? el("div", { class: "pair" }, range, number) : number,
        );
        fields[name] = { number, range };
        return node;
      }),
    );
    return fields;
  }

  draw() {
    const facts = this.facts(), sees = facts.service === "vision";
    $("#model-name").textContent = facts.model;
    $("#attach").hidden = !sees;
    for (const radio of this.dialog.querySelectorAll("input[name=service]")) {
      radio.checked = radio.value === facts.service;
    }
    if (document.activeElement !== $("#system")) $("#system").value = facts.system;
    for (const [name, { number, range }] of Object.entries(this.fields)) {
      number.value = facts.settings[name] ?? "";
      if (range) range.value = number.value;
    }
  }

  // The model

  async pick() {
    const dialog = $("#models");
    $("#model-search").value = "";
    this.models = null;
    fill($("#model-list"), el("p", { class: "help" }, t("Looking …")));
    dialog.showModal();
    $("#model-search").focus();
    try {
      this.models = await get(`/chats/models?service=${this.facts().service}`);
      this.drawModels();
    } catch (fault) {
      dialog.close();
      toast(fault);
    }
  }

  drawModels() {
    if (!this.models) return;
    const typed = $("#model-search").value.trim(), words = typed.toLowerCase().split(/\s+/);
    const heads = {
      auto: "",
      here: t("On this machine"),
      run: t("Results of your runs"),
      catalogue: t("In the catalogue: downloaded when chosen"),
    };
    const rows = this.models.filter((row) =>
      words.every((word) => `${row.name} ${row.summary}`.toLowerCase().includes(word))
    );
    const nodes = [];
    for (const [group, head] of Object.entries(heads)) {
      const some = rows.filter((row) => row.group === group);
      if (!some.length) continue;
      if (head) nodes.push(el("h3", {}, head));
      for (const row of some) {
        nodes.push(this.choice(row.name, about(row), row.bytes ? bytes(row.bytes) : ""));
      }
    }
    if (typed && !this.models.some((row) => row.name === typed)) {
      nodes.push(
        el("h3", {}, t("Another model")),
        this.choice(typed, t("a name, a .gguf file, a folder, org/name or run:ID"), ""),
      );
    }
    fill($("#model-list"), nodes);
  }

  choice(name, text, size) {
    const choose = async () => {
      $("#models").close();
      await this.keep({ model: name });
    };
    return el(
      "button",
      { type: "button", "aria-pressed": String(this.facts().model === name), onclick: choose },
      el("span", { class: "name" }, name),
      el("span", { class: "bytes" }, size),
      text ? el("span", { class: "about" }, text) : null,
    );
  }

  arrows(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...$("#model-list").querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement) + step;
    if (at < 0) $("#model-search").focus();
    else buttons[at]?.focus();
  }
}

function about(row) {
  return row.group === "auto"
    ? t("the best one that fits this device; the embedded one offline or without a card")
    : row.summary;
}
