"""`onecard rag index`: read folders into an index, once or whenever a file changes."""

import time
from collections.abc import Sequence
from pathlib import Path

import watchfiles

from onecard.errors import DataError, SettingsError
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.rag import store
from onecard.tasks.rag.configs import IndexConfig
from onecard.tasks.rag.indexer import Indexer, IndexStats
from onecard.units import duration


def index(config: IndexConfig, run: Run) -> Result:
    """Bring the index up to date with its folders; with `watch` until Ctrl-C.

    Raises SettingsError without a folder, NotFound for a missing one, DataError when nothing can be
    read.
    """
    if not config.folders and not config.index:
        raise SettingsError(
            "there is nothing to index",
            why="no folder was named",
            fix="onecard rag index FOLDER...",
        )
    _require_effect(config)
    folder = Path(config.index) if config.index else store.default_folder(config.folders[0])
    target = store.Store(folder, create=True)
    roots = [Path(path) for path in config.folders] or target.roots()
    if not roots:
        raise SettingsError(
            "there is nothing to index",
            why=f"the index in {folder} has no folders yet",
            fix="onecard rag index FOLDER...",
        )
    indexer = Indexer(target, config, run.reporter)
    stats = indexer.update(roots)
    counts = target.counts()
    if not counts["chunks"]:
        raise DataError(
            "nothing could be indexed",
            why=_why_nothing(stats, roots),
            fix="give a folder with documents or code (md, txt, html, pdf, docx, pptx, xlsx, odt, "
            "rtf, epub, eml, ipynb, jsonl, csv, source files)",
        )
    store.set_last_used(folder)
    run.data("files", rows=counts["files"], sha256=target.digest())
    run.log(
        0,
        files=stats.read,
        chunks=stats.chunks,
        passages_per_s=stats.passages_per_s(),
        total_s=stats.total_s,
    )
    summary = f"{stats.render(counts)}\nindex: {folder}"
    if config.watch:
        run.reporter.line(summary)
        _watch(indexer, roots, run.reporter)
    data = {
        "index": str(folder),
        **counts,
        "read": stats.read,
        "unchanged": stats.unchanged,
        "removed": stats.removed,
        "embedded": stats.embedded,
        "described": stats.described,
        "embed_s": stats.embed_s,
        "total_s": stats.total_s,
        "empty": stats.empty,
        "notes": stats.notes,
        "left_out": dict(stats.left_out),
        "faults": [
            {"what": fault.what, "why": fault.why, "fix": fault.fix} for fault in stats.faults
        ],
    }
    target.close()
    return Result(data, summary)


def _require_effect(config: IndexConfig) -> None:
    """Raises SettingsError for settings of a server that is not named."""
    names = {name for name in config.model_fields_set if name.startswith("describe_")}
    if names and not config.describe_url:
        raise SettingsError(
            f"--{min(names)} has no effect",
            why="no server is named that describes pictures",
            fix="--describe_url http://127.0.0.1:8090/v1, or leave it out",
        )


def _why_nothing(stats: IndexStats, roots: Sequence[Path]) -> str:
    if stats.faults:
        return f"{stats.faults[0].what}: {stats.faults[0].why}"
    return f"no readable file in {', '.join(map(str, roots))}; {stats.empty} are empty"


def _watch(indexer: Indexer, roots: Sequence[Path], reporter: Reporter) -> None:
    """Index after each change, once no more follow for 1.6 s, until Ctrl-C."""
    there = [root for root in roots if root.exists()]  # a drive may not be mounted
    if not there:
        return
    reporter.line("watching for changes; Ctrl-C ends")
    for _ in watchfiles.watch(*there, raise_interrupt=False):
        stats = indexer.update(roots)
        if stats.read or stats.removed:
            reporter.line(
                f"{time.strftime('%H:%M:%S')} {stats.read} read, {stats.removed} removed, "
                f"{stats.embedded} embedded in {duration(stats.total_s)}"
            )
