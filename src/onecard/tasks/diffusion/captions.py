"""Captions of pictures: from text files beside them, a metadata table, a template or a model."""

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard.datasets import rows
from onecard.datasets.images.gathering import read_text
from onecard.errors import DataError, OneCardError, SettingsError
from onecard.reporting import Reporter
from onecard.tasks.diffusion.configs import CaptionedDataConfig

ENDINGS = (".txt", ".caption")
"""Of a caption's file beside its picture; the second one is kohya's."""
TABLES = ("metadata.jsonl", "metadata.csv")
"""Of a folder in Hugging Face's imagefolder form: file_name and a text a row."""
COLUMNS = ("text", "caption", "prompt")
"""Names of a table's captions; the first that a row has."""
STYLE = "a picture in the style of {trigger}"
PLAIN = "a picture"
PLACEHOLDER = re.compile(r"\{(\w*)\}")
MAX_TOKENS = 77
"""Of CLIP's text encoders, with a start and an end."""
SPACELESS = (
    *("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "HALFWIDTH KATAKANA"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI SYLLABLE"),
)
"""Beginnings of the Unicode names of letters that follow each other without spaces; Hangul's
particles follow a word so."""
MAX_LETTERS = 5000
"""Of a caption: more is a file of something else."""
SHOWN = 5
"""Names in a warning."""

Named = Sequence[tuple[str, Path]]
"""(name, path) of pictures."""
Describe = Callable[[Named], Mapping[str, str]]
"""A captioning model: name of a picture -> caption."""


@dataclass
class Captions:
    """What was read."""

    texts: dict[str, str] = field(default_factory=dict)
    """Name of a picture -> caption."""
    sources: dict[str, str] = field(default_factory=dict)
    """Name of a picture -> the file, "template" or "model"."""
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, text: str, source: str) -> None:
        if len(text) > MAX_LETTERS:
            self.warnings.append(
                f"the caption of {name} is cut: it has {len(text):,} letters, {MAX_LETTERS:,} are "
                "read"
            )
        self.texts[name], self.sources[name] = text[:MAX_LETTERS], source


