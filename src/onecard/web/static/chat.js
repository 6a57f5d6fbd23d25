// The chat page: one conversation, its list, its answers as they come.

import { $, bytes, call, copy, el, fill, get, poll, post, t, toast } from "./api.js";
import { Composer } from "./chat_composer.js";
import { ChatList } from "./chat_list.js";
import { menus } from "./chat_menu.js";
import { MessageView, parts } from "./chat_message.js";
import { remembered, Settings } from "./chat_settings.js";
import { Stream } from "./chat_stream.js";

const PAGE = 100;
const NEAR_PX = 60;
const thread = $("#thread"), list = $("#messages");

let chat = null; // the conversation's facts; null before its first message
let draft = {}; // those of a conversation that does not exist yet
let views = []; // of the messages on the page, the oldest first
let more = false; // older messages are on the server
let stream = null; // the answer that is being made
let stick = true; // the end of the thread is kept in sight
let loading = 0; // number of the last loading: an older one that comes late is dropped

const facts = () => chat || draft;

// Scrolling

thread.addEventListener("scroll", () => {
  stick = thread.scrollHeight - thread.scrollTop - thread.clientHeight < NEAR_PX;
  $("#to-end").hidden = stick;
}, { passive: true });
const toEnd = () => {
  thread.scrollTop = thread.scrollHeight;
};
new ResizeObserver(() => {
  if (stick) toEnd();
}).observe(list);
$("#to-end").addEventListener("click", () => {
  stick = true;
  toEnd();
  $("#question").focus();
});
new IntersectionObserver((entries) => {
  if (entries[0].isIntersecting) older();
}, { root: thread, rootMargin: "600px 0px 0px 0px" }).observe($("#older"));
$("#older-button").addEventListener("click", () => older());

let busyWithOlder = false;
async function older() {
  if (!more || busyWithOlder || !views.length) return false;
  busyWithOlder = true;
  const turn = loading;
  try {
    const data = await get(
      `/chats/${chat.id}/messages?before=${views[0].message.id}&limit=${PAGE}`,
    );
    if (turn !== loading) return false;
    const first = views[0].node, top = first.getBoundingClientRect().top;
    const added = data.messages.map(viewOf);
    first.before(...added.map((view) => view.node));
    views = [...added, ...views];
    more = data.more;
    $("#older").hidden = !more;
    thread.scrollTop += first.getBoundingClientRect().top - top;
    return added.length > 0;
  } catch (fault) {
    toast(fault);
    return false;
  } finally {
    busyWithOlder = false;
  }
}

// Messages

const viewOf = (message) => new MessageView(message, chat.id, act);

function show(messages) {
  views = messages.map(viewOf);
  markLast();
  fill(list, views.map((view) => view.node));
}

function markLast() {
  views.forEach((view, i) => {
    const isLast = i === views.length - 1;
    if (view.isLast !== isLast) {
      view.isLast = isLast;
      view.drawFoot();
    }
  });
}

/** Read the shown branch anew; what has not changed keeps its node. */
async function reload() {
  const turn = ++loading;
  const data = await get(`/chats/${chat.id}/messages?limit=${PAGE}`);
  if (turn !== loading) return;
  const known = new Map(views.map((view) => [view.message.id, view]));
  views = data.messages.map((message) => {
    const view = known.get(message.id);
    if (!view) return viewOf(message);
    const same = ["status", "content", "html"].every((name) =>
      view.message[name] === message[name]
    );
    view.message = message;
    if (same) view.drawFoot();
    else view.draw();
    return view;
  });
  more = data.more;
  $("#older").hidden = !more;
  list.replaceChildren(...views.map((view) => view.node));
  markLast();
  watchLast();
}

/** Put messages at the end, after a message (0: at the beginning). */
async function append(after, ...messages) {
  const at = views.findIndex((view) => view.message.id === after);
  if (after && at < 0) return reload(); // it is above what the page has
  for (const view of views.slice(at + 1)) view.node.remove();
  views = views.slice(0, at + 1);
  for (const message of messages) {
    const view = viewOf(message);
    views.push(view);
    list.append(view.node);
  }
  $("#welcome").hidden = true;
  markLast();
  stick = true;
  toEnd();
  watchLast();
  return null;
}

// The answer that is being made

function watch(view) {
  stream?.close();
  if (!view || view.message.status !== "streaming") {
    composer.answering(false);
    return;
  }
  stream = new Stream(chat.id, view, {
    done: (state) => {
      announce(state === "complete" ? t("The answer is complete.") : t("The answer has ended."));
      serverStatus();
      refresh();
    },
    lost: () => reload().catch(toast),
    closed: (closed) => {
      if (stream === closed) stream = null;
      composer.answering(false);
    },
  });
  view.progress("starting", "");
  composer.answering(true);
}

function watchLast() {
  const last = views[views.length - 1];
  if (stream && last && stream.view === last && last.message.status === "streaming") return;
  watch(last);
}

