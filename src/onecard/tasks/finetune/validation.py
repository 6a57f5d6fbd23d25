"""Finds faults in the data before training, with counts and examples, and splits it so that what
belongs together stays together. Knows no model."""

import hashlib
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH

from onecard.datasets import leakage, splits
from onecard.datasets.findings import Finding, findings_table
from onecard.errors import DataError
from onecard.evaluation.metrics.text import words
from onecard.reporting import table
from onecard.tasks.finetune.dataset import ParsedDataset
from onecard.tasks.finetune.sample import RejectedRow, Sample
from onecard.tasks.finetune.tokenization import TokenizedExample

NEAR_DUPLICATE_JACCARD = 0.85
"""Similarity of word 3-grams above which two samples count as near duplicates. Published data sets
use 0.7 to 0.9; the value between them is a guess."""
MIN_SHARED_ROWS = 8
"""Word 3-grams that stand in more rows than this (or than the root of the number of rows) are the
instruction that the rows share: what differs is compared."""
MAX_COMPARED_CHARS = 20_000
MIX = np.uint64(0x9E3779B97F4A7C15)
"""An odd number whose multiples spread over 64 bits (Knuth 1973, 6.4)."""
PERMUTATIONS = 128
"""Of MinHash: the error of an estimated Jaccard similarity is about 1/sqrt(128) = 0.09 (Broder
1997)."""
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
SENTENCE_END = re.compile(r"[.!?。！？…:;)\]}>\"'”’`*|\d]\s*$")
MAX_SCANNED_CHARS = 200_000
"""Of each message that is searched for secrets: a book in one row must not stop the check."""


