// Signing in: the token comes from the field, or from behind the number sign of the printed link.

import { $, faultBlock, fill, post } from "./api.js";

async function signIn(token) {
  try {
    await post("/login", { token });
    location.replace("/");
  } catch (fault) {
    fill($("#fault"), faultBlock(fault));
  }
}

$("#login").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn($("#token").value);
});

const match = location.hash.match(/^#token=(.+)$/);
if (match) {
  history.replaceState(null, "", "/login");
  signIn(decodeURIComponent(match[1]));
}
