"""The careful editor: a language model puts in punctuation, capitals and the names of a list, and
can change nothing else.

Two locks. The model writes within a grammar in which each word is the one that was said (or a name
of the list that sounds like it); and what comes back is aligned with what was said, word by word: a
difference that is not on the list
is thrown away there. So a model that misbehaves changes nothing either.
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
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.words import Segment, Word

MARKS = ",.?!;:"
CHUNK_WORDS = 40
"""Words that the model is given at once."""
ALIKE = 0.6
"""Likeness of letters from which on a word may be a misheard name (difflib's ratio: schmitt and
Schmidt have 0.77)."""
PROMPT = (
    "Write the transcript again with correct punctuation and capital letters. Keep every word as "
    "it is, in the same order.{names}\n\nTranscript: how are you i am fine thanks\nCorrected: How "
    "are you? I am fine, thanks.\n\n"
    "Transcript: on monday we met doctor lee in paris it rained\nCorrected: On Monday we met "
    "Doctor Lee in Paris. It rained.\n\nTranscript: {words}\nCorrected:"
)


@dataclass(frozen=True)
class Edit:
    """What came of one piece of text."""

    text: str
    refused: int
    """Words of the model that were thrown away."""
    changed: tuple[tuple[str, str], ...]
    """(said, name of the list) where a name was mended."""
    pieces: tuple[tuple[int, str], ...] = ()
    """(number of said words, what stands for them now): where each written word was said."""


def bare(word: str) -> str:
    """Letters and digits alone, folded: what a word is apart from how it is dressed.

    >>> bare("Don't,"), bare("“Zürich!”")
    ("don't", 'zürich')
    """
    return re.sub(r"[^\w'’-]", "", word).strip("'’-").casefold().replace("’", "'")


def likely_names(words: Sequence[str], names: Sequence[str]) -> dict[int, list[tuple[int, str]]]:
    """Where a name of the list may have been meant: place -> (number of words, name)."""
    out: dict[int, list[tuple[int, str]]] = {}
    for name in names:
        wide = len(name.split())
        for size in {max(1, wide - 1), wide, wide + 1}:
            for i in range(len(words) - size + 1):
                said = "".join(bare(word) for word in words[i : i + size])
                meant = "".join(bare(part) for part in name.split())
                if (
                    said
                    and meant
                    and (said[0] == meant[0] or said == meant)
                    and difflib.SequenceMatcher(None, said, meant).ratio()
                    >= (ALIKE if size == wide else 0.75)
                ):
                    out.setdefault(i, []).append((size, name))
    return out


def grammar(words: Sequence[str], names: Sequence[str]) -> str:
    """GBNF: each word as said, small or with a capital, and at most one mark behind it; or a name
    of the list in its place."""
    meant = likely_names(words, names)
    rules = []
    for i, word in enumerate(words):
        core = word.strip(MARKS + '"“”()…') or word
        forms = list(
            dict.fromkeys(
                [
                    core,
                    core[:1].upper() + core[1:],
                    core.lower(),
                    *([core.upper()] if core.lower() in ("i", "ok", "tv", "usa", "uk") else []),
                ]
            )
        )
        ways = [
            f"({' | '.join(json.dumps(form, ensure_ascii=False) for form in forms)}) m w{i + 1}"
        ]
        ways += [
            f"{json.dumps(name, ensure_ascii=False)} m w{i + size}"
            for size, name in meant.get(i, ())
        ]
        rules.append(f"w{i} ::= {chr(34) + ' ' + chr(34) + ' ' if i else ''}({' | '.join(ways)})")
    return "\n".join(
        [
            "root ::= w0",
            *rules,
            f'w{len(words)} ::= ""',
            'm ::= "" | "," | "." | "?" | "!" | ";" | ":"',
        ]
    )


def merge(words: Sequence[str], written: str, names: Sequence[str]) -> Edit:
    """What was said, dressed as the model wrote it.

    Words that do not pair with a said one are thrown away; said ones never are.
    """
    made = written.split()
    mine, theirs = [bare(word) for word in words], [bare(word) for word in made]
    allowed = {tuple(bare(part) for part in name.split()): name for name in names}
    out: list[tuple[int, str]] = []
    refused = 0
    changed: list[tuple[str, str]] = []
    meant = likely_names(words, names)
    for tag, a, b, c, d in difflib.SequenceMatcher(
        None, mine, theirs, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            out += [(1, dressed(words[a + i], made[c + i])) for i in range(b - a)]
            continue
        while a < b or c < d:
            size, name = next(
                (
                    (size, name)
                    for size, name in meant.get(a, ())
                    if a + size <= b
                    and tuple(theirs[c : c + len(name.split())]) in allowed
                    and allowed[tuple(theirs[c : c + len(name.split())])] == name
                ),
                (0, ""),
            )
            if size:
                tail = re.search(rf"[{MARKS}]*$", made[c + len(name.split()) - 1])
                out.append((size, name + (tail[0][:1] if tail else "")))
                changed.append((" ".join(words[a : a + size]), name))
                a, c = a + size, c + len(name.split())
            elif a < b:
                out.append((1, words[a]))
                a, refused = a + 1, refused + (c < d)
                c = min(c + 1, d)
            else:
                refused += d - c
                c = d
    return Edit(" ".join(text for _, text in out), refused, tuple(changed), tuple(out))


def dressed(said: str, written: str) -> str:
    """The said word with the capitals of the written one and one mark behind it."""
    core, form = said.strip(MARKS), written.strip(MARKS + '"“”()')
    core = form if bare(form) == bare(core) and len(form) == len(core) else core
    tail = re.search(rf"[{MARKS}]+$", written)
    return core + (tail[0][:1] if tail else "")


def edit(words: Sequence[str], names: Sequence[str], ask: Callable[[str, str], str]) -> Edit:
    """Words edited in pieces.

    `ask(prompt, grammar)` is the language model. What it breaks stays as it was said.
    """
    pieces: list[tuple[int, str]] = []
    refused = 0
    changed: list[tuple[str, str]] = []
    for start in range(0, len(words), CHUNK_WORDS):
        piece = list(words[start : start + CHUNK_WORDS])
        near = sorted({name for found in likely_names(piece, names).values() for _, name in found})[
            :20
        ]  # a list of hundreds would fill the model's context
        hint = f" These names may occur: {', '.join(near)}." if near else ""
        done = merge(
            piece,
            ask(PROMPT.format(names=hint, words=" ".join(piece)), grammar(piece, names)),
            names,
        )
        pieces += done.pieces
        refused += done.refused
        changed += done.changed
    return Edit(" ".join(text for _, text in pieces), refused, tuple(changed), tuple(pieces))


def asker(client: Client) -> Callable[[str, str], str]:
    """A request to the engine: greedy, within the grammar where the engine knows one (llama.cpp),
    free where not."""

    def ask(prompt: str, rules: str) -> str:
        with client.translated_errors():
            done = client.openai.completions.create(
                model=client.model,
                prompt=prompt,
                max_tokens=6 * CHUNK_WORDS,
                temperature=0,
                stop=["\n"],
                extra_body={"grammar": rules, "cache_prompt": True},
            )
        return str(done.choices[0].text).strip()

    return ask


@contextmanager
def opened(settings: Settings, run: Run) -> Iterator[Callable[[Sequence[Segment]], list[Segment]]]:
    """The editor with its language model, started once for all recordings: segments go in, and come
    back edited. Raises EngineError, NotFound."""
    with language_model(
        LlmConfig(model=settings.editor_model, n_ctx=2048, n_threads=settings.threads),
        run.plan,
        run.reporter,
    ) as client:
        ask = asker(client)
        yield lambda segments: edited(segments, settings.names, ask, run.reporter)


def edited(
    segments: Sequence[Segment],
    names: Sequence[str],
    ask: Callable[[str, str], str],
    reporter: Reporter,
) -> list[Segment]:
    """The segments with their texts edited; words keep their times. Raises EngineError."""
    out, refused, mended = [], 0, 0
    with reporter.progress("editing", len(segments)) as bar:
        for segment in segments:
            done = edit(segment.text.split(), names, ask)
            refused, mended = refused + done.refused, mended + len(done.changed)
            out.append(
                replace(segment, text=" " + done.text, words=timed(segment.words, done.pieces))
            )
            bar.step()
    reporter.line(f"edited: {mended} names mended, {refused} words of the model thrown away")
    return out


def timed(words: Sequence[Word], pieces: Sequence[tuple[int, str]]) -> tuple[Word, ...]:
    """The edited words with the times of the said ones.

    Whisper cuts some words in two (well-known): what has no space before it belongs to the word
    before.
    """
    tokens: list[list[Word]] = []
    for word in words:
        if word.text.startswith(" ") or not tokens:
            tokens.append([])
        tokens[-1].append(word)
    if sum(size for size, _ in pieces) != len(tokens):
        return tuple(words)
    out, at = [], 0
    for size, text in pieces:
        held = [word for token in tokens[at : at + size] for word in token]
        out.append(
            replace(
                held[0],
                end=held[-1].end,
                text=f" {text}",
                probability=min(word.probability for word in held),
            )
        )
        at += size
    return tuple(out)


def unlisted(before: Sequence[str], after: Sequence[str], names: Sequence[str]) -> int:
    """Words altered, added or dropped that are no name of the list: what must be 0.

    An alignment of its own, not the editor's.
    """
    mine, theirs = (
        [bare(word) for word in before if bare(word)],
        [bare(word) for word in after if bare(word)],
    )
    parts = {bare(part) for name in names for part in name.split()}
    done = jiwer.process_words(" ".join(mine) or "x", " ".join(theirs) or "x")
    chunks = done.alignments[0]
    wrong = 0
    for i, chunk in enumerate(chunks):
        added = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type in ("insert", "substitute"):
            wrong += sum(word not in parts for word in added)
        elif chunk.type == "delete":  # two words that became one name leave a gap beside the name
            beside = [
                other for other in chunks[max(0, i - 1) : i + 2] if other.type == "substitute"
            ]
            named = any(
                theirs[at] in parts
                for other in beside
                for at in range(other.hyp_start_idx, other.hyp_end_idx)
            )
            wrong += 0 if named else chunk.ref_end_idx - chunk.ref_start_idx
    return wrong
