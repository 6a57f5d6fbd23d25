"""The languages of what a person reads: help, headings, labels, the web page. Knows no text.

English is the source: it costs no file and no lookup. Another language is read from
`locale/LANGUAGE/LC_MESSAGES/onecard.po`, which is compiled once into the cache folder. The language
belongs to the context (thread, asyncio task), so that a server answers in two at once. What a
program reads (`--json`, files of a run) is never translated.
"""

import gettext as standard_gettext
import io
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from functools import cache
from pathlib import Path

from onecard import fsio, paths
from onecard.errors import OneCardError

LANGUAGES = {"en": "English", "zh_TW": "繁體中文"}
"""Code -> the language's own name."""
ENGLISH = "en"
LOCALE = Path(__file__).parent / "locale"
MAX_HEADER_CHARS = 1000
"""Of an Accept-Language header; browsers send some 50."""
_TRADITIONAL = re.compile(r"zh[-_](tw|hk|mo|hant)(?![a-z])", re.I)
"""Chinese as it is written in Taiwan, Hong Kong and Macao; plain zh means simplified Chinese."""

_language: ContextVar[str] = ContextVar("onecard_language", default=ENGLISH)


class use:
    """Speak `language` from now on in this context; as a `with` block, only inside it.

    An unknown language is English.
    """

    def __init__(self, language: str) -> None:
        known = language if language in LANGUAGES else ENGLISH
        self._before: Token[str] = _language.set(known)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *fault: object) -> None:
        _language.reset(self._before)


def current() -> str:
    """The language of this context: a key of LANGUAGES."""
    return _language.get()


def gettext(text: str, language: str | None = None, *, context: str = "") -> str:
    """`text` in the language, the current one by default; unchanged where it has no translation.

    Values are filled in afterwards: `gettext("{n} runs").format(n=3)`. `context`: msgctxt of a word
    that has another translation elsewhere.
    """
    language = language or current()
    if language == ENGLISH:
        return text
    return catalog(language).get(f"{context}\x04{text}" if context else text, text)


def match(tag: str) -> str | None:
    """The language that a tag means, as zh-TW or en_US.UTF-8; None for one that we do not speak.

    >>> match("zh-Hant-HK"), match("en_GB.UTF-8"), match("zh-CN")
    ('zh_TW', 'en', None)
    """
    if _TRADITIONAL.match(tag):
        return "zh_TW"
    return ENGLISH if re.match(r"en(?![a-z])", tag, re.I) else None


def from_locale(environ: Mapping[str, str]) -> str:
    """The language of a terminal: ONECARD_LANG, else as gettext goes by the locale.

    The locale is the first of LC_ALL, LC_MESSAGES and LANG that is set. LANGUAGE, a list of
    languages in order of preference, comes before it unless the locale is C.

    >>> from_locale({"LANG": "zh_TW.UTF-8"}), from_locale({"LANG": "C", "LANGUAGE": "zh_TW"})
    ('zh_TW', 'en')
    """
    if own := environ.get("ONECARD_LANG"):
        return match(own) or ENGLISH
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((environ[name] for name in names if environ.get(name)), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return ENGLISH
    tags = [*environ.get("LANGUAGE", "").split(":"), locale]
    return next((known for tag in tags if (known := match(tag))), ENGLISH)


def from_header(accept_language: str) -> str:
    """The language that a browser asks for, by its q-values; English for all that is no header.

    >>> from_header("zh-TW,zh;q=0.9,en;q=0.8"), from_header("de, en;q=0.5, zh-TW;q=0.1")
    ('zh_TW', 'en')
    """
    rows = []
    for part in accept_language[:MAX_HEADER_CHARS].split(","):
        tag, _, parameters = part.partition(";")
        known = match(tag.strip())
        weight = _weight(parameters)
        if known and weight > 0:
            rows.append((weight, known))
    return max(rows, key=lambda row: row[0])[1] if rows else ENGLISH


def _weight(parameters: str) -> float:
    """Of one language of a header; 0 where it is no number from 0 to 1 (RFC 9110, 12.4.2)."""
    if not parameters.strip():
        return 1.0
    value = re.fullmatch(r"\s*q\s*=\s*([01](?:\.[0-9]*)?)\s*", parameters, re.I)
    weight = float(value[1]) if value else 0.0
    return weight if weight <= 1 else 0.0


@cache
def catalog(language: str) -> dict[str, str]:
    """Every message of a language and its translation; empty for English. A message with a context
    is CONTEXT, \\x04, message. All callers share it: do not change it."""
    if language not in LANGUAGES or language == ENGLISH:
        return {}
    try:
        content = (LOCALE / language / "LC_MESSAGES" / "onecard.po").read_bytes()
    except OSError:  # an installation without it speaks English
        return {}
    import hashlib  # loads OpenSSL, 3 ms: only where there is something to hash

    digest = hashlib.sha256(content).hexdigest()[:16]
    compiled = paths.home() / "locale" / f"onecard-{language}-{digest}.mo"
    try:
        return dict(_messages(compiled.read_bytes()))
    except (OSError, ValueError, KeyError, IndexError):  # not there yet, or not what was written
        data = _compile(content, language)
    _keep(compiled, data, language)
    return dict(_messages(data))


def _messages(data: bytes) -> Iterator[tuple[str, str]]:
    """The messages of a compiled catalogue. Raises OSError and ValueError for another file."""
    try:
        translations = standard_gettext.GNUTranslations(io.BytesIO(data))
    except Exception as fault:  # struct.error and others: a file that was cut
        raise ValueError("not a compiled catalogue") from fault
    for text, translation in vars(translations)["_catalog"].items():
        if text and isinstance(text, str):  # the empty message is the head of the file
            yield text, translation


def _compile(content: bytes, language: str) -> bytes:
    """The .po file in the form that the standard library reads."""
    # once for each new catalogue: Babel takes 100 ms to load
    from babel.messages import mofile, pofile

    catalogue = pofile.read_po(io.BytesIO(content), locale=language)
    target = io.BytesIO()
    mofile.write_mo(target, catalogue)
    return target.getvalue()


def _keep(compiled: Path, data: bytes, language: str) -> None:
    """For the next start; a cache folder that cannot be written costs that start 200 ms."""
    try:
        with fsio.atomic_write(compiled) as draft:
            draft.write_bytes(data)
        for older in compiled.parent.glob(f"onecard-{language}-*.mo"):
            if older != compiled:
                older.unlink(missing_ok=True)
    except (OneCardError, OSError):
        pass
