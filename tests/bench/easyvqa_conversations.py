"""easy-VQA in LLaVA's form: captions for the projector's training, and conversations of two
questions, so that a picture is read once for both."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from onecard.tasks.vlm import picture_rows
from tests.bench.vision_tower import labels

SYSTEM = "Answer."
"""Shorter than the language model's own, which is as long as a question with its picture."""
REQUEST = "Describe the shape in the image."


def captions(data: Path, out: Path) -> Path:
    """`a red circle` for each training picture whose questions name both."""
    rows = [
        {"image": str(path.absolute()), "question": REQUEST, "answer": f"a {color} {shape}"}
        for path, (shape, color) in labels(data / "train").items()
    ]
    return _written(rows, out / "captions.jsonl")


COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True)
class Asked:
    question: str
    answer: str

    @property
    def about_color(self) -> bool:
        words = self.question.rstrip("?").split()
        if self.is_open:
            return "color" in words
        return bool(set(words) & set(COLORS))

    @property
    def is_open(self) -> bool:
        return self.answer not in ("yes", "no")

    @property
    def tells_the_other(self) -> bool:
        """An open question that names what the other kind of question asks for."""
        words = set(self.question.rstrip("?").split())
        return self.is_open and bool(words & {*COLORS, *SHAPES})

    @property
    def is_negated(self) -> bool:
        return bool({"not", "no"} & set(self.question.split()))

    @property
    def is_true_of(self) -> bool:
        """Whether the colour or shape that is named is the picture's."""
        return (self.answer == "yes") != self.is_negated


def curriculum(data: Path, out: Path, sizes: tuple[int, int, int], seed: int = 0) -> Path:
    """Rows of a question about the colour and one about the shape of a training picture, in three
    parts of so many rows: questions without a negation about captions in the picture's place; the
    same, half of them about pictures; all questions, most about pictures.

    Half of the questions of yes or no name what is there. With negations at once "yes" follows from
    neither word nor picture alone, and nothing is learned for long. In a longer conversation an
    answer follows from those before it, and the picture need not be read.
    """
    by_picture, names = defaultdict(list), labels(data / "train")
    for item in picture_rows.read(data / "train").items:
        if item.images[0] in names:
            by_picture[item.images[0]].append(Asked(item.question, item.answer))
    draw, rows = random.Random(seed), []
    paths = list(by_picture)
    for part, n_rows in enumerate(sizes):
        sees_share, negated = (0.0, 0.5, 0.8)[part], part == 2
        for n in range(n_rows):
            path = draw.choice(paths)
            pool = [each for each in by_picture[path] if negated or not each.is_negated]
            pair = [_chosen(pool, about_color, draw) for about_color in (True, False)]
            chosen = [each for each in pair if each]
            if not chosen:
                continue
            draw.shuffle(chosen)
            chosen.sort(key=lambda each: each.tells_the_other)
            sees = draw.random() < sees_share
            rows.append(
                _row(f"{part}-{n}", path, chosen, "" if sees else "a {1} {0}".format(*names[path]))
            )
    return _written(rows, out / "curriculum.jsonl")


def _row(name: str, path: Path, chosen: list[Asked], caption: str) -> dict[str, object]:
    turns = [{"from": "system", "value": SYSTEM}]
    for i, each in enumerate(chosen):
        before = "" if i else f"{caption or '<image>'}\n"
        turns.append({"from": "human", "value": before + each.question})
        turns.append({"from": "gpt", "value": each.answer})
    row: dict[str, object] = {"id": name, "conversations": turns}
    return row if caption else {**row, "image": str(path.absolute())}


def questions(data: Path, out: Path) -> Path:
    """The test questions with the system prompt of the training."""
    rows = [
        {
            "id": item.id,
            "image": str(item.images[0].absolute()),
            "system": SYSTEM,
            "question": item.question,
            "answer": item.answer,
        }
        for item in picture_rows.read(data / "test").items
    ]
    return _written(rows, out / "questions.jsonl")


def _chosen(pool: list[Asked], about_color: bool, draw: random.Random) -> Asked | None:
    """Takes one out of the pool: an open one in a fifth of all cases."""
    own = [each for each in pool if each.about_color is about_color]
    open_ones = [each for each in own if each.is_open]
    closed = [each for each in own if not each.is_open]
    kind = open_ones if (draw.random() < 0.2 and open_ones) or not closed else closed
    if kind is closed:
        wanted = draw.random() < 0.5
        kind = [each for each in closed if each.is_true_of is wanted] or closed
    if not kind:
        return None
    chosen = draw.choice(kind)
    pool.remove(chosen)
    return chosen


def _written(rows: list[dict[str, object]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
