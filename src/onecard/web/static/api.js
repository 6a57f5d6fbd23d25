// The JSON API, elements, messages and numbers: what every page's script uses.

const catalog = (await import(document.body.dataset.catalog)).default;
export const language = document.documentElement.lang;

/** A message in the page's language; {name} is filled in from values. */
export function t(message, values = {}) {
  const text = catalog[message] || message;
  return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
}

/** What the server refused: what, why and fix. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error.what);
    Object.assign(this, { status, what: error.what, why: error.why || "", fix: error.fix || "" });
  }
}

const csrf = document.querySelector('meta[name="csrf"]').content;

/** Headers of every request that changes something. */
export function headers(more = {}) {
  return { "X-CSRF-Token": csrf, Accept: "application/json", ...more };
}

/** Call the API. Throws Refusal; a server that is away is one too. */
export async function call(method, path, body, { signal } = {}) {
  const options = { method, headers: headers(), signal, credentials: "same-origin" };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let reply;
  try {
    reply = await fetch(`/api${path}`, options);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    away(true);
    throw new Refusal(0, {
      what: t("The server does not answer."),
      why: t("It was stopped, or this machine slept."),
      fix: t("Start onecard ui again: running jobs go on without it."),
    });
  }
  away(false);
  if (!reply.ok) throw await refusal(reply);
  return reply.status === 204 ? null : reply.json();
}

let answered = new Date();

/** While the server is away the page says so: what it shows is old, a "running" too. */
function away(isAway) {
  const notice = $("#away");
  if (!isAway) {
    answered = new Date();
    notice?.remove();
    return;
  }
  if (notice) return;
  document.body.append(
    el(
      "div",
      { id: "away", class: "notice", role: "alert" },
      t("The server does not answer: what stands here is of {time}.", {
        time: answered.toLocaleTimeString(language),
      }),
    ),
  );
}

export async function refusal(reply) {
  let error = { what: `${reply.status} ${reply.statusText}` };
  try {
    const data = await reply.json();
    if (typeof data.error === "object") {
      error = data.error.what ? data.error : { what: data.error.message };
    }
  } catch { /* no JSON: the status says it */ }
  if (reply.status === 401) location.href = "/login";
  return new Refusal(reply.status, error);
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body = {}, options) => call("POST", path, body, options);

/** An element: el("a", {href, class, onclick}, "text", child ...). Text is never HTML. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (["value", "checked", "disabled", "selected", "indeterminate"].includes(name)) {
      node[name] = value;
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(
    ...children.flat(Infinity).filter((child) =>
      child !== null && child !== undefined && child !== false
    ),
  );
  return node;
}

export const $ = (selector, root = document) => root.querySelector(selector);

/** Put children in the place of what a node holds. */
export function fill(node, ...children) {
  node.replaceChildren(
    ...children.flat(Infinity).filter((child) =>
      child !== null && child !== undefined && child !== false
    ),
  );
  return node;
}

/** A refusal as a block: what, why, fix. */
export function faultBlock(fault) {
  return el(
    "div",
    { class: "fault", role: "alert" },
    el("strong", {}, fault.what || fault.message || String(fault)),
    fault.why ? el("p", {}, el("b", {}, `${t("why")}: `), fault.why) : null,
    fault.fix ? el("p", {}, el("b", {}, `${t("fix")}: `), fault.fix) : null,
  );
}

/** A message at the edge of the page; an action as {text, run} adds a button. */
export function toast(content, action = null) {
  const node = el(
    "div",
    { class: "toast" },
    content instanceof Node
      ? content
      : typeof content === "string"
      ? el("span", {}, content)
      : faultBlock(content),
  );
  const close = () => node.remove();
  if (action) {
    node.append(el("button", {
      type: "button",
      onclick: () => {
        close();
        action.run();
      },
    }, action.text));
  }
  node.append(
    el(
      "button",
      { type: "button", class: "quiet", "aria-label": t("Close"), onclick: close },
      "×",
    ),
  );
  $("#toasts").append(node);
  if (typeof content === "string") setTimeout(close, 10000);
  return node;
}

/** Run async work for a button: disabled meanwhile, a refusal becomes a toast. */
export function action(work) {
  return async (event) => {
    const button = event?.currentTarget;
    event?.preventDefault?.();
    const isButton = button instanceof HTMLButtonElement;
    if (isButton) button.disabled = true;
    try {
      await work(event);
    } catch (fault) {
      if (fault.name !== "AbortError") toast(fault);
    } finally {
      if (isButton) button.disabled = false;
    }
  };
}

/** Call `work` every `ms` while the page is visible, at once when it becomes so, until it returns
 * false. */
export function poll(ms, work) {
  let timer = null, ended = false, busy = false;
  const step = async () => {
    clearTimeout(timer);
    if (ended || busy || document.hidden) return;
    busy = true;
    try {
      if ((await work()) === false) ended = true;
    } catch { /* the server is away: the next look tells */ }
    busy = false;
    if (!ended) timer = setTimeout(step, ms);
  };
  document.addEventListener("visibilitychange", step);
  step();
  return {
    now: step,
    stop: () => {
      ended = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", step);
    },
  };
}

/** Endings of pictures among what an item can show. */
export const PICTURES = /^\.(png|jpe?g|webp|gif|bmp)$/;

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (Math.abs(n) >= 1024 && i < units.length - 1) {
    n /= 1024;
    i += 1;
  }
  return `${i < 2 ? Math.round(n) : n.toFixed(i === 2 ? 0 : 2)} ${units[i]}`;
}

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value)) return value.toLocaleString(language);
  if (size !== 0 && (size < 0.001 || size >= 1e7)) return value.toExponential(2);
  return value.toFixed(size < 10 ? 3 : size < 100 ? 2 : 1);
}

export function when(text) {
  const date = new Date(text.replace(/([+-]\d\d)(\d\d)$/, "$1:$2"));
  return Number.isNaN(date.getTime())
    ? text
    : date.toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}

/** A status as a badge, in the page's language. */
export function badge(status) {
  const words = {
    queued: t("queued"),
    running: t("running"),
    done: t("done"),
    failed: t("failed"),
    stopped: t("stopped"),
    killed: t("killed"),
    cancelled: t("cancelled"),
    unknown: t("unknown"),
  };
  return el("span", { class: `badge ${status}` }, words[status] || status);
}

const LONG = 40, LONGEST = 2000;

/** A long text in a cell breaks anywhere, so that one word does not push the columns away. */
function wrapped(cell) {
  if (typeof cell !== "string" || cell.length < LONG) return cell;
  const text = cell.length > LONGEST ? `${cell.slice(0, LONGEST)} …` : cell;
  return el("div", { class: "wrap" }, text);
}

/** A table: head texts and rows of cells (texts or nodes). */
export function table(head, rows, { caption = "" } = {}) {
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption || head.join(", ") },
    el(
      "table",
      {},
      caption ? el("caption", {}, caption) : null,
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
      el(
        "tbody",
        {},
        rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, wrapped(cell ?? ""))))),
      ),
    ),
  );
}

/** Copy a text; where the clipboard is closed to the page, show it to be copied. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast(t("Copied."));
  } catch {
    toast(el("code", { class: "copy" }, text));
  }
}

/** A question before something that cannot be undone. */
export function confirmed(question, yes) {
  return new Promise((resolve) => {
    const dialog = el(
      "dialog",
      { "aria-label": question },
      el("p", {}, question),
      el(
        "div",
        { class: "row end" },
        el("button", { type: "button", onclick: () => dialog.close("no") }, t("Cancel")),
        el("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, yes),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
