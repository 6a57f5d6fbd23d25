"""The human proof: two answers to the same item, side by side in random order, and the user's votes
as a paired test. Knows no task: it reads the run's items.

artifacts/votes.jsonl   one line a vote: {"id", "choice": "base" | "tuned" | "tie"}
artifacts/votes.json    the two names, the order's seed and the verdict so far
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.errors import DataError, NotFound, OneCardError
from onecard.evaluation import stats
from onecard.runs import item_media
from onecard.runs.record import read_json
from onecard.runs.store import RunRecord

METRIC = "preferred"
CHOICES = ("left", "right", "tie")
BASE, TUNED = "base", "tuned"


@dataclass(frozen=True)
class Pair:
    """One item with two answers."""

    id: str
    question: str
    """What was asked; empty where there is none, as for a transcript."""
    answers: dict[str, str]
    """Name of the model -> a text, or the path of a picture."""
    media: str = ""
    """Path of the picture or the sound that the answers are of."""
    group: str = ""
    pictures: bool = False
    """Whether the answers are paths of pictures."""


def pairs(run: RunRecord) -> list[Pair]:
    """Items of a run with two answers that differ. Raises NotFound where it kept none."""
    rows = [_pair(each_id, row) for each_id, row in run.items().items()]
    out = [pair for pair in rows if pair and len(set(pair.answers.values())) > 1]
    if not out:
        raise NotFound(
            f"run {run.id} has nothing to vote on",
            why="its items hold no two different answers, of the base and of the result",
            fix="train with an evaluation that generates answers, or evaluate the run",
        )
    return out


def has_pairs(run: RunRecord) -> bool:
    """Whether there is something to vote on."""
    try:
        return bool(pairs(run))
    except OneCardError:
        return False


def _pair(each_id: str, row: dict[str, Any]) -> Pair | None:
    answers = row.get("answers") or row.get("pictures")
    if not isinstance(answers, dict):
        answers = {name: row[name] for name in (BASE, TUNED) if name in row}
    names = list(answers)
    if len(names) < 2:
        return None
    base = BASE if BASE in names else names[0]
    tuned = TUNED if TUNED in names else next(name for name in reversed(names) if name != base)
    return Pair(
        each_id,
        str(row.get("question") or row.get("prompt") or ""),
        {BASE: str(answers[base]), TUNED: str(answers[tuned])},
        item_media.subject(row),
        str(row.get("group") or ""),
        pictures="pictures" in row and "answers" not in row,
    )


def ballot(run: RunRecord) -> dict[str, Any]:
    """The items with their answers as left and right, the user's votes so far, and nothing that
    tells which is which."""
    votes = _votes(run)
    salt = _salt(run)
    rows = []
    for pair in pairs(run):
        left, right = _order(salt, pair.id)
        rows.append(
            {
                "id": pair.id,
                "question": pair.question,
                # a path would tell whose picture it is
                "left": "" if pair.pictures else pair.answers[left],
                "right": "" if pair.pictures else pair.answers[right],
                "pictures": pair.pictures,
                "media": Path(pair.media).suffix.lower(),
                "vote": _side(votes.get(pair.id, ""), left),
            }
        )
    # another order than the file's, whose neighbours may be of one document
    rows.sort(key=lambda row: hashlib.sha256(f"{salt} {row['id']}".encode()).digest())
    return {"run": run.id, "items": rows, "votes": sum(bool(row["vote"]) for row in rows)}


def media(run: RunRecord, item: str, side: str) -> Path:
    """The file behind an item: its own picture or sound ('media'), or an answer's ('left',
    'right'). Raises NotFound for what is neither."""
    pair = next((pair for pair in pairs(run) if pair.id == item), None)
    path = Path()
    if pair and side == "media" and pair.media:
        path = Path(pair.media)
    elif pair and pair.pictures and side in ("left", "right"):
        left, right = _order(_salt(run), item)
        path = Path(pair.answers[left if side == "left" else right])
    return item_media.shown(path)


def vote(run: RunRecord, item: str, choice: str) -> None:
    """Keep a vote; a later one on the same item takes its place. Raises NotFound, DataError."""
    if choice not in CHOICES:
        raise DataError(
            f"'{choice[:20]}' is no vote",
            why=f"it is one of {', '.join(CHOICES)}",
            fix="vote again",
        )
    known = {pair.id for pair in pairs(run)}
    if item not in known:
        raise NotFound(
            f"run {run.id} has no such item", why=f"'{item[:80]}'", fix="load the page again"
        )
    left, right = _order(_salt(run), item)
    name = {"left": left, "right": right, "tie": "tie"}[choice]
    votes = _votes(run) | {item: name}
    lines = [json.dumps({"id": i, "choice": c}, ensure_ascii=False) for i, c in votes.items()]
    fsio.write_text(_folder(run) / "votes.jsonl", "\n".join(lines) + "\n")
    facts = read_json(_folder(run) / "votes.json") | {"verdict": verdict(run)}
    fsio.write_text(_folder(run) / "votes.json", json.dumps(facts, ensure_ascii=False) + "\n")


def verdict(run: RunRecord) -> dict[str, Any]:
    """Counts and the paired test: McNemar's exact test over the items where one was preferred
    (a tie favours neither), items of one group resampled together."""
    votes = _votes(run)
    rows = [pair for pair in pairs(run) if pair.id in votes]
    base = {pair.id: float(votes[pair.id] == BASE) for pair in rows}
    tuned = {pair.id: float(votes[pair.id] == TUNED) for pair in rows}
    groups = {pair.id: pair.group for pair in rows if pair.group}
    counts = {
        "votes": len(rows),
        "base": int(sum(base.values())),
        "tuned": int(sum(tuned.values())),
        "tie": sum(votes[pair.id] == "tie" for pair in rows),
    }
    if not rows:
        return {**counts, "test": None, "text": "no votes yet"}
    test = stats.compare(base, tuned, bounds=(0.0, 1.0), groups=groups or None)
    return {**counts, "test": test.as_dict(), "text": test.render()}


def _folder(run: RunRecord) -> Path:
    return run.folder / "artifacts"


def _votes(run: RunRecord) -> dict[str, str]:
    votes: dict[str, str] = {}
    try:
        lines = (_folder(run) / "votes.jsonl").read_text(encoding="utf-8").split("\n")
    except OSError:
        return votes
    for line in lines:
        try:
            row = json.loads(line)
            votes[str(row["id"])] = str(row["choice"])
        except (ValueError, KeyError, TypeError):
            continue  # half a line of a server that was killed
    return votes


def _salt(run: RunRecord) -> str:
    """Of this run's order; made with its first ballot."""
    path = _folder(run) / "votes.json"
    facts = read_json(path)
    if not isinstance(facts.get("seed"), str):
        facts["seed"] = secrets.token_hex(8)
        fsio.write_text(path, json.dumps(facts, ensure_ascii=False) + "\n")
    return str(facts["seed"])


def _order(salt: str, item: str) -> tuple[str, str]:
    first = hashlib.sha256(f"{salt}:{item}".encode()).digest()[0] % 2
    return (BASE, TUNED) if first else (TUNED, BASE)


def _side(name: str, left: str) -> str:
    if name in ("", "tie"):
        return name
    return "left" if name == left else "right"
