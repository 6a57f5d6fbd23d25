"""Text files to two memory-mapped rows of token numbers, one to learn from and one held out; made
once, a piece at a time, so that a text may be larger than memory. Knows no model.

A row lies in the cache folder as train.bin and val.bin (uint16, little-endian), with tokenizer.json
and facts.json beside them.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from onecard import fsio, paths
from onecard.datasets.encoding import decode
from onecard.datasets.files import walk
from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import download
from onecard.reporting import Reporter
from onecard.tasks.tinylm import tokenizers as ours
from onecard.tasks.tinylm.configs import Settings

PIECE = 1 << 20
"""Characters read at once."""
TRAIN_CHARS = 50_000_000
"""Characters of the training part that a BPE vocabulary is learned from: more change it little and
take minutes."""
ODD_BYTES = 20_000_000
"""A file of another encoding than UTF-8 up to this is read whole."""


@dataclass(frozen=True)
class Corpus:
    """Rows of tokens, opened and not read."""

    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray
    facts: dict[str, Any]
    """chars, val_chars, train_tokens, val_tokens, sha256, tokenizer_sha256, files."""

    def batch(self, seed: int, step: int, n: int, block: int) -> np.ndarray:
        """(n, block + 1) tokens from random places; the same for the same step, whatever came
        before: a resumed run draws the same."""
        starts = np.random.default_rng([seed, step]).integers(0, len(self.train) - block, n)
        return np.stack([self.train[start : start + block + 1] for start in starts]).astype(
            np.int64
        )


def prepare(s: Settings, reporter: Reporter, tokenizer: Tokenizer | None = None) -> Corpus:
    """Read, split and cut into tokens, or open what lies there from before.

    A given tokenizer is that of a checkpoint. Raises DataError, NotFound, SettingsError.
    """
    files = _files(s.dataset)
    with reporter.progress("reading", sum(file.stat().st_size for file in files)) as bar:
        seen = _survey(files, bar)
    asked = {
        "split": s.split,
        "val_share": s.val_share,
        "seed": s.seed if s.split != "position" else 0,
        "names": [file.name for file in files] if s.split == "file" else [],
        "text": seen["sha256"],
    }
    asked["tokenizer"] = (
        _digest(tokenizer)
        if tokenizer
        else (
            s.tokenizer
            if s.tokenizer == "char"
            else f"{s.tokenizer} {s.vocab_size}"
            if s.tokenizer in ("bpe", "code")
            else _digest(_own(s.tokenizer))
        )
    )
    folder = (
        paths.home()
        / "tokens"
        / hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]
    )
    with download.locked(folder, reporter):
        if not (folder / "facts.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _make(s, files, seen, folder, reporter, tokenizer)
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    train, val = (
        np.memmap(folder / f"{part}.bin", dtype=np.uint16, mode="r")
        if facts[f"{part}_tokens"]
        else np.empty(0, np.uint16)
        for part in ("train", "val")
    )
    return Corpus(Tokenizer.from_file(str(folder / "tokenizer.json")), train, val, facts)


def need_blocks(corpus: Corpus, block: int) -> None:
    """Raises DataError where a part is shorter than one sample."""
    for part, row in (("training", corpus.train), ("validation", corpus.val)):
        if len(row) < block + 1:
            raise DataError(
                f"the {part} text is shorter than one block",
                why=f"it has {len(row):,} tokens, a sample takes {block + 1:,}",
                fix=f"more text, or --block_size {max(1, len(row) - 1)}"
                if len(row) > 1
                else "more text, or another --val_share",
            )


def _files(dataset: str) -> list[Path]:
    if not dataset:
        raise SettingsError(
            "there is no text",
            why="no file or folder was named",
            fix="onecard tinylm train book.txt --size 1m",
        )
    path = Path(dataset).expanduser()
    if not path.exists():
        raise NotFound(f"there is no {path}", why="nothing lies at that path", fix="check the path")
    if path.is_file():
        return [path]
    found = [
        item.path
        for item in walk([path])
        if item.bytes
        and item.path.suffix.lower() not in (".pdf", ".docx", ".html", ".htm", ".ipynb")
    ]
    if not found:
        raise DataError(
            f"{path} holds no text",
            why="no text or code file lies below it",
            fix="give a folder with .txt, .md or code files",
        )
    return found


def _whole(path: Path) -> Iterator[str]:
    """Pieces of a file's text, line ends as \\n; a row of JSONL is a document.

    Raises DataError with what to do for a binary file.
    """
    if path.suffix.lower() == ".jsonl":
        yield from _rows(path)
    elif path.stat().st_size > ODD_BYTES:
        yield from _large(path)
    else:
        data = path.read_bytes()
        try:
            text = "" if data[:8192].count(0) else data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = ""
        yield (text or _odd(path, data)).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _rows(path: Path) -> Iterator[str]:
    """Texts of a JSONL file, a line at a time. Raises DataError with file:line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as fault:
                raise DataError(
                    f"{path}:{number} has no text",
                    why=f"{type(fault).__name__}: {line[:60]!r}",
                    fix='each line must be {"text": "..."}',
                ) from None
            yield str(text) + ours.END


