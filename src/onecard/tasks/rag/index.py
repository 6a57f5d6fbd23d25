"""Folders to an index: only what changed is read, each distinct text is embedded once, and a kill
at any time does no harm."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import watchfiles

from onecard.datasets import documents, walk
from onecard.errors import DataError, SettingsError
from onecard.hub import download
from onecard.inference.embeddings import Embedder, open_embedder
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.rag import chunk, store
from onecard.tasks.rag.configs import Settings
from onecard.units import duration

BATCH_CHUNKS = 128
"""Chunks embedded and written at once: about 6 s of work on 2 cores, the most that a kill can lose.
"""


@dataclass
class IndexStats:
    """What one pass over the folders did."""

    read: int = 0
    unchanged: int = 0
    removed: int = 0
    chunks: int = 0
    embedded: int = 0
    embed_s: float = 0.0
    total_s: float = 0.0
    empty: int = 0
    faults: list[DataError] = field(default_factory=list)

    def render(self, counts: dict[str, int]) -> str:
        lines = [
            f"{counts['files']:,} files, {counts['chunks']:,} passages in the index",
            f"this time: {self.read} read, {self.unchanged} unchanged, {self.removed} removed, "
            f"{self.chunks} new passages, {self.embedded} embedded in {duration(self.total_s)}",
        ]
        if self.embedded:
            lines.append(
                f"speed: {self.embedded / max(self.embed_s, 1e-9):.1f} passages/s embedded, "
                f"{self.read / max(self.total_s, 1e-9):.1f} files/s; "
                f"{1 - self.embed_s / max(self.total_s, 1e-9):.0%} of the time outside the embedder"
            )
        if self.empty:
            lines.append(f"{self.empty} empty files left out")
        lines += [
            f"left out: {fault.what}: {fault.why}" + (f" (fix: {fault.fix})" if fault.fix else "")
            for fault in self.faults[:20]
        ]
        lines += [f"... and {len(self.faults) - 20} more left out"] if len(self.faults) > 20 else []
        return "\n".join(lines)


def index(settings: Settings, run: Run) -> Result:
    """Bring the index up to date with its folders.

    Raises DataError when nothing can be read, NotFound for a missing folder.
    """
    if not settings.folders and not settings.index:
        raise SettingsError(
            "there is nothing to index",
            why="no folder was given",
            fix="onecard rag index FOLDER...",
        )
    folder = Path(settings.index) if settings.index else store.default_folder(settings.folders[0])
    held = store.Store(folder, create=True)
    roots = [Path(path) for path in settings.folders] or [
        Path(path) for path in held.meta("roots").split("\n") if path
    ]
    if not roots:
        raise SettingsError(
            "there is nothing to index",
            why=f"{folder} knows no folders yet",
            fix="onecard rag index FOLDER...",
        )
    indexer = Indexer(held, settings, run.reporter)
    tally = indexer.update(roots)
    counts = held.counts()
    if not counts["chunks"]:
        first = tally.faults[0] if tally.faults else None
        raise DataError(
            "nothing could be indexed",
            why=f"{first.what}: {first.why}"
            if first
            else f"no readable file in {', '.join(map(str, roots))}; {tally.empty} are empty",
            fix="give a folder with documents or code (md, txt, html, pdf, docx, ipynb, jsonl, "
            "csv, source files)",
        )
    store.remember(folder)
    run.data("files", rows=counts["files"], sha256=held.digest())
    run.log(
        0,
        files=tally.read,
        chunks=tally.chunks,
        passages_per_s=tally.embedded / max(tally.embed_s, 1e-9),
        total_s=tally.total_s,
    )
    words = f"{tally.render(counts)}\nindex: {folder}"
    if settings.watch:
        run.reporter.line(words)
        _watch(indexer, roots, run.reporter)
    data = {
        "index": str(folder),
        **counts,
        "read": tally.read,
        "unchanged": tally.unchanged,
        "removed": tally.removed,
        "embedded": tally.embedded,
        "embed_s": tally.embed_s,
        "total_s": tally.total_s,
        "empty": tally.empty,
        "faults": [
            {"what": fault.what, "why": fault.why, "fix": fault.fix} for fault in tally.faults
        ],
    }
    held.close()
    return Result(data, words)


def _watch(indexer: "Indexer", roots: Sequence[Path], reporter: Reporter) -> None:
    """Until Ctrl-C: wait for changes to settle (1.6 s), then take in what changed."""
    reporter.line("watching for changes; Ctrl-C ends")
    for _ in watchfiles.watch(*roots, raise_interrupt=False):
        tally = indexer.update(roots)
        if tally.read or tally.removed:
            reporter.line(
                f"{time.strftime('%H:%M:%S')} {tally.read} read, {tally.removed} removed, "
                f"{tally.embedded} embedded in {duration(tally.total_s)}"
            )


class Indexer:
    """Keeps the embedder open between passes; it is loaded when the first new text is met."""

    def __init__(
        self,
        held: store.Store,
        settings: Settings,
        reporter: Reporter,
        embedder: Embedder | None = None,
    ) -> None:
        self.store, self.settings, self.reporter = held, settings, reporter
        self._embedder = embedder

    def update(self, roots: Sequence[Path]) -> IndexStats:
        """One pass.

        Files that cannot be read are told in the tally and remembered, so that they are tried again
        only when changed.
        """
        with download.locked(
            self.store.folder, self.reporter
        ):  # a second `index` on the same folder waits and then finds the work done
            return self._update(roots)

    def _update(self, roots: Sequence[Path]) -> IndexStats:
        started, tally = time.monotonic(), IndexStats()
        made_with = {
            "embedding_model": self.settings.embedding_model,
            "chunk_tokens": str(self.settings.chunk_tokens),
            "chunk_overlap": str(self.settings.chunk_overlap),
        }
        self.store.agree(made_with)
        known = self.store.files()
        self.store.set_meta("roots", "\n".join(str(root) for root in roots))
        found = []
        for file in walk.files(roots):
            if file.fault:
                tally.faults.append(
                    DataError(
                        f"{file.path} is left out",
                        why=file.fault,
                        fix="rename it, mend the link, or leave it as it is",
                    )
                )
            else:
                found.append(file)
        changed = []
        for file in found:
            old = known.get(str(file.path))
            if old and (old[0], old[1]) == (file.bytes, file.mtime_ns):
                tally.unchanged += 1
                if old[3]:
                    self._note_fault(tally, old[3])
            else:
                changed.append((file, old))
        gone = set(self.store.files()) - {str(file.path) for file in found}
        tally.removed = len(gone)
        if gone:
            self.store.write([], {}, gone)
        if changed:
            with self.reporter.progress("indexing", len(changed)) as bar:
                self._take_in(changed, tally, bar)
        if gone or changed:
            self.store.sweep()
        tally.total_s = time.monotonic() - started
        return tally

    def _take_in(self, changed: list[Any], tally: IndexStats, bar: Any) -> None:
        batch: list[store.FileRows] = []
        waiting: dict[bytes, str] = {}
        for file, old in changed:
            rows = self._read(file, tally)
            if rows is None:
                bar.step()
                continue
            if old and old[2] == rows.sha256 and not rows.fault and not old[3]:
                self.store.touch(rows.path, file.mtime_ns)
                tally.unchanged += 1
                bar.step()
                continue
            batch.append(rows)
            digests = rows.digests()
            new = set(digests) - self.store.known_vectors(digests)
            waiting |= {
                d: store.embed_text(rows.head(p), p.text)
                for d, p in zip(digests, rows.passages, strict=True)
                if d in new
            }
            if len(waiting) >= BATCH_CHUNKS or len(batch) >= 500:
                self._flush(batch, waiting, tally, bar)
                batch, waiting = [], {}
        self._flush(batch, waiting, tally, bar)

    def _flush(
        self, batch: list[store.FileRows], waiting: dict[bytes, str], tally: IndexStats, bar: Any
    ) -> None:
        vectors: dict[bytes, Any] = {}
        if waiting:
            if self._embedder is None:
                self._embedder = open_embedder(
                    self.settings.embedding_model, self.reporter, self.settings.n_threads
                )
            started = time.monotonic()
            texts = list(waiting.values())
            for start in range(0, len(texts), BATCH_CHUNKS):
                made = self._embedder.passages(texts[start : start + BATCH_CHUNKS])
                vectors |= dict(zip(list(waiting)[start : start + BATCH_CHUNKS], made, strict=True))
            tally.embed_s += time.monotonic() - started
        self.store.write(batch, vectors)
        tally.embedded += len(vectors)
        tally.read += sum(not rows.fault for rows in batch)
        tally.chunks += sum(len(rows.passages) for rows in batch)
        bar.step(
            len(batch),
            f"{tally.embedded / max(tally.embed_s, 1e-9):.0f} passages/s" if tally.embedded else "",
        )

    def _read(self, file: walk.Found, tally: IndexStats) -> store.FileRows | None:
        """A file's rows; one that cannot be read gives rows with the fault alone, one that vanished
        gives None."""
        name = str(file.path)
        try:
            document = documents.read(file.path, self.settings.max_file_mb << 20)
            digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
        except DataError as fault:
            if not file.path.exists():
                return None
            kept = f"{fault.what}\n{fault.why}\n{fault.fix}"
            self._note_fault(tally, kept)
            return store.FileRows(
                name, file.bytes, file.mtime_ns, "", file.path.name, "fault", "", [], {}, [], kept
            )
        except OSError:
            return None
        title = document.title if document.kind != "code" else self._shown(file.path)
        passages = chunk.passages(
            document.blocks, self.settings.chunk_tokens, self.settings.chunk_overlap
        )
        return store.FileRows(
            name,
            file.bytes,
            file.mtime_ns,
            digest,
            title,
            document.kind,
            document.encoding,
            document.links,
            document.meta,
            passages,
        )

    def _shown(self, path: Path) -> str:
        """A code file's name with its folder: `pkg/module.py` says more than `module.py`."""
        return "/".join(path.parts[-2:])

    def _note_fault(self, tally: IndexStats, kept: str) -> None:
        what, why, fix = [*kept.split("\n"), "", ""][:3]
        if what.endswith("is empty"):
            tally.empty += 1
        else:
            tally.faults.append(DataError(what, why=why, fix=fix))
