"""Incremental indexing: only changed files are read, and each distinct text is embedded once.

A kill at any time loses at most one batch and leaves complete files only.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onecard.datasets import documents
from onecard.datasets.files import SourceFile, Walk
from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import download
from onecard.inference.embeddings import Embedder, open_embedder
from onecard.reporting import Progress, Reporter
from onecard.tasks.rag import chunking, note_fields, store
from onecard.tasks.rag.configs import IndexConfig
from onecard.tasks.rag.describer import Describer, Reading
from onecard.units import duration

BATCH_CHUNKS = 128
"""Chunks that are embedded and written at once: about 6 s of work on 2 cores."""
BATCH_FILES = 500
"""Files that are written at once when they bring few new texts, as copies do."""
MAX_FAULTS_SHOWN = 20
READERS = "4"
"""Raised when readers or the analyzer give more of a file than before: an index of older ones reads
all again."""
MAX_REASONS_SHOWN = 12

OldFile = tuple[int, int, str, str, str]
"""(bytes, mtime_ns, sha256, fault, signature) of a file that is in the index."""


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
    described: int = 0
    """Pictures and pages that a server described this time."""
    faults: list[DataError] = field(default_factory=list)
    """Files that could not be read."""
    notes: list[str] = field(default_factory=list)
    """Parts of files that could not be read, and folders that were kept or left."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> number of files and folders that were not looked at."""

    def add_fault(self, fault_text: str) -> None:
        """Count a fault as it is stored: what, why and fix in three lines."""
        what, why, fix = [*fault_text.split("\n"), "", ""][:3]
        if what.endswith("is empty"):
            self.empty += 1
        elif what.endswith("is minified code"):
            self.left_out["minified code"] += 1
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
        if self.described:
            lines.append(f"{self.described:,} pictures and pages described")
        if self.empty:
            lines.append(f"{self.empty} empty files skipped")
        if self.left_out:
            counts_by_reason = [f"{n:,} {reason}" for reason, n in self.left_out.most_common()]
            more = len(counts_by_reason) - MAX_REASONS_SHOWN
            rest = f", and {more} more kinds" if more > 0 else ""
            lines.append(f"left out: {', '.join(counts_by_reason[:MAX_REASONS_SHOWN])}{rest}")
        lines += self.notes[:MAX_FAULTS_SHOWN]
        if len(self.notes) > MAX_FAULTS_SHOWN:
            lines.append(f"... and {len(self.notes) - MAX_FAULTS_SHOWN} more notes")
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
        self.describer = Describer(config, target.folder, reporter)

    def update(self, roots: Sequence[Path]) -> IndexStats:
        """One pass. A second process on the same folder waits, and then has nothing to do.

        A file that cannot be read is reported and stored, so that it is tried again only when it
        changes.
        """
        with download.locked(self.store.folder, self.reporter), self.describer.session():
            return self._update(roots)

    def _update(self, roots: Sequence[Path]) -> IndexStats:
        start, stats = time.monotonic(), IndexStats()
        self.store.set_build_settings(
            {
                "embedding_model": self.config.embedding_model,
                "chunk_tokens": str(self.config.chunk_tokens),
                "chunk_overlap": str(self.config.chunk_overlap),
                "readers": READERS,
                "ocr": str(self.config.ocr),
            }
        )
        old_files = self.store.files()
        self._check_roots(roots, old_files, stats)
        self.store.set_meta("roots", "\n".join(str(root) for root in roots))
        self.store.set_meta("descriptions", "\n".join(self.config.descriptions))
        files, kept_folders = self._readable_files(roots, old_files, stats)
        changed = self._changed_files(files, old_files, stats)
        removed = set(old_files) - {str(file.path) for file in files}
        removed -= set(_below(kept_folders, removed))
        stats.removed = len(removed)
        self._tell_forgotten(old_files, stats)
        if removed:
            self.store.write([], {}, removed)
        if changed:
            reader = documents.DocumentReader(
                self.config.max_file_mb << 20,
                self.config.max_file_s,
                ocr=self.config.ocr,
                scans=self.describer.enabled,
            )
            with reader, self.reporter.progress("indexing", len(changed)) as bar:
                self._index_files(changed, reader, stats, bar)
        if removed or changed:
            self.store.delete_unused_vectors()
        self._add_descriptions(roots, stats)
        stats.total_s = time.monotonic() - start
        return stats

    def _check_roots(
        self, roots: Sequence[Path], old_files: Iterable[str], stats: IndexStats
    ) -> None:
        """Files of former folders that are not named now leave the index, which is said.

        Raises SettingsError where that would be all of them, NotFound for a folder that is missing
        now and was not there before.
        """
        for root in roots:
            if not root.exists() and not _below([root], old_files):
                raise NotFound(
                    f"there is no folder {root}",
                    why="nothing lies at that path",
                    fix="check the path",
                )
        outside = set(old_files) - set(_below(roots, old_files))
        if not outside:
            return
        former = ", ".join(map(str, self.store.roots()))
        named = " ".join(map(str, roots))
        if outside == set(old_files):
            raise SettingsError(
                f"this index holds {len(outside):,} files of {former}",
                why="none of them lies in the folders that you name: all would leave the index",
                fix=f"name the former folders too, or --index another folder; to begin "
                f"anew, remove {self.store.folder}",
            )
        stats.notes.append(
            f"{len(outside):,} files leave the index: they do not lie in {named} (it had {former})"
        )

    def _readable_files(
        self, roots: Sequence[Path], old_files: dict[str, OldFile], stats: IndexStats
    ) -> tuple[list[SourceFile], list[Path]]:
        """Files to index, and folders whose files stay as they are: a drive may not be mounted."""
        files = []
        self._walked = []
        there = [root for root in roots if root.exists()]
        search = Walk(self.config.follow_links, self.describer.takes)
        for file in search.files(there):
            if file.fault:
                stats.faults.append(
                    DataError(
                        f"{file.path} is skipped",
                        why=file.fault,
                        fix="rename it, repair the link, or leave it as it is",
                    )
                )
                continue
            self._walked.append(file.path)
            old = old_files.get(str(file.path))
            unchanged_sha256 = old[2] if old and old[:2] == (file.bytes, file.mtime_ns) else ""
            if reason := self.describer.left_out(file, unchanged_sha256):
                stats.left_out[reason] += 1
            else:
                files.append(file)
        stats.left_out += search.left_out
        empty = [root for root in there if root.is_dir() and not any(root.iterdir())]
        kept = [root for root in roots if root not in there] + empty + search.unreadable
        for folder in kept:
            if n_files := len(_below([folder], old_files)):
                stats.notes.append(
                    f"kept: {n_files:,} files of {folder}, which is missing or empty now (is its "
                    f"drive mounted?); to forget them, remove {self.store.folder}"
                )
        return files, kept

    def _changed_files(
        self, files: Sequence[SourceFile], old_files: dict[str, OldFile], stats: IndexStats
    ) -> list[tuple[SourceFile, OldFile | None]]:
        """New files and those with another size or time; the others are counted."""
        changed = []
        for file in files:
            old = old_files.get(str(file.path))
            same = old and old[:2] == (file.bytes, file.mtime_ns)
            if old and same and old[4] == self.describer.expected(file.path, old[2]):
                stats.unchanged += 1
                if old[3]:
                    stats.add_fault(old[3])
            else:
                changed.append((file, old))
        return changed

    def _index_files(
        self,
        changed: Sequence[tuple[SourceFile, OldFile | None]],
        reader: documents.DocumentReader,
        stats: IndexStats,
        bar: Progress,
    ) -> None:
        batch: list[store.FileRows] = []
        new_texts: dict[bytes, str] = {}
        for reading, old in self._read_ahead(changed, reader):
            file, rows = reading.file, self._rows(reading, stats)
            if rows is None:
                bar.step()
                continue
            same = old and (old[2], old[4]) == (rows.sha256, rows.signature)
            if old and same and not rows.fault and not old[3]:
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

    def _read_ahead(
        self,
        changed: Sequence[tuple[SourceFile, OldFile | None]],
        reader: documents.DocumentReader,
    ) -> Iterator[tuple[Reading, OldFile | None]]:
        """Files in their order; while the answers to one are awaited, the next ones are read."""
        queue: deque[tuple[Reading, OldFile | None]] = deque()
        for file, old in changed:
            queue.append((self.describer.begin(file, reader), old))
            if len(queue) > self.describer.n_ahead:
                yield queue.popleft()
        yield from queue

    def _rows(self, reading: Reading, stats: IndexStats) -> store.FileRows | None:
        """A file's rows, with a fault alone if it cannot be read; None for a file that vanished."""
        self.describer.finish(reading)
        file, document, fault = reading.file, reading.document, reading.fault
        name, signature = str(file.path), reading.signature
        if fault or not document:
            if not fault or not file.path.exists():
                return None
            text = f"{fault.what}\n{fault.why}\n{fault.fix}"
            stats.add_fault(text)
            size, at = file.bytes, file.mtime_ns
            return store.FileRows(
                name, size, at, "", file.path.name, "fault", "", [], {}, [], text, signature
            )
        stats.notes += [f"{name}: {note}" for note in document.notes]
        passages = chunking.chunk_blocks(
            [*note_fields.front_matter(document.meta), *document.blocks],
            self.config.chunk_tokens,
            self.config.chunk_overlap,
        )
        return store.FileRows(
            name,
            file.bytes,
            file.mtime_ns,
            document.sha256,
            note_fields.title(document, file.path),
            document.kind,
            document.encoding,
            document.links,
            document.meta,
            passages,
            signature=signature,
        )

    def _tell_forgotten(self, old_files: dict[str, OldFile], stats: IndexStats) -> None:
        """A command without the settings of the one before forgets its descriptions."""
        if self.describer.enabled:
            return
        if n := sum(bool(old[4]) for old in old_files.values()):
            stats.notes.append(
                f"descriptions of {n:,} pictures and PDF files leave the index: this command has "
                "neither --descriptions nor --describe_url"
            )

    def _add_descriptions(self, roots: Sequence[Path], stats: IndexStats) -> None:
        """What became of pictures and their descriptions in this pass."""
        describer = self.describer
        stats.described = len(describer.answered)
        stats.notes += describer.files.notes + describer.files.unused(self._walked, roots)
        for reason, n in describer.failures.most_common(3):
            stats.notes.append(f"{n:,} pictures and pages are not described: {reason}")
        if describer.cut_off:
            stats.notes.append(
                f"{len(describer.cut_off):,} descriptions were cut off, as of "
                f"{describer.cut_off[0].name}: --describe_max_tokens with more"
            )


def _below(folders: Iterable[Path], names: Iterable[str]) -> list[str]:
    """Those of the files that are one of `folders`, or lie below one."""
    exact = {str(folder) for folder in folders}
    beginnings = tuple(folder.rstrip(os.sep) + os.sep for folder in exact)
    return [name for name in names if name in exact or name.startswith(beginnings)]
