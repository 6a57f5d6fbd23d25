// A form drawn from a command's settings: /api/tasks/T/commands/C gives groups of fields.

import { el, t } from "./api.js";
import { choose, uploadInto } from "./files.js";

const EMPTY = Symbol("empty");

/** A form: {node, values(), set(values), field(name)}. `change` is called after each change. */
export function form(
  groups,
  { values = {}, change = () => {}, sliders = false, hide = [], open = 1 } = {},
) {
  const fields = new Map();
  const sections = groups.map((group, i) => {
    const rows = group.fields.filter((field) => !hide.includes(field.name)).map((facts) => {
      const field = makeField(facts, change, sliders);
      fields.set(facts.name, field);
      return field.node;
    });
    if (!rows.length) return null;
    const isOpen = i < open || group.fields.some((field) => field.name in values);
    return el("details", { open: isOpen, class: "group" }, el("summary", {}, group.heading), rows);
  }).filter(Boolean);
  const result = {
    node: el("div", { class: "settings" }, search(sections, fields), sections),
    fields,
    /** Settings that differ from their defaults. */
    values() {
      const out = {};
      for (const [name, field] of fields) {
        const value = field.value();
        if (value !== EMPTY && !same(value, field.facts.default)) out[name] = value;
      }
      return out;
    },
    /** Show these settings first, under a heading of their own; the others stay in their groups. */
    lift(names, heading) {
      const nodes = names.map((name) => fields.get(name)?.node).filter(Boolean);
      if (!nodes.length) return;
      const section = el(
        "details",
        { open: true, class: "group" },
        el("summary", {}, heading),
        nodes,
      );
      const first = result.node.querySelector(".group");
      result.node.insertBefore(section, first);
      sections.unshift(section);
      sections.forEach((each, i) => {
        if (i > 0) each.open = false;
        each.hidden = !each.querySelector(".field");
      });
    },
    set(more) {
      for (const [name, value] of Object.entries(more)) {
        fields.get(name)?.set(value === EMPTY ? "" : value);
      }
    },
    reset() {
      for (const field of fields.values()) field.set(field.facts.default);
    },
  };
  result.set(values);
  return result;
}

// an empty field is what a setting without a default has
const plain = (value) => JSON.stringify(value === "" ? null : value ?? null);
const same = (one, other) => plain(one) === plain(other);

/** A search over the settings: what does not match is hidden, groups with a match open. */
function search(sections, fields) {
  const input = el("input", {
    type: "search",
    placeholder: t("Search the settings"),
    "aria-label": t("Search the settings"),
  });
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase();
    for (const { node, facts } of fields.values()) {
      node.hidden = Boolean(words) && !`${facts.name} ${facts.help}`.toLowerCase().includes(words);
    }
    for (const section of sections) {
      const shown = [...section.querySelectorAll(".field")].some((node) => !node.hidden);
      section.hidden = !shown;
      if (words && shown) section.open = true;
    }
  });
  return fields.size > 8 ? el("div", { class: "field" }, input) : null;
}

let count = 0;

function makeField(facts, change, sliders) {
  const id = `field-${facts.name}-${count += 1}`;
  const make = WIDGETS[facts.kind] || text;
  const widget = make(facts, id, change, sliders);
  const limits = limitText(facts);
  const isBox = facts.kind === "bool";
  const name = el(
    isBox || widget.isGroup ? "span" : "label",
    { class: "name", for: isBox || widget.isGroup ? null : id, id: `${id}-name` },
    el("span", { "data-word": facts.name, tabindex: "-1" }, facts.name),
    facts.required ? " *" : "",
  );
  const help = el(
    "p",
    { class: "help", id: `${id}-help` },
    facts.help,
    limits ? ` (${limits})` : "",
  );
  const head = isBox ? el("label", { class: "row", for: id }, widget.node, name) : name;
  const node = el(
    "div",
    { class: "field", "data-field": facts.name },
    head,
    help,
    isBox ? null : widget.node,
  );
  const input = node.querySelector(`#${CSS.escape(id)}`);
  input?.setAttribute("aria-describedby", `${id}-help`);
  if (facts.required) input?.setAttribute("aria-required", "true");
  widget.set(facts.default);
  return { node, facts, value: widget.value, set: widget.set };
}

