"""Incremental indexing: only changed files are read, and each distinct text is embedded once.

A kill at any time loses at most one batch and leaves complete files only.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from onecard.datasets import documents
from onecard.datasets.blocks import Block
from onecard.datasets.documents import Document
from onecard.datasets.files import SourceFile, walk
from onecard.errors import DataError
from onecard.hub import download
from onecard.inference.embeddings import Embedder, open_embedder
from onecard.reporting import Progress, Reporter
from onecard.tasks.rag import chunking, store
from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.configs import IndexConfig
from onecard.units import duration

BATCH_CHUNKS = 128
"""Chunks that are embedded and written at once: about 6 s of work on 2 cores."""
BATCH_FILES = 500
"""Files that are written at once when they bring few new texts, as copies do."""
MAX_FAULTS_SHOWN = 20
MAX_FIELD_CHARS, MAX_ALIASES = 200, 10
"""Of a front matter's fields and aliases."""

OldFile = tuple[int, int, str, str]
"""(bytes, mtime_ns, sha256, fault) of a file that is in the index."""


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
    """Files that could not be read."""

    def add_fault(self, fault_text: str) -> None:
        """Count a fault as it is stored: what, why and fix in three lines."""
        what, why, fix = [*fault_text.split("\n"), "", ""][:3]
        if what.endswith("is empty"):
            self.empty += 1
        else:
            self.faults.append(DataError(what, why=why, fix=fix))

    def passages_per_s(self) -> float:
        return self.embedded / max(self.embed_s, 1e-9)

    def render(self, counts: dict[str, int]) -> str:
        lines = [
            f"{counts['files']:,} files, {counts['chunks']:,} passages in the index",
            f"this time: {self.read} read, {self.unchanged} unchanged, {self.removed} removed, "
            f"{self.chunks} new passages, {self.embedded} embedded in {duration(self.total_s)}",
        ]
        if self.embedded:
            total_s = max(self.total_s, 1e-9)
            lines.append(
                f"speed: {self.passages_per_s():.1f} passages/s embedded, "
                f"{self.read / total_s:.1f} files/s; "
                f"{1 - self.embed_s / total_s:.0%} of the time outside the embedder"
            )
        if self.empty:
            lines.append(f"{self.empty} empty files skipped")
        for fault in self.faults[:MAX_FAULTS_SHOWN]:
            fix = f" (fix: {fault.fix})" if fault.fix else ""
            lines.append(f"skipped: {fault.what}: {fault.why}{fix}")
        if len(self.faults) > MAX_FAULTS_SHOWN:
            lines.append(f"... and {len(self.faults) - MAX_FAULTS_SHOWN} more skipped")
        return "\n".join(lines)


