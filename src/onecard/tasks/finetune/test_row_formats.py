"""Every column of a row is used, makes the row refused, or is told."""

import json
import math
import random

import pytest

from onecard.tasks.finetune import dataset, validation
from onecard.tasks.finetune.dataset import ParsedDataset
from onecard.tasks.finetune.row_formats import RowParser
from onecard.tasks.finetune.sample import Sample

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(row):
    return RowParser({}).parse(row, "f:1")


def texts(sample):
    return [(m["role"], m["content"]) for m in sample.messages]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"instruction": "Which?", "context": "Salt is sold.", "response": "salt"},
            [("user", "Which?\n\nSalt is sold."), ("assistant", "salt")],
        ),
        (
            {"conversations": TURNS, "system": "Be brief.", "tools": "[]"},
            [("system", "Be brief."), ("user", "q"), ("assistant", "a")],
        ),
        (
            {"instruction": "3+3?", "output": "6", "history": [["2+2?", "4"]]},
            [("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6")],
        ),
        (
            {"question": "How deep?", "answers": {"text": ["9 m"], "answer_start": [4]}},
            [("user", "How deep?"), ("assistant", "9 m")],
        ),
        ({"messages": json.dumps(TURNS)}, [("user", "q"), ("assistant", "a")]),
        ({"input": "q", "output": "a"}, [("user", "q"), ("assistant", "a")]),
        (
            {"messages": [{"role": "developer", "content": "x"}, *TURNS]},
            [("system", "x"), ("user", "q"), ("assistant", "a")],
        ),
    ],
)
def test_every_field_is_used(row, expected):
    (sample,), unused = read(row)
    assert texts(sample) == expected
    assert unused == []


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": TURNS, "rejected": [TURNS[0], {**TURNS[1], "content": "b"}]},
        {
            "messages": TURNS,
            "prompt": "q",
            "chosen": TURNS,
            "rejected": [TURNS[0], {**TURNS[1], "content": "b"}],
        },
        {
            "conversations": TURNS[:1],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {
            "chosen": "\n\nHuman: q\n\nAssistant: a",
            "rejected": "\n\nHuman: q\n\nAssistant: b",
        },
    ],
)
def test_preferences_in_the_forms_in_use(row):
    (sample,), unused = read(row)
    assert (texts(sample), sample.rejected) == ([("user", "q"), ("assistant", "a")], "b")
    assert unused == []


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}])
def test_answers_that_must_not_be_learned_are_context(mark):
    turns = [TURNS[0], {**TURNS[1], "content": "WRONG", **mark}, *TURNS]
    (sample,), unused = read({"messages": turns})
    assert (sample.untrained, unused) == ((1,), [])
    with pytest.raises(ValueError, match="none of its answers may be trained"):
        read({"messages": [TURNS[0], {**TURNS[1], **mark}]})
    again = RowParser({}).parse(sample.as_row(), "f:1")[0][0]
    assert (again.messages, again.untrained) == (sample.messages, sample.untrained)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": "a", "label": False}, "marked as a bad one"),
        ({"prompt": "q", "completion": math.nan}, "no answer"),
        ({"prompt": "q", "chosen": "a", "rejected": " a"}, "are the same"),
        ({"prompt": "q", "completion": "\ud800"}, "lone surrogate"),
        ({"prompt": "q", "completion": "a", "images": ["x.png"]}, "a picture"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[1]]},
            "image_url",
        ),
        ({"messages": [{"role": ["user"], "content": "q"}, TURNS[1]]}, "the role"),
        ({"instruction": "x", "instances": ["y"]}, "instances must be"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(row, reason):
    with pytest.raises(ValueError, match=reason):
        read(row)


def test_columns_that_nothing_uses_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"q{i}", "completion": "a", "score": i, "note": None} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parsed = dataset.read(path)
    assert dict(parsed.unused) == {"score": 5}
    assert "score (5 rows)" in validation.validate(parsed).render()


