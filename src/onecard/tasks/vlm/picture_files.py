"""The picture that a row names: a path, an id, a data URI or bytes, as a file on this machine.

Nothing is fetched, and a row opens no file outside the folders that the user named.
"""

import base64
import binascii
import hashlib
import io
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from onecard.datasets.images import decode
from onecard.datasets.images.gathering import is_there, pictures_below
from onecard.errors import DataError
from onecard.fsio import atomic_write

MAX_INLINE = 32 << 20
"""Bytes of a picture that stands in a row."""
MAX_NAME = 4096
ADDRESS = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://|//|www\.", re.IGNORECASE)
DATA_URI = re.compile(r"data:([\w.+/-]*)((?:;[^,;]*)*),", re.IGNORECASE)
DRIVE = re.compile(r"[A-Za-z]:/")
LAST_DIGITS = re.compile(r"(\d+)\D*$")
SUFFIXES = (".jpg", ".png", ".jpeg", *sorted(decode.SUFFIXES - {".jpg", ".png", ".jpeg"}))
"""The usual ones first, for pictures that are named without."""
PATH_KEYS = ("path", "url", "image", "image_url", "file_name", "filename")


@dataclass(frozen=True)
class PictureNumber:
    """A picture that a row names by its number, as COCO's and VQA's files do."""

    number: int
    subset: str = ""
    """Where several have the number, the one with this in its path: val2014."""


