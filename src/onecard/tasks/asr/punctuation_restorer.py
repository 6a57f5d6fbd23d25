"""Punctuation, capitals and the names of a list, put into a transcript by a language model that can
change nothing else.

Two safeguards. The model writes within a grammar in which each word is the one that was recognised,
or a name of the list that sounds like it. And its output is aligned with the transcript word by
word: a difference that is not on the list is discarded. So a model that misbehaves changes nothing
either.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jiwer

from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.inference.config import LlmConfig
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.asr.configs import TranscriptConfig
from onecard.tasks.asr.transcript import Segment, Word

MARKS = ",.?!;:"
QUOTES = '"“”()'
CHUNK_WORDS = 40
"""Words that the model is given at once."""
MIN_SIMILARITY = 0.6
"""Of the letters of a word and a name (difflib's ratio), from which the word may be the name
misheard: schmitt and Schmidt have 0.77."""
MIN_SIMILARITY_SPLIT = 0.75
"""The same where the number of words differs."""
MAX_NAMES = 20
"""Of a chunk, that are put into the prompt: a list of hundreds would fill the context."""
ABBREVIATIONS = ("i", "ok", "tv", "usa", "uk")
"""Words that may be written in capitals."""
PROMPT = (
    "Write the transcript again with correct punctuation and capital letters. Keep every word as "
    "it is, in the same order.{names}\n\nTranscript: how are you i am fine thanks\nCorrected: How "
    "are you? I am fine, thanks.\n\n"
    "Transcript: on monday we met doctor lee in paris it rained\nCorrected: On Monday we met "
    "Doctor Lee in Paris. It rained.\n\nTranscript: {words}\nCorrected:"
)

Ask = Callable[[str, str], str]
"""(prompt, grammar) -> the language model's output."""
Piece = tuple[int, str]
"""(number of recognised words, the text that replaces them)."""


@dataclass(frozen=True)
class Restoration:
    """The restored text of some words."""

    pieces: tuple[Piece, ...]
    n_discarded: int
    """Words of the model that were discarded."""
    corrections: tuple[tuple[str, str], ...]
    """(recognised, name of the list)."""

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.pieces)


def bare(word: str) -> str:
    """Letters and digits alone, case-folded: a word without capitals and marks.

    >>> bare("Don't,"), bare("“Zürich!”")
    ("don't", 'zürich')
    """
    return re.sub(r"[^\w'’-]", "", word).strip("'’-").casefold().replace("’", "'")


# The grammar


def likely_names(words: Sequence[str], names: Sequence[str]) -> dict[int, list[tuple[int, str]]]:
    """Where a name of the list may have been said: position -> (number of words, name)."""
    likely: dict[int, list[tuple[int, str]]] = {}
    for name in names:
        n_parts = len(name.split())
        target = "".join(bare(part) for part in name.split())
        for size in {max(1, n_parts - 1), n_parts, n_parts + 1}:
            limit = MIN_SIMILARITY if size == n_parts else MIN_SIMILARITY_SPLIT
            for i in range(len(words) - size + 1):
                spoken = "".join(bare(word) for word in words[i : i + size])
                if not spoken or not target or spoken[0] != target[0]:
                    continue
                if difflib.SequenceMatcher(None, spoken, target).ratio() >= limit:
                    likely.setdefault(i, []).append((size, name))
    return likely


def grammar(words: Sequence[str], names: Sequence[str]) -> str:
    """GBNF: each word as recognised, in lower case or capitalised, with at most one mark after it;
    or a name of the list in its place."""
    likely = likely_names(words, names)
    rules = []
    for i, word in enumerate(words):
        forms = " | ".join(json.dumps(form, ensure_ascii=False) for form in _forms(word))
        alternatives = [f"({forms}) m w{i + 1}"]
        alternatives += [
            f"{json.dumps(name, ensure_ascii=False)} m w{i + size}"
            for size, name in likely.get(i, ())
        ]
        space = '" " ' if i else ""
        rules.append(f"w{i} ::= {space}({' | '.join(alternatives)})")
    return "\n".join(
        [
            "root ::= w0",
            *rules,
            f'w{len(words)} ::= ""',
            'm ::= "" | "," | "." | "?" | "!" | ";" | ":"',
        ]
    )