def test_no_row_stops_the_others(tmp_path):
    """Rows of random shapes: each is a sample or a rejected row, and all of them can be written."""
    random.seed(1)
    leaves = [None, math.nan, True, 7, "", "text", "\ud800", [], {}, ["x"], [[]], {"a": 1}]
    keys = ["prompt", "completion", "messages", "conversations", "chosen", "rejected", "system"]
    keys += ["tools", "history", "context", "label", "group", "instances", "instruction", "answers"]

    def value(depth):
        if depth and random.random() < 0.5:
            if random.random() < 0.5:
                return [value(depth - 1) for _ in range(random.randint(0, 3))]
            names = ["role", "content", "from", "value", "weight", "tool_calls", "text"]
            return {
                name: random.choice(["user", "assistant", "gpt", "tool", value(depth - 1)])
                for name in random.sample(names, 3)
            }
        return random.choice(leaves)

    rows = [
        {name: value(3) for name in random.sample(keys, random.randint(1, 5))} for _ in range(2000)
    ]
    path = tmp_path / "rows.jsonl"
    good = {"prompt": "q", "completion": "a"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [good, *rows]))
    parsed = dataset.read(path)
    assert len({s.source for s in parsed.samples}) + len(parsed.rejected) == 2001
    for sample in parsed.samples:
        json.dumps(sample.as_row(), ensure_ascii=False).encode()
        assert sample.key
    for row in parsed.rejected:
        f"{row.reason}{row.raw}".encode()


def test_a_row_with_a_comma_too_many_is_rejected_and_another_separator_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\nq1,a1\nq2,salt, and more\nq3\n")
    parsed = dataset.read(path)
    assert [s.answer for s in parsed.samples] == ["a1"]
    assert [row.reason.split(":")[0] for row in parsed.rejected] == [
        "3 cells under 2 columns",
        "1 cells under 2 columns",
    ]
    path.write_text("prompt;completion\nq1;salt, and more\n")
    assert dataset.read(path).samples[0].answer == "salt, and more"


# Near duplicates and splits


def labelled(i, message, label):
    """A row of a classification set: a long instruction that all rows share."""
    instruction = " ".join(
        f"rule{n} says that messages of kind {n} go to team {n}." for n in "abcd"
    )
    return Sample(
        (
            {"role": "user", "content": f"{instruction}\n\n{message}"},
            {"role": "assistant", "content": label},
        ),
        f"f:{i}",
    )


def test_rows_that_share_an_instruction_are_no_duplicates():
    random.seed(1)
    words = [f"word{i}" for i in range(400)]
    rows = [labelled(i, " ".join(random.sample(words, 9)), random.choice("abc")) for i in range(60)]
    copy = labelled(60, rows[7].question.split("\n\n")[1], rows[7].answer)
    report = validation.validate(ParsedDataset([*rows, copy]))
    assert report.near_duplicates == []
    train, held_out = validation.split(report, 0.2, 100, 0)
    assert len(held_out) == 12
    validation.check_leakage(train, held_out)
    changed = labelled(61, rows[7].question.split("\n\n")[1] + " please", rows[7].answer)
    samples = [*rows, changed]
    assert validation.near_pairs(samples, samples) == []
    longer = " ".join(random.sample(words, 60))
    pair = [labelled(62, longer, "a"), labelled(63, longer + " please", "a")]
    samples = [*rows, *pair]
    assert validation.near_pairs(samples, samples) == [(60, 61)]


def test_the_search_for_near_duplicates_grows_with_the_rows():
    """Candidates that are compared: with a shared instruction they were all pairs."""
    random.seed(1)
    words = [f"word{i}" for i in range(2000)]

    def compared(n):
        rows = [labelled(i, " ".join(random.sample(words, 12)), "a") for i in range(n)]
        calls = 0
        original = validation.MinHash.jaccard

        def counting(self, other):
            nonlocal calls
            calls += 1
            return original(self, other)

        validation.MinHash.jaccard = counting
        try:
            validation.near_pairs(rows, rows)
        finally:
            validation.MinHash.jaccard = original
        return calls

    assert compared(400) <= 4 * max(compared(100), 25)


def test_one_large_document_is_not_held_out_where_few_rows_were_asked_for():
    rows = [
        Sample(
            ({"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}),
            f"f:{i}",
            "manual" if i < 90 else f"page {i}",
        )
        for i in range(100)
    ]
    for seed in range(8):
        report = validation.ValidationReport(rows)
        train, held_out = validation.split(report, 0.1, 100, seed)
        assert 1 <= len(held_out) <= 10 and len(train) >= 90