function announce(text) {
  $("#announcer").textContent = text;
}

// Asking

async function send({ text, pictures }) {
  if (stream) return;
  if (!chat) {
    const { service, model, system, settings } = draft;
    chat = await post("/chats", { service, model, system, settings });
    history.replaceState({}, "", `/chat?id=${chat.id}`);
    composer.draftKey = `draft-${chat.id}`;
    try {
      localStorage.removeItem("draft-new");
    } catch { /* storage is off */ }
  }
  const ids = [];
  for (const row of pictures) {
    row.id ||= (await call("POST", `/chats/${chat.id}/pictures`, row.file)).id;
    ids.push(row.id);
  }
  const reply = await post(`/chats/${chat.id}/messages`, { content: text, pictures: ids });
  await append(reply.question.parent, reply.question, reply.answer);
  announce(t("The answer is being written."));
  refresh();
}

async function stop() {
  if (!stream) return;
  const { message } = stream.view;
  await post(`/chats/${chat.id}/messages/${message.id}/stop`);
}

const ACTIONS = {
  copy: ({ message }) =>
    copy(message.role === "assistant" ? parts(message.content).answer : message.content),
  edit: (view) =>
    view.edit(async (content) => {
      const reply = await post(`${path(view)}/edit`, { content });
      await append(view.message.parent, reply.question, reply.answer);
    }),
  regenerate: async (view) => {
    const { answer } = await post(`${path(view)}/regenerate`);
    await append(view.message.parent, answer);
  },
  continue: async (view) => {
    const { answer } = await post(`${path(view)}/continue`);
    view.message = { ...answer, status: "streaming" };
    fill(view.notes);
    view.draw();
    watch(view);
  },
  previous: (view) => step(view, -1),
  next: (view) => step(view, 1),
  delete: async (view) => {
    await call("DELETE", path(view));
    await reload();
    const { id } = chat, back = view.message.id;
    toast(t("The message and what follows it are deleted."), {
      text: t("Undo"),
      run: () =>
        post(`/chats/${id}/messages/${back}/restore`).then(
          () => (chat?.id === id ? reload() : null),
        ).catch(toast),
    });
    await refresh();
    $("#question").focus();
  },
};
const path = (view) => `/chats/${chat.id}/messages/${view.message.id}`;

async function act(name, view) {
  if (stream && name !== "copy") {
    toast(t("An answer is being made: wait, or stop it."));
    return;
  }
  try {
    await ACTIONS[name](view);
  } catch (fault) {
    toast(fault);
  }
}

async function step(view, by) {
  const { siblings, id } = view.message, other = siblings[siblings.indexOf(id) + by];
  if (!other) return;
  const top = view.node.getBoundingClientRect().top;
  chat = await post(`/chats/${chat.id}/messages/${other}/select`);
  stick = false;
  await reload();
  const shown = views.find((each) => each.message.id === other);
  if (!shown) return;
  thread.scrollTop += shown.node.getBoundingClientRect().top - top;
  shown.node.querySelector(`[data-act=${by < 0 ? "previous" : "next"}]:not(:disabled)`)?.focus();
}

// A conversation

async function open(id, { push = true, message = 0 } = {}) {
  const turn = ++loading;
  stream?.close();
  $("#chat").classList.remove("side-open");
  try {
    if (message) await post(`/chats/${id}/messages/${message}/select`);
    const [row, data] = await Promise.all([
      get(`/chats/${id}`),
      get(`/chats/${id}/messages?limit=${PAGE}`),
    ]);
    if (turn !== loading) return;
    chat = row;
    more = data.more;
    show(data.messages);
  } catch (fault) {
    toast(fault);
    if (fault.status === 404) begin({ push });
    return;
  }
  if (push) history.pushState({}, "", `/chat?id=${id}`);
  $("#older").hidden = !more;
  drawHead();
  drawWelcome();
  composer.load(`draft-${id}`);
  stick = !message;
  if (message) await showMessage(message);
  else toEnd();
  watchLast();
  serverStatus();
}

async function showMessage(id) {
  for (let i = 0; i < 50 && !views.some((view) => view.message.id === id); i += 1) {
    if (!(await older())) break;
  }
  const view = views.find((each) => each.message.id === id);
  view?.node.scrollIntoView({ block: "center" });
  view?.node.focus({ preventScroll: true });
}

/** A new one, which is made with its first message. */
function begin({ push = true } = {}) {
  loading += 1;
  stream?.close();
  chat = null;
  const kept = remembered();
  draft = {
    title: "",
    system: "",
    service: kept.service === "vision" ? "vision" : "chat",
    model: kept.model || "auto",
    settings: { ...defaults, ...kept.settings },
  };
  views = [];
  more = false;
  fill(list);
  $("#older").hidden = true;
  $("#chat").classList.remove("side-open");
  if (push) history.pushState({}, "", "/chat");
  drawHead();
  drawWelcome();
  composer.load("draft-new");
  composer.answering(false);
  $("#server").textContent = "";
  $("#question").focus();
}