def read(
    pictures: Named,
    root: Path,
    config: CaptionedDataConfig,
    reporter: Reporter,
    describe: Describe | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> Captions:
    """A caption for each picture. `describe`: a captioning model, for caption_source "model";
    `count_tokens`: the model's own tokenizer, else the number is estimated.

    Raises SettingsError for a template that cannot be filled in, DataError where captions are
    missing (caption_source "files") or a table is broken.
    """
    captions = Captions()
    template = filled_template(config)
    if config.caption_source == "model":
        _from_model(captions, pictures, config.trigger, describe)
    elif config.caption_source != "template":
        _from_files(captions, pictures, root)
        missing = [name for name, _ in pictures if name not in captions.texts]
        if missing and config.caption_source == "files":
            raise DataError(
                f"{len(missing)} of {len(pictures)} pictures have no caption",
                why=f"no text in a file of the same name, nor a row in a table: {shown(missing)}",
                fix="write them, or --caption_source auto: the template stands in for them",
            )
        if missing and captions.texts:
            captions.warnings.append(
                f"{len(missing)} of {len(pictures)} pictures have no caption of their own, the "
                f"template stands in: {shown(missing)}"
            )
    for name, path in pictures:
        if name not in captions.texts:
            captions.add(name, template.replace("{name}", readable_name(path)), "template")
    captions.warnings += faults(captions.texts, config.trigger, count_tokens)
    for text in captions.warnings:
        reporter.warn(text)
    return captions


# Templates


def filled_template(config: CaptionedDataConfig) -> str:
    """The template with the trigger in it; {name} is left for each picture. Raises SettingsError.

    >>> filled_template(CaptionedDataConfig(trigger="sks", caption="a {trigger} dog, {name}"))
    'a sks dog, {name}'
    """
    for name in ("trigger", "caption"):
        require_text(name, getattr(config, name))
    template = config.caption.strip() or (STYLE if config.trigger.strip() else PLAIN)
    unknown = [name for name in PLACEHOLDER.findall(template) if name not in ("trigger", "name")]
    if unknown:
        raise SettingsError(
            f"--caption has {{{unknown[0]}}}",
            why="{trigger} and {name} are what is filled in",
            fix='for example --caption "a picture of {trigger} dog"',
        )
    if "{trigger}" in template and not config.trigger.strip():
        raise SettingsError(
            "--caption has {trigger}, and there is none",
            why="--trigger is empty",
            fix="--trigger with the word that is to call the style or the subject, as sks",
        )
    return template.replace("{trigger}", config.trigger.strip())


def require_text(name: str, text: str) -> None:
    """Raises SettingsError for half surrogates, which stand for bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"{name} is no text",
            why="it holds bytes that are no UTF-8",
            fix=f"write --{name} anew",
        ) from None


def readable_name(path: Path) -> str:
    """A file's name as words.

    >>> readable_name(Path("a/red_house-02.png"))
    'red house 02'
    """
    return one_line(re.sub(r"[\s_-]+", " ", path.stem))


# Files


def _from_files(captions: Captions, pictures: Named, root: Path) -> None:
    """Files beside the pictures win over tables."""
    tables = _Tables(root)
    empty, broken, twice, foreign = [], [], [], []
    for name, path in pictures:
        row = tables.text(path)
        file = text_file(path)
        if file is None:
            text, source = row, "table"
        else:
            try:
                text, source = one_line(read_text(file)), file.name
                if file.is_symlink() and not file.resolve().is_relative_to(root.resolve()):
                    foreign.append(file.name)
            except OneCardError as fault:
                broken.append(f"{file.name} ({fault.why})")
                continue
            if row and row != text:
                twice.append(name)
        if text:
            captions.add(name, text, source)
        elif text is not None:
            empty.append(name)
    faulty = (
        (empty, "captions are empty"),
        (broken, "captions cannot be read"),
        (foreign, "captions are links to files outside the folder; a LoRA tells its captions"),
        (twice, "pictures have one caption in a file and another in a table, the file's counts"),
    )
    captions.warnings += [f"{len(names)} {what}: {shown(names)}" for names, what in faulty if names]
    if rest := tables.unused():
        captions.warnings.append(f"{len(rest)} rows of tables name no picture: {shown(rest)}")


def text_file(path: Path) -> Path | None:
    """The caption's file: the picture's name with another ending, or with one more."""
    for ending in ENDINGS:
        for form in (ending, ending.upper()):
            for file in (path.with_suffix(form), path.with_name(path.name + form)):
                if file.is_file():
                    return file
    return None


class _Tables:
    """Captions in metadata.jsonl and metadata.csv, of a picture's folder or one above it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows: dict[Path, dict[Path, str]] = {}
        self._used: set[Path] = set()

    def text(self, path: Path) -> str | None:
        """None without a row."""
        for folder in (path.parent, *path.parent.parents):
            if folder not in self._rows:
                self._rows[folder] = _table_rows(folder)
            if path in self._rows[folder]:
                self._used.add(path)
                return self._rows[folder][path]
            if folder == self.root:
                break
        return None

    def unused(self) -> list[str]:
        named = {path for rows in self._rows.values() for path in rows}
        return sorted(path.name for path in named - self._used)


def _table_rows(folder: Path) -> dict[Path, str]:
    """Picture -> caption. Raises DataError for a broken table."""
    texts: dict[Path, str] = {}
    for name in TABLES:
        path = folder / name
        if not path.is_file():
            continue
        read_rows = rows.jsonl if path.suffix == ".jsonl" else rows.table
        for row in read_rows(path, ["file_name"]):
            file = str(row["file_name"]).strip().replace("\\", "/")
            column = next((each for each in COLUMNS if each in row), None)
            if column is None:
                raise DataError(
                    f"{path} has no captions",
                    why=f"its columns are {', '.join(map(str, row))}",
                    fix=f"name the column of captions {COLUMNS[0]}",
                )
            texts[Path(os.path.normpath(folder / file))] = one_line(str(row[column] or ""))
    return texts


def one_line(text: str) -> str:
    """
    >>> one_line(" a dog\\n on  grass ")
    'a dog on grass'
    """
    # half surrogates stand for bytes that are no UTF-8; no tokenizer takes them
    return " ".join(text.encode("utf-8", "replace").decode().split())


# Models


def _from_model(
    captions: Captions,
    pictures: Named,
    trigger: str,
    describe: Describe | None,
) -> None:
    """The trigger is put before what the model says: no model knows it."""
    if describe is None:
        raise SettingsError(
            "there is no model that looks at the pictures",
            why="--caption_source model needs one, and --caption_model is empty",
            fix="--caption_model with a folder or a name of the hub, as "
            "Salesforce/blip-image-captioning-base; or --caption_source template",
        )
    for name, text in describe(pictures).items():
        text = one_line(text)
        if text:
            lacks = trigger.strip() and not has_trigger(text, trigger)
            captions.add(name, f"{trigger.strip()}, {text}" if lacks else text, "model")
    missing = [name for name, _ in pictures if name not in captions.texts]
    if missing:
        captions.warnings.append(
            f"{len(missing)} pictures got no caption from the model, the template stands in: "
            f"{shown(missing)}"
        )


# Faults


def faults(
    texts: Mapping[str, str], trigger: str, count_tokens: Callable[[str], int] | None = None
) -> list[str]:
    """Captions that lack the trigger word or are longer than the text encoder reads."""
    warnings = []
    if trigger.strip():
        lacking = [name for name, text in texts.items() if not has_trigger(text, trigger)]
        if lacking:
            warnings.append(
                f"{len(lacking)} of {len(texts)} captions lack the trigger '{trigger.strip()}', "
                f"which learns nothing from them: {shown(lacking)}"
            )
    estimated = " by estimate" if count_tokens is None else ""
    lengths = {name: (count_tokens or estimated_tokens)(text) for name, text in texts.items()}
    long = [f"{name} ({n} tokens{estimated})" for name, n in lengths.items() if n > MAX_TOKENS]
    if long:
        warnings.append(
            f"{len(long)} captions are longer than the {MAX_TOKENS} tokens that CLIP reads at "
            f"once: {shown(long)}"
        )
    return warnings


def has_trigger(text: str, trigger: str) -> bool:
    """Whether a caption holds the trigger, in upper or lower case: as a whole word in scripts with
    spaces, anywhere in scripts without them.

    >>> has_trigger("A photo of SKS, dog", "sks"), has_trigger("a masks", "sks")
    (True, False)
    >>> has_trigger("一張水墨畫風的山", "水墨畫風"), has_trigger("用sks風格的狗", "sks")
    (True, True)
    """
    text, trigger = _folded(text), _folded(trigger)
    start = text.find(trigger) if trigger else -1
    while start >= 0:
        end = start + len(trigger)
        before, after = text[start - 1 : start], text[end : end + 1]
        if not (_joins(before, trigger[0]) or _joins(trigger[-1], after)):
            return True
        start = text.find(trigger, start + 1)
    return False


def _folded(text: str) -> str:
    """Without case, and with one form for full-width and composed letters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring letters belong to one word."""
    return bool(left and right) and _in_word(left) and _in_word(right)


def _in_word(letter: str) -> bool:
    if not (letter.isalnum() or letter == "_" or unicodedata.combining(letter)):
        return False
    return not unicodedata.name(letter, "").startswith(SPACELESS)


def estimated_tokens(text: str) -> int:
    """CLIP's tokens without its tokenizer, start and end among them: a word of up to 6 letters is
    one, longer ones one more for each further 6; a letter outside Latin about two.

    >>> estimated_tokens("a photo of a dog"), estimated_tokens("一隻狗")
    (7, 8)
    """
    words = re.findall(r"[^\W\d_]+|\d|[^\w\s]+", text)
    return 2 + sum(
        -(-len(word) // 6) if word.isascii() or word[0] < "\u0250" else 2 * len(word)
        for word in words
    )


def shown(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
