"""`onecard rag indexes`: the indexes of this machine, with their folders and what is in them."""

from typing import Any

from onecard import paths
from onecard.errors import OneCardError
from onecard.reporting import Result, table
from onecard.runs.record import Run
from onecard.tasks.rag.configs import IndexesConfig
from onecard.tasks.rag.store import Store, last_used


def indexes(config: IndexesConfig, run: Run) -> Result:
    """The one used last comes first; an index that cannot be opened is named with the reason."""
    newest = last_used()
    root = paths.home() / "indexes"
    folders = {path.parent for path in root.glob("*/index.sqlite")}
    if newest and (newest / "index.sqlite").is_file():
        folders.add(newest)
    rows: list[dict[str, Any]] = []
    for folder in sorted(folders, key=lambda path: (path != newest, path.name)):
        row: dict[str, Any] = {"index": str(folder), "name": folder.name, "last": folder == newest}
        try:
            store = Store(folder)
            row |= {**store.counts(), "folders": [str(path) for path in store.roots()]}
            row["embedding_model"] = store.build_settings().get("embedding_model", "")
            store.close()
        except (OneCardError, ValueError) as fault:
            row["fault"] = fault.what if isinstance(fault, OneCardError) else str(fault)
        rows.append(row)
    cells = [
        [row["name"], str(row.get("files", "–")), str(row.get("chunks", "–")), _place(row)]
        for row in rows
    ]
    drawn = table(cells, ["index", "files", "passages", "folders"])
    if not rows:
        return Result({"indexes": rows}, f"no index yet in {root}: onecard rag index FOLDER")
    return Result({"indexes": rows}, drawn, (drawn,))


def _place(row: dict[str, Any]) -> str:
    return str(row.get("fault") or ", ".join(row["folders"]))