class Indexer:
    """Brings a store up to date with its folders.

    The embedder is loaded for the first new text and stays open between passes.
    """

    def __init__(
        self,
        target: store.Store,
        config: IndexConfig,
        reporter: Reporter,
        embedder: Embedder | None = None,
    ) -> None:
        self.store, self.config, self.reporter = target, config, reporter
        self._embedder = embedder

    def update(self, roots: Sequence[Path]) -> IndexStats:
        """One pass. A second process on the same folder waits, and then has nothing to do.

        A file that cannot be read is reported and stored, so that it is tried again only when it
        changes.
        """
        with download.locked(self.store.folder, self.reporter):
            return self._update(roots)

    def _update(self, roots: Sequence[Path]) -> IndexStats:
        start, stats = time.monotonic(), IndexStats()
        self.store.set_build_settings(
            {
                "embedding_model": self.config.embedding_model,
                "chunk_tokens": str(self.config.chunk_tokens),
                "chunk_overlap": str(self.config.chunk_overlap),
            }
        )
        old_files = self.store.files()
        self.store.set_meta("roots", "\n".join(str(root) for root in roots))
        files = self._readable_files(roots, stats)
        changed = self._changed_files(files, old_files, stats)
        removed = set(old_files) - {str(file.path) for file in files}
        stats.removed = len(removed)
        if removed:
            self.store.write([], {}, removed)
        if changed:
            with self.reporter.progress("indexing", len(changed)) as bar:
                self._index_files(changed, stats, bar)
        if removed or changed:
            self.store.delete_unused_vectors()
        stats.total_s = time.monotonic() - start
        return stats

    def _readable_files(self, roots: Sequence[Path], stats: IndexStats) -> list[SourceFile]:
        files = []
        for file in walk(roots):
            if file.fault:
                stats.faults.append(
                    DataError(
                        f"{file.path} is skipped",
                        why=file.fault,
                        fix="rename it, repair the link, or leave it as it is",
                    )
                )
            else:
                files.append(file)
        return files

    def _changed_files(
        self, files: Sequence[SourceFile], old_files: dict[str, OldFile], stats: IndexStats
    ) -> list[tuple[SourceFile, OldFile | None]]:
        """New files and those with another size or time; the others are counted."""
        changed = []
        for file in files:
            old = old_files.get(str(file.path))
            if old and (old[0], old[1]) == (file.bytes, file.mtime_ns):
                stats.unchanged += 1
                if old[3]:
                    stats.add_fault(old[3])
            else:
                changed.append((file, old))
        return changed

    def _index_files(
        self,
        changed: Sequence[tuple[SourceFile, OldFile | None]],
        stats: IndexStats,
        bar: Progress,
    ) -> None:
        batch: list[store.FileRows] = []
        new_texts: dict[bytes, str] = {}
        for file, old in changed:
            rows = self._read(file, stats)
            if rows is None:
                bar.step()
                continue
            if old and old[2] == rows.sha256 and not rows.fault and not old[3]:
                self.store.touch(rows.path, file.mtime_ns)
                stats.unchanged += 1
                bar.step()
                continue
            batch.append(rows)
            digests = rows.digests()
            unknown = set(digests) - self.store.known_vectors(digests)
            new_texts |= {
                digest: store.titled(rows.chunk_title(passage), passage.text)
                for digest, passage in zip(digests, rows.passages, strict=True)
                if digest in unknown
            }
            if len(new_texts) >= BATCH_CHUNKS or len(batch) >= BATCH_FILES:
                self._write(batch, new_texts, stats, bar)
                batch, new_texts = [], {}
        self._write(batch, new_texts, stats, bar)

    def _write(
        self,
        batch: list[store.FileRows],
        new_texts: dict[bytes, str],
        stats: IndexStats,
        bar: Progress,
    ) -> None:
        """Embed the new texts and write them with their files."""
        vectors = self._embed(new_texts, stats) if new_texts else {}
        self.store.write(batch, vectors)
        stats.embedded += len(vectors)
        stats.read += sum(not rows.fault for rows in batch)
        stats.chunks += sum(len(rows.passages) for rows in batch)
        note = f"{stats.passages_per_s():.0f} passages/s" if stats.embedded else ""
        bar.step(len(batch), note)

    def _embed(self, texts: dict[bytes, str], stats: IndexStats) -> dict[bytes, np.ndarray]:
        """Digest -> vector."""
        if self._embedder is None:
            self._embedder = open_embedder(
                self.config.embedding_model, self.reporter, self.config.n_threads
            )
        start = time.monotonic()
        digests, contents = list(texts), list(texts.values())
        vectors: dict[bytes, np.ndarray] = {}
        for i in range(0, len(contents), BATCH_CHUNKS):
            part = slice(i, i + BATCH_CHUNKS)
            rows = self._embedder.passages(contents[part])
            vectors |= dict(zip(digests[part], rows, strict=True))
        stats.embed_s += time.monotonic() - start
        return vectors

    def _read(self, file: SourceFile, stats: IndexStats) -> store.FileRows | None:
        """A file's rows, with a fault alone if it cannot be read; None for a file that vanished."""
        name = str(file.path)
        try:
            document = documents.read(file.path, self.config.max_file_mb << 20)
            digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
        except DataError as fault:
            if not file.path.exists():
                return None
            text = f"{fault.what}\n{fault.why}\n{fault.fix}"
            stats.add_fault(text)
            return store.FileRows(
                name, file.bytes, file.mtime_ns, "", file.path.name, "fault", "", [], {}, [], text
            )
        except OSError:
            return None
        passages = chunking.chunk_blocks(
            [*_front_matter(document.meta), *document.blocks],
            self.config.chunk_tokens,
            self.config.chunk_overlap,
        )
        return store.FileRows(
            name,
            file.bytes,
            file.mtime_ns,
            digest,
            _title(document, file.path),
            document.kind,
            document.encoding,
            document.links,
            document.meta,
            passages,
        )


def _title(document: Document, path: Path) -> str:
    """What a file is called: its title, its name where that says something else ("Tasks" in
    2025-03-04.md), and its aliases."""
    if document.kind == "code":  # `pkg/module.py` says more than `module.py`
        return "/".join(path.parts[-2:])
    known = set(terms(document.title))
    names = [path.stem, *_aliases(document.meta)]
    # a bare number (145.txt) says nothing
    new = [name for name in names if not set(terms(name)) <= known and not name.isdigit()]
    return f"{document.title} ({', '.join(new)})" if new else document.title


def _aliases(meta: Mapping[str, Any]) -> list[str]:
    value = meta.get("aliases") or meta.get("alias") or []
    values = value if isinstance(value, list) else [value]
    return [str(alias)[:MAX_FIELD_CHARS] for alias in values][:MAX_ALIASES]


def _front_matter(meta: Mapping[str, Any]) -> list[Block]:
    """The fields of a note's front matter as its first block: `due: 2026-02-14` is a fact that can
    be asked for."""
    lines = []
    for key, value in meta.items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(part, str | int | float | date) for part in values) and values:
            lines.append(f"{key}: {', '.join(map(str, values))}"[:MAX_FIELD_CHARS])
    return [Block("\n".join(lines), 1, len(lines) + 1)] if lines else []
