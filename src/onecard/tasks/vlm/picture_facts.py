"""What the pictures of a set are: sizes, faults, colour models, copies of each other. Every picture
is decoded once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from onecard.datasets import splits
from onecard.datasets.images import decode, duplicates
from onecard.datasets.images.records import Picture
from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter
from onecard.tasks.vlm.items import VlmItem

SMALL = 28
"""Shorter side below which a vision tower sees at most one or two patches (px)."""
MANY_BITS = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey with more than 8 bits."""


@dataclass
class PictureFacts:
    """Of each picture of a set, by its path."""

    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """(width, height) of the upright picture (px)."""
    faults: dict[Path, str] = field(default_factory=dict)
    """Why a picture cannot be used."""
    traits: dict[str, list[Path]] = field(default_factory=dict)
    """What a user may not expect -> the pictures that are so."""
    digests: dict[Path, bytes] = field(default_factory=dict)
    """sha256 of the file."""
    exact: list[tuple[Path, Path]] = field(default_factory=list)
    near: list[tuple[Path, Path]] = field(default_factory=list)
    """Pairs that are the same picture in another size, exposure or compression."""
    originals: dict[Path, Path] = field(default_factory=dict)
    """Picture -> the first of its copies, itself without any."""

    def original(self, path: Path) -> Path:
        return self.originals.get(path, path)

    def fault_of(self, item: VlmItem) -> str:
        """Why an item's pictures cannot be used, or ""."""
        return next((f"{p.name}: {self.faults[p]}" for p in item.images if p in self.faults), "")


def look(items: Iterable[VlmItem], reporter: Reporter | None = None) -> PictureFacts:
    """Reads every picture of the items once."""
    reporter = reporter or Reporter()
    paths = list(dict.fromkeys(path for item in items for path in item.images))
    facts = PictureFacts()
    with reporter.progress("headers of pictures", len(paths)) as progress:
        for path in paths:
            progress.step()
            try:
                facts.sizes[path] = decode.picture_size(path)
            except (DataError, NotFound) as fault:
                facts.faults[path] = fault.why
            else:
                for trait in _traits(path, facts.sizes[path]):
                    facts.traits.setdefault(trait, []).append(path)
    records = [Picture(path, str(path), *facts.sizes[path]) for path in facts.sizes]
    signs = duplicates.signatures(records, reporter)
    for broken in signs.broken:
        path = Path(broken.where)
        facts.faults[path] = broken.reason
        facts.sizes.pop(path, None)
    usable = [record.path for record in records]
    facts.digests = {
        path: digest for path, digest in zip(usable, signs.digests, strict=True) if digest
    }
    exact, near = duplicates.exact_pairs(signs), duplicates.near_pairs(signs)
    same = set(exact)
    facts.exact = [(usable[i], usable[j]) for i, j in exact]
    facts.near = [
        (usable[i], usable[j])
        for i, j in near
        if (i, j) not in same and signs.digests[i] != signs.digests[j]
    ]
    for group in splits.connected_groups([""] * len(usable), [*exact, *near]):
        facts.originals.update({usable[i]: usable[group[0]] for i in group})
    return facts


def _traits(path: Path, size: tuple[int, int]) -> list[str]:
    """What of a readable picture is told."""
    traits = []
    if min(size) < SMALL:
        traits.append(f"smaller than {SMALL} px")
    try:
        with Image.open(path, formats=decode.FORMATS) as image:
            if image.mode == "CMYK":
                traits.append("CMYK, read as RGB")
            elif image.mode in MANY_BITS:
                traits.append("grey with more than 8 bits, scaled to 8")
            if getattr(image, "is_animated", False) and image.format != "MPO":
                traits.append("animated or of several pages, of which the first is read")
    except Exception:  # the decoding that follows says what is wrong with it
        return traits
    return traits


def groups_of(items: Sequence[VlmItem], facts: PictureFacts | None = None) -> list[list[int]]:
    """Numbers of items that must stay on one side of a split: those of one picture, of copies of
    it, of one group, directly or over others."""
    facts = facts or PictureFacts()
    first: dict[Path, int] = {}
    links = []
    for i, item in enumerate(items):
        for path in item.images:
            original = facts.original(path)
            if (other := first.setdefault(original, i)) != i:
                links.append((other, i))
    return splits.connected_groups([item.group for item in items], links)


def unit_names(items: Sequence[VlmItem], facts: PictureFacts | None = None) -> dict[str, str]:
    """Item id -> the group that it proves something together with, for stats.compare."""
    return {items[i].id: items[group[0]].id for group in groups_of(items, facts) for i in group}
