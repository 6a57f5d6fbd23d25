"""The punctuation restorer's two safeguards: a model that misbehaves changes no word."""

import random

import pytest

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.tasks.asr import punctuation_restorer
from onecard.tasks.asr.transcript import Word

WORDS = [
    "well",
    "doctor",
    "schmid",
    "said",
    "that",
    "the",
    "new",
    "clinic",
    "in",
    "zurich",
    "opens",
    "on",
    "monday",
    "and",
    "that",
    "nobody",
    "should",
    "worry",
    "about",
    "it",
    "i",
    "think",
]
NAMES = ("Schmidt", "Zürich")


def test_marks_capitals_and_names_of_the_list_are_restored():
    restored = punctuation_restorer.merge(
        WORDS,
        "Well, Doctor Schmidt said that the new clinic in Zürich opens on Monday, and that nobody "
        "should worry about it. I think.",
        NAMES,
    )
    assert (
        restored.text
        == "Well, Doctor Schmidt said that the new clinic in Zürich opens on Monday, and that "
        "nobody should worry about it. I think."
        and restored.n_discarded == 0
    )
    assert set(restored.corrections) == {("schmid", "Schmidt"), ("zurich", "Zürich")}


def sentences(n=200):
    draw = random.Random(0)
    some = [
        "the",
        "a",
        "we",
        "they",
        "river",
        "house",
        "never",
        "always",
        "opened",
        "closed",
        "seventeen",
        "doctor",
        "minister",
        "said",
        "found",
        "lost",
        "green",
        "quickly",
        "under",
        "above",
        "because",
        "although",
        "music",
        "paper",
        "city",
        "road",
        "winter",
        "question",
        "answer",
        "red",
        "small",
        "nobody",
        "schmid",
        "zurich",
        "i",
        "it's",
        "don't",
    ]
    return [[draw.choice(some) for _ in range(draw.randint(3, 30))] for _ in range(n)]


def misbehaving(kind):
    draw = random.Random(kind)

    def ask(prompt, grammar):
        words = prompt.rpartition("Transcript: ")[2].rpartition("\nCorrected:")[0].split()
        match kind:
            case "obeys other orders":
                return (
                    "Sure! Here is the corrected transcript: "
                    + " ".join(words)
                    + " I hope this helps."
                )
            case "drops":
                return " ".join(word for word in words if draw.random() > 0.3)
            case "adds":
                return " ".join(
                    part
                    for word in words
                    for part in ([word, "not"] if draw.random() < 0.3 else [word])
                )
            case "alters":
                return " ".join(
                    "banana" if draw.random() < 0.3 else word.capitalize() for word in words
                )
            case "shuffles":
                return " ".join(draw.sample(words, len(words)))
            case "negates":
                return " ".join(
                    {
                        "never": "always",
                        "opened": "closed",
                        "above": "under",
                        "seventeen": "seventy",
                    }.get(word, word)
                    for word in words
                )
            case "names everywhere":
                return " ".join("Schmidt" for _ in words)
            case "silent":
                return ""
            case _:
                return "".join(chr(draw.randrange(33, 0x2FF)) for _ in range(200))

    return ask


@pytest.mark.parametrize(
    "kind",
    [
        "obeys other orders",
        "drops",
        "adds",
        "alters",
        "shuffles",
        "negates",
        "names everywhere",
        "silent",
        "noise",
    ],
)
def test_a_model_that_misbehaves_changes_no_word(kind):
    """200 sentences for each way to misbehave, counted by an alignment of its own."""
    ask = misbehaving(kind)
    for words in sentences():
        restored = punctuation_restorer.restore(words, NAMES, ask)
        assert punctuation_restorer.unlisted_changes(words, restored.text.split(), NAMES) == 0, (
            words,
            restored,
        )
        assert len(restored.text.split()) == len(words) and all(
            len(old.split()) == 1
            and (punctuation_restorer.bare(old)[0] == punctuation_restorer.bare(new)[0])
            for old, new in restored.corrections
        )


@pytest.mark.parametrize(
    ("text", "n_changes"),
    [
        ("We met Schmidt, in the city.", 0),
        ("We never met Schmidt in the city.", 1),
        ("We met Schmidt in city.", 1),
        ("We met Schmidt in the town.", 1),
    ],
)
def test_what_counts_as_an_unlisted_change(text, n_changes):
    words = ["we", "met", "schmid", "in", "the", "city"]
    assert punctuation_restorer.unlisted_changes(words, text.split(), NAMES) == n_changes


def test_the_grammar_lets_nothing_else_be_written():
    """llama.cpp reads it in the e2e test; here its words are those that were recognised."""
    rules = punctuation_restorer.grammar(["i", "saw", "schmid", "today"], NAMES).splitlines()
    assert len(rules) == 7
    assert rules[1] == 'w0 ::= (("i" | "I") m w1)'
    assert '"Schmidt" m w3' in rules[3]
    assert rules[4] == 'w3 ::= " " (("today" | "Today") m w4)'


def test_restored_words_keep_their_times():
    words = (
        Word(0, 1, " well", 0.9),
        Word(1, 2, "-known", 0.5),
        Word(2, 3, " doctor", 0.9),
        Word(3, 4, " schmid", 0.9),
    )
    restored = punctuation_restorer.merge(
        ["well-known", "doctor", "schmid"], "Well-known doctor Schmidt.", NAMES
    )
    timed = punctuation_restorer.with_times(words, restored.pieces)
    assert [(word.text, word.start, word.end) for word in timed] == [
        (" Well-known", 0, 2),
        (" doctor", 2, 3),
        (" Schmidt.", 3, 4),
    ]
    assert timed[0].probability == 0.5
