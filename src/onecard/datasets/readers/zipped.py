"""Archives of XML (docx, xlsx, odt, epub): unpacked up to a limit, without entities."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from onecard.errors import DataError
from onecard.units import size

MAX_UNPACKED = 64 << 20
"""Bytes of text that one archive may hold: a bomb of 42 KB unpacks to thousands of millions."""


class Archive:
    """Reads members of a zip; all together are at most MAX_UNPACKED bytes."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._left = path, MAX_UNPACKED
        try:
            self._zip = zipfile.ZipFile(BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError) as fault:
            old = data.startswith(b"\xd0\xcf\x11\xe0")
            raise DataError(
                f"{path} is a broken {path.suffix} file",
                why="it has a password or is of the format before 2007" if old else str(fault),
                fix=f"save it again as {path.suffix}, without a password",
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def names(self) -> list[str]:
        return self._zip.namelist()

    def read(self, name: str) -> bytes:
        """Raises DataError beyond the limit, or for a missing member."""
        if name not in self:
            raise DataError(
                f"{self._path} is a broken {self._path.suffix} file",
                why=f"it has no {name}",
                fix="open it in its own program and save it again",
            )
        with self._zip.open(name) as member:
            content = member.read(self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(
                f"{self._path} unpacks to too much",
                why=f"more than {size(MAX_UNPACKED)} of text",
                fix="cut it into parts",
            )
        return content

    def check_size(self) -> None:
        """For a library that unpacks by itself. Raises DataError."""
        for info in self._zip.infolist():
            if not info.filename.startswith(("xl/media/", "xl/embeddings/")):
                self._left -= info.file_size
        if self._left < 0:
            raise DataError(
                f"{self._path} unpacks to too much",
                why=f"more than {size(MAX_UNPACKED)} of text",
                fix="cut it into parts",
            )


def parse_xml(data: bytes) -> Any:
    """The root element. Entities are not expanded and nothing outside is fetched.

    Raises lxml's XMLSyntaxError.
    """
    from lxml import etree  # 0.03 s, and only some kinds of files need it

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True
    )
    return etree.fromstring(data, parser)
