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
    def is_true_of(self) -> bool:
        """Whether the colour or shape that is named is the picture's."""
        negated = bool({"not", "no"} & set(self.question.split()))
        return (self.answer == "yes") != negated


def conversations(data: Path, out: Path, seed: int = 0) -> Path:
    """Pairs of a training picture's questions, one about its colour and one about its shape: in a
    longer conversation an answer follows from those before it, and the picture need not be read.
    As many questions name what is there as what is not.

    Half of the rows have the picture's caption in its place: what the words of a question ask for
    is learned from text first, and then looked for in the picture.
    """
    by_picture, names = defaultdict(list), labels(data / "train")
    for item in picture_rows.read(data / "train").items:
        by_picture[item.images[0]].append(Asked(item.question, item.answer))
    draw, rows = random.Random(seed), []
    for path, pool in by_picture.items():
        for n, sees in enumerate((True, True, False, False)):
            if not sees and path not in names:
                continue
            pair = [_chosen(pool, about_color, draw) for about_color in (True, False)]
            chosen = [each for each in pair if each]
            draw.shuffle(chosen)
            chosen.sort(key=lambda each: each.tells_the_other)
            turns = [{"from": "system", "value": SYSTEM}]
            subject = "<image>" if sees else "a {1} {0}".format(*names[path])
            for i, each in enumerate(chosen):
                before = "" if i else f"{subject}\n"
                turns.append({"from": "human", "value": before + each.question})
                turns.append({"from": "gpt", "value": each.answer})
            if not chosen:
                continue
            row = {"id": f"{path.stem}-{n}", "conversations": turns}
            rows.append({**row, "image": str(path.absolute())} if sees else row)
    return _written(rows, out / "conversations.jsonl")


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
