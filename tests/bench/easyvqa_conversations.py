"""easy-VQA in LLaVA's form: captions for the projector's training, and all questions of a picture
as one conversation, so that a picture is read once for all of them."""

import json
import random
from collections import defaultdict
from pathlib import Path

from onecard.tasks.vlm import picture_rows
from tests.bench.vision_tower import labels

REQUEST = "Describe the shape in the image."


def captions(data: Path, out: Path) -> Path:
    """`a red circle` for each training picture whose questions name both."""
    rows = [
        {"image": str(path.absolute()), "question": REQUEST, "answer": f"a {color} {shape}"}
        for path, (shape, color) in labels(data / "train").items()
    ]
    return _written(rows, out / "captions.jsonl")


def conversations(data: Path, out: Path, seed: int = 0) -> Path:
    """One conversation a training picture: its questions in a random order."""
    by_picture = defaultdict(list)
    for item in picture_rows.read(data / "train").items:
        by_picture[item.images[0]].append((item.question, item.answer))
    draw, rows = random.Random(seed), []
    for path, pairs in by_picture.items():
        turns = []
        for i, (question, answer) in enumerate(draw.sample(pairs, len(pairs))):
            marker = "" if i else "<image>\n"
            turns.append({"from": "human", "value": marker + question})
            turns.append({"from": "gpt", "value": answer})
        rows.append({"id": path.stem, "image": str(path.absolute()), "conversations": turns})
    return _written(rows, out / "conversations.jsonl")


def _written(rows: list[dict[str, object]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
