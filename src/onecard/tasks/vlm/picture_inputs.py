"""What a user or a client names, as pictures: paths, folders, PDF pages, data URIs, base64, bytes
and, where the host is allowed, web addresses.

Everything has a bound, and it is judged before the work that it bounds: the number of pictures, the
length of a text before it is decoded, the bytes of a file, the pixels of all together.
"""

import base64
import binascii
import io
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from onecard.datasets.images import decode, pdf_pages
from onecard.datasets.images.gathering import files_below, is_there
from onecard.errors import DataError, NotFound, OneCardError
from onecard.tasks.vlm import picture_urls
from onecard.tasks.vlm.engine import Picture

MAX_PIXELS = 128_000_000
"""Of all pictures of a question together: 384 MB decoded."""
MAX_NAME = 4096
ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
DATA_URI = re.compile(r"data:(?P<type>[\w.+/-]*)(?P<options>(?:;[^,;]*)*),", re.IGNORECASE)
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{60,}={0,2}")
FILE_NAME = re.compile(
    r"(?i).*\.(?:" + "|".join(sorted(each[1:] for each in (*decode.SUFFIXES, ".pdf", ".svg"))) + ")"
)
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
"""Formats with frames or pages; an MPO's second picture is a camera's depth or preview."""
MAX_NAMED_WORDS = 3
"""Words of a last word with a picture's ending that is still a file's name, not a question."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Bounds:
    """What a question may bring."""

    max_pictures: int = 32
    max_bytes: int = 64 << 20
    """Of one picture's file."""
    allow_url: tuple[str, ...] = ()
    """Hosts that pictures may be fetched from."""
    local_files: bool = True
    """False for what a client of a server sends: it names no file of this machine."""


@dataclass(frozen=True)
class Document:
    """A picture or one page of a PDF, or why it could not be read."""

    name: str
    """`scan.pdf page 2`, or the file's name."""
    path: Path
    page: int
    """From 1; 0 for a picture."""
    picture: Picture | None = None
    fault: OneCardError | None = None


# Many


def pictures_of(
    sources: Sequence[str | bytes], bounds: Bounds = Bounds(), tell: Tell | None = None
) -> list[Picture]:
    """The pictures of a question, in their order; a folder gives all of its own, a PDF its pages.

    `tell` is called with what was changed, as a frame taken of an animation. Raises NotFound,
    DataError, MissingExtra.
    """
    pictures: list[Picture] = []
    n_pixels = 0
    _require_number(len(sources), bounds)
    for source in sources:
        for picture in _expanded(source, bounds, tell or _silent):
            pictures.append(picture)
            _require_number(len(pictures), bounds)
            n_pixels += picture.width * picture.height
            if n_pixels > MAX_PIXELS:
                raise DataError(
                    f"the pictures have more than {MAX_PIXELS // 1_000_000} million pixels "
                    "together",
                    why="decoded they would fill the memory",
                    fix="fewer pictures, or smaller ones",
                )
    return pictures


def _require_number(n: int, bounds: Bounds) -> None:
    if n > bounds.max_pictures:
        raise DataError(
            f"there are more than {bounds.max_pictures} pictures in one question",
            why=f"{bounds.max_pictures} is the most: each is hundreds of tokens of the context",
            fix="ask about fewer at once; onecard vlm describe takes whole folders, one by one",
        )


def _silent(text: str) -> None:
    pass


def _expanded(source: str | bytes, bounds: Bounds, tell: Tell) -> Iterator[Picture]:
    """Lazily, so that a folder of thousands ends at the bound."""
    path = _path_of(source) if bounds.local_files else None
    if path is None or not is_there(path):
        yield picture_of(source, bounds, tell)
        return
    files = _files(path)
    for file in files:
        if pdf_pages.is_pdf(file):
            for number, rgb in pdf_pages.pages(file):
                yield Picture(rgb, f"{file.name} page {number + 1}")
        else:
            yield picture_of(str(file), bounds, tell)


def _files(path: Path) -> list[Path]:
    """Of a folder its pictures and PDF files, else the file itself. Raises NotFound."""
    if not path.is_dir():
        return [path]
    files = [
        file for file in files_below(path) if decode.is_picture(file) or pdf_pages.is_pdf(file)
    ]
    if not files:
        raise NotFound(
            f"there are no pictures in {path}",
            why=f"no file in it ends as a picture does ({', '.join(sorted(decode.SUFFIXES)[:6])} "
            "...) or in .pdf",
            fix="check the folder",
        )
    return files


def documents_of(paths: Sequence[str], bounds: Bounds = Bounds()) -> Iterator[Document]:
    """Every picture and every page, one at a time; one that cannot be read comes with its fault,
    and the others go on.

    Raises NotFound before the first one for a path that leads to nothing.
    """
    files: list[Path] = []
    for name in paths:
        path = _path_of(name)
        if path is None or not is_there(path):
            raise _missing(name)
        files += _files(path)
    return _documents(list(dict.fromkeys(files)), bounds)


def _documents(files: Sequence[Path], bounds: Bounds) -> Iterator[Document]:
    for file in files:
        if not pdf_pages.is_pdf(file):
            try:
                yield Document(file.name, file, 0, picture_of(str(file), bounds))
            except OneCardError as fault:
                yield Document(file.name, file, 0, fault=fault)
            continue
        try:
            n_pages = pdf_pages.n_pages(file)
        except OneCardError as fault:
            yield Document(file.name, file, 1, fault=fault)
            continue
        for number in range(n_pages):
            name = f"{file.name} page {number + 1}"
            try:
                picture = Picture(pdf_pages.page(file, number), name)
                yield Document(name, file, number + 1, picture)
            except OneCardError as fault:
                yield Document(name, file, number + 1, fault=fault)


