"""What may be wrong with the data, told before training with counts and examples; and a split that
keeps together what belongs together. Knows no model."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasketch import MinHash, MinHashLSH

from onecard.errors import DataError
from onecard.evaluation.metrics.text import words
from onecard.reporting import table
from onecard.tasks.finetune.dataset import RejectedRow, Sample
from onecard.tasks.finetune.tokenize_rows import TokenizedExample

NEAR = 0.85
"""Jaccard similarity of word 3-grams from which two samples count as near duplicates.

A guess between 0.7 and 0.9 of published data sets.
"""
PERMUTATIONS = 128
"""The error of an estimated Jaccard similarity is about 1/sqrt(128) = 0.09 (Broder 1997)."""
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}\b",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a password": r"(?i)\bpassword\s*[:=]\s*\S{6,}",
    "an e-mail address": r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b",
    "a card number": r"\b(?:\d[ -]?){15}\d\b",
    "an IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b",
    "a telephone number": r"(?<![\w.])\+\d{1,3}[ -]?(?:\(?\d{2,4}\)?[ -]?){2,4}\d{2,4}\b",
    "a US social security number": r"\b\d{3}-\d{2}-\d{4}\b",
}
END = re.compile(r"[.!?。！？…:;)\]}>\"'”’`*|\d]\s*$")


@dataclass
class Finding:
    what: str
    count: int
    examples: list[str] = field(default_factory=list)
    done: str = ""
    """What was done about it."""


@dataclass
class Gate:
    """The samples that may train, what was put aside, and what was found."""

    samples: list[Sample]
    rejected: list[RejectedRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of numbers of near duplicates among `samples`."""

    def render(self) -> str:
        rows = [
            [str(f.count), f.what, f.done, "; ".join(f.examples[:2])[:100]] for f in self.findings
        ]
        return (
            table(rows, ["rows", "what", "done", "for example"])
            if rows
            else "the gates found nothing"
        )

    def as_dict(self) -> dict[str, Any]:
        return {"samples": len(self.samples), "findings": [vars(f) for f in self.findings]}


def inspect(
    samples: Sequence[Sample], broken: Sequence[RejectedRow], preferences: bool = False
) -> Gate:
    """Broken, empty and doubled rows are put aside; near duplicates, cut-off answers and secrets
    are told. Raises DataError where nothing is left."""
    gate = Gate([], list(broken))
    if broken:
        gate.findings.append(
            Finding(
                "broken rows", len(broken), [f"{b.where}: {b.why}" for b in broken[:3]], "put aside"
            )
        )
    seen: dict[str, str] = {}
    empty, double = [], []
    for sample in samples:
        if (
            not sample.answer.strip()
            or not sample.question.strip()
            or (preferences and not sample.rejected.strip())
        ):
            empty.append(sample)
        elif sample.key in seen:
            double.append(sample)
        else:
            seen[sample.key] = sample.where
            gate.samples.append(sample)
    for found, what in ((empty, "no question or no answer"), (double, "exact duplicates")):
        if found:
            gate.findings.append(
                Finding(
                    what,
                    len(found),
                    [f"{s.where}: {s.question[:50]!r}" for s in found[:3]],
                    "put aside",
                )
            )
            gate.rejected += [RejectedRow(s.where, what, s.question) for s in found]
    if not gate.samples:
        raise DataError(
            "no row is left to train on",
            why="; ".join(f"{f.count} x {f.what}" for f in gate.findings),
            fix="mend the rows: each needs a question and an answer"
            + (", chosen and rejected" if preferences else ""),
        )
    gate.near = near_pairs(gate.samples, gate.samples)
    if gate.near:
        gate.findings.append(
            Finding(
                "near duplicates (pairs)",
                len(gate.near),
                [f"{gate.samples[a].where} and {gate.samples[b].where}" for a, b in gate.near[:3]],
                "kept, never split between train and eval",
            )
        )
    contradictions = _contradictions(gate.samples)
    if contradictions:
        gate.findings.append(
            Finding(
                "one question, different answers", len(contradictions), contradictions[:3], "kept"
            )
        )
    ends = [bool(END.search(s.answer)) for s in gate.samples]
    if sum(ends) > 0.8 * len(ends) and (
        cut := [
            s
            for s, whole in zip(gate.samples, ends, strict=True)
            if not whole and len(s.answer) > 40
        ]
    ):
        gate.findings.append(
            Finding(
                "answers that seem cut off",
                len(cut),
                [f"{s.where}: ...{s.answer[-30:]!r}" for s in cut[:3]],
                "kept",
            )
        )
    for what, pattern in SECRETS.items():
        hits = [
            s
            for s in gate.samples
            if any(
                what != "a card number" or _luhn(found[0])
                for m in s.messages
                for found in re.finditer(pattern, m["content"][:200_000])
            )
        ]
        if hits:
            gate.findings.append(
                Finding(
                    f"{what} in the text",
                    len(hits),
                    [s.where for s in hits[:3]],
                    "kept: the model may learn it",
                )
            )
    return gate