def _forms(word: str) -> list[str]:
    """Ways to write a word that leave its letters."""
    core = word.strip(MARKS + QUOTES + "…") or word
    forms = [core, core[:1].upper() + core[1:], core.lower()]
    if core.lower() in ABBREVIATIONS:
        forms.append(core.upper())
    return list(dict.fromkeys(forms))


# The alignment


def merge(words: Sequence[str], output: str, names: Sequence[str]) -> Restoration:
    """The recognised words with the marks and capitals of the model's output. Words of the output
    without a recognised counterpart are discarded; recognised words never are."""
    written = output.split()
    recognised_bare, written_bare = [bare(w) for w in words], [bare(w) for w in written]
    likely = likely_names(words, names)
    parts_of = {name: tuple(bare(part) for part in name.split()) for name in names}
    name_of = {parts: name for name, parts in parts_of.items()}
    pieces: list[Piece] = []
    corrections: list[tuple[str, str]] = []
    n_discarded = 0
    matcher = difflib.SequenceMatcher(None, recognised_bare, written_bare, autojunk=False)
    for tag, a, a_end, b, b_end in matcher.get_opcodes():
        if tag == "equal":
            pieces += [(1, restyle(words[a + i], written[b + i])) for i in range(a_end - a)]
            continue
        while a < a_end or b < b_end:
            size, name = 0, ""
            for n_words, candidate in likely.get(a, ()):
                parts = parts_of[candidate]
                matches = tuple(written_bare[b : b + len(parts)]) == parts
                if a + n_words <= a_end and matches and name_of[parts] == candidate:
                    size, name = n_words, candidate
                    break
            if size:
                n_parts = len(parts_of[name])
                pieces.append((size, name + _mark_after(written[b + n_parts - 1])))
                corrections.append((" ".join(words[a : a + size]), name))
                a, b = a + size, b + n_parts
            elif a < a_end:
                pieces.append((1, words[a]))
                n_discarded += b < b_end
                a, b = a + 1, min(b + 1, b_end)
            else:
                n_discarded += b_end - b
                b = b_end
    return Restoration(tuple(pieces), n_discarded, tuple(corrections))


def restyle(word: str, written: str) -> str:
    """`word` with the capitals of `written` and the mark after it."""
    core, form = word.strip(MARKS), written.strip(MARKS + QUOTES)
    if bare(form) == bare(core) and len(form) == len(core):
        core = form
    return core + _mark_after(written)


def _mark_after(written: str) -> str:
    """The first of the marks that a word ends with."""
    tail = re.search(rf"[{MARKS}]+$", written)
    return tail[0][:1] if tail else ""


# Restoring


def restore(words: Sequence[str], names: Sequence[str], ask: Ask) -> Restoration:
    """In chunks of CHUNK_WORDS. What the model breaks stays as it was recognised."""
    pieces: list[Piece] = []
    corrections: list[tuple[str, str]] = []
    n_discarded = 0
    for start in range(0, len(words), CHUNK_WORDS):
        chunk = list(words[start : start + CHUNK_WORDS])
        likely = {name for names_at in likely_names(chunk, names).values() for _, name in names_at}
        hint = ""
        if likely:
            hint = f" These names may occur: {', '.join(sorted(likely)[:MAX_NAMES])}."
        prompt = PROMPT.format(names=hint, words=" ".join(chunk))
        restored = merge(chunk, ask(prompt, grammar(chunk, names)), names)
        pieces += restored.pieces
        corrections += restored.corrections
        n_discarded += restored.n_discarded
    return Restoration(tuple(pieces), n_discarded, tuple(corrections))


