// Files of the server's machine: a dialog to choose one, and uploads in pieces.

import { call, el, faultBlock, fill, get, post, t, toast } from "./api.js";

/** A dialog over the folders that the page may use; the chosen path, or null. */
export function choose({ folder = false } = {}) {
  return new Promise((resolve) => {
    const where = el("p", { class: "mono" });
    const list = el("ul", { class: "files" });
    const take = el("button", {
      type: "button",
      class: "primary",
      onclick: () => dialog.close(current),
    }, t("Use this folder"));
    const dialog = el(
      "dialog",
      { class: "chooser", "aria-label": t("Choose a file or folder") },
      el("h2", {}, folder ? t("Choose a folder") : t("Choose a file or folder")),
      where,
      list,
      el(
        "div",
        { class: "row end" },
        el("button", { type: "button", onclick: () => dialog.close("") }, t("Cancel")),
        take,
      ),
    );
    let current = "";
    const open = async (path) => {
      try {
        const data = await get(`/files?path=${encodeURIComponent(path)}`);
        current = data.path;
        where.textContent = data.path || t("Folders of this page");
        take.disabled = !data.path;
        const rows = data.entries.map((entry) =>
          el(
            "li",
            {},
            el("button", {
              type: "button",
              class: "quiet",
              onclick: () => (entry.folder ? open(entry.path) : dialog.close(entry.path)),
            }, entry.folder ? `${entry.name}/` : entry.name),
          )
        );
        const up = data.path
          ? el(
            "li",
            {},
            el(
              "button",
              { type: "button", class: "quiet", onclick: () => open(data.parent) },
              "↩ ",
              t("up"),
            ),
          )
          : null;
        fill(
          list,
          up,
          rows,
          data.left_out ? el("li", {}, t("{n} more", { n: data.left_out })) : null,
        );
      } catch (fault) {
        fill(list, el("li", {}, faultBlock(fault)));
      }
    };
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue || null);
    });
    document.body.append(dialog);
    dialog.showModal();
    open("");
  });
}

/** Send files; where they lie: the file for one, the folder for several. Null when it failed. */
export async function uploadInto(files, told = () => {}) {
  try {
    const total = files.reduce((sum, file) => sum + file.size, 0) || 1;
    const upload = await post("/uploads", { name: files[0].name.replace(/\.\w+$/, "") });
    let sent = 0, last = null;
    for (const file of files) {
      const name = (file.webkitRelativePath || file.name).split("/").map(encodeURIComponent).join(
        "/",
      );
      for (let offset = 0; offset === 0 || offset < file.size; offset += upload.piece_bytes) {
        const piece = file.slice(offset, offset + upload.piece_bytes);
        last = await call("PUT", `/uploads/${upload.id}/${name}?offset=${offset}`, piece);
        sent += piece.size;
        told(sent / total);
      }
    }
    return files.length === 1 ? last.path : upload.folder;
  } catch (fault) {
    toast(fault);
    return null;
  }
}
