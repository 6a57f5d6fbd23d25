"""Reads a user's rows with pictures: LLaVA, ShareGPT and OpenAI messages, picture-question-answer
rows as JSONL, JSON, CSV, TSV or Parquet, imagefolder metadata, easy-VQA, VQAv2 and DocVQA.

The form is recognized and told; a row that cannot be used is kept with its place and the reason.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.datasets.row_files import BrokenRow
from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter
from onecard.tasks.vlm import question_files
from onecard.tasks.vlm.items import RejectedRow, VlmItem
from onecard.tasks.vlm.picture_files import PictureFiles
from onecard.tasks.vlm.row_forms import PARTS, RowParser

MAX_RAW = 2000
"""Characters of a rejected row that are kept to be shown."""


@dataclass
class PictureRows:
    """The usable rows of a file, with all that was done to them."""

    path: Path
    items: list[VlmItem] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    """How rows were read -> how many."""
    mendings: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    """Column -> rows with a value there that nothing uses."""

    @property
    def n_text_only(self) -> int:
        return sum(not item.images for item in self.items)

    def notes(self) -> list[str]:
        """What a user should know of how it was read."""
        lines = [f"{n:,} rows read as {form}" for form, n in self.forms.most_common()]
        lines += [f"{n:,} rows: {what}" for what, n in self.mendings.most_common()]
        if self.unused:
            shown = ", ".join(f"{name} ({n:,} rows)" for name, n in self.unused.most_common(8))
            lines.append(f"columns not used: {shown}")
        if self.rejected:
            reasons = Counter(row.reason for row in self.rejected)
            lines.append(f"{len(self.rejected):,} rows are left out, for {len(reasons):,} reasons")
        return lines


def read(
    data: str | Path,
    images: Sequence[str | Path] = (),
    *,
    columns: tuple[str, ...] = (),
    question: str = "",
    inline: Path | None = None,
    needs_answer: bool = True,
    reporter: Reporter | None = None,
) -> PictureRows:
    """The items of a file, or of the one file of rows in a folder.

    `images`: folders that pictures are looked for in, before the data's own; `columns`: PART=NAME
    for other column names; `question`: of rows that have none, as captions; `inline`: where
    pictures that stand in rows are written, else a folder of the cache; `needs_answer`: False for
    questions that are only asked.
    Raises NotFound, SettingsError, DataError where no row can be used.
    """
    names = question_files.column_names(columns, PARTS)
    path = question_files.data_file(Path(data).expanduser())
    folders = [Path(each).expanduser() for each in images]
    for folder in folders:
        if not folder.is_dir():
            raise NotFound(
                f"there is no folder {folder}",
                why="it is a file" if folder.exists() else "nothing lies at that path",
                fix="--images FOLDER is where the pictures lie; addresses are not opened",
            )
    pictures = PictureFiles(path.parent, folders, inline or paths.home() / "vlm-pictures")
    parser = RowParser(names, question.strip(), needs_answer)
    rows = PictureRows(path, [], [], parser.forms, parser.mendings, parser.unused)
    with (reporter or Reporter()).progress("rows", 0) as progress:
        for place, row in question_files.rows_of(path):
            progress.grow(1)
            progress.step()
            if isinstance(row, BrokenRow):
                rows.rejected.append(RejectedRow(place, row.reason, row.raw))
                continue
            try:
                rows.items.append(parser.parse(row, place, pictures))
            except (ValueError, TypeError, RecursionError) as fault:
                # whatever a row holds, it costs itself and no other
                reason = str(fault) if type(fault) is ValueError else repr(fault)
                rows.rejected.append(RejectedRow(place, reason[:300], _raw(row)))
    if not rows.items:
        raise _nothing_usable(rows)
    rows.items = with_unique_ids(rows.items)
    return rows


def with_unique_ids(items: Sequence[VlmItem]) -> list[VlmItem]:
    """Items without an id of their own get their place, repeated ids a number: "7", "7#2"."""
    counts: Counter[str] = Counter()
    used = {item.id for item in items if item.id}
    unique = []
    for item in items:
        name = item.id or Path(item.source).name
        counts[name] += 1
        number = counts[name]
        new = name
        while number > 1 or (not item.id and new in used):
            new = f"{name}#{max(number, 2)}"
            if new not in used:
                break
            number = max(number, 2) + 1
        used.add(new)
        unique.append(item if new == item.id else replace(item, id=new))
    return unique


def _nothing_usable(rows: PictureRows) -> DataError:
    why = "it is empty"
    if rows.rejected:
        first = rows.rejected[0]
        why = f"{len(rows.rejected):,} rows are broken; the first, {first.source}: {first.reason}"
    return DataError(
        f"{rows.path} holds no usable row",
        why=why,
        fix='rows like {"image": "a.png", "question": ..., "answer": ...}; other names with '
        "--columns image=NAME, pictures elsewhere with --images FOLDER",
    )


def _raw(row: Any) -> str:
    """The row for the list of rejected ones, without what cannot be written."""
    try:
        text = json.dumps(row, ensure_ascii=False, default=lambda value: repr(value)[:80])
    except (ValueError, TypeError, RecursionError):
        text = repr(type(row))
    return text[:MAX_RAW].encode(errors="backslashreplace").decode()