def ask_client(client: Client) -> Ask:
    """Greedy requests to a running engine, within the grammar where it supports one (llama.cpp)."""

    def ask(prompt: str, grammar: str) -> str:
        with client.translated_errors():
            completion = client.openai.completions.create(
                model=client.model,
                prompt=prompt,
                max_tokens=6 * CHUNK_WORDS,
                temperature=0,
                stop=["\n"],
                extra_body={"grammar": grammar, "cache_prompt": True},
            )
        return str(completion.choices[0].text).strip()

    return ask


Restorer = Callable[[Sequence[Segment]], list[Segment]]


@contextmanager
def open_restorer(config: TranscriptConfig, run: Run) -> Iterator[Restorer]:
    """Segments to restored segments, with a language model that is started once for all recordings.

    Raises EngineError, NotFound.
    """
    with language_model(
        LlmConfig(model=config.punctuation_model, n_ctx=2048, n_threads=config.n_threads),
        run.plan,
        run.reporter,
    ) as client:
        ask = ask_client(client)
        yield lambda segments: restore_segments(segments, config.names, ask, run.reporter)


def restore_segments(
    segments: Sequence[Segment], names: Sequence[str], ask: Ask, reporter: Reporter
) -> list[Segment]:
    """Texts restored; words keep their times. Raises EngineError."""
    out, n_discarded, n_corrections = [], 0, 0
    with reporter.progress("restoring punctuation", len(segments)) as bar:
        for segment in segments:
            restored = restore(segment.text.split(), names, ask)
            n_discarded += restored.n_discarded
            n_corrections += len(restored.corrections)
            words = with_times(segment.words, restored.pieces)
            out.append(replace(segment, text=" " + restored.text, words=words))
            bar.step()
    reporter.line(
        f"punctuation restored: {n_corrections} names corrected, {n_discarded} words of the model "
        "discarded"
    )
    return out


def with_times(words: Sequence[Word], pieces: Sequence[Piece]) -> tuple[Word, ...]:
    """The restored words with the times of the recognised ones.

    Whisper splits some words in two (well-known): one without a space before it belongs to the word
    before.
    """
    joined: list[list[Word]] = []
    for word in words:
        if word.text.startswith(" ") or not joined:
            joined.append([])
        joined[-1].append(word)
    if sum(size for size, _ in pieces) != len(joined):
        return tuple(words)
    restored, at = [], 0
    for size, text in pieces:
        replaced = [word for parts in joined[at : at + size] for word in parts]
        restored.append(
            replace(
                replaced[0],
                end=replaced[-1].end,
                text=f" {text}",
                probability=min(word.probability for word in replaced),
            )
        )
        at += size
    return tuple(restored)


# The check


def unlisted_changes(before: Sequence[str], after: Sequence[str], names: Sequence[str]) -> int:
    """Words changed, added or dropped that are no name of the list: this must be 0.

    By jiwer's alignment, which shares no code with `merge`.
    """
    reference = [bare(word) for word in before if bare(word)]
    hypothesis = [bare(word) for word in after if bare(word)]
    name_parts = {bare(part) for name in names for part in name.split()}
    output = jiwer.process_words(" ".join(reference) or "x", " ".join(hypothesis) or "x")
    chunks = output.alignments[0]
    n_changes = 0
    for i, chunk in enumerate(chunks):
        if chunk.type in ("insert", "substitute"):
            added = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            n_changes += sum(word not in name_parts for word in added)
        elif chunk.type == "delete":
            # two words that became one name leave a gap beside the name
            neighbours = [c for c in chunks[max(0, i - 1) : i + 2] if c.type == "substitute"]
            beside_name = any(
                hypothesis[at] in name_parts
                for c in neighbours
                for at in range(c.hyp_start_idx, c.hyp_end_idx)
            )
            n_changes += 0 if beside_name else chunk.ref_end_idx - chunk.ref_start_idx
    return n_changes
