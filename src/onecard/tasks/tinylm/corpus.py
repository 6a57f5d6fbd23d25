"""Text files to two memory-mapped arrays of token numbers, one to train on and one held out. Knows
no model.

Made once, a piece at a time, so that a text may be larger than memory. They lie in the cache folder
as train.bin and val.bin (uint16, little-endian), with tokenizer.json and facts.json beside them.
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
from onecard.datasets import splits
from onecard.datasets.encoding import decode
from onecard.datasets.files import walk
from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import download
from onecard.reporting import Progress, Reporter
from onecard.tasks.tinylm import leakage, tokenization
from onecard.tasks.tinylm.configs import CorpusConfig
from onecard.tasks.tinylm.tokenization import END_OF_TEXT

PIECE_CHARS = 1 << 20
"""Read at once."""
BPE_CHARS = 50_000_000
"""Of the training part, from which a BPE vocabulary is learned: more changes it little and takes
minutes."""
WHOLE_FILE_BYTES = 20_000_000
"""Files up to this size are read whole, and may be in another encoding than UTF-8."""
MAX_TOKENS = 65_535
"""Of a vocabulary: token numbers are stored in 16 bits."""
FORMATS = (
    *(".pdf", ".docx", ".pptx", ".xlsx", ".odt", ".odp", ".ods", ".rtf", ".epub"),
    *(".html", ".htm", ".xhtml", ".ipynb", ".eml"),
)
"""Of documents that are no plain text."""


@dataclass(frozen=True)
class Corpus:
    """Token arrays, opened and not read."""

    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray
    facts: dict[str, Any]
    """chars, val_chars, train_tokens, val_tokens, sha256, tokenizer_sha256, files,
    repeated_share."""

    def batch(self, seed: int, step: int, n: int, block: int) -> np.ndarray:
        """(n, block + 1) tokens from random positions, which depend on seed and step alone: a
        resumed training draws what an unbroken one would have drawn."""
        starts = np.random.default_rng([seed, step]).integers(0, len(self.train) - block, n)
        windows = [self.train[start : start + block + 1] for start in starts]
        return np.stack(windows).astype(np.int64)


@dataclass
class Survey:
    """What one pass over all files counts."""

    chars_by_file: list[int]
    characters: set[str]
    sha256: str

    @property
    def chars(self) -> int:
        return sum(self.chars_by_file)


def prepare(config: CorpusConfig, reporter: Reporter, tokenizer: Tokenizer | None = None) -> Corpus:
    """Read, split and tokenize, or open what lies in the cache.

    `tokenizer`: that of a trained model, used instead of the settings'. Raises DataError, NotFound,
    SettingsError.
    """
    files = find_files(config.dataset)
    with reporter.progress("reading", sum(file.stat().st_size for file in files)) as bar:
        survey = _survey(files, bar)
    key = _cache_key(config, files, survey, tokenizer)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = paths.home() / "tokens" / digest[:20]
    with download.locked(folder, reporter):
        if not (folder / "facts.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer = tokenizer or _make_tokenizer(config, files, survey, reporter)
            _tokenize(config, files, survey, tokenizer, folder, reporter)
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        train, val = _open_array(folder, "train", facts), _open_array(folder, "val", facts)
        if "repeated_share" not in facts:
            n_chars = facts["train_chars"] + facts["val_chars"]
            chars_per_token = n_chars / max(len(train) + len(val), 1)
            facts["repeated_share"] = leakage.repeated_share(train, val, chars_per_token)
            fsio.write_text(folder / "facts.json", json.dumps(facts))
    if facts["unknown_chars"]:
        reporter.line(
            f"left out: {facts['unknown_chars']:,} of {facts['chars']:,} characters, which are not "
            "in the vocabulary; --tokenizer bpe knows every character"
        )
    return Corpus(Tokenizer.from_file(str(folder / "tokenizer.json")), train, val, facts)


def _cache_key(
    config: CorpusConfig, files: list[Path], survey: Survey, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """All that the arrays depend on."""
    if tokenizer is not None:
        vocabulary = digest_of(tokenizer)
    elif config.tokenizer == "char":
        vocabulary = "char"
    elif config.tokenizer in ("bpe", "code"):
        vocabulary = f"{config.tokenizer} {config.vocab_size}"
    else:
        vocabulary = digest_of(load_tokenizer(config.tokenizer))
    return {
        "split": config.split,
        "val_share": config.val_share,
        "seed": config.seed if config.split != "position" else 0,
        "names": [file.name for file in files] if config.split == "file" else [],
        "text": survey.sha256,
        "tokenizer": vocabulary,
    }


def _open_array(folder: Path, part: str, facts: dict[str, Any]) -> np.ndarray:
    if not facts[f"{part}_tokens"]:
        return np.empty(0, np.uint16)
    return np.memmap(folder / f"{part}.bin", dtype=np.uint16, mode="r")


def require_blocks(corpus: Corpus, block: int) -> None:
    """Raises DataError where a part is shorter than one sample."""
    for part, tokens in (("training", corpus.train), ("validation", corpus.val)):
        n = len(tokens)
        if n < block + 1:
            fix = "more text, or another --val_share"
            if n > 1:
                fix = f"more text, or --block_size {n - 1}"
            raise DataError(
                f"the {part} text is shorter than one block",
                why=f"it has {n:,} tokens, a sample takes {block + 1:,}",
                fix=fix,
            )


# Files to text


def find_files(dataset: str) -> list[Path]:
    """Raises SettingsError, NotFound, DataError."""
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
    files = [
        file.path for file in walk([path]) if file.bytes and file.path.suffix.lower() not in FORMATS
    ]
    if not files:
        raise DataError(
            f"{path} holds no text",
            why="no text or code file lies below it",
            fix="give a folder with .txt, .md or code files",
        )
    return files


def _read(path: Path) -> Iterator[str]:
    """Pieces of a file's text with \\n as line ends; a row of JSONL is a document.

    Raises DataError for a binary file.
    """
    if path.suffix.lower() == ".jsonl":
        yield from _read_jsonl(path)
    elif path.stat().st_size > WHOLE_FILE_BYTES:
        yield from _read_large(path)
    else:
        data = path.read_bytes()
        try:
            text = "" if data[:8192].count(0) else data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = ""
        text = text or _decode(path, data)
        yield text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _read_jsonl(path: Path) -> Iterator[str]:
    """Raises DataError with file:line."""
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
            yield str(text) + END_OF_TEXT


def _read_large(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            while piece := file.read(PIECE_CHARS):
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
            why=f"the byte {fault.object[fault.start]:#x} is not valid there",
            fix="iconv -t UTF-8 converts it; a binary file is no text",
        ) from None


def _decode(path: Path, data: bytes) -> str:
    """Text in another encoding than UTF-8."""
    text, _ = decode(data, path) if data else ("", "")
    sample = text[:PIECE_CHARS]
    n_strange = sum(not c.isprintable() and c not in "\n\t\r\f" for c in sample)
    if n_strange > len(sample) // 50:
        raise DataError(
            f"{path} is a binary file",
            why=f"{n_strange:,} of its first characters are not printable",
            fix="leave it out, or convert it to text",
        )
    return text


def _survey(files: list[Path], bar: Progress) -> Survey:
    """Raises DataError for no text, or one without information."""
    digest, characters, chars_by_file = hashlib.sha256(), set(), []
    for path in files:
        n_chars = 0
        for piece in _read(path):
            digest.update(piece.encode("utf-8", "surrogatepass"))
            characters |= set(piece.replace(END_OF_TEXT, ""))
            n_chars += len(piece)
        digest.update(b"\0")
        chars_by_file.append(n_chars)
        bar.step(path.stat().st_size)
    if not sum(chars_by_file):
        raise DataError(
            f"{files[0]} is empty", why="it has no characters", fix="give a file with text"
        )
    if len(characters) < 2:
        raise DataError(
            "there is nothing to learn",
            why=f"the text is one character repeated: {next(iter(characters), '')!r}",
            fix="give a real text",
        )
    return Survey(chars_by_file, characters, digest.hexdigest())


# Text to train and val


def _parts(config: CorpusConfig, files: list[Path], survey: Survey) -> Iterator[tuple[str, str]]:
    """("train" | "val", piece) in the order of the text, with END_OF_TEXT between files."""
    if config.split == "file":
        held_out = _held_out_files(config, files, survey.chars_by_file)
        for path in files:
            part = "val" if path in held_out else "train"
            for piece in _read(path):
                yield part, piece
            yield part, END_OF_TEXT
    elif config.split == "document":
        for path in files:
            for document in _documents(path):
                share = splits.hash_share(config.seed, document.strip())
                yield "val" if share < config.val_share else "train", document
    else:
        yield from _parts_by_position(files, int(survey.chars * (1 - config.val_share)))


def _parts_by_position(files: list[Path], n_train: int) -> Iterator[tuple[str, str]]:
    """The first `n_train` characters are the training part."""
    remaining = n_train
    for i, path in enumerate(files):
        for piece in _read(path):
            if 0 < remaining < len(piece):
                yield "train", piece[:remaining]
                yield "val", piece[remaining:]
            else:
                yield "train" if remaining > 0 else "val", piece
            remaining -= len(piece)
        if i + 1 < len(files):
            yield "train" if remaining > 0 else "val", END_OF_TEXT


def _held_out_files(config: CorpusConfig, files: list[Path], chars: list[int]) -> set[Path]:
    """Whole files in the order of their names' hashes, until the share is full; at least one."""
    if len(files) < 2:
        raise SettingsError(
            "one file cannot be split by file",
            why="there would be nothing left to train on",
            fix="--split position, or a folder with several files",
        )
    order = sorted(range(len(files)), key=lambda i: splits.hash_rank(config.seed, files[i].name))
    held_out: set[Path] = set()
    n_chars = 0
    for i in order[:-1]:
        if held_out and n_chars + chars[i] > config.val_share * sum(chars):
            continue
        held_out.add(files[i])
        n_chars += chars[i]
    return held_out


