"""Training, validation and test pictures: as the data set says, or split off by group and class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from onecard.datasets.images import duplicates, groups
from onecard.datasets.images.class_lists import shown_names
from onecard.datasets.images.leaks import LeakReport, leaks_of
from onecard.datasets.images.records import SPLITS, ImageDataset, Picture
from onecard.datasets.splits import connected_groups, hash_share
from onecard.errors import DataError
from onecard.reporting import Reporter

MIN_PICTURES = 4
"""Fewer cannot be trained on and checked."""
FEW_PICTURES = 30
FEW_OF_A_CLASS = 5
BLOCKS = 10
"""Parts that a film is cut into where it is the whole data set."""
FEW_COPIES = 0.05
"""Share of a side that may be copies of training pictures: these are left out, more are refused."""
MAX_PART = 0.6
"""Share of the pictures above which a film is cut: nothing would be left beside it."""


@dataclass
class Split:
    """The pictures of a training, each with its split and group."""

    train: list[Picture]
    val: list[Picture]
    test: list[Picture]
    notes: list[str] = field(default_factory=list)
    leaks: LeakReport = field(default_factory=LeakReport)
    """What the sides share, where it was allowed."""


def prepare(
    dataset: ImageDataset,
    val_share: float = 0.2,
    seed: int = 0,
    regroup: bool = False,
    allow_leakage: bool = False,
    reporter: Reporter | None = None,
) -> Split:
    """The data set's own splits, or new ones; every picture is decoded once.

    Without a validation split one is split off the training pictures: frames of one film, bursts
    and copies stay together, classes in proportion as far as groups allow, the same for the same
    seed. With `regroup` all pictures are split anew so, a test split in its old size. Pictures that
    cannot be decoded are left out and added to the data set's `rejected`.
    Raises DataError for copies on two sides (unless `allow_leakage`), for too few pictures.
    """
    pictures, notes = groups.with_groups(dataset.pictures)
    signs = duplicates.signatures(pictures, reporter)
    intact = [i for i, digest in enumerate(signs.digests) if digest]
    if len(intact) < MIN_PICTURES:
        raise DataError(
            f"{dataset.root} has {len(intact)} usable pictures",
            why=f"a training and its check need at least {MIN_PICTURES}, and many more to learn",
            fix="label more pictures",
        )
    exact, near = duplicates.exact_pairs(signs), duplicates.near_pairs(signs)
    n_splits = Counter(pictures[i].split for i in intact)
    if n_splits["val"] + n_splits["test"] and not n_splits["train"] + n_splits[""]:
        raise DataError(
            f"{dataset.root} has no training pictures",
            why=f"it has {n_splits['val']} for validation and {n_splits['test']} for testing",
            fix="give the whole data set, or --regroup",
        )
    if regroup:
        test_share = n_splits["test"] / len(intact)
        sides = _split_anew(pictures, intact, [*exact, *near], val_share, test_share, seed, notes)
    else:
        sides = {i: pictures[i].split or "train" for i in intact}
        if n_splits["train"] and n_splits[""]:
            notes.append(f"{n_splits['']:,} pictures of no split are trained on")
        if not n_splits["val"]:
            free = [i for i in intact if sides[i] == "train"]
            sides |= _split_anew(pictures, free, [*exact, *near], val_share, 0.0, seed, notes)
    pictures = [replace(picture, split=sides.get(i, "")) for i, picture in enumerate(pictures)]
    leaks = leaks_of(pictures, exact, near)
    if leaks and not allow_leakage:
        pictures = _without_few_copies(pictures, [*exact, *near], leaks, notes)
        leaks = leaks_of(pictures, exact, near)
        leaks.refuse(dataset.root)
    notes += [f"leak: {text}" for text in leaks.render()]
    train, val, test = (
        [p for p in pictures if p.split == side] for side in ("train", "val", "test")
    )
    notes += class_notes(dataset.classes, train, val)
    if signs.broken:
        dataset.rejected += [each for each in signs.broken if each not in dataset.rejected]
        notes.append(f"{len(signs.broken):,} pictures cannot be decoded and are left out")
    return Split(train, val, test, notes, leaks)


def _without_few_copies(
    pictures: list[Picture], pairs: Iterable[tuple[int, int]], leaks: LeakReport, notes: list[str]
) -> list[Picture]:
    """Copies of training pictures taken out of validation and test, where they are few: a data set
    is not useless for two pictures. Films on two sides, and many copies, are left to be refused."""
    if any(leak.kind == "same group" or leak.n > FEW_COPIES * leak.of for leak in leaks.leaks):
        return pictures
    rank = {side: place for place, side in enumerate(SPLITS)}
    out: set[int] = set()
    for i, j in pairs:
        sides = (pictures[i].split, pictures[j].split)
        if all(sides) and sides[0] != sides[1]:
            out.add(i if rank[sides[0]] > rank[sides[1]] else j)
    names = ", ".join(pictures[i].name for i in sorted(out)[:3])
    notes.append(
        f"{len(out):,} pictures are copies of training pictures and are left out of the check "
        f"({names}); --allow_leakage keeps them"
    )
    return [replace(p, split="") if i in out else p for i, p in enumerate(pictures)]


def _split_anew(
    pictures: Sequence[Picture],
    free: Sequence[int],
    links: Iterable[tuple[int, int]],
    val_share: float,
    test_share: float,
    seed: int,
    notes: list[str],
) -> dict[int, str]:
    """Picture -> side, for the pictures `free`."""
    place = {i: k for k, i in enumerate(free)}
    inner = [(place[i], place[j]) for i, j in links if i in place and j in place]
    parts = connected_groups([pictures[i].group for i in free], inner)
    members = [[free[k] for k in part] for part in parts]
    members = _with_cut_films(pictures, members, len(free), notes)
    if len(members) < 2:
        raise DataError(
            "the pictures cannot be split",
            why=f"all {len(free):,} are copies or frames of one: {pictures[free[0]].name}",
            fix="add other pictures, or give a validation split of your own with --allow_leakage",
        )
    sides = dict.fromkeys(free, "train")
    left = members
    for side, share in (("test", test_share), ("val", val_share)):
        if share > 0:
            chosen = _choose(pictures, left, share * len(free), f"{seed}:{side}")
            sides |= {i: side for part in chosen for i in part}
            used = {part[0] for part in chosen}
            left = [part for part in left if part[0] not in used]
    n_val = sum(side == "val" for side in sides.values())
    notes.append(f"{n_val:,} of {len(free):,} pictures were split off for validation, by group")
    if not n_val:
        raise DataError(
            "no pictures can be split off for validation",
            why=f"{len(free):,} pictures in {len(members):,} groups: any would take a class away",
            fix="add pictures, or a larger --val_share",
        )
    return sides


def _with_cut_films(
    pictures: Sequence[Picture], members: list[list[int]], n: int, notes: list[str]
) -> list[list[int]]:
    """Groups; a film that is most of the data set is cut into stretches of frames."""
    parts: list[list[int]] = []
    for part in members:
        is_film = len({pictures[i].group for i in part}) == 1 and pictures[part[0]].group
        if len(part) <= MAX_PART * n or not is_film or len(part) < 2 * BLOCKS:
            parts.append(part)
            continue
        frames = sorted(part, key=lambda i: groups.frame_order(pictures[i].name))
        cuts = [round(k * len(frames) / BLOCKS) for k in range(BLOCKS + 1)]
        parts += [frames[a:b] for a, b in pairwise(cuts)]
        name = pictures[part[0]].group.partition(":")[2] or pictures[part[0]].name
        notes.append(
            f"{len(part):,} of {n:,} pictures are frames of one film ({name}): it is cut into "
            f"{BLOCKS} stretches, and the scores say little of another film"
        )
    return parts


def _choose(
    pictures: Sequence[Picture], members: Sequence[list[int]], target: float, seed: str
) -> list[list[int]]:
    """Groups with about `target` pictures and each class in proportion, the rarest class first
    (iterative stratification, Sechidis 2011, with groups). A class keeps a group for training."""
    share = target / max(1, sum(map(len, members)))
    ranks = [hash_share_of(pictures, part, seed) for part in members]
    order = sorted(range(len(members)), key=ranks.__getitem__)
    contents = [class_counts(pictures[i] for i in part) for part in members]
    totals: Counter[int] = Counter()
    groups_of: dict[int, list[int]] = {}
    for k in order:
        totals.update(contents[k])
        for label in contents[k]:
            groups_of.setdefault(label, []).append(k)
    n_left = {label: len(parts) for label, parts in groups_of.items()}
    chosen: set[int] = set()
    have: Counter[int] = Counter()
    n = 0

    def take(k: int, wanted: bool) -> None:
        nonlocal n
        small = n + len(members[k]) <= target + max(0.5, 0.25 * target)
        if k in chosen or not wanted or not small or any(n_left[c] < 2 for c in contents[k]):
            return
        chosen.add(k)
        have.update(contents[k])
        n += len(members[k])
        for label in contents[k]:
            n_left[label] -= 1

    for label in sorted(totals, key=lambda label: (totals[label], label)):
        for k in groups_of[label]:
            take(k, have[label] + contents[k][label] / 2 <= share * totals[label])
    for k in order:
        take(k, n + len(members[k]) / 2 <= target)
    if not chosen:  # few or large groups: the smallest that leaves all classes
        target = float(len(pictures))
        for k in sorted(order, key=lambda k: (len(members[k]), ranks[k])):
            take(k, not chosen)
    return [members[k] for k in sorted(chosen)]


def hash_share_of(pictures: Sequence[Picture], part: Sequence[int], seed: str) -> float:
    """A group's pseudo-random rank, by the first of its names."""
    return hash_share(0, f"{seed}:{min(pictures[i].name for i in part)}")


