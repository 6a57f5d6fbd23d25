"""What all readers of pictures share: a walk over the files, sizes, faults and counted notes."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onecard.datasets.encoding import decode as decode_text
from onecard.datasets.images import decode
from onecard.datasets.images.geometry import Fit
from onecard.datasets.images.records import Box, ImageDataset, Picture, RejectedLabel
from onecard.errors import DataError, OneCardError
from onecard.reporting import Progress, Reporter

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Names of folders and files -> the split they hold."""
CLASS_FILES = (
    "classes.txt",
    "obj.names",
    "labels.txt",
    "predefined_classes.txt",
    "class_names.txt",
)
MAX_TEXT_BYTES = 512 << 20
"""Of one label file: COCO's largest, instances_train2017.json, has 449 MB."""


class Gathering:
    """Pictures, faults and notes, as a reader comes upon them."""

    def __init__(self, root: Path, reporter: Reporter) -> None:
        self.root = root
        self.reporter = reporter
        self.pictures: list[Picture] = []
        self.rejected: list[RejectedLabel] = []
        self.notes: list[str] = []
        self._counts: Counter[str] = Counter()
        self._sizes: dict[Path, tuple[int, int] | None] = {}
        self._progress = Progress()

    # Files

    def name(self, path: Path) -> str:
        """The path below the root, with slashes; of what the user's own file names elsewhere, the
        whole path."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return Path(os.path.normpath(path.absolute())).as_posix().lstrip("/")

    def inside(self, folder: Path, name: str) -> Path | None:
        """A file as labels name it, with either slash; None where the name leads out of the root.

        Links inside the root are the user's own and are followed.
        """
        name = name.strip().replace("\\", "/")
        if not name or "\0" in name or name.startswith("/") or name[1:3] == ":/":
            return None
        path = Path(os.path.normpath(folder / name))
        return path if path.is_relative_to(os.path.normpath(self.root)) else None

    def size(self, path: Path) -> tuple[int, int] | None:
        """(width, height), once for each file; None for a broken one, which is then rejected."""
        if path not in self._sizes:
            self._progress.step()
            try:
                self._sizes[path] = decode.picture_size(path)
            except OneCardError as fault:
                self.reject(self.name(path), fault.why)
                self._sizes[path] = None
        return self._sizes[path]

    def text(self, path: Path) -> str:
        """A text file in any encoding; empty for a broken one, which is then rejected."""
        try:
            return read_text(path)
        except OneCardError as fault:
            self.reject(self.name(path), fault.why)
            return ""

    # Faults

    def reject(self, where: str, reason: str) -> None:
        self.rejected.append(RejectedLabel(where, reason))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def count(self, what: str, n: int = 1) -> None:
        """One more of something that a note gives the number of: "{n} boxes were cut"."""
        self._counts[what] += n

    def label_size(
        self, path: Path, size: tuple[int, int], named: tuple[int | None, int | None]
    ) -> tuple[tuple[int, int], int]:
        """(size, EXIF orientation) that a picture's labels were drawn with, `named` by their file.

        Width and height the other way round than the upright picture's are those of the picture as
        it is stored: its labels must then be turned by the orientation (5 to 8), as the picture is.
        For all others the picture's own size counts, and the orientation is 0.
        """
        if named == (size[1], size[0]) and size[0] != size[1]:
            orientation = decode.orientation(path)
            if orientation in decode.SIDEWAYS:
                self.count("pictures are turned by EXIF, and so were their labels")
                return (size[1], size[0]), orientation
        if named != size:
            self.count("pictures have another width and height than their labels say; theirs count")
        return size, 0

    def take(self, fit: Fit, where: str) -> Box | None:
        """The box of a checked label, or None, which is then rejected."""
        if fit.box is None:
            self.reject(where, fit.fault)
            return None
        if fit.cut:
            self.count("labels that reach beyond their picture were cut to it")
        if fit.turned:
            self.count("boxes have their corners in the other order; they were put right")
        return fit.box

    def add(
        self,
        path: Path,
        split: str,
        boxes: Sequence[Box],
        n_labels: int,
        where: str = "",
        group: str = "",
    ) -> None:
        """A picture with its boxes, of `n_labels` that stand in its label file.

        Where there were labels and none can be used, the picture is left out: it would teach that
        nothing is on it.
        """
        size = self.size(path)
        if size is None:
            return
        if n_labels and not boxes:
            reason = "none of its labels can be used, and without them it would count as empty"
            self.reject(where or self.name(path), reason)
            return
        self.pictures.append(
            Picture(path, self.name(path), *size, split, tuple(boxes), group=group)
        )

    def dataset(self, form: str, classes: Iterable[str]) -> ImageDataset:
        """Sorted by name; counted notes follow the others. Raises DataError without pictures."""
        pictures: dict[str, Picture] = {}
        for picture in self.pictures:
            if picture.name in pictures:
                other = pictures[picture.name].split
                reason = f"it is listed twice, in {other or 'none'} and {picture.split or 'none'}"
                self.reject(picture.name, reason)
            else:
                pictures[picture.name] = picture
        if not pictures:
            first = [f"{each.where}: {each.reason}" for each in self.rejected[:3]]
            raise DataError(
                f"{self.root} has no usable picture",
                why="; ".join(first) or "no picture was found with its labels",
                fix="check the folder; the layouts are described in the documentation",
            )
        counted = [f"{n:,} {what}" for what, n in self._counts.most_common()]
        return ImageDataset(
            self.root,
            form,
            tuple(classes),
            [pictures[name] for name in sorted(pictures)],
            self.rejected,
            [*self.notes, *counted],
        )

    def reading(self, paths: Sequence[Path]) -> Iterator[Path]:
        """The pictures, with progress."""
        with self.reporter.progress("pictures", len(paths)) as self._progress:
            yield from paths


# Folders


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; false for names that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def head_of(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file; none of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError:
        return b""


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; links are followed, each folder once. Hidden ones and
    macOS's archives' shadows are left out."""
    visited: set[str] = set()
    files: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(each for each in folders if each[0] != "." and each != "__MACOSX")
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        files.extend(Path(place, name) for name in sorted(names) if name[0] != ".")
    return files