@dataclass
class ValidationReport:
    """The samples that may train, the rejected rows, and all findings."""

    samples: list[Sample]
    rejected: list[RejectedRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    near_duplicates: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of positions in `samples`."""

    def render(self) -> str:
        if not self.findings:
            return "validation found nothing wrong"
        return findings_table(self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "samples": len(self.samples),
            "findings": [finding.as_dict() for finding in self.findings],
        }


def validate(parsed: ParsedDataset, preferences: bool = False) -> ValidationReport:
    """Reject broken, empty and duplicate rows; report near duplicates, contradictions, truncated
    answers, secrets and columns that nothing uses, which stay.

    `preferences`: each sample needs a rejected answer too. Raises DataError where nothing is left.
    """
    report = ValidationReport([], list(parsed.rejected))
    if parsed.rejected:
        report.findings.append(rejection_finding("broken rows", parsed.rejected))
    if parsed.unused:
        examples = [f"{name} ({n} rows)" for name, n in parsed.unused.most_common(5)]
        report.findings.append(
            Finding("columns not used", max(parsed.unused.values()), examples, "ignored")
        )
    _reject_empty_and_duplicates(report, parsed.samples, preferences)
    if not report.samples:
        raise DataError(
            "no row is left to train on",
            why="; ".join(f"{f.count} x {f.issue}" for f in report.findings),
            fix="correct the rows: each needs a question and an answer"
            + (", chosen and rejected" if preferences else ""),
        )
    report.near_duplicates = near_pairs(report.samples, report.samples)
    for finding in (
        _near_duplicate_finding(report),
        _contradictions(report.samples),
        _truncated_answers(report.samples),
        *_secrets(report.samples),
    ):
        if finding:
            report.findings.append(finding)
    return report


def rejection_finding(issue: str, rows: Sequence[RejectedRow]) -> Finding:
    examples = [f"{row.source}: {row.reason}" for row in rows[:3]]
    return Finding(issue, len(rows), examples, "rejected")


def _reject_empty_and_duplicates(
    report: ValidationReport, samples: Sequence[Sample], preferences: bool
) -> None:
    keys: set[str] = set()
    empty, duplicates = [], []
    for sample in samples:
        texts = [sample.answer, sample.question, *([sample.rejected] if preferences else [])]
        if not all(text.strip() for text in texts):
            empty.append(sample)
        elif sample.key in keys:
            duplicates.append(sample)
        else:
            keys.add(sample.key)
            report.samples.append(sample)
    for rows, issue in ((empty, "no question or no answer"), (duplicates, "exact duplicates")):
        if rows:
            examples = [f"{s.source}: {s.question[:50]!r}" for s in rows[:3]]
            report.findings.append(Finding(issue, len(rows), examples, "rejected"))
            report.rejected += [RejectedRow(s.source, issue, s.question) for s in rows]


def _near_duplicate_finding(report: ValidationReport) -> Finding | None:
    pairs, samples = report.near_duplicates, report.samples
    if not pairs:
        return None
    examples = [f"{samples[a].source} and {samples[b].source}" for a, b in pairs[:3]]
    return Finding("near duplicates (pairs)", len(pairs), examples, "kept on one side of the split")


def _contradictions(samples: Sequence[Sample]) -> Finding | None:
    by_question: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        question = " ".join(m["content"] for m in sample.messages[:-1])
        by_question[" ".join(words(question))].append(sample)
    repeated = [same for same in by_question.values() if len(same) > 1]
    if not repeated:
        return None
    examples = [
        f"{same[0].source} and {same[1].source}: {same[0].question[:40]!r}" for same in repeated[:3]
    ]
    return Finding("one question, different answers", len(repeated), examples, "kept")


def _truncated_answers(samples: Sequence[Sample]) -> Finding | None:
    """Long answers that end in mid-sentence, in data whose answers mostly do not."""
    complete = [bool(SENTENCE_END.search(s.answer)) for s in samples]
    if sum(complete) <= 0.8 * len(complete):
        return None
    truncated = [
        s for s, ends in zip(samples, complete, strict=True) if not ends and len(s.answer) > 40
    ]
    if not truncated:
        return None
    examples = [f"{s.source}: ...{s.answer[-30:]!r}" for s in truncated[:3]]
    return Finding("answers that seem cut off", len(truncated), examples, "kept")


def _secrets(samples: Sequence[Sample]) -> Iterable[Finding]:
    for secret, pattern in SECRETS.items():
        hits = [s for s in samples if _contains(s, secret, pattern)]
        if hits:
            sources = [s.source for s in hits[:3]]
            yield Finding(
                f"{secret} in the text", len(hits), sources, "kept: the model may learn it"
            )


def _contains(sample: Sample, secret: str, pattern: str) -> bool:
    return any(
        secret != "a card number" or _luhn(match[0])
        for message in sample.messages
        for match in re.finditer(pattern, message["content"][:MAX_SCANNED_CHARS])
    )


def _luhn(digits: str) -> bool:
    """Whether the check digit of a card number is right (ISO/IEC 7812).

    >>> _luhn("4539 1488 0343 6467"), _luhn("1234 5678 9012 3456")
    (True, False)
    """
    numbers = [int(d) for d in reversed(re.sub(r"\D", "", digits))]
    return sum(n if i % 2 == 0 else sum(divmod(2 * n, 10)) for i, n in enumerate(numbers)) % 10 == 0


def near_pairs(samples: Sequence[Sample], others: Sequence[Sample]) -> list[tuple[int, int]]:
    """(position in samples, position in others) of near duplicates; within one list each pair
    once. Time and memory grow with the number of rows: what many rows share is not compared."""
    same_list = samples is others
    shingles = [_shingles(sample) for sample in samples]
    other_shingles = shingles if same_list else [_shingles(sample) for sample in others]
    every = np.concatenate([*shingles, *(() if same_list else other_shingles)])
    n_samples = len(shingles) + (0 if same_list else len(other_shingles))
    values, n_rows = np.unique(every, return_counts=True)
    common = values[n_rows > max(MIN_SHARED_ROWS, math.isqrt(n_samples))]
    del every, values, n_rows
    index = MinHashLSH(threshold=NEAR_DUPLICATE_JACCARD, num_perm=PERMUTATIONS)
    hashes = [_minhash(one, common) for one in shingles]
    for i, minhash in enumerate(hashes):
        if minhash:
            index.insert(i, minhash, check_duplication=False)
    other_hashes = hashes if same_list else [_minhash(one, common) for one in other_shingles]
    pairs = []
    for j, minhash in enumerate(other_hashes):
        for i in index.query(minhash) if minhash else ():
            new = i < j or not same_list
            if new and hashes[i].jaccard(minhash) >= NEAR_DUPLICATE_JACCARD:
                pairs.append((i, j))
    return sorted(pairs)


def _shingles(sample: Sample) -> np.ndarray:
    """Hashes of the different word 3-grams of the last question and its answer, uint64 (N,)."""
    tokens = words(f"{sample.question[-MAX_COMPARED_CHARS:]} {sample.answer[:MAX_COMPARED_CHARS]}")
    # not hash(): a split must be the same in every process
    hashes = np.array([zlib.crc32(token.encode()) for token in tokens], dtype=np.uint64)
    if len(hashes) < 3:
        return np.array([hashes.sum()], dtype=np.uint64)
    mixed = (hashes[:-2] * MIX + hashes[1:-1]) * MIX + hashes[2:]
    return np.unique(mixed * MIX >> np.uint64(16))


def _minhash(shingles: np.ndarray, common: np.ndarray) -> MinHash | None:
    """Of what is not common to many rows; None where nothing is left."""
    own = np.setdiff1d(shingles, common, assume_unique=True)
    if not len(own):
        return None
    minhash = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=lambda value: value & 0xFFFFFFFF)
    minhash.update_batch(own.tolist())
    return minhash


def check_leakage(train: Sequence[Sample], evaluation: Sequence[Sample]) -> None:
    """Raises DataError where rows, or near duplicates of them, stand in both."""
    shared = leakage.shared_items(
        ((s.key, s.source) for s in train), ((s.key, s.source) for s in evaluation)
    ) or [(train[i].source, evaluation[j].source) for i, j in near_pairs(train, evaluation)]
    leakage.refuse_leakage(shared, "rows")


def split(
    report: ValidationReport, share: float, max_items: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(train, evaluation): groups and near duplicates stay on one side.

    Groups are taken in the order of a hash, so that the same rows are held out in whatever order
    they come. Raises DataError for a single group.
    """
    samples = report.samples
    groups = splits.connected_groups([s.group for s in samples], report.near_duplicates)
    if len(groups) < 2:
        raise DataError(
            f"{len(samples)} rows cannot be split",
            why="there is one, or all have the same group or document: nothing would be left to "
            "prove the result with",
            fix="more rows, or --eval_dataset with others",
        )
    groups.sort(key=lambda group: splits.hash_rank(seed, min(samples[i].key for i in group)))
    n_items = max(1, min(max_items, round(share * len(samples))))
    held_out: set[int] = set()
    for group in groups[:-1]:  # one group at least is left to train on
        # a document of 90 rows must not be held out where 10 were asked for
        if len(held_out) + len(group) <= max(n_items, 2):
            held_out |= set(group)
    if not held_out:
        held_out = set(sorted(groups, key=len)[0])
    if 2 * len(held_out) > len(samples):
        raise DataError(
            f"{len(samples)} rows cannot be split",
            why=f"they form {len(groups)} groups, and the smallest has {len(held_out)} rows",
            fix="rows of more documents, or --eval_dataset with others",
        )
    train = [s for i, s in enumerate(samples) if i not in held_out]
    return train, [samples[i] for i in sorted(held_out)]


def fingerprint(samples: Sequence[Sample]) -> str:
    """sha256 over the samples' texts, in order."""
    return hashlib.sha256("".join(s.key for s in samples).encode()).hexdigest()


def histogram(examples: Iterable[TokenizedExample], max_seq_length: int) -> str:
    """Samples by their length in tokens, with a bar each, and how many are too long."""
    lengths = [len(e.ids) for e in examples]
    edges = [64 * 2**i for i in range(16)]
    counts = Counter(next((edge for edge in edges if n <= edge), edges[-1]) for n in lengths)
    top = max(counts.values(), default=1)
    rows = [
        [f"<= {edge}", str(counts[edge]), "#" * max(1, round(30 * counts[edge] / top))]
        for edge in edges
        if counts[edge]
    ]
    n_over = sum(n > max_seq_length for n in lengths)
    return (
        table(rows, ["tokens", "samples", ""])
        + f"\n{n_over} of {len(lengths)} samples are longer than max_seq_length {max_seq_length}"
    )
