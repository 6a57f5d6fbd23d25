"""Finds faults in rows with pictures before training, and splits them so that no picture stands on
both sides. Knows no model."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onecard.datasets import splits
from onecard.datasets.findings import Finding, findings_table
from onecard.errors import DataError
from onecard.evaluation.metrics.text import words
from onecard.evaluation.metrics.vqa import normalize_answer, yes_or_no
from onecard.reporting import Reporter, table
from onecard.tasks.vlm import items as item_forms
from onecard.tasks.vlm import picture_facts, text_baseline
from onecard.tasks.vlm.items import RejectedRow, VlmItem, short_place
from onecard.tasks.vlm.picture_facts import PictureFacts
from onecard.tasks.vlm.picture_rows import PictureRows
from onecard.tasks.vlm.text_baseline import TextAlone

FEW_COPIES = 0.05
"""Share of the training rows that may show pictures of the evaluation: they are left out of the
training, more are refused."""
LONG_ANSWER = 1000
"""Characters from which an answer that is ten times the median counts as very long."""
MANY_PICTURES = 16
TOP_ANSWERS = 12
YES_NO_WORDS = 3
"""Longest answer that counts as yes or no."""
LOPSIDED = 0.65
"""Share of one answer from which yes and no are called out of balance."""
SCRIPTS = {
    "Japanese": r"\u3040-\u30ff",
    "Chinese": r"\u3400-\u9fff\uf900-\ufaff",
    "Korean": r"\uac00-\ud7af",
    "Cyrillic": r"\u0400-\u04ff",
    "Arabic": r"\u0600-\u06ff",
    "Devanagari": r"\u0900-\u097f",
    "Thai": r"\u0e00-\u0e7f",
    "Greek": r"\u0370-\u03ff",
    "Hebrew": r"\u0590-\u05ff",
    "Latin": r"A-Za-z\u00c0-\u024f",
}
"""Script -> its letters; a text is of the first that has a third of its letters."""
SCRIPT_PATTERNS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items()}


@dataclass
class ValidationReport:
    """The items that may train and those that judge, all that was left out, and what the set is
    like."""

    items: list[VlmItem]
    evaluation: list[VlmItem]
    """Of the user's own evaluation file; empty without one."""
    facts: PictureFacts
    rejected: list[RejectedRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """How the files were read."""
    text_alone: TextAlone | None = None
    answers: Counter[str] = field(default_factory=Counter)
    """Normalized answer -> how many items."""
    yes_no: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    """Script of the question -> how many items."""

    @property
    def fingerprint(self) -> str:
        """Of all items and their pictures' bytes."""
        return item_forms.fingerprint([*self.items, *self.evaluation], self.facts.digests)

    def render(self) -> str:
        lines = [*self.notes, self._size_line()]
        if self.text_alone:
            lines.append(self.text_alone.render())
        if n := self.yes_no.total():
            share = 100 * self.yes_no["yes"] / n
            lines.append(f"{n:,} questions of yes or no: {share:.0f} % are yes")
        if len(self.scripts) > 1:
            shown = ", ".join(f"{name} {n:,}" for name, n in self.scripts.most_common(5))
            lines.append(f"scripts of the questions: {shown}")
        if self.findings:
            lines += ["", findings_table(self.findings)]
        else:
            lines.append("validation found nothing wrong")
        return "\n".join([*lines, "", self.histogram()])

    def _size_line(self) -> str:
        all_items = [*self.items, *self.evaluation]
        n_pictures = len({path for item in all_items for path in item.images})
        n_text = sum(not item.images for item in all_items)
        parts = [f"{len(self.items):,} rows to train on"]
        if self.evaluation:
            parts.append(f"{len(self.evaluation):,} to judge by")
        parts.append(f"{n_pictures:,} pictures")
        if n_text:
            parts.append(f"{n_text:,} rows of text only")
        return ", ".join(parts)

    def histogram(self) -> str:
        """The most frequent answers with a bar each."""
        total, rows = self.answers.total(), []
        top = self.answers.most_common(TOP_ANSWERS)
        for answer, n in top:
            bar = "#" * max(1, round(30 * n / top[0][1]))
            rows.append([f"{n:,}", f"{100 * n / total:.1f} %", answer[:40], bar])
        if rest := total - sum(n for _, n in top):
            n_others = len(self.answers) - len(top)
            rows.append([f"{rest:,}", f"{100 * rest / total:.1f} %", f"({n_others:,} others)", ""])
        return table(rows, ["rows", "share", "answer", ""])

    def as_dict(self) -> dict[str, Any]:
        return {
            "items": len(self.items),
            "evaluation": len(self.evaluation),
            "pictures": len(self.facts.sizes),
            "rejected": len(self.rejected),
            "findings": [finding.as_dict() for finding in self.findings],
            "notes": self.notes,
            "text_alone": self.text_alone.as_dict() if self.text_alone else None,
            "answers": dict(self.answers.most_common(TOP_ANSWERS)),
            "yes_no": dict(self.yes_no),
            "scripts": dict(self.scripts),
            "fingerprint": self.fingerprint,
        }


def validate(
    rows: PictureRows,
    evaluation: PictureRows | None = None,
    *,
    allow_leakage: bool = False,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> ValidationReport:
    """Rejects rows with unusable pictures, without a question or an answer, and repeated ones;
    leaves training rows out that show pictures of the evaluation; tells the rest.

    Raises DataError where nothing is left, and for more than a few shared pictures unless
    `allow_leakage`.
    """
    theirs = evaluation.items if evaluation else []
    facts = picture_facts.look([*rows.items, *theirs], reporter)
    report = ValidationReport([], [], facts)
    for own, part in ((rows, report.items), (evaluation, report.evaluation)):
        if own is not None:
            report.notes += own.notes()
            _tell_reading(report, own)
            part += _usable(report, own)
    _tell_pictures(report)
    if theirs:
        report.items = _without_shared(report, allow_leakage)
    _tell_answers(report)
    groups = picture_facts.groups_of(report.items, facts)
    report.text_alone = text_baseline.cross_validate(report.items, groups, seed)
    return report


# Rows


def _tell_reading(report: ValidationReport, rows: PictureRows) -> None:
    if rows.rejected:
        report.rejected += rows.rejected
        report.findings.append(_rejection("rows that cannot be read", rows.rejected))


def _rejection(issue: str, rows: Sequence[RejectedRow]) -> Finding:
    """With an example of each of the commonest reasons."""
    first: dict[str, RejectedRow] = {}
    for row in rows:
        first.setdefault(row.reason, row)
    examples = [f"{short_place(row.source)}: {row.reason}" for row in list(first.values())[:3]]
    return Finding(issue, len(rows), examples, "rejected")


def _usable(report: ValidationReport, rows: PictureRows) -> list[VlmItem]:
    """Raises DataError where no row is left."""
    parts: dict[str, list[RejectedRow]] = defaultdict(list)
    first: dict[tuple[Any, ...], VlmItem] = {}
    usable = []
    for item in rows.items:
        key = (_picture_key(item, report.facts), item.turns, item.answers)
        if fault := report.facts.fault_of(item):
            issue, reason = "unusable pictures", fault
        elif not item.question:
            issue, reason = "no question", "its question is empty"
        elif item.has_answer and not item.answer:
            issue, reason = "no answer", "its answer is empty"
        elif key in first:
            issue, reason = "repeated rows", f"the same as {first[key].place}"
        else:
            first[key] = item
            usable.append(item)
            continue
        parts[issue].append(RejectedRow(item.source, reason, item.question[:200]))
    for issue, rejected in parts.items():
        report.rejected += rejected
        report.findings.append(_rejection(issue, rejected))
    if not usable:
        raise DataError(
            f"no row of {rows.path} is left",
            why="; ".join(f"{len(each):,} x {issue}" for issue, each in parts.items()),
            fix="correct the rows: each needs pictures that open, a question and an answer",
        )
    return usable


def _picture_key(item: VlmItem, facts: PictureFacts) -> tuple[bytes, ...]:
    """By the bytes of its pictures: a file copied under another name is the same."""
    return tuple(facts.digests.get(path, str(path).encode()) for path in item.images)


# Pictures


def _tell_pictures(report: ValidationReport) -> None:
    facts = report.facts
    for trait, paths in facts.traits.items():
        usable = [path for path in paths if path not in facts.faults]
        if usable:
            names = [path.name for path in usable[:3]]
            report.findings.append(Finding(f"pictures: {trait}", len(usable), names, "kept"))
    for issue, pairs in (
        ("pictures that are the same file under two names", facts.exact),
        ("pictures that are nearly the same (pairs)", facts.near),
    ):
        if pairs:
            names = [f"{a.name} = {b.name}" for a, b in pairs[:3]]
            action = "kept on one side of the split"
            report.findings.append(Finding(issue, len(pairs), names, action))
    many = [item for item in report.items if len(item.images) > MANY_PICTURES]
    if many:
        names = [f"{item.place}: {len(item.images)}" for item in many[:3]]
        issue = f"rows with more than {MANY_PICTURES} pictures"
        report.findings.append(Finding(issue, len(many), names, "kept: each takes its tokens"))


def _without_shared(report: ValidationReport, allow_leakage: bool) -> list[VlmItem]:
    """The training rows whose pictures, or copies of them, no row of the evaluation shows; a row of
    text only is shared where the same words are asked and answered. Raises DataError."""
    facts = report.facts
    owner = {
        facts.original(path): (item, path) for item in report.evaluation for path in item.images
    }
    texts = {
        (item.conversation, item.answer): item for item in report.evaluation if not item.images
    }
    groups = {item.group for item in report.evaluation if item.group}
    examples, kept = [], []
    for item in report.items:
        hits = [path for path in item.images if facts.original(path) in owner]
        twin = texts.get((item.conversation, item.answer)) if not item.images else None
        if hits:
            other, path = owner[facts.original(hits[0])]
            examples.append(f"{item.place} = {other.place} ({path.name})")
        elif twin:
            examples.append(f"{item.place} = {twin.place}")
        elif item.group and item.group in groups:
            examples.append(f"{item.place}: {item.group} stands in both")
        else:
            kept.append(item)
    n = len(examples)
    if not n:
        return report.items
    issue = "rows whose picture stands in the evaluation too"
    if allow_leakage:
        action = "kept as you said: the scores will be too high"
        report.findings.append(Finding(issue, n, examples[:3], action))
        return report.items
    if n > FEW_COPIES * len(report.items) or not kept:
        raise DataError(
            f"{n:,} of {len(report.items):,} training rows show pictures of the evaluation",
            why="; ".join(examples[:3]) + ": a score on them would prove little",
            fix="leave --eval_data out: a part is then split off by pictures; or give other "
            "pictures; --allow_leakage goes on",
        )
    report.findings.append(Finding(issue, n, examples[:3], "left out of the training"))
    return kept


# Questions and answers


def _tell_answers(report: ValidationReport) -> None:
    everyone = [*report.items, *report.evaluation]
    answered = [item for item in everyone if item.has_answer]
    report.answers = Counter(normalize_answer(item.answer) for item in answered)
    for item in answered:
        is_short = len(item.answer) < 40 and len(words(item.answer)) <= YES_NO_WORDS
        if is_short and (reply := yes_or_no(item.answer)):
            report.yes_no[reply] += 1
    report.scripts = Counter(script_of(item.question) for item in everyone)
    for finding in (
        _contradictions(report),
        _copies_with_one_answer(report),
        _long_answers(answered),
        _lopsided(report.yes_no),
    ):
        if finding:
            report.findings.append(finding)


def _contradictions(report: ValidationReport) -> Finding | None:
    """One picture and question with answers that have nothing in common."""
    by_question: dict[tuple[Any, ...], list[VlmItem]] = defaultdict(list)
    for item in report.items:
        by_question[_picture_key(item, report.facts), item.conversation.lower()].append(item)
    different = [
        same for same in by_question.values() if len(same) > 1 and not _common_answers(same)
    ]
    if not different:
        return None
    examples = [
        f"{a.place} {a.answer[:20]!r} and {b.place} {b.answer[:20]!r}" for a, b, *_ in different[:3]
    ]
    return Finding("one picture and question, different answers", len(different), examples, "kept")


def _common_answers(same: Sequence[VlmItem]) -> set[str]:
    return set.intersection(*({normalize_answer(a) for a in item.answers} for item in same))


def _copies_with_one_answer(report: ValidationReport) -> Finding | None:
    """The same question and answer on copies of one picture that are no equal files."""
    facts = report.facts
    first: dict[tuple[Any, ...], VlmItem] = {}
    pairs = []
    for item in report.items:
        if item.images:
            originals = tuple(facts.original(path) for path in item.images)
            other = first.setdefault((originals, item.turns), item)
            if other is not item:
                pairs.append((other, item))
    if not pairs:
        return None
    examples = [f"{a.place} and {b.place}" for a, b in pairs[:3]]
    issue = "one question and answer on nearly the same picture"
    return Finding(issue, len(pairs), examples, "kept")


def _long_answers(answered: Sequence[VlmItem]) -> Finding | None:
    if not answered:
        return None
    limit = max(LONG_ANSWER, 10 * float(np.median([len(item.answer) for item in answered])))
    long = [item for item in answered if len(item.answer) > limit]
    if not long:
        return None
    examples = [f"{item.place}: {len(item.answer):,} characters" for item in long[:3]]
    return Finding("very long answers", len(long), examples, "kept: see max_seq_length")


def _lopsided(yes_no: Counter[str]) -> Finding | None:
    n = yes_no.total()
    answer, most = yes_no.most_common(1)[0] if n else ("", 0)
    if n < 20 or most < LOPSIDED * n:
        return None
    issue = f"questions of yes or no whose answer is {answer}"
    return Finding(issue, most, [f"{most:,} of {n:,}"], "kept: a model may learn to say it")


def script_of(text: str) -> str:
    """The script that a text is in: the first of SCRIPTS with a third of its letters.

    >>> script_of("what colour?"), script_of("这是什么颜色 RGB？"), script_of("42")
    ('Latin', 'Chinese', 'none')
    """
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPT_PATTERNS.items()}
    total = sum(counts.values())
    return next((name for name, n in counts.items() if n and 3 * n >= total), "none")


# Split


def split(
    items: Sequence[VlmItem],
    share: float,
    seed: int,
    facts: PictureFacts | None = None,
    max_items: int = 0,
) -> tuple[list[VlmItem], list[VlmItem]]:
    """(train, evaluation): rows of one picture, of its copies, of one group stay on one side.

    Groups are taken in the order of a hash of what they hold, so that the same rows are held out in
    whatever order and folder they come; `max_items` bounds the evaluation, 0 for no bound.
    Raises DataError for a single group.
    """
    groups = picture_facts.groups_of(items, facts)
    if len(groups) < 2:
        raise DataError(
            f"{len(items):,} rows cannot be split",
            why="all show one picture, or copies of it: nothing would be left to prove the result "
            "with",
            fix="rows with more pictures, or --eval_data with others",
        )
    ranks = {group[0]: splits.hash_rank(seed, _content(items, group)) for group in groups}
    groups.sort(key=lambda group: ranks[group[0]])
    wanted = max(1, round(share * len(items)))
    wanted = min(wanted, max_items) if max_items else wanted
    held_out: set[int] = set()
    for group in groups[:-1]:  # one group at least is left to train on
        # a picture with 90 rows must not be held out where 10 were wanted
        if len(held_out) + len(group) <= max(wanted, 2):
            held_out |= set(group)
    if not held_out:
        held_out = set(sorted(groups, key=len)[0])
    if 2 * len(held_out) > len(items):
        raise DataError(
            f"{len(items):,} rows cannot be split",
            why=f"they form {len(groups):,} groups of pictures, and the smallest has "
            f"{len(held_out):,} rows",
            fix="rows with more pictures, or --eval_data with others",
        )
    train = [item for i, item in enumerate(items) if i not in held_out]
    return train, [items[i] for i in sorted(held_out)]


def _content(items: Sequence[VlmItem], group: Iterable[int]) -> str:
    """A group by its first picture's name and its first question."""
    return min(_rank_key(items[i]) for i in group)


def _rank_key(item: VlmItem) -> str:
    names = " ".join(Path(path).name for path in item.images)
    return f"{names}|{item.conversation}|{item.answer}"
