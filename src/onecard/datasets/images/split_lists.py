"""Splits by lists of names: ImageSets/Main/train.txt and its like."""

from collections.abc import Sequence
from pathlib import Path

from onecard.datasets.images import decode
from onecard.datasets.images.gathering import Gathering, split_of

NAMES = ("train.txt", "val.txt", "valid.txt", "test.txt", "trainval.txt")

Splits = dict[str, tuple[str, str]]
"""Stem of a picture -> (split, file:line)."""


def listed_splits(root: Path, gathering: Gathering, kinds: Sequence[str] = ("Main",)) -> Splits:
    """Of ImageSets/<kind>/{train,val,test}.txt below the root, else of ImageSets/*.txt; empty
    where there is none. A name in two lists counts in the first and is rejected in the other."""
    folders = [
        folder
        for kind in (*kinds, "")
        for above in ("", "*/", "*/*/")
        for folder in sorted(root.glob(f"{above}ImageSets/{kind}"))
    ]
    folder = next(
        (each for each in folders if any((each / name).is_file() for name in NAMES)), None
    )
    if folder is None:
        return {}
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    parts = [path for path in files if path.name != "trainval.txt"]
    if not any(split_of(path.stem) in ("train", "val") for path in parts):
        parts = files  # trainval is then what is trained on
    splits: Splits = {}
    for path in parts:
        _read_list(path, split_of(path.stem) or "train", splits, gathering)
    return splits


def _read_list(path: Path, split: str, splits: Splits, gathering: Gathering) -> None:
    """Adds the names of a list, a line each; VOC's lists for a class have `name 1`, `name -1`."""
    for number, line in enumerate(gathering.text(path).split("\n"), 1):
        words = line.split()
        if not words or (len(words) == 2 and words[1] == "-1"):
            continue
        is_marked = len(words) == 2 and words[1] in ("0", "1")
        name = (words[0] if is_marked else line.strip()).replace("\\", "/").rpartition("/")[2]
        stem = Path(name).stem if decode.is_picture(Path(name)) else name
        where = f"{gathering.name(path)}:{number}"
        if stem in splits and splits[stem][0] != split:
            gathering.reject(where, f"{stem[:80]} stands in {splits[stem][1]} too, which counts")
        else:
            splits.setdefault(stem, (split, where))


def keep_listed(splits: Splits, stems: set[str], gathering: Gathering) -> None:
    """Leaves out the pictures that no list names, and rejects names without a picture."""
    if not splits:
        return
    listed = [each for each in gathering.pictures if each.split]
    if n := len(gathering.pictures) - len(listed):
        gathering.pictures = listed
        gathering.note(f"{n:,} pictures stand in no list of ImageSets and are not used")
    for stem, (_, where) in splits.items():
        if stem not in stems:
            gathering.reject(where, f"there is no picture {stem[:100]}")
