// What every page has: language, theme, menu, the device in the bar, glossary tooltips.

import { $, bytes, get, poll, t } from "./api.js";
import { watchTerms } from "./glossary.js";

$("#language").addEventListener("change", (event) => {
  document.cookie = `onecard_lang=${event.target.value}; path=/; max-age=31536000; SameSite=Strict`;
  location.reload();
});

$("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = (root.dataset.theme ||
    (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch { /* storage is off: for this page only */ }
});

const menu = $("#menu-button");
menu.addEventListener("click", () => {
  const open = document.body.classList.toggle("menu-open");
  menu.setAttribute("aria-expanded", String(open));
  if (open) $("#navigation a").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.classList.contains("menu-open")) menu.click();
});

if (location.pathname !== "/login") {
  poll(5000, async () => {
    const device = await get("/device");
    $("#bar-device").textContent = t("{name}: {used} of {total} used", {
      name: device.name,
      used: bytes(device.total_bytes - device.free_bytes),
      total: bytes(device.total_bytes),
    });
  });
  watchTerms();
}
