// One message of a conversation: its text, its state, what can be done with it.

import { bytes, copy, el, faultBlock, fill, language, t } from "./api.js";

/** The text of an answer as {thinking, answer}: thoughts stand in <think> at its beginning. */
export function parts(text) {
  const begin = /^\s*<think>\n?/.exec(text);
  if (!begin) return { thinking: "", answer: text };
  const end = text.indexOf("</think>");
  if (end < 0) return { thinking: text.slice(begin[0].length), answer: "" };
  return {
    thinking: text.slice(begin[0].length, end).trim(),
    answer: text.slice(end + 8).trimStart(),
  };
}

/** HTML that the server has sanitised, put in place of what differs: what is selected stays. */
class Prose {
  constructor() {
    this.node = el("div", { class: "prose" });
    this.sources = [];
  }

  show(html) {
    const template = document.createElement("template");
    template.innerHTML = html; // the only place: HTML of web/markdown.py and nothing else
    const fresh = [...template.content.children];
    let same = 0;
    while (
      same < fresh.length && same < this.sources.length &&
      fresh[same].outerHTML === this.sources[same]
    ) same += 1;
    while (this.node.children.length > same) this.node.lastElementChild.remove();
    this.sources.length = same;
    for (const child of fresh.slice(same)) {
      this.sources.push(child.outerHTML);
      this.node.append(decorated(child));
    }
  }
}

/** Code with its language and a copy button; tables that scroll by themselves. */
function decorated(child) {
  const holder = el("div", {}, child);
  for (const pre of holder.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const name = (code?.className || "").replace("language-", "");
    pre.tabIndex = 0;
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", name ? t("Code: {language}", { language: name }) : t("Code"));
    const box = el("div", { class: "code-box" });
    pre.replaceWith(box);
    box.append(
      el(
        "div",
        { class: "code-head" },
        el("span", {}, name || t("text")),
        el("button", { type: "button", onclick: () => copy(pre.textContent) }, t("Copy")),
      ),
      pre,
    );
  }
  for (const table of holder.querySelectorAll("table")) {
    const scroll = el("div", {
      class: "scroll",
      tabindex: "0",
      role: "region",
      "aria-label": t("Table"),
    });
    table.replaceWith(scroll);
    scroll.append(table);
  }
  return holder.firstElementChild;
}

const rate = (value) => value.toLocaleString(language, { maximumFractionDigits: 1 });

function statsText(message) {
  const stats = message.stats || {}, words = [];
  if (message.model) words.push(message.model);
  if (stats.tokens) words.push(t("{n} tokens", { n: stats.tokens.toLocaleString(language) }));
  if (stats.tokens_per_s) words.push(t("{n} tokens/s", { n: rate(stats.tokens_per_s) }));
  if (stats.first_token_s) {
    words.push(
      t("first token after {n} s", {
        n: stats.first_token_s.toLocaleString(language, { maximumFractionDigits: 2 }),
      }),
    );
  }
  if (stats.memory_bytes) words.push(t("{n} of memory", { n: bytes(stats.memory_bytes) }));
  return words.join(" · ");
}

/** A message on the page. `act(name, view)` carries out what its buttons ask for. */
export class MessageView {
  constructor(message, chat, act) {
    this.message = message;
    this.act = act;
    this.prose = message.role === "assistant" ? new Prose() : null;
    this.who = el("p", { class: "who" });
    this.plain = el("div", { class: "plain" });
    this.thought = el("div", { class: "thought" });
    this.thinking = el(
      "details",
      { class: "thinking", hidden: true },
      el("summary", {}, t("Thoughts")),
      this.thought,
    );
    this.pictures = el(
      "div",
      { class: "pictures" },
      message.pictures.map((name) => {
        const address = `/api/chats/${chat}/pictures/${name}`;
        return el(
          "a",
          { href: address, target: "_blank" },
          el("img", { src: address, alt: t("A picture that you sent"), loading: "lazy" }),
        );
      }),
    );
    this.state = el("div", { class: "state", hidden: true });
    this.notes = el("div", {});
    this.foot = el("div", { class: "foot" });
    this.body = el(
      "div",
      { class: "body" },
      message.pictures.length ? this.pictures : null,
      this.thinking,
      this.prose ? this.prose.node : this.plain,
      this.state,
    );
    this.node = el(
      "li",
      { class: `message ${message.role}`, tabindex: "-1" },
      this.who,
      this.body,
      this.notes,
      this.foot,
    );
    this.draw();
  }

  /** Everything from the message's facts. */
  draw(isLast = this.isLast) {
    this.isLast = isLast;
    const message = this.message, streams = message.status === "streaming";
    this.node.classList.toggle("live", streams);
    this.who.textContent = message.role === "user" ? t("You") : message.model || t("Answer");
    this.drawText(message.content, message.html);
    if (!streams) {
      this.state.hidden = true;
      this.stopClock();
      this.drawNotes();
    }
    this.drawFoot();
  }

  drawText(text, html) {
    if (!this.prose) {
      if (this.plain.textContent !== text) this.plain.textContent = text;
      return;
    }
    this.prose.show(html);
    const { thinking, answer } = parts(text);
    this.thinking.hidden = !thinking;
    if (thinking) this.thought.textContent = thinking;
    if (this.message.status === "streaming") this.thinking.open = Boolean(thinking) && !answer;
  }

