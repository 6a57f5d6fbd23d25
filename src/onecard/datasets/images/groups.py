"""What a picture was cut from, by its name: a film, a burst, a frame that was augmented.

Ordinary numbers (0001.jpg, BloodImage_00001.jpg) say nothing and make no group.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import PurePosixPath

from onecard.datasets.images.gathering import SPLIT_WORDS
from onecard.datasets.images.records import Picture

BURST_S = 2.0
"""Two pictures at most so far apart in time belong to one burst."""
EXTENSIONS = "mp4|avi|mov|mkv|webm|m4v|wmv|mpe?g|mts|m2ts|3gp|flv"
ROBOFLOW = re.compile(r"(?P<base>.+)\.rf\.[0-9A-Za-z]{8,64}")
ROBOFLOW_ENDING = re.compile(r"[_-](jpe?g|png|bmp|webp|tiff?|gif)$", re.IGNORECASE)
FILM = re.compile(rf"(?P<film>.+?)[ _.-]({EXTENSIONS})(?:[ _.-].*|\d*)?", re.IGNORECASE)
FRAME = re.compile(
    r"(?:(?P<film>.*?)[ _.-])??(?:frame|frm|fr)[ _.-]*\d+(?:[ _.-].*)?", re.IGNORECASE
)
CLIP = re.compile(
    r"(?P<film>(?:.*[ _.-])?(?:clip|video|vid|film|movie|footage|cam|camera|seq|sequence)"
    r"[ _.-]?(?:\d+[a-z]?|[a-z]\d*)?)[ _.-]\d+",
    re.IGNORECASE,
)
FILM_FOLDER = re.compile(
    rf"(?:clip|video|vid|film|movie|seq|sequence|scene|cam|camera)[ _.-]?\w*\d+"
    rf"|.+[._]({EXTENSIONS})(?:[ _.-]?frames?)?",
    re.IGNORECASE,
)
COPY = re.compile(r"(?P<base>.+?)(?: \(\d+\)| ?- ?Copy(?: \(\d+\))?|[ _-]copy\d*)", re.IGNORECASE)
VARIANT = re.compile(
    r"(?P<base>.+?)[ _-](?:aug|augmented|[hv]?flip(?:ped)?|rot(?:ated?)?|mirror(?:ed)?|blur(?:red)?"
    r"|noisy?|bright|dark|crop(?:ped)?|tile|patch)[ _-]?\d*(?:[ _-]\d+)*",
    re.IGNORECASE,
)
MOMENT = re.compile(
    r"(?P<before>.*?)(?<!\d)(?P<day>(?:19|20)\d\d([-_.]?)\d\d\3\d\d)[-_ .T]?(?:at )?"
    r"(?P<time>[012]\d([-_.:h]?)\d\d[-_.:m]?\d\d)(?P<ms>\d{3})?(?!\d{2,})",
    re.IGNORECASE,
)
PLAIN_FOLDERS = {"images", "image", "jpegimages", "img", "imgs", "data", "frames", *SPLIT_WORDS}
"""Folders that say nothing of what a picture shows."""

RULES = {
    "film": "frames of films",
    "frame": "Roboflow's versions of frames",
    "variant": "augmented versions, tiles or copies of pictures",
    "burst": f"bursts, pictures within {BURST_S:g} s of the one before",
}


def group_of(name: str) -> tuple[str, str]:
    """(group, rule) of a picture's name below the data set's root; two empty texts for one of its
    own. Folders of splits do not count: a film may stand in several.

    >>> group_of("train/images/walk_mp4-11_jpg.rf.0123456789abcdef.jpg")
    ('film:walk', 'film')
    >>> group_of("valid/images/cat7_jpg.rf.0123456789abcdef.jpg")
    ('frame:cat7', 'frame')
    >>> group_of("a/frame_000123.png"), group_of("0001.jpg"), group_of("BloodImage_00001.jpg")
    (('film:a/', 'film'), ('', ''), ('', ''))
    """
    path = PurePosixPath(name)
    folders = [part for part in path.parts[:-1] if part.lower() not in PLAIN_FOLDERS]
    place = "/".join(folders)
    stem, is_roboflow = _base(path.stem)
    if match := FILM.fullmatch(stem):
        return f"film:{match['film']}", "film"
    if match := FRAME.fullmatch(stem):
        return f"film:{place}/{match['film'] or ''}", "film"
    if match := CLIP.fullmatch(stem):
        return f"film:{place}/{match['film']}", "film"
    if any(FILM_FOLDER.fullmatch(part) for part in folders):
        return f"film:{place}", "film"
    return (f"frame:{stem}", "frame") if is_roboflow else ("", "")


def with_groups(pictures: Sequence[Picture]) -> tuple[list[Picture], list[str]]:
    """The pictures with their groups, those that the data set names first, and notes by what rule
    how many were grouped."""
    groups = [picture.group for picture in pictures]
    rules = ["given" if group else "" for group in groups]
    for i, picture in enumerate(pictures):
        if not groups[i]:
            groups[i], rules[i] = group_of(picture.name)
    for rule, links in (("variant", _variants(pictures)), ("burst", _bursts(pictures))):
        for i, group in links.items():
            if not groups[i]:
                groups[i], rules[i] = group, rule
    sizes = Counter(group for group in groups if group)
    notes = []
    for rule, text in RULES.items():
        members = [i for i, each in enumerate(rules) if each == rule and sizes[groups[i]] > 1]
        if members:
            n_groups = len({groups[i] for i in members})
            example = pictures[members[0]].name
            noun = "groups" if n_groups > 1 else "group"
            notes.append(f"{len(members):,} pictures are {text}, {n_groups:,} {noun}: {example}")
    alone = [group if sizes[group] > 1 else "" for group in groups]
    pairs = zip(pictures, alone, strict=True)
    return [replace(picture, group=group) for picture, group in pairs], notes


def frame_order(name: str) -> list[str | int]:
    """A key that sorts names by the numbers in them: frames in their order."""
    stem, _ = _base(PurePosixPath(name).stem)
    parts = re.split(r"(\d+)", stem)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _base(stem: str) -> tuple[str, bool]:
    """A name without what Roboflow adds: a_jpg.rf.HASH -> a."""
    match = ROBOFLOW.fullmatch(stem)
    if not match:
        return stem, False
    return ROBOFLOW_ENDING.sub("", match["base"]), True


def _variants(pictures: Iterable[Picture]) -> dict[int, str]:
    """Picture -> group of a_aug_1, a_flip and a, where several have the same base; `a (1)` and
    `a - Copy` only where `a` itself is there: whole sets are numbered so."""
    stems = [PurePosixPath(picture.name).stem for picture in pictures]
    names = set(stems)
    groups: dict[int, str] = {}
    for i, stem in enumerate(stems):
        version, copy = VARIANT.fullmatch(stem), COPY.fullmatch(stem)
        if version:
            groups[i] = f"variant:{version['base']}"
        elif copy and copy["base"] in names:
            groups[i] = f"variant:{copy['base']}"
    bases = set(groups.values())
    for i, stem in enumerate(stems):
        if i not in groups and f"variant:{stem}" in bases:
            groups[i] = f"variant:{stem}"
    return groups


def _bursts(pictures: Sequence[Picture]) -> dict[int, str]:
    """Picture -> group of those whose names give times within BURST_S of the one before."""
    series: dict[str, list[tuple[float, int]]] = {}
    for i, picture in enumerate(pictures):
        path = PurePosixPath(picture.name)
        stem, _ = _base(path.stem)
        if match := MOMENT.match(stem):
            digits = re.sub(r"\D", "", match["day"] + match["time"])
            try:
                moment = datetime.strptime(digits, "%Y%m%d%H%M%S")
            except ValueError:
                continue
            seconds = (moment - datetime(1970, 1, 1)).total_seconds()
            seconds += int(match["ms"] or 0) / 1000
            folders = [part for part in path.parts[:-1] if part.lower() not in PLAIN_FOLDERS]
            series.setdefault("/".join([*folders, match["before"]]), []).append((seconds, i))
    groups: dict[int, str] = {}
    for key, moments in series.items():
        moments.sort()
        start = moments[0][0]
        for k, (seconds, i) in enumerate(moments):
            if k and seconds - moments[k - 1][0] > BURST_S:
                start = seconds
            groups[i] = f"burst:{key}{start:.0f}"
    return groups