def _large(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as text:
            while piece := text.read(PIECE):
                if piece.count("\0") > len(piece) // 1000:
                    raise DataError(
                        f"{path} is a binary file",
                        why="it has NUL bytes",
                        fix="leave it out, or convert it to text",
                    )
                yield piece.replace("\0", "")
    except UnicodeDecodeError as fault:
        raise DataError(
            f"{path} is not UTF-8",
            why=f"byte {fault.object[fault.start]:#x} stands where none may",
            fix="iconv -t UTF-8 turns it; a binary file is no text",
        ) from None


def _odd(path: Path, data: bytes) -> str:
    """Text in another encoding."""
    text, _ = decode(data, path) if data else ("", "")
    strange = sum(not letter.isprintable() and letter not in "\n\t\r\f" for letter in text[:PIECE])
    if strange > len(text[:PIECE]) // 50:
        raise DataError(
            f"{path} is a binary file",
            why=f"{strange:,} of its first characters are no letters",
            fix="leave it out, or convert it to text",
        )
    return text


def _survey(files: list[Path], bar: Any) -> dict[str, Any]:
    """One pass: how many characters, which ones, and the fingerprint of all. Raises DataError."""
    digest, letters, counts = hashlib.sha256(), set(), []
    for path in files:
        n = 0
        for piece in _whole(path):
            digest.update(piece.encode("utf-8", "surrogatepass"))
            letters |= set(piece.replace(ours.END, ""))
            n += len(piece)
        digest.update(b"\0")
        counts.append(n)
        bar.step(path.stat().st_size)
    if not sum(counts):
        raise DataError(
            f"{files[0]} is empty", why="it has no characters", fix="give a file with text"
        )
    if len(letters) < 2:
        raise DataError(
            "there is nothing to learn",
            why=f"the text is one character repeated: {next(iter(letters), '')!r}",
            fix="give a real text",
        )
    return {
        "chars": sum(counts),
        "counts": counts,
        "letters": letters,
        "sha256": digest.hexdigest(),
    }


def _parts(s: Settings, files: list[Path], seen: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """("train" | "val", piece) in the order of the text; between files stands the end mark."""
    if s.split == "file":
        held = _held_files(s, files, seen["counts"])
        for path in files:
            for piece in _whole(path):
                yield "val" if path in held else "train", piece
            yield "val" if path in held else "train", ours.END
        return
    if s.split == "document":
        for path in files:
            for document in _documents(path):
                draw = (
                    int(
                        hashlib.sha256(
                            f"{s.seed}:{document.strip()}".encode("utf-8", "surrogatepass")
                        ).hexdigest()[:8],
                        16,
                    )
                    / 2**32
                )
                yield "val" if draw < s.val_share else "train", document
        return
    left = int(seen["chars"] * (1 - s.val_share))
    for i, path in enumerate(files):
        for piece in _whole(path):
            if 0 < left < len(piece):
                yield "train", piece[:left]
                yield "val", piece[left:]
            else:
                yield "train" if left > 0 else "val", piece
            left -= len(piece)
        if i + 1 < len(files):
            yield "train" if left > 0 else "val", ours.END


def _held_files(s: Settings, files: list[Path], counts: list[int]) -> set[Path]:
    """Whole files in the order of their names' hashes, until the share is full; at least one."""
    if len(files) < 2:
        raise SettingsError(
            "one file cannot be split by file",
            why="there would be nothing left to train on",
            fix="--split position, or a folder with several files",
        )
    order = sorted(
        range(len(files)),
        key=lambda i: hashlib.sha256(
            f"{s.seed}:{files[i].name}".encode("utf-8", "surrogatepass")
        ).hexdigest(),
    )
    held: set[Path] = set()
    so_far = 0
    for i in order[:-1]:
        if held and so_far + counts[i] > s.val_share * sum(counts):
            continue
        held.add(files[i])
        so_far += counts[i]
    return held


def _documents(path: Path) -> Iterator[str]:
    """Texts that belong together, each with the mark or blank line that ends it."""
    mark, held = "", ""
    for piece in _whole(path):
        mark = mark or (ours.END if ours.END in piece else "\n\n")
        *done, held = (held + piece).split(mark)
        yield from (document + mark for document in done if document.strip())
    if held.strip():
        yield held


def _make(
    s: Settings,
    files: list[Path],
    seen: dict[str, Any],
    folder: Path,
    reporter: Reporter,
    given: Tokenizer | None,
) -> None:
    if given is not None:
        tokenizer = given
    elif s.tokenizer == "char":
        tokenizer = ours.characters(seen["letters"])
    elif s.tokenizer in ("bpe", "code"):
        reporter.line(f"learning {s.vocab_size} tokens of the text")
        tokenizer = ours.learn(_some(s, files, seen), s.vocab_size, code=s.tokenizer == "code")
    else:
        tokenizer = _own(s.tokenizer)
    encode = ours.encoder(tokenizer)
    facts: dict[str, Any] = {
        "sha256": seen["sha256"],
        "chars": seen["chars"],
        "files": len(files),
        "train_chars": 0,
        "val_chars": 0,
        "train_tokens": 0,
        "val_tokens": 0,
        "unknown_chars": 0,
    }
    with (
        fsio.atomic_write(folder / "train.bin") as train,
        fsio.atomic_write(folder / "val.bin") as val,
        train.open("wb") as train_file,
        val.open("wb") as val_file,
        reporter.progress("tokens", seen["chars"]) as bar,
    ):
        out = {"train": train_file, "val": val_file}
        for part, piece in _joined(_parts(s, files, seen)):
            ids, unknown = encode(piece)
            out[part].write(np.asarray(ids, dtype=np.uint16).tobytes())
            facts[f"{part}_chars"] += len(piece) - piece.count(ours.END) * len(ours.END)
            facts[f"{part}_tokens"] += len(ids)
            facts["unknown_chars"] += unknown
            bar.step(len(piece))
    if facts["unknown_chars"] > seen["chars"] / 100:
        raise DataError(
            "the tokenizer does not know this text",
            why=f"{facts['unknown_chars']:,} of {seen['chars']:,} characters are not in its "
            "vocabulary",
            fix="a tokenizer made from such a text: --tokenizer bpe knows every character",
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    facts["tokenizer_sha256"] = _digest(tokenizer)
    fsio.write_text(folder / "facts.json", json.dumps(facts))


def _joined(parts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Small pieces of one part laid together, cut again where no token of ours crosses."""
    held: dict[str, str] = {"train": "", "val": ""}
    for part, piece in parts:
        held[part] += piece
        if len(held[part]) >= PIECE:
            cut = ours.safe_cut(held[part])
            yield part, held[part][:cut]
            held[part] = held[part][cut:]
    yield from ((part, text) for part, text in held.items() if text)


def _some(s: Settings, files: list[Path], seen: dict[str, Any]) -> Iterator[str]:
    """The training part only, up to TRAIN_CHARS: a vocabulary must not have seen what is held out."""
    n = 0
    for part, piece in _joined(_parts(s, files, seen)):
        if part == "train":
            yield piece.replace(ours.END, "\n")
            n += len(piece)
            if n > TRAIN_CHARS:
                return


def _own(name: str) -> Tokenizer:
    path = Path(name).expanduser()
    if not path.is_file():
        raise NotFound(
            f"there is no tokenizer {name}",
            why="it is neither char, bpe or code nor a file",
            fix="--tokenizer char, bpe, code, or a tokenizer.json",
        )
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as fault:  # the library raises a bare Exception
        raise DataError(
            f"{path} is no tokenizer",
            why=str(fault).splitlines()[0][:200],
            fix="give a tokenizer.json of Hugging Face's form",
        ) from None
    if made.get_vocab_size() > 65_535:
        raise SettingsError(
            f"{path} has too many tokens",
            why=f"{made.get_vocab_size():,}; a row of tokens is kept in 16 bits",
            fix="one of at most 65,535: with a model this small a larger table would be most of it",
        )
    return made


def _digest(tokenizer: Tokenizer) -> str:
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]