  drawNotes() {
    const message = this.message, stats = message.stats || {}, nodes = [];
    if (stats.left_out) {
      nodes.push(
        el(
          "p",
          { class: "help" },
          t(
            "The {n} oldest messages were left out: the conversation is longer than the " +
              "model's context of {tokens} tokens.",
            { n: stats.left_out, tokens: (stats.n_ctx || 0).toLocaleString(language) },
          ),
        ),
      );
    }
    if (message.status === "failed") {
      nodes.push(faultBlock(message.error || { what: t("The answer failed.") }));
    }
    if (message.status === "complete" && message.role === "assistant" && !message.content.trim()) {
      nodes.push(el("p", { class: "help" }, t("The model answered nothing.")));
    }
    if (message.status === "stopped") {
      nodes.push(el("p", { class: "help" }, t("Stopped. What was written is kept.")));
    } else if (stats.finish === "length" && message.role === "assistant") {
      nodes.push(
        el("p", { class: "help" }, t("Cut at the longest answer or at the end of the context.")),
      );
    }
    fill(this.notes, nodes);
  }

  /** What a running answer is doing. */
  progress(state, note) {
    const words = {
      starting: t("Starting …"),
      loading: t("The model is loading …"),
      waiting: t("Waiting for the first word …"),
      writing: "",
    };
    const shown = state in words && (state !== "writing" || !this.message.content);
    this.state.hidden = !shown;
    if (!shown) {
      this.stopClock();
      return;
    }
    if (!this.state.firstChild) {
      this.state.append(
        el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
        el("span"),
        el("span", { class: "seconds" }),
        el("span", { class: "log-line" }),
      );
    }
    const [, text, , line] = this.state.children;
    if (text.textContent !== words[state]) text.textContent = words[state];
    if (line.textContent !== note) line.textContent = note;
    this.startClock();
  }

  /** A clock and no animation: sixty frames a second would slow a model on the processor. */
  startClock() {
    if (this.clock) return;
    const begin = performance.now();
    this.clock = setInterval(() => {
      if (!this.node.isConnected) {
        this.stopClock();
        return;
      }
      const seconds = Math.round((performance.now() - begin) / 1000);
      const [dots, , clock] = this.state.children;
      dots.dataset.at = String(seconds % 3);
      clock.textContent = seconds > 2 ? t("{n} s", { n: seconds }) : "";
    }, 1000);
  }

  stopClock() {
    clearInterval(this.clock);
    this.clock = null;
  }

  button(name, text, label = text) {
    return el("button", {
      type: "button",
      "aria-label": label,
      "data-act": name,
      onclick: () => this.act(name, this),
    }, text);
  }

  drawFoot() {
    const message = this.message, streams = message.status === "streaming";
    const nodes = [];
    if (message.siblings.length > 1) {
      const at = message.siblings.indexOf(message.id), n = message.siblings.length;
      const previous = this.button("previous", "‹", t("Previous version"));
      const next = this.button("next", "›", t("Next version"));
      previous.disabled = at <= 0 || streams;
      next.disabled = at >= n - 1 || streams;
      nodes.push(el("span", { class: "branch" }, previous, el("span", {}, `${at + 1}/${n}`), next));
    }
    if (!streams) {
      const actions = [this.button("copy", t("Copy"))];
      if (message.role === "user") actions.push(this.button("edit", t("Edit")));
      else {
        actions.push(this.button("regenerate", t("Answer again")));
        const cut = message.status !== "complete" || (message.stats || {}).finish === "length";
        if (this.isLast && cut && message.content) {
          actions.push(this.button("continue", t("Go on")));
        }
      }
      actions.push(this.button("delete", t("Delete")));
      nodes.push(el("span", { class: "actions" }, actions));
      if (message.role === "assistant") {
        nodes.push(el("span", { class: "stats" }, statsText(message)));
      }
    }
    fill(this.foot, nodes);
  }

  /** A text field in place of the question. `send(text)` is awaited. */
  edit(send) {
    if (this.node.classList.contains("editing")) return;
    const field = el("textarea", {
      rows: String(Math.min(12, this.message.content.split("\n").length + 1)),
      "aria-label": t("Your message"),
      value: this.message.content,
    });
    const close = () => {
      this.node.classList.remove("editing");
      form.replaceWith(this.plain);
      this.foot.hidden = false;
    };
    const submit = async (event) => {
      event?.preventDefault();
      try {
        await send(field.value);
      } catch (fault) {
        fill(problem, faultBlock(fault));
        return;
      }
      close();
    };
    const problem = el("div", {});
    const form = el(
      "form",
      { class: "stack", onsubmit: submit },
      field,
      problem,
      el(
        "div",
        { class: "row end" },
        el("button", { type: "button", onclick: close }, t("Cancel")),
        el("button", { type: "submit", class: "primary" }, t("Send")),
      ),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (
        event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === field
      ) submit(event);
    });
    this.node.classList.add("editing");
    this.foot.hidden = true;
    this.plain.replaceWith(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
