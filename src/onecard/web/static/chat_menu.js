// The menus of the chat page and the list beside it, which a button opens and closes.

import { $, action, call, el, post, t, toast } from "./api.js";

for (const menu of document.querySelectorAll(".menu")) {
  const button = document.querySelector(`[popovertarget=${menu.id}]`);
  menu.addEventListener("toggle", (event) => {
    if (event.newState !== "open") return;
    const box = button.getBoundingClientRect();
    menu.style.top = `${box.bottom + 4}px`;
    menu.style.left = `${
      Math.max(8, Math.min(box.right - menu.offsetWidth, innerWidth - menu.offsetWidth - 8))
    }px`;
    menu.querySelector("button, a")?.focus();
  });
  menu.addEventListener("click", (event) => {
    if (event.target.matches("a")) menu.hidePopover();
  });
}
const fromMenu = (menu, work) =>
  action(async (event) => {
    $(menu).hidePopover();
    await work(event);
  });

/** `page`: chat(), save, refresh, begin, open, chats. */
export function menus(page) {
  $("#rename").addEventListener(
    "click",
    fromMenu("#chat-menu", async () => {
      const title = await asked(t("Title"), page.chat().title);
      if (title === null) return;
      await page.save({ title });
      await page.refresh();
    }),
  );
  $("#archive").addEventListener(
    "click",
    fromMenu("#chat-menu", async () => {
      const { id, archived } = page.chat();
      await page.save({ archived: !archived });
      await page.refresh();
      toast(
        archived
          ? t("The conversation is in the list again.")
          : t("The conversation is in the archive."),
        {
          text: t("Undo"),
          run: () => call("PATCH", `/chats/${id}`, { archived }).then(page.refresh).catch(toast),
        },
      );
    }),
  );
  $("#delete").addEventListener(
    "click",
    fromMenu("#chat-menu", async () => {
      const { id } = page.chat();
      await call("DELETE", `/chats/${id}`);
      page.begin();
      await page.chats.load();
      toast(t("The conversation is deleted."), {
        text: t("Undo"),
        run: () =>
          post(`/chats/${id}/restore`).then(() => page.open(id)).then(() => page.chats.load())
            .catch(toast),
      });
    }),
  );
  $("#import").addEventListener("click", () => {
    $("#all-menu").hidePopover();
    $("#import-input").click();
  });
  $("#import-input").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) await importFile(page, file).catch(toast);
  });
}

/** Each conversation of a file by itself: a request holds 32 MiB. */
async function importFile({ chats, open }, file) {
  let data = null;
  try {
    data = JSON.parse(await file.text());
  } catch { /* the server tells what is wrong */ }
  const rows = Array.isArray(data?.chats) ? data.chats : [data];
  let last = "";
  for (const row of rows) {
    const reply = await call(
      "POST",
      "/chats/import",
      new Blob([row === null ? await file.text() : JSON.stringify(row)]),
    );
    last = reply.chats.at(-1)?.id || last;
  }
  await chats.load();
  toast(t("{n} conversations are imported.", { n: rows.length }));
  if (last) await open(last);
}

/** A text that a person types; null where they do not. */
function asked(label, value) {
  return new Promise((resolve) => {
    const field = el("input", { type: "text", id: "asked", value, maxlength: "200" });
    const dialog = el(
      "dialog",
      { "aria-label": label },
      el(
        "form",
        { method: "dialog", class: "stack" },
        el("label", { for: "asked" }, label),
        field,
        el(
          "div",
          { class: "row end" },
          el("button", { type: "button", onclick: () => dialog.close() }, t("Cancel")),
          el("button", { type: "submit", class: "primary", value: "yes" }, t("Save")),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? field.value.trim() : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  });
}

$("#side-button").addEventListener("click", () => {
  const narrow = matchMedia("(max-width: 48rem)").matches;
  const root = $("#chat");
  root.classList.toggle(narrow ? "side-open" : "side-closed");
  const shown = narrow
    ? root.classList.contains("side-open")
    : !root.classList.contains("side-closed");
  $("#side-button").setAttribute("aria-expanded", String(shown));
  if (narrow && shown) $("#search").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("#chat").classList.contains("side-open")) {
    $("#side-button").click();
  }
});
$("#chat-main").addEventListener("click", (event) => {
  if (!event.target.closest("#side-button")) $("#chat").classList.remove("side-open");
});
