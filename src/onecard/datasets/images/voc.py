"""Reader of Pascal VOC's XML: an annotation file for each picture, lists of names for splits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from onecard.datasets.images import decode
from onecard.datasets.images.class_lists import listed_classes, one_order
from onecard.datasets.images.gathering import (
    Gathering,
    files_below,
    head_of,
    split_in_path,
    whole_number,
)
from onecard.datasets.images.geometry import Fit, fit_box, fit_polygons, turned_box
from onecard.datasets.images.records import Box, ImageDataset
from onecard.datasets.images.split_lists import Splits, keep_listed, listed_splits
from onecard.errors import DataError

MAX_XML_BYTES = 32 << 20


@dataclass
class _Annotation:
    """One file."""

    path: Path
    tree: "etree._Element"
    filename: str
    """As the file says, which may be another than the picture's."""


def is_voc(path: Path) -> bool:
    """Whether an XML file is an annotation, by its beginning."""
    return b"<annotation" in head_of(path, 2048)


def find_files(root: Path) -> list[Path]:
    return [path for path in files_below(root) if path.suffix.lower() == ".xml" and is_voc(path)]


def read(root: Path, gathering: Gathering, outlines: bool) -> ImageDataset:
    """All annotations below the root. Raises DataError."""
    annotations = [each for path in find_files(root) if (each := _parse(path, gathering))]
    classes = _class_names(annotations, root, gathering)
    places = {name: i for i, name in enumerate(classes)}
    pictures = _Pictures(root)
    splits = listed_splits(root, gathering)
    pairs: dict[Path, _Annotation] = {}
    for each in annotations:
        path = pictures.of(each, gathering)
        if path is None:
            continue
        if path in pairs:
            other = gathering.name(pairs[path].path)
            gathering.reject(gathering.name(each.path), f"its picture has its labels from {other}")
        else:
            pairs[path] = each
    for path in gathering.reading(sorted(pairs)):
        _read_picture(path, pairs[path], places, splits, gathering, outlines)
    _unlabelled(pictures, pairs, splits, gathering)
    keep_listed(splits, {path.stem for path in pictures.paths}, gathering)
    return gathering.dataset("voc", classes)


def _parse(path: Path, gathering: Gathering) -> _Annotation | None:
    """One annotation file; None after rejecting it. Entities are refused: a few lines of them
    unfold to gigabytes, or name other files of the machine."""
    where = gathering.name(path)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            gathering.reject(where, f"it has more than {MAX_XML_BYTES >> 20} MiB")
            return None
        tree = etree.fromstring(path.read_bytes(), parser)
    except (etree.XMLSyntaxError, ValueError, OSError) as fault:
        gathering.reject(where, f"it is not XML: {fault}"[:200])
        return None
    document = tree.getroottree().docinfo.internalDTD
    if document is not None and next(document.iterentities(), None) is not None:
        gathering.reject(where, "it declares XML entities, which labels do not need")
        return None
    if tree.tag != "annotation":
        gathering.reject(where, f"its root is <{str(tree.tag)[:40]}>, not <annotation>")
        return None
    return _Annotation(path, tree, _word(tree, "filename"))


def _word(tree: "etree._Element", tag: str) -> str:
    element = tree.find(tag)
    return "".join(element.itertext()).strip() if element is not None else ""


def _class_names(annotations: Sequence[_Annotation], root: Path, gathering: Gathering) -> list[str]:
    """As a list of the data set says, else by the alphabet. Raises DataError."""
    counts = Counter(_word(item, "name") for each in annotations for item in _objects(each.tree))
    counts.pop("", None)
    names = sorted(counts)
    listed = one_order(listed_classes(root))
    if listed and set(names) <= set(listed):
        return listed
    if listed:
        missing = ", ".join(sorted(set(names) - set(listed))[:5])
        gathering.note(f"the list of classes lacks {missing}: classes go by the alphabet")
    folded = Counter(name.casefold() for name in names)
    for name in names:
        if folded[name.casefold()] > 1:
            gathering.note(f"class {name} ({counts[name]:,}) is also written in other letter case")
    if not names:
        raise DataError(
            f"{root} has no labelled object",
            why=f"{len(annotations):,} XML files name no class",
            fix="check the annotations: each <object> needs a <name>",
        )
    return names


def _objects(tree: "etree._Element") -> list["etree._Element"]:
    return list(tree.findall("object"))


# Pictures