def pictures_below(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if decode.is_picture(path)]


def split_of(name: str) -> str:
    """The split that a folder or list is named after, or "".

    >>> split_of("valid"), split_of("instances_train2017"), split_of("cats"), split_of("testament")
    ('val', 'train', '', '')
    """
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else ""


def split_in_path(relative: Path) -> str:
    """The split that one of a path's folders is named after: the innermost."""
    names = [part.lower() for part in relative.parts]
    return next((SPLIT_WORDS[name] for name in reversed(names) if name in SPLIT_WORDS), "")


def read_text(path: Path) -> str:
    """Raises DataError for a binary, unreadable or huge file."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(
                f"{path} is too large",
                why=f"it has more than {MAX_TEXT_BYTES >> 20} MiB",
                fix="split it into several files",
            )
        return decode_text(path.read_bytes(), path)[0].lstrip("\ufeff")
    except OSError as fault:
        raise DataError(
            f"{path} cannot be read", why=fault.strerror or str(fault), fix="check its permissions"
        ) from None


def class_list(path: Path) -> list[str]:
    """Names of a classes.txt, one a line. Raises DataError."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def unique_names(names: Sequence[str]) -> list[str]:
    """Class names as they are, a repeated one with its number.

    >>> unique_names(["mouse", "cat", "mouse"])
    ['mouse', 'cat', 'mouse (2)']
    """
    unique: list[str] = []
    for i, name in enumerate(names):
        again = name in unique
        unique.append(f"{name} ({i})" if again else name)
    return unique


def whole_number(value: object) -> int | None:
    """A class number or id: 3, "3", 3.0 and "3.0", else None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and not isinstance(value, bool) else None
