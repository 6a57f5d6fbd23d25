// Notes: index folders, ask, see the passage behind a citation, judge the answer.

import { $, action, call, el, faultBlock, fill, get, post, t, toast } from "./api.js";
import { choose, uploadInto } from "./files.js";
import { jobView } from "./job_view.js";
import { showPassage } from "./passage.js";

const state = { task: $("#notes").dataset.task, indexes: [], turns: [] };
const select = $("#index"), thread = $("#thread");
const KEY = "notes-thread", WAITING = "notes-question";

async function load(chosen = select.value) {
  const data = await get("/notes");
  state.indexes = data.indexes;
  fill(
    select,
    data.indexes.map((row) =>
      el("option", { value: row.index }, `${row.name} (${(row.folders || []).join(", ")})`)
    ),
  );
  if (data.indexes.some((row) => row.index === chosen)) select.value = chosen;
  facts();
  await questions();
}

const current = () => state.indexes.find((row) => row.index === select.value);

function facts() {
  const row = current();
  $("#facts").textContent = row
    ? row.fault || t("{files} files, {chunks} passages", row)
    : t("No index yet: choose a folder with your documents.");
  $("#update").disabled = !row;
  $("#send").disabled = !row;
}

// Indexing

$("#new").addEventListener("click", () => {
  const list = el("ul");
  const folders = [];
  const add = (path) => {
    if (path && !folders.includes(path)) {
      folders.push(path);
      list.append(el("li", { class: "mono" }, path));
      begin.disabled = false;
    }
  };
  const picker = el("input", {
    type: "file",
    multiple: true,
    hidden: true,
    tabindex: "-1",
    "aria-hidden": "true",
  });
  picker.addEventListener("change", async () => {
    const files = [...picker.files];
    picker.value = ""; // the same name once more is a change too: the file may be mended
    if (files.length) add(await uploadInto(files));
  });
  const typed = el("input", {
    id: "folder",
    spellcheck: "false",
    placeholder: t("/path/to/folder"),
  });
  const begin = el("button", {
    type: "button",
    class: "primary",
    id: "begin-index",
    disabled: true,
    onclick: action(async () => {
      if (typed.value.trim()) add(typed.value.trim());
      await index({ folders });
    }),
  }, t("Index"));
  typed.addEventListener("input", () => {
    begin.disabled = !typed.value.trim() && !folders.length;
  });
  fill(
    $("#indexing"),
    el(
      "section",
      { class: "panel" },
      el("h2", {}, t("Folders and files to index")),
      list,
      el(
        "div",
        { class: "row" },
        el("label", { for: "folder" }, t("folder")),
        typed,
        el(
          "button",
          { type: "button", onclick: async () => add(await choose({ folder: true })) },
          t("Browse …"),
        ),
        el("button", { type: "button", onclick: () => picker.click() }, t("Upload …")),
        picker,
        begin,
      ),
    ),
  );
  typed.focus();
});

$("#update").addEventListener("click", action(() => index({ index: select.value })));

async function index(values) {
  const job = await post("/jobs", { task: state.task, command: "index", values });
  follow(job.id);
}

function follow(id) {
  const view = jobView(id, {
    title: t("Indexing"),
    ended: async (job) => {
      if (job.status !== "done") return;
      const result = await get(`/jobs/${id}/result`);
      const faults = result.faults || [];
      await load(result.index);
      fill(
        $("#indexing"),
        el(
          "p",
          { class: "notice" },
          t("Indexed: {files} files, {chunks} passages.", result),
          faults.length ? ` ${t("{n} files could not be read.", { n: faults.length })}` : "",
        ),
        faults.length
          ? el(
            "details",
            {},
            el("summary", {}, t("Files that could not be read")),
            el(
              "ul",
              {},
              faults.slice(0, 100).map((fault) => el("li", {}, `${fault.what}: ${fault.why}`)),
            ),
          )
          : null,
      );
    },
  });
  fill($("#indexing"), view.node);
}

// Questions and answers

const settings = () => ({
  ...($("#model").value && $("#model").value !== "auto" ? { model: $("#model").value } : {}),
  ...($("#style").value !== "auto" ? { style: $("#style").value } : {}),
});

$("#ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("#question").value.trim();
  if (!question || $("#send").disabled) return;
  $("#send").disabled = true;
  const answer = el(
    "div",
    { class: "panel" },
    el("progress", { "aria-label": t("searching and answering") }),
    el(
      "p",
      { class: "help", role: "status" },
      t("searching and answering; the first question loads the model"),
    ),
  );
  const node = el("article", { class: "turn" }, el("h3", {}, question), answer);
  thread.append(node);
  $("#question").value = "";
  wait(question);
  node.scrollIntoView({ block: "end" });
  const turns = state.turns.slice(-8).map((turn) => ({
    question: turn.question,
    answer: turn.answer,
  }));
  try {
    const data = await post("/notes/ask", {
      question,
      index: select.value,
      turns,
      values: settings(),
    });
    const turn = { ...data, question, index: select.value };
    state.turns.push(turn);
    keep();
    wait(""); // not after a fault: a page that is left is told one too
    fill(answer, answerNodes(turn));
  } catch (fault) {
    fill(answer, faultBlock(fault));
    $("#question").value = question;
  }
  $("#send").disabled = false;
});

$("#question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("#ask").requestSubmit();
  }
});