function drawHead() {
  const title = facts().title || t("New conversation");
  $("#chat-title").textContent = title;
  $("#chat-title").title = title;
  document.title = `${title} · onecard`;
  $("#chat-button").hidden = !chat;
  $("#archive").textContent = chat?.archived ? t("Take out of the archive") : t("Archive");
  if (chat) {
    $("#export-md").href = `/api/chats/${chat.id}/export?form=md`;
    $("#export-json").href = `/api/chats/${chat.id}/export?form=json`;
  }
  settings.draw();
  const used = views.findLast((view) =>
    view.message.role === "assistant" && view.message.status === "complete"
  )?.message.model;
  if (facts().model === "auto" && used && used !== "auto") {
    $("#model-name").textContent = `auto: ${used}`;
  }
  chats.mark(chat ? chat.id : "");
}

function drawWelcome() {
  const node = $("#welcome");
  node.hidden = views.length > 0;
  if (node.hidden || node.firstChild) return;
  const ideas = [
    t("Explain in three sentences what quantization does to a language model."),
    t("Write a Python function that finds the longest line of a file."),
    t("Make a table of three fruits with their colours."),
  ];
  fill(
    node,
    el("h2", {}, t("What shall we talk about?")),
    el(
      "p",
      { class: "help" },
      t("The model runs on this machine: nothing that you write leaves it."),
    ),
    el(
      "div",
      { class: "row" },
      ideas.map((text) =>
        el("button", {
          type: "button",
          class: "suggestion",
          onclick: () => {
            $("#question").value = "";
            composer.insert(text);
          },
        }, text)
      ),
    ),
  );
}

async function save(changes) {
  if (!chat) {
    draft = { ...draft, ...changes };
    return;
  }
  chat = await call("PATCH", `/chats/${chat.id}`, changes);
  chat.settings = { ...defaults, ...chat.settings };
  serverStatus();
}

/** The conversation's facts and the list, after a change of ours. */
async function refresh() {
  try {
    const id = chat?.id;
    if (id) {
      const row = await get(`/chats/${id}`);
      if (chat?.id === id) {
        chat = row;
        drawHead();
      }
    }
    await chats.load();
  } catch { /* the next look tells */ }
}

async function serverStatus() {
  const id = chat?.id;
  if (!id) return;
  try {
    const row = await get(`/chats/${id}/server`);
    if (chat?.id !== id) return;
    const words = { none: t("not loaded"), loading: t("loading"), ready: t("ready") };
    const memory = row.bytes ? ` · ${bytes(row.bytes)}` : "";
    $("#server").textContent = `${words[row.status]}${memory}`;
    $("#server").title = row.planned_bytes
      ? t("planned: {n} for the model", { n: bytes(row.planned_bytes) })
      : "";
  } catch { /* told elsewhere */ }
}

$("#new-chat").addEventListener("click", () => begin());

// The start

const defaults = await get("/chats/settings").catch(() => ({
  temperature: 0.7,
  top_p: 0.95,
  max_tokens: 1024,
  seed: null,
  n_ctx: 4096,
}));
draft = { title: "", system: "", service: "chat", model: "auto", settings: defaults };
const chats = new ChatList((id, message) => open(id, { message }));
const settings = new Settings(facts, save);
const composer = new Composer({
  send,
  stop,
  sees: () => facts().service === "vision",
  offerVision: async () => {
    await save({ service: "vision", model: "auto" });
    settings.draw();
  },
});

menus({ chat: () => chat, save, refresh, begin, open, chats });

function fromAddress(push) {
  const words = new URLSearchParams(location.search), id = words.get("id") || "";
  if (/^[0-9a-f]{16}$/.test(id)) return open(id, { push });
  begin({ push });
  const question = words.get("q");
  if (question) $("#question").value = question.slice(0, 10000);
  const model = words.get("model");
  if (model) {
    return save({
      model: model.slice(0, 4096),
      service: words.get("service") === "vision" ? "vision" : "chat",
    }).then(() => settings.draw());
  }
  return null;
}
addEventListener("popstate", () => fromAddress(false));
if (matchMedia("(max-width: 48rem)").matches) {
  $("#side-button").setAttribute("aria-expanded", "false");
}
await Promise.all([fromAddress(false), chats.load()]);
document.body.dataset.ready = "chat";

// What another tab or another server changed
poll(4000, async () => {
  if (!chat || stream || $(".editing")) return;
  const { id } = chat, row = await get(`/chats/${id}`);
  if (chat?.id !== id || stream || row.updated === chat.updated) return;
  chat = row;
  drawHead();
  await reload();
  await chats.load();
});
poll(15000, serverStatus);