function limitText(facts) {
  const parts = [];
  const low = facts.ge ?? facts.gt, high = facts.le ?? facts.lt;
  if (low !== undefined && high !== undefined) parts.push(t("{low} to {high}", { low, high }));
  else if (low !== undefined && low !== 0) parts.push(t("at least {low}", { low }));
  else if (high !== undefined) parts.push(t("at most {high}", { high }));
  if (
    facts.default !== null && facts.default !== "" && typeof facts.default !== "object" &&
    facts.kind !== "bool"
  ) {
    parts.push(t("default {value}", { value: facts.default }));
  }
  return parts.join("; ");
}

const WIDGETS = {
  bool(_facts, id, change) {
    const input = el("input", { type: "checkbox", id, onchange: change });
    return {
      node: input,
      value: () => input.checked,
      set: (value) => {
        input.checked = Boolean(value);
      },
    };
  },
  int: (facts, id, change, sliders) => numeric(facts, id, change, sliders, 1),
  float: (facts, id, change, sliders) => numeric(facts, id, change, sliders, "any"),
  choice(facts, id, change) {
    const options = facts.choices.map((word) =>
      el("option", { value: String(word) }, word === "" ? t("(none)") : String(word))
    );
    const input = el("select", { id, onchange: change }, options);
    return {
      node: input,
      value: () => facts.choices[input.selectedIndex],
      set: (value) => {
        input.value = String(value ?? facts.choices[0]);
      },
    };
  },
  choices(facts, id, change) {
    const boxes = facts.choices.map((word) =>
      el("input", { type: "checkbox", value: word, onchange: change })
    );
    const node = el(
      "div",
      { class: "row", role: "group", "aria-labelledby": `${id}-name`, id },
      boxes.map((box) => el("label", { class: "row" }, box, box.value)),
    );
    return {
      node,
      isGroup: true,
      value: () => boxes.filter((box) => box.checked).map((box) => box.value),
      set: (value) =>
        boxes.forEach((box) => {
          box.checked = (value || []).includes(box.value);
        }),
    };
  },
  list(_facts, id, change) {
    const input = el("textarea", { id, rows: 2, placeholder: t("one a line"), onchange: change });
    return {
      node: input,
      value: () => input.value.split("\n").map((line) => line.trim()).filter(Boolean),
      set: (value) => {
        input.value = (Array.isArray(value) ? value : value ? [value] : []).join("\n");
      },
    };
  },
  paths(facts, id, change) {
    const list = WIDGETS.list(facts, id, change);
    const add = (path) => {
      list.set([...list.value(), path]);
      change();
    };
    return { ...list, node: el("div", { class: "stack" }, list.node, pathButtons(facts, add)) };
  },
  path(facts, id, change) {
    const input = el("input", {
      type: "text",
      id,
      spellcheck: "false",
      autocomplete: "off",
      onchange: change,
    });
    const put = (path) => {
      input.value = path;
      change();
    };
    return {
      node: el("div", { class: "row" }, input, pathButtons(facts, put)),
      value: () => input.value.trim() || (facts.required ? EMPTY : ""),
      set: (value) => {
        input.value = value ?? "";
      },
    };
  },
  secret(_facts, id, change) {
    const input = el("input", {
      type: "text",
      id,
      placeholder: "env:NAME / file:PATH",
      autocomplete: "off",
      onchange: change,
    });
    return {
      node: input,
      value: () => input.value.trim() || EMPTY,
      set: (value) => {
        input.value = value ?? "";
      },
    };
  },
  table(_facts, id, change) {
    const input = el("textarea", {
      id,
      rows: 3,
      class: "mono",
      placeholder: "{}",
      onchange: change,
    });
    return {
      node: input,
      value: () => {
        try {
          return JSON.parse(input.value || "null") ?? EMPTY;
        } catch {
          return input.value;
        }
      },
      set: (value) => {
        input.value = value && Object.keys(value).length ? JSON.stringify(value) : "";
      },
    };
  },
};