class _Pictures:
    """Pictures below the root by the names that annotations have for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = [path for path in files_below(root) if decode.is_picture(path)]
        self.paths = [
            path
            for path in self.paths
            if not {"SegmentationClass", "SegmentationObject"} & set(path.parts)
        ]
        self._by_stem: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        for path in self.paths:
            self._by_stem.setdefault(path.stem.casefold(), []).append(path)
            self._by_name.setdefault(path.name.casefold(), []).append(path)

    def of(self, annotation: _Annotation, gathering: Gathering) -> Path | None:
        """The picture of the annotation file's own name, else of its <filename>; None after
        rejecting it."""
        filename = annotation.filename.replace("\\", "/").rpartition("/")[2].casefold()
        by_stem = self._by_stem.get(annotation.path.stem.casefold(), [])
        by_name = self._by_name.get(filename, []) or self._by_stem.get(filename, [])
        paths = by_stem or by_name
        if not paths:
            reason = f"there is no picture {annotation.path.stem} or {annotation.filename[:80]}"
            gathering.reject(gathering.name(annotation.path), reason)
            return None
        path = self._nearest(annotation.path, [each for each in paths if each in by_name] or paths)
        if filename and path.name.casefold() != filename and path.stem.casefold() != filename:
            gathering.count("annotations name another file in <filename> than their own name says")
        return path

    def _nearest(self, annotation: Path, paths: list[Path]) -> Path:
        """With the longest common path: names repeat in train/ and valid/."""

        def shared(path: Path) -> tuple[int, int]:
            pairs = zip(path.parts, annotation.parts, strict=False)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            alike = len(set(path.parent.parts) & set(annotation.parent.parts))
            return same, alike

        return max(paths, key=shared)


def _unlabelled(
    pictures: _Pictures,
    pairs: dict[Path, _Annotation],
    splits: Splits,
    gathering: Gathering,
) -> None:
    """Pictures without an annotation file: VOC has one for each picture, so they are not used."""
    others = [path for path in pictures.paths if path not in pairs]
    listed = [path for path in others if path.stem in splits]
    for path in listed:
        reason = f"it stands in {splits[path.stem][1]} and has no usable annotation file"
        gathering.reject(gathering.name(path), reason)
    rest = [path for path in others if path.stem not in splits]
    if rest:
        example = gathering.name(rest[0])
        note = f"{len(rest):,} pictures have no annotation file and are not used: {example}"
        gathering.note(note)


# Labels


def _read_picture(
    path: Path,
    annotation: _Annotation,
    places: dict[str, int],
    splits: Splits,
    gathering: Gathering,
    outlines: bool,
) -> None:
    size = gathering.size(path)
    if size is None:
        return
    width, height = (whole_number(_word(annotation.tree, f"size/{s}")) for s in ("width", "height"))
    drawn, orientation = gathering.label_size(path, size, (width, height))
    name, boxes = gathering.name(annotation.path), []
    items = _objects(annotation.tree)
    for item in items:
        where = f"{name}:{item.sourceline}"
        if box := gathering.take(_fit(item, places, drawn, outlines), where):
            boxes.append(turned_box(box, orientation, drawn) if orientation else box)
    n_crowd = sum(box.crowd for box in boxes)
    if n_crowd:
        gathering.count("objects are marked difficult: they neither train nor count", n_crowd)
    if splits:
        split = splits.get(path.stem, ("", ""))[0]
    else:
        below = path.parent.relative_to(gathering.root)
        split = split_in_path(below)
    gathering.add(path, split, boxes, len(items), name)


def _fit(
    item: "etree._Element", places: dict[str, int], size: tuple[int, int], outlines: bool
) -> Fit:
    name = _word(item, "name")
    if name not in places:
        return Fit(None, f"the object has no usable name: {name[:60]!r}")
    crowd = _word(item, "difficult") == "1"
    polygon, corners = item.find("polygon"), item.find("bndbox")
    try:
        if polygon is not None and (outlines or corners is None):
            points = [float(_digits(each)) for each in polygon if isinstance(each.tag, str)]
            return fit_polygons(places[name], [points], size, crowd)
        if corners is None:
            return Fit(None, "the object has no <bndbox>")
        if outlines:
            return Fit(None, "a box without an outline")
        x0, y0, x1, y1 = (float(_word(corners, tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as fault:
        return Fit(None, f"a coordinate is no number: {fault}"[:120])
    return fit_box(Box(places[name], x0, y0, x1, y1, crowd), size)


def _digits(element: "etree._Element") -> str:
    return "".join(element.itertext()).strip()