function place(row) {
  const name = row.path.split("/").pop();
  if (row.page) return t("{name}, page {page}", { name, page: row.page });
  return row.line
    ? t("{name}, lines {line}-{last_line}", { name, line: row.line, last_line: row.last_line })
    : name;
}

/** The answer's text with its [n] as buttons, the citations below, the thumbs. */
function answerNodes(turn) {
  const byNumber = new Map(turn.citations.map((row) => [String(row.n), row]));
  const parts = turn.answer.split(/(\[\d{1,2}\])/).map((part) => {
    const row = byNumber.get(part.slice(1, -1));
    return row && part.startsWith("[")
      ? el("button", {
        type: "button",
        class: "cite",
        onclick: () => open(row),
        "aria-label": t("citation {n}: {place}", { n: row.n, place: place(row) }),
      }, part)
      : part;
  });
  return [
    el("p", { class: "answer-text" }, parts),
    turn.citations.length
      ? el(
        "ol",
        { class: "citations" },
        turn.citations.map((row) =>
          el(
            "li",
            { value: row.n },
            el("button", { type: "button", class: "quiet", onclick: () => open(row) }, place(row)),
            row.heading ? el("span", { class: "help" }, row.heading) : null,
            row.quote ? el("q", {}, row.quote) : null,
          )
        ),
      )
      : null,
    thumbs(turn),
  ];
}

const open = (row) => showPassage($("#document"), row).catch(toast);

function thumbs(turn) {
  const row = el("div", { class: "row" });
  const send = async (body) => {
    const data = await post("/notes/questions", {
      index: turn.index,
      question: turn.question,
      ...body,
    });
    drawQuestions(data);
    toast(t("Kept in the question set."));
  };
  const up = el("button", {
    type: "button",
    onclick: action(async () => {
      await send({ thumb: "up", answer: turn.answer, citations: turn.citations });
      up.setAttribute("aria-pressed", "true");
    }),
  }, t("Good answer"));
  const down = el("button", {
    type: "button",
    onclick: () => {
      const right = el("textarea", {
        rows: 2,
        "aria-label": t("What would be right?"),
        placeholder: t("What would be right? (may stay empty)"),
      });
      const none = el("input", { type: "checkbox" });
      fill(
        more,
        right,
        el("label", { class: "row" }, none, t("my notes do not hold the answer")),
        el("button", {
          type: "button",
          class: "primary",
          onclick: action(async () => {
            await send({ thumb: "down", answer: right.value, answerable: !none.checked });
            fill(more);
            down.setAttribute("aria-pressed", "true");
          }),
        }, t("Keep")),
      );
      right.focus();
    },
  }, t("Bad answer"));
  const more = el("div", { class: "stack" });
  row.append(up, down);
  return el("div", {}, row, more);
}

// The question set

async function questions() {
  if (!select.value) return;
  drawQuestions(await get(`/notes/questions?index=${encodeURIComponent(select.value)}`));
}

function drawQuestions(data) {
  const rows = data.rows || [];
  fill(
    $("#questions"),
    el(
      "p",
      { class: "help" },
      t("{n} questions in {path}", { n: rows.length, path: data.path || "" }),
    ),
    el(
      "ul",
      {},
      rows.slice(-50).map((row) =>
        el(
          "li",
          {},
          el(
            "span",
            { class: `badge ${row.thumb === "up" ? "good" : "bad"}` },
            row.thumb === "up" ? t("good") : t("bad"),
          ),
          " ",
          row.question,
          " ",
          el("button", {
            type: "button",
            class: "quiet",
            "aria-label": t("remove {question}", { question: row.question }),
            onclick: action(async () => {
              const left = await call(
                "DELETE",
                `/notes/questions/${row.id}?index=${encodeURIComponent(select.value)}`,
              );
              drawQuestions({ ...data, rows: left.rows });
            }),
          }, "×"),
        )
      ),
    ),
    rows.length
      ? el("button", {
        type: "button",
        onclick: action(async () => {
          const job = await post("/jobs", {
            task: state.task,
            command: "evaluate",
            values: { questions: data.path, index: select.value, ...settings() },
          });
          location.href = `/jobs/${job.id}`;
        }),
      }, t("Evaluate search and answers on this set"))
      : null,
  );
}

// What was asked stays over a reload

function keep() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(state.turns.slice(-50)));
  } catch { /* storage is off or full */ }
}

/** A question without its answer yet: a page that is loaded anew has it in the field again. */
function wait(question) {
  try {
    sessionStorage.setItem(WAITING, question);
  } catch { /* storage is off or full */ }
}

function restore() {
  try {
    $("#question").value = sessionStorage.getItem(WAITING) || "";
  } catch { /* storage is off */ }
  try {
    state.turns = JSON.parse(sessionStorage.getItem(KEY) || "[]");
  } catch {
    state.turns = [];
  }
  for (const turn of state.turns) {
    thread.append(
      el(
        "article",
        { class: "turn" },
        el("h3", {}, turn.question),
        el("div", { class: "panel" }, answerNodes(turn)),
      ),
    );
  }
}

$("#clear").addEventListener("click", () => {
  state.turns = [];
  keep();
  wait("");
  fill(thread);
});
select.addEventListener(
  "change",
  action(async () => {
    facts();
    await questions();
  }),
);

get("/models/names").then((names) =>
  fill($("#models"), names.models.map((name) => el("option", { value: name })))
);
restore();
await load().catch(toast);
const running = (await get("/jobs?active=true")).find((job) =>
  job.task === state.task && job.command === "index"
);
if (running) follow(running.id);