def _documents(path: Path) -> Iterator[str]:
    """Texts that belong together, each with the END_OF_TEXT or blank line that ends it."""
    separator, buffer = "", ""
    for piece in _read(path):
        separator = separator or (END_OF_TEXT if END_OF_TEXT in piece else "\n\n")
        *documents, buffer = (buffer + piece).split(separator)
        yield from (document + separator for document in documents if document.strip())
    if buffer.strip():
        yield buffer


def _joined(parts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Small pieces of one part joined, and split again where no token crosses."""
    buffers: dict[str, str] = {"train": "", "val": ""}
    for part, piece in parts:
        buffers[part] += piece
        if len(buffers[part]) >= PIECE_CHARS:
            at = tokenization.safe_split(buffers[part])
            yield part, buffers[part][:at]
            buffers[part] = buffers[part][at:]
    yield from ((part, text) for part, text in buffers.items() if text)


# Text to tokens


def _make_tokenizer(
    config: CorpusConfig, files: list[Path], survey: Survey, reporter: Reporter
) -> Tokenizer:
    if config.tokenizer == "char":
        return tokenization.char_tokenizer(survey.characters)
    if config.tokenizer in ("bpe", "code"):
        reporter.line(f"training a vocabulary of {config.vocab_size} tokens")
        return tokenization.train_bpe(
            _training_sample(config, files, survey),
            config.vocab_size,
            code=config.tokenizer == "code",
        )
    return load_tokenizer(config.tokenizer)


def _training_sample(config: CorpusConfig, files: list[Path], survey: Survey) -> Iterator[str]:
    """The training part up to BPE_CHARS: the vocabulary must not be learned from held-out text."""
    n_chars = 0
    for part, piece in _joined(_parts(config, files, survey)):
        if part == "train":
            yield piece.replace(END_OF_TEXT, "\n")
            n_chars += len(piece)
            if n_chars > BPE_CHARS:
                return


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer.json. Raises NotFound, DataError, SettingsError for too many tokens."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise NotFound(
            f"there is no tokenizer {name}",
            why="it is neither char, bpe or code nor a file",
            fix="--tokenizer char, bpe, code, or a tokenizer.json",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as fault:  # the library raises a bare Exception
        raise DataError(
            f"{path} is no tokenizer",
            why=str(fault).splitlines()[0][:200],
            fix="give a tokenizer.json in Hugging Face form",
        ) from None
    if tokenizer.get_vocab_size() > MAX_TOKENS:
        raise SettingsError(
            f"{path} has too many tokens",
            why=f"{tokenizer.get_vocab_size():,}; token numbers are stored in 16 bits",
            fix=f"one of at most {MAX_TOKENS:,}: with a model this small a larger embedding table "
            "would be most of it",
        )
    return tokenizer


def digest_of(tokenizer: Tokenizer) -> str:
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]


def _tokenize(
    config: CorpusConfig,
    files: list[Path],
    survey: Survey,
    tokenizer: Tokenizer,
    folder: Path,
    reporter: Reporter,
) -> None:
    """Write both arrays, the tokenizer and facts.json.

    Raises DataError where more than 1 % of the characters are unknown.
    """
    encode = tokenization.encoder(tokenizer)
    facts: dict[str, Any] = {
        "sha256": survey.sha256,
        "chars": survey.chars,
        "files": len(files),
        "train_chars": 0,
        "val_chars": 0,
        "train_tokens": 0,
        "val_tokens": 0,
        "unknown_chars": 0,
    }
    with (
        fsio.atomic_write(folder / "train.bin") as train_draft,
        fsio.atomic_write(folder / "val.bin") as val_draft,
        train_draft.open("wb") as train_file,
        val_draft.open("wb") as val_file,
        reporter.progress("tokens", survey.chars) as bar,
    ):
        out = {"train": train_file, "val": val_file}
        for part, piece in _joined(_parts(config, files, survey)):
            ids, n_unknown = encode(piece)
            out[part].write(np.asarray(ids, dtype=np.uint16).tobytes())
            facts[f"{part}_chars"] += len(piece) - piece.count(END_OF_TEXT) * len(END_OF_TEXT)
            facts[f"{part}_tokens"] += len(ids)
            facts["unknown_chars"] += n_unknown
            bar.step(len(piece))
    if facts["unknown_chars"] > survey.chars / 100:
        raise DataError(
            "the tokenizer does not know this text",
            why=f"{facts['unknown_chars']:,} of {survey.chars:,} characters are not in its "
            "vocabulary",
            fix="a tokenizer made from such a text: --tokenizer bpe knows every character",
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    facts["tokenizer_sha256"] = digest_of(tokenizer)
    fsio.write_text(folder / "facts.json", json.dumps(facts))