def class_counts(pictures: Iterable[Picture]) -> Counter[int]:
    """Class -> objects, or pictures where they have a class of their own; -1 for empty pictures."""
    counts: Counter[int] = Counter()
    for picture in pictures:
        labels = [box.label for box in picture.boxes if not box.crowd]
        counts.update(labels or [picture.label])
    return counts


def class_notes(
    classes: Sequence[str], train: Sequence[Picture], val: Sequence[Picture]
) -> list[str]:
    """What is too little, said plainly."""
    notes = []
    if len(train) < FEW_PICTURES:
        notes.append(f"only {len(train)} training pictures: scores will vary by chance")
    if any(picture.mask for picture in train):
        return notes  # classes of pixels are counted by the check
    counts, counts_val = class_counts(train), class_counts(val)
    empty = [name for i, name in enumerate(classes) if not counts[i] and not counts_val[i]]
    only_val = [name for i, name in enumerate(classes) if counts_val[i] and not counts[i]]
    unchecked = [name for i, name in enumerate(classes) if counts[i] and not counts_val[i]]
    rare = [name for i, name in enumerate(classes) if 0 < counts[i] < FEW_OF_A_CLASS]
    for names, text in (
        (empty, "have no label at all"),
        (only_val, "stand in val only, and cannot be learned"),
        (unchecked, "do not stand in val, and are not measured"),
        (rare, f"have less than {FEW_OF_A_CLASS} training labels"),
    ):
        if names:
            notes.append(f"classes that {text}: {shown_names(names)}")
    return notes
