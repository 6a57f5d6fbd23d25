// All terms with their meanings.

import { $, el, fill, get } from "./api.js";

const rows = await get("/glossary");

function draw() {
  const words = $("#words").value.toLowerCase();
  fill(
    $("#terms"),
    rows.filter((row) =>
      `${row.term} ${row.name} ${row.aliases.join(" ")} ${row.definition}`.toLowerCase().includes(
        words,
      )
    )
      .flatMap((row) => [el("dt", {}, row.name), el("dd", {}, row.definition)]),
  );
}

$("#words").addEventListener("input", draw);
draw();