# One


def picture_of(source: str | bytes, bounds: Bounds = Bounds(), tell: Tell | None = None) -> Picture:
    """Of a path, a data URI, base64, an allowed address or a file's bytes. Raises NotFound,
    DataError."""
    if isinstance(source, bytes):
        return _decoded(source, "the picture", bounds, tell)
    if source[:5].lower() == "data:":
        return _decoded(data_uri_bytes(source, bounds.max_bytes), "the picture", bounds, tell)
    if ADDRESS.fullmatch(source[: picture_urls.MAX_URL + 1]):
        data = picture_urls.fetch(source, bounds.allow_url, bounds.max_bytes)
        name = urllib.parse.unquote(source.partition("?")[0].rstrip("/").rpartition("/")[2])
        return _decoded(data, name[:100] or "the picture", bounds, tell)
    path = _path_of(source) if bounds.local_files else None
    if path is None or not is_there(path):
        if BASE64.fullmatch(source[:4096].strip()):
            data = _base64_bytes(source, bounds.max_bytes, "the base64 text")
            return _decoded(data, "the picture", bounds, tell)
        if not bounds.local_files:
            raise _no_file(source)
        raise _missing(source)
    if path.is_file() and path.stat().st_size > bounds.max_bytes:
        raise _too_many_bytes(str(path), path.stat().st_size, bounds.max_bytes)
    try:
        data = path.read_bytes()
    except OSError:
        decode.read_rgb(path)  # says what is wrong with it
        raise _missing(source) from None
    return _decoded(data, path.name, bounds, tell)


def _decoded(data: bytes, name: str, bounds: Bounds, tell: Tell | None) -> Picture:
    if len(data) > bounds.max_bytes:
        raise _too_many_bytes(name, len(data), bounds.max_bytes)
    rgb = decode.read_rgb_bytes(data, name)
    if tell and (n_frames := _n_frames(data)) > 1:
        tell(f"{name} has {n_frames} frames or pages: the first one is used")
    return Picture(rgb, name)


def _n_frames(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=decode.FORMATS) as image:
            return int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    except Exception:  # it was decoded before; a broken second frame is no fault of the first
        return 1


def data_uri_bytes(uri: str, max_bytes: int) -> bytes:
    """What a data URI holds; its length is judged before it is decoded. Raises DataError."""
    match = DATA_URI.match(uri[:500])
    if not match:
        raise _bad_uri("it has no comma before its content")
    kind = match["type"].lower()
    if kind and not kind.startswith(("image/", "application/octet-stream")):
        raise _bad_uri(f"it is of type {kind[:60]}, which is no picture")
    text = uri[match.end() :]
    if match["options"].lower().endswith(";base64"):
        return _base64_bytes(text, max_bytes, "the data URI")
    if len(text) > 3 * max_bytes:
        raise _too_many_bytes("the data URI", len(text) // 3, max_bytes)
    return urllib.parse.unquote_to_bytes(text)


def _base64_bytes(text: str, max_bytes: int, name: str) -> bytes:
    """Raises DataError."""
    if len(text) > max_bytes * 4 // 3 + 1024:
        raise _too_many_bytes(name, len(text) * 3 // 4, max_bytes)
    plain = urllib.parse.unquote(text) if "%" in text else text
    plain = "".join(plain.split()).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _bad_uri("its content is not base64") from None


# Words of a command line


def is_picture_source(text: str) -> bool:
    """Whether a word of the command line stands for pictures: a file, a folder, a data URI, an
    address."""
    if text[:5].lower() in ("data:", "file:") or ADDRESS.fullmatch(text):
        return True
    path = _path_of(text)
    return path is not None and is_there(path)


def looks_like_file(text: str) -> bool:
    """Whether a word that is no file was meant for one.

    >>> looks_like_file("cat.png"), looks_like_file("What does the sign in cat.png say?")
    (True, False)
    """
    name = text.strip()
    return bool(FILE_NAME.fullmatch(name)) and len(name.split()) <= MAX_NAMED_WORDS


def missing_picture(name: str) -> NotFound:
    """The refusal of a word that was meant for a picture."""
    return _missing(name)


def _path_of(source: str | bytes) -> Path | None:
    """None for what no file system takes as a name."""
    if isinstance(source, bytes) or not source or len(source) > MAX_NAME or "\0" in source:
        return None
    try:
        return Path(source).expanduser()
    except RuntimeError:  # an unknown user's home
        return None


# Refusals


def _missing(name: str) -> NotFound:
    if name[:5].lower() == "file:":
        return NotFound(
            f"{name[:100]} is not opened",
            why="file: addresses are taken from nobody",
            fix="give the path itself",
        )
    return NotFound(
        f"there is no picture {name[:200]}",
        why="nothing lies at that path",
        fix="check the path; a question with such a name is asked with --question",
    )


def _no_file(name: str) -> DataError:
    kind = "an address that is not fetched" if ":" in name[:12] else "no data URI"
    return DataError(
        f"the picture {name[:60]!r} cannot be read",
        why=f"it is {kind}, and a request opens no file of this machine",
        fix="send it as a data URI: data:image/png;base64,...",
    )


def _bad_uri(why: str) -> DataError:
    return DataError(
        "a picture's data URI cannot be read", why=why, fix="data:image/png;base64,CONTENT"
    )


def _too_many_bytes(name: str, n_bytes: int, max_bytes: int) -> DataError:
    return DataError(
        f"{name} is too large for a picture",
        why=f"it has {n_bytes / 2**20:.1f} MiB; {max_bytes / 2**20:g} MiB is the most",
        fix="save it as JPEG, or make it smaller",
    )