function text(facts, id, change) {
  // a line break does not fit into one line: it would be lost
  const long = ["question", "prompt", "system", "text"].includes(facts.name) ||
    String(facts.default).includes("\n");
  const input = long
    ? el("textarea", { id, rows: 3, oninput: change })
    : el("input", { type: "text", id, spellcheck: "false", autocomplete: "off", onchange: change });
  return {
    node: input,
    value: () => (input.value.trim() === "" && facts.required ? EMPTY : input.value),
    set: (value) => {
      input.value = value ?? "";
    },
  };
}

/** A number with, where wanted, a slider: linear between limits, by powers of two without them. */
function numeric(facts, id, change, sliders, step) {
  const low = facts.ge ?? facts.gt, high = facts.le ?? facts.lt;
  const input = el("input", { type: "number", id, step, min: low ?? null, max: high ?? null });
  const read = () => {
    // the server refuses it; empty it would be the default
    if (input.validity.badInput) return "text";
    return input.value === "" ? EMPTY : Number(input.value);
  };
  const widget = {
    node: input,
    value: read,
    set: (value) => {
      input.value = value ?? "";
      slider?.follow();
    },
  };
  const slider = sliders ? makeSlider(facts, input, low, high, step) : null;
  input.addEventListener("input", () => {
    slider?.follow();
    change();
  });
  if (slider) {
    slider.node.addEventListener("input", () => {
      input.value = slider.read();
      change();
    });
    widget.node = el("div", { class: "row" }, input, slider.node);
  }
  return widget;
}

function makeSlider(facts, input, low, high, step) {
  const start = facts.default;
  if (high !== undefined && low !== undefined && high - low <= 10000) {
    const node = el("input", {
      type: "range",
      min: low,
      max: high,
      step: step === "any" ? (high - low) / 100 : 1,
      "aria-label": facts.name,
    });
    return {
      node,
      read: () => node.value,
      follow: () => {
        node.value = input.value || start || low;
      },
    };
  }
  if (step !== 1 || (typeof start !== "number" && start !== null) || start < 0) return null;
  // by powers of two: memory is a matter of doublings
  const least = Math.max(low ?? 1, 1);
  const bottom = Math.floor(Math.log2(least));
  const top = Math.ceil(Math.log2(Math.min(high ?? Infinity, Math.max(start || 1, 16) * 64)));
  const node = el("input", {
    type: "range",
    min: bottom,
    max: top,
    step: 1,
    "aria-label": facts.name,
  });
  return {
    node,
    read: () => String(Math.min(Math.max(2 ** Number(node.value), least), high ?? Infinity)),
    follow: () => {
      node.value = Math.log2(Math.max(Number(input.value) || start || 1, 1));
    },
  };
}

function pathButtons(facts, put) {
  const isFolder = Boolean(facts.folder);
  const picker = el("input", {
    type: "file",
    multiple: true,
    hidden: true,
    tabindex: "-1",
    "aria-hidden": "true",
  });
  if (isFolder) picker.webkitdirectory = true;
  const progress = el("span", { class: "help", role: "status" });
  picker.addEventListener("change", async () => {
    if (!picker.files.length) return;
    const files = [...picker.files];
    picker.value = ""; // the same name once more is a change too: the file may be mended
    const path = await uploadInto(files, (share) => {
      progress.textContent = t("sent {percent} %", { percent: Math.round(share * 100) });
    });
    progress.textContent = "";
    if (path) put(path);
  });
  return [
    el("button", {
      type: "button",
      onclick: async () => {
        const path = await choose({ folder: isFolder });
        if (path) put(path);
      },
    }, t("Browse …")),
    el("button", { type: "button", onclick: () => picker.click() }, t("Upload …")),
    picker,
    progress,
  ];
}