def _luhn(digits: str) -> bool:
    """Whether the check digit of a card number is right (ISO/IEC 7812).

    >>> _luhn("4539 1488 0343 6467"), _luhn("1234 5678 9012 3456")
    (True, False)
    """
    numbers = [int(d) for d in reversed(re.sub(r"\D", "", digits))]
    return sum(n if i % 2 == 0 else sum(divmod(2 * n, 10)) for i, n in enumerate(numbers)) % 10 == 0


def _contradictions(samples: Sequence[Sample]) -> list[str]:
    by_question: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_question[" ".join(words(" ".join(m["content"] for m in sample.messages[:-1])))].append(
            sample
        )
    return [
        f"{same[0].where} and {same[1].where}: {same[0].question[:40]!r}"
        for same in by_question.values()
        if len(same) > 1
    ]


def near_pairs(mine: Sequence[Sample], others: Sequence[Sample]) -> list[tuple[int, int]]:
    """(number in mine, number in others) of near duplicates; within one list each pair once."""
    same = mine is others
    index = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)
    hashes = [_minhash(sample) for sample in mine]
    for i, made in enumerate(hashes):
        index.insert(str(i), made)
    out = []
    for j, made in enumerate(hashes if same else [_minhash(sample) for sample in others]):
        for hit in index.query(made):
            i = int(hit)
            if (i < j or not same) and hashes[i].jaccard(made) >= NEAR:
                out.append((i, j))
    return sorted(out)


def _minhash(sample: Sample) -> MinHash:
    said = words(f"{sample.question} {sample.answer[:20_000]}")
    made = MinHash(num_perm=PERMUTATIONS, seed=1)
    made.update_batch([" ".join(said[i : i + 3]).encode() for i in range(max(len(said) - 2, 1))])
    return made


def leaks(train: Sequence[Sample], held: Sequence[Sample]) -> None:
    """Raises DataError when rows stand in both."""
    keys = {s.key: s.where for s in train}
    both = [(keys[s.key], s.where) for s in held if s.key in keys] or [
        (train[i].where, held[j].where) for i, j in near_pairs(train, held)
    ]
    if both:
        raise DataError(
            f"{len(both)} rows stand in both train and eval",
            why="; ".join(f"{a} = {b}" for a, b in both[:3])
            + ": a score on them would prove nothing",
            fix="take them out of one, or leave --eval_dataset out: then a part is split off "
            "cleanly",
        )


def split(gate: Gate, share: float, most: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """(train, held out): groups and near duplicates stay on one side; by a hash, so that the same
    rows fall to the same side in any order. Raises DataError for too few groups."""
    parent = list(range(len(gate.samples)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, sample in enumerate(gate.samples):
        if sample.group:
            parent[root(i)] = root(first.setdefault(sample.group, i))
    for i, j in gate.near:
        parent[root(i)] = root(j)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(gate.samples)):
        groups[root(i)].append(i)
    if len(groups) < 2:
        raise DataError(
            f"{len(gate.samples)} rows cannot be split",
            why="all belong to one group, or there is only one: nothing would be left to prove the "
            "result with",
            fix="more rows, or --eval_dataset with others",
        )
    order = sorted(
        groups.values(), key=lambda held: _draw(seed, min(gate.samples[i].key for i in held))
    )
    wanted = max(1, min(most, round(share * len(gate.samples))))
    held: list[int] = []
    while order and len(held) < wanted and len(order) > 1:
        held += order.pop(0)
    kept = set(held)
    return [s for i, s in enumerate(gate.samples) if i not in kept], [
        gate.samples[i] for i in sorted(kept)
    ]


def fingerprint(samples: Sequence[Sample]) -> str:
    """sha256 over the samples' words, in order."""
    return hashlib.sha256("".join(s.key for s in samples).encode()).hexdigest()


def _draw(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def histogram(encoded: Iterable[TokenizedExample], size: int) -> str:
    """Samples by their length in tokens, with a bar each, and how many exceed `size`."""
    lengths = [len(e.ids) for e in encoded]
    edges = [64 * 2**i for i in range(16)]
    counts = Counter(next((edge for edge in edges if n <= edge), edges[-1]) for n in lengths)
    top = max(counts.values(), default=1)
    rows = [
        [f"<= {edge}", str(counts[edge]), "#" * max(1, round(30 * counts[edge] / top))]
        for edge in edges
        if counts[edge]
    ]
    over = sum(n > size for n in lengths)
    return (
        table(rows, ["tokens", "samples", ""])
        + f"\n{over} of {len(lengths)} samples are longer than max_seq_length {size}"
    )


def encode_all(
    samples: Sequence[Sample], encode: Callable[[Sample], TokenizedExample]
) -> tuple[list[Sample], list[TokenizedExample], list[RejectedRow]]:
    """Tokens of each sample; those that the template does not keep, or that hold no answer token,
    are put aside."""
    kept, out, rejected = [], [], []
    for sample in samples:
        try:
            made = encode(sample)
        except ValueError as fault:
            rejected.append(RejectedRow(sample.where, str(fault), sample.question))
            continue
        if made.answer_tokens:
            kept.append(sample)
            out.append(made)
        else:
            rejected.append(RejectedRow(sample.where, "no token of an answer", sample.question))
    return kept, out, rejected
