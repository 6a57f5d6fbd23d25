// The human proof: vote between two answers without knowing whose they are.

import { $, action, el, faultBlock, fill, get, PICTURES, post, t } from "./api.js";

const root = $("#blind");
const run = root.dataset.run;
const result = el("div", { "aria-live": "polite" });
let ballot = null, place = 0;

const mediaUrl = (item, side) =>
  `/api/runs/${run}/blind/media?item=${encodeURIComponent(item.id)}&side=${side}`;

function media(item) {
  if (!item.media) return null;
  return PICTURES.test(item.media)
    ? el("img", { src: mediaUrl(item, "media"), alt: t("the picture in question"), class: "media" })
    : el("audio", {
      controls: true,
      src: mediaUrl(item, "media"),
      "aria-label": t("the sound in question"),
    });
}

function answer(item, side, name) {
  return el(
    "div",
    { class: "panel answer-side" },
    el("h3", {}, name),
    item.pictures
      ? el("img", { src: mediaUrl(item, side), alt: name })
      : el("p", { class: "answer" }, item[side]),
    el("button", {
      type: "button",
      class: "primary",
      id: `vote-${side}`,
      "aria-pressed": String(item.vote === side),
      onclick: action(() => vote(side)),
    }, t("{name} is better", { name })),
  );
}

function draw() {
  const item = ballot.items[place];
  const votes = ballot.items.filter((row) => row.vote).length;
  fill(
    root,
    el(
      "p",
      { role: "status" },
      t("item {n} of {total}; {votes} votes", { n: place + 1, total: ballot.items.length, votes }),
    ),
    item.question ? el("blockquote", {}, item.question) : null,
    media(item),
    el("div", { class: "columns" }, answer(item, "left", t("A")), answer(item, "right", t("B"))),
    el(
      "div",
      { class: "row" },
      el(
        "button",
        { type: "button", onclick: () => turn(-1), disabled: place === 0 },
        t("Previous"),
      ),
      el("button", {
        type: "button",
        id: "vote-tie",
        "aria-pressed": String(item.vote === "tie"),
        onclick: action(() => vote("tie")),
      }, t("Equally good")),
      el("button", {
        type: "button",
        onclick: () => turn(1),
        disabled: place === ballot.items.length - 1,
      }, t("Next")),
      el("span", { class: "grow" }),
      el(
        "button",
        { type: "button", id: "reveal", onclick: action(reveal), disabled: !votes },
        t("Show the result"),
      ),
    ),
    el("p", { class: "help" }, t("Keys: 1 or ← for A, 2 or → for B, 0 for equally good.")),
    result,
  );
}

function turn(step) {
  place = Math.max(0, Math.min(place + step, ballot.items.length - 1));
  draw();
}

async function vote(choice) {
  const item = ballot.items[place];
  await post(`/runs/${run}/blind`, { item: item.id, choice });
  item.vote = choice;
  fill(result);
  const open = ballot.items.findIndex((row) => !row.vote);
  if (open >= 0) place = open;
  draw();
  if (open < 0) await reveal();
}

async function reveal() {
  const data = await get(`/runs/${run}/blind/verdict`);
  const words = {
    better: t("The result is better than the base."),
    worse: t("The result is worse than the base."),
    inconclusive: t("Not decided: more votes, or no difference."),
  };
  fill(
    result,
    el(
      "section",
      { class: "panel" },
      el("h2", {}, t("Your verdict")),
      el(
        "p",
        {},
        el(
          "strong",
          {},
          data.test ? words[data.test.verdict] || data.test.verdict : t("No votes yet."),
        ),
      ),
      el(
        "p",
        {},
        t("{votes} votes: {tuned} for the result, {base} for the base, {tie} for neither", data),
      ),
      el("p", { class: "help" }, data.text),
    ),
  );
}

document.addEventListener("keydown", (event) => {
  if (!ballot || event.target.matches("input, textarea, select")) return;
  const side =
    { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie" }[event.key];
  if (side) $(`#vote-${side}`)?.click();
});

try {
  ballot = await get(`/runs/${run}/blind`);
  const open = ballot.items.findIndex((row) => !row.vote);
  place = Math.max(0, open);
  draw();
} catch (fault) {
  fill(root, faultBlock(fault));
}