class PictureFiles:
    """Finds the pictures of one data file."""

    def __init__(self, folder: Path, images: Sequence[Path], inline: Path) -> None:
        """`folder`: the data file's; `images`: the user's own, looked in first; `inline`: where
        pictures that stand in rows are written, named by their content."""
        self.inline = inline
        roots = [*images, folder]
        self.roots = [Path(os.path.normpath(root.absolute())) for root in roots]
        self._places: list[Path] = []
        for root in self.roots:
            self._places += [root, root / "images"]
        self._ending: tuple[Path, str] = (self._places[0], SUFFIXES[0])
        self._paths: dict[Any, Path | str] = {}
        self._walked = self.roots[: len(images)] or self.roots
        self._by_stem: dict[str, list[Path]] | None = None
        self._by_number: dict[int, list[Path]] = {}

    def find(self, value: Any) -> Path:
        """Raises ValueError with the reason why a row's picture cannot be used."""
        if isinstance(value, bytes | bytearray):
            return self._stored(bytes(value))
        if isinstance(value, Mapping):
            return self._of_object(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = PictureNumber(value)
        if isinstance(value, str) and value[:5].lower() == "data:":
            return self._of_data_uri(value)
        if not isinstance(value, str | PictureNumber):
            raise ValueError(f"a picture is named by a path, not by {_shown(value)}")
        if value not in self._paths:
            try:
                if isinstance(value, PictureNumber):
                    self._paths[value] = self._numbered(value)
                else:
                    self._paths[value] = self._named(value)
            except ValueError as fault:
                self._paths[value] = str(fault)
        result = self._paths[value]
        if isinstance(result, str):
            raise ValueError(result)
        return result

    # Pictures that stand in the row

    def _of_object(self, value: Mapping[str, Any]) -> Path:
        """Hugging Face's {bytes, path}, or an object with a path or an address."""
        data = value.get("bytes")
        if isinstance(data, bytes | bytearray):
            return self._stored(bytes(data))
        for key in PATH_KEYS:
            if isinstance(inner := value.get(key), str | Mapping):
                return self.find(inner)
        raise ValueError(f"a picture's object has no path: {_shown(dict(value))}")

    def _of_data_uri(self, uri: str) -> Path:
        match = DATA_URI.match(uri[:500])
        if not match:
            raise ValueError("a data URI without a comma")
        text = uri[match.end() :]
        if len(text) > MAX_INLINE * 4 // 3 + 1024:
            raise ValueError(
                f"a data URI of {len(text) * 3 // 4 >> 20} MiB; {MAX_INLINE >> 20} MiB is the most"
            )
        if not match[2].lower().endswith(";base64"):
            return self._stored(urllib.parse.unquote_to_bytes(text))
        plain = "".join(urllib.parse.unquote(text).split()).translate(str.maketrans("-_", "+/"))
        try:
            data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("a data URI that is not base64") from None
        return self._stored(data)

    def _stored(self, data: bytes) -> Path:
        """A file of the inline folder with these bytes, which must be a picture."""
        if len(data) > MAX_INLINE:
            raise ValueError(
                f"a picture of {len(data) >> 20} MiB stands in the row; {MAX_INLINE >> 20} MiB is "
                "the most"
            )
        digest = hashlib.sha256(data).hexdigest()[:40]
        if digest not in self._paths:
            self._paths[digest] = self._written(data, digest)
        result = self._paths[digest]
        if isinstance(result, str):
            raise ValueError(result)
        return result

    def _written(self, data: bytes, digest: str) -> Path | str:
        path = self.inline / f"{digest}.{_kind(data)}"
        if path.is_file() and path.stat().st_size == len(data):
            return path
        try:
            with atomic_write(path) as draft:
                draft.write_bytes(data)
                try:
                    decode.picture_size(draft)
                except DataError as fault:
                    raise ValueError(f"the picture in the row is not usable: {fault.why}") from None
        except ValueError as fault:
            return str(fault)
        return path

    # Pictures that the row names

    def _named(self, name: str) -> Path:
        name = name.strip()
        if not name or "\0" in name or len(name) > MAX_NAME:
            raise ValueError("a picture's name is empty, or no name")
        if ADDRESS.match(name):
            raise ValueError(
                f"{name[:80]} is an address, and nothing is fetched: download the picture"
            )
        if name[:5].lower() == "file:":
            name = urllib.parse.unquote(re.sub(r"(?i)^file:(//(localhost)?)?", "", name))
        name = name.replace("\\", "/")
        if name.startswith("/") or DRIVE.match(name):
            return self._absolute(name)
        inside = False
        for place in self._places:
            path = Path(os.path.normpath(place / name))
            inside |= (is_inside := path.is_relative_to(place))
            if is_inside and _is_file(path):
                return path
        if not inside:
            raise ValueError(f"{name[:80]} leads out of its folder; --images names another one")
        if Path(name).suffix.lower() not in decode.SUFFIXES and (bare := self._bare(name)):
            return bare
        if name.isdecimal() and len(name) < 19:
            return self._numbered(PictureNumber(int(name)))
        looked = ", ".join(dict.fromkeys(map(str, self.roots)))
        raise ValueError(f"there is no picture {name[:120]} in {looked}")

    def _absolute(self, name: str) -> Path:
        path = Path(os.path.normpath(name))
        if not any(path.is_relative_to(root) for root in self.roots):
            raise ValueError(
                f"{name[:120]} lies outside of the data's folder; --images permits its own"
            )
        if not _is_file(path):
            raise ValueError(f"there is no picture {name[:120]}")
        return path

    def _bare(self, name: str) -> Path | None:
        """A picture named without its ending: beside the last one that was, else anywhere."""
        place, ending = self._ending
        if ".." in Path(name).parts:
            return None
        for folder, suffix in (
            (place, ending),
            *((folder, suffix) for folder in self._places for suffix in SUFFIXES),
        ):
            path = folder / f"{name}{suffix}"
            if _is_file(path):
                self._ending = (folder, suffix)
                return path
        if "/" in name:
            return None
        paths = self._stems().get(name, [])
        if len(paths) > 1:
            raise ValueError(f"{name[:80]} may be {paths[0].name} or {paths[1]}: name its folder")
        return paths[0] if paths else None

    def _numbered(self, value: PictureNumber) -> Path:
        """By its number as a name, else by the last digits of a name: COCO_val2014_000000000042."""
        bare = self._bare(str(value.number))
        if bare is not None:
            return bare
        self._stems()
        paths = self._by_number.get(value.number, [])
        if len(paths) > 1 and value.subset:
            paths = [path for path in paths if value.subset in path.as_posix()] or paths
        if not paths:
            looked = ", ".join(dict.fromkeys(map(str, self.roots)))
            raise ValueError(f"no picture in {looked} has the number {value.number}")
        if len(paths) > 1:
            shown = " and ".join(map(str, paths[:2]))
            raise ValueError(f"{len(paths)} pictures have the number {value.number}: {shown}")
        return paths[0]

    def _stems(self) -> dict[str, list[Path]]:
        """All pictures below the user's own folders, or else the data's, by name without ending and
        by their last digits; one walk."""
        if self._by_stem is None:
            self._by_stem = {}
            paths = dict.fromkeys(
                path for root in self._walked if is_there(root) for path in pictures_below(root)
            )
            for path in paths:
                self._by_stem.setdefault(path.stem, []).append(path)
                if digits := LAST_DIGITS.search(path.stem):
                    self._by_number.setdefault(int(digits[1]), []).append(path)
        return self._by_stem


def _is_file(path: Path) -> bool:
    """False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _kind(data: bytes) -> str:
    """The ending of a picture's bytes."""
    try:
        with Image.open(io.BytesIO(data), formats=decode.FORMATS) as image:
            return str(image.format or "img").lower()
    except Exception:  # decoders raise a dozen classes; what it is not is said when it is judged
        return "img"


def _shown(value: Any) -> str:
    return repr(value)[:60]
