"""Answers about pictures against accepted ones: values computed by hand, by other libraries, and
properties of every metric."""

import itertools
import json
import math
import random

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from onecard.errors import DataError
from onecard.evaluation import stats
from onecard.evaluation.metrics import json_fields, vqa

TEXTS = st.text(max_size=30)
WORDS = st.text(alphabet="abc ,.'-19éß猫犬。", max_size=12)


# Normalization


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The  Dog\n", "dog"),
        ("a cat and an owl", "cat and owl"),
        ("Two", "2"),
        ("none", "0"),
        ("10", "10"),
        ("eleven", "eleven"),
        ("3.5", "3.5"),
        ("5.", "5"),
        ("U.S.A.", "usa"),
        ("1,234,567 people", "1234567 people"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("cannot -see", "cannot see"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("oclock", "o'clock"),
        ("it’s", "it's"),
        ("10:30", "10:30"),
        ("A", "a"),
        ("?", "?"),
        ("", ""),
        ("红 色。", "红色"),
        ("“三”", "3"),
        ("12．5％", "12.5%"),
        ("三只猫，两只狗", "三只猫两只狗"),
        ("ﾈｺ", "ネコ"),
        ("Ｙｅｓ！", "yes"),
    ],
)
def test_normalized_as_by_the_script_of_vqa(answer, normal):
    assert vqa.normalize_answer(answer) == normal


def test_contractions_come_from_the_forms_with_one_apostrophe_less():
    table = vqa.CONTRACTIONS
    assert table["hadnt've"] == table["hadn'tve"] == "hadn't've"
    assert table["twas"] == "'twas" and table["y'alld've"] == "y'all'd've"
    assert "id" not in table and "lets" not in table and "shes" not in table
    assert len(table) == 113  # as many as the script has, without those that it can never meet


@given(TEXTS)
def test_what_is_normalized_matches_itself(answer):
    assert vqa.exact_match(answer, [answer]) == 1
    assert "\n" not in vqa.normalize_answer(answer)


@given(WORDS, WORDS)
def test_an_exact_match_is_symmetric(one, other):
    assert vqa.exact_match(one, [other]) == vqa.exact_match(other, [one])


# VQA accuracy


def accuracy_by_definition(prediction, answers):
    """Mean over the ten sets of nine of min(matches / 3, 1)."""
    scores = []
    for nine in itertools.combinations(answers, 9):
        n = sum(vqa.normalize_answer(a) == vqa.normalize_answer(prediction) for a in nine)
        scores.append(min(n / 3, 1))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("n", range(11))
def test_vqa_accuracy_is_the_mean_over_sets_of_nine(n):
    answers = ["Yes"] * n + ["no"] * (10 - n)
    assert vqa.vqa_accuracy("yes", answers) == pytest.approx(accuracy_by_definition("yes", answers))
    assert vqa.vqa_accuracy("yes", answers) == pytest.approx([0, 0.3, 0.6, 0.9, 1][min(n, 4)])


def test_vqa_accuracy_without_ten_annotators_is_a_match():
    assert vqa.vqa_accuracy("2 cats", ["two cats", "three cats"]) == 1
    assert vqa.vqa_accuracy("dog", ["cat"] * 9) == 0
    assert vqa.vqa_accuracy("dog", []) == 0


# ANLS


def edits(one, other):
    """Levenshtein's distance by its recurrence."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, before = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def test_anls_by_hand():
    assert vqa.anls("Smith", ["smyth"]) == pytest.approx(0.8)
    assert vqa.anls("abcd", ["abxy"]) == 0.5  # the leaderboard's evaluator keeps it
    assert vqa.anls("abcd", ["axyz"]) == 0
    assert vqa.anls("12 May  2020", ["June", "12 may 2020"]) == 1
    assert vqa.anls("", [""]) == 0 and vqa.anls("a", []) == 0 and vqa.anls("", ["a"]) == 0


@given(st.text(alphabet="abAB 1ü", max_size=9), st.text(alphabet="abAB 1ü", max_size=9))
def test_anls_is_the_edit_distance(prediction, answer):
    one, other = (" ".join(each.lower().split()) for each in (prediction, answer))
    longer = max(len(one), len(other))
    similarity = 1 - edits(one, other) / longer if longer else 0.0
    expected = similarity if similarity >= 0.5 else 0.0
    assert vqa.anls(prediction, [answer]) == pytest.approx(expected)
    if one and other:
        assert edits(other, one) / len(other) == pytest.approx(jiwer.cer(other, one))
    assert vqa.anls(prediction, [answer]) == pytest.approx(vqa.anls(answer, [prediction]))


# ChartQA


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("-105", "-100", 1),
        ("100", "-100", 0),
        ("12%", "0.12", 1),
        ("45%", "45", 0),
        ("1,234", "1234", 1),
        ("0", "0.0", 1),
        ("0.01", "0", 0),
        ("Blue ", "blue", 1),
        ("blue", "navy blue", 0),
        ("82 billion", "82", 0),
        ("nan", "nan", 1),
        ("inf", "100", 0),
        ("1e3", "1000", 1),
        ("１００", "100", 1),
        ("e5", "100", 0),
    ],
)
def test_relaxed_accuracy(prediction, answer, score):
    assert vqa.relaxed_accuracy(prediction, [answer]) == score


@given(st.floats(-1e9, 1e9), st.floats(-0.2, 0.2))
def test_relaxed_accuracy_is_a_share_of_the_answer(target, share):
    if abs(abs(share) - 0.05) > 1e-6 and abs(target) > 1e-3:
        prediction = repr(target * (1 + share))
        assert vqa.relaxed_accuracy(prediction, [repr(target)]) == float(abs(share) < 0.05)


# All of them


@pytest.mark.parametrize("metric", vqa.ANSWER_METRICS.values())
@given(prediction=TEXTS, answers=st.lists(TEXTS, max_size=11))
def test_a_score_is_a_share_and_more_answers_never_lower_it(metric, prediction, answers):
    score = metric(prediction, answers)
    assert 0 <= score <= 1
    assert metric("7", ["7"]) == metric("a dog", ["a dog"] * 10) == 1
    if len(answers) not in (9, 10):
        assert metric(prediction, [*answers, "another answer"]) >= score


def test_rouge_l_agrees_with_its_library():
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rng = random.Random(0)
    words = ["red", "bus", "stands", "near", "house", "big"]
    for _ in range(50):
        one, other = (" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(2))
        expected = scorer.score(other, one)["rougeL"].fmeasure
        assert vqa.rouge_l(one, [other, ""]) == pytest.approx(expected)


def test_scores_of_items_pair_by_id():
    answers = {"1": ["red"], "2": ["2", "two"], "3": []}
    scores = vqa.item_scores(
        "exact_match", {"1": "Red.", "2": "three", "3": "x", "4": "y"}, answers
    )
    assert scores == {"1": 1.0, "2": 0.0}


# Yes or no


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("Yes", "yes"),
        ("yes, there are two dogs.", "yes"),
        ("**No**, there is not.", "no"),
        ("There is no dog in the image.", "no"),
        ("I can't see any. Yes.", "no"),
        ("The answer is yes", "yes"),
        ("The dog is brown", ""),
        ("nothing", "no"),
        ("Notably, a dog", ""),
        ("不是", "no"),
        ("是的，有一只狗", "yes"),
        ("沒有狗", "no"),
        ("不知道", ""),
        ("はい、います", "yes"),
        ("아니요", "no"),
        ("Nein.", "no"),
        ("", ""),
        ("...", ""),
    ],
)
def test_what_an_answer_says(answer, reply):
    assert vqa.yes_or_no(answer) == reply


def test_yes_and_no_as_pope_counts_them():
    truth = {"a": ["yes"], "b": ["yes"], "c": ["no"], "d": ["no"], "e": ["no"], "f": ["red"]}
    said = {"a": "Yes", "b": "no", "c": "yes", "d": "No.", "e": "a dog", "f": "yes"}
    scores = vqa.YesNoScores.of(said, truth)
    assert scores.ids == ("a", "b", "c", "d", "e") and scores.n_unclear == 1
    assert scores.item_scores() == {"a": 1, "b": 0, "c": 0, "d": 1, "e": 0}
    metrics = scores.metrics()
    values = {name: each.value for name, each in metrics.items()}
    assert values["yes_no_accuracy"] == pytest.approx(0.4)
    assert values["yes_precision"] == values["yes_recall"] == values["yes_f1"] == pytest.approx(0.5)
    assert values["yes_ratio"] == values["yes_ratio_of_truth"] == pytest.approx(0.4)
    assert values["unclear"] == pytest.approx(0.2)
    assert all(each.low <= each.value <= each.high for each in metrics.values())


def test_always_yes_is_seen():
    truth = {str(i): ["yes" if i % 2 else "no"] for i in range(40)}
    metrics = vqa.YesNoScores.of(dict.fromkeys(truth, "yes"), truth).metrics()
    assert metrics["yes_ratio"].value == 1 and metrics["yes_no_accuracy"].value == 0.5
    assert metrics["yes_recall"].value == 1 and metrics["yes_precision"].value == 0.5
    nothing = vqa.YesNoScores.of({}, {}).metrics()
    assert math.isnan(nothing["yes_f1"].value)


# JSON


def test_fields_of_a_receipt():
    truth = {"menu": [{"name": "Tea", "price": 2.5}, {"name": "Cake", "price": 4}], "total": "6.5"}
    swapped = {
        "total": 6.5,
        "menu": [{"price": "4", "name": "cake"}, {"name": "Tea", "price": 2.5}],
    }
    assert json_fields.field_f1(swapped, truth) == 1
    wrong = {"menu": [{"name": "Tea", "price": 3}], "total": 6.5, "note": None}
    # common: a name and the total; 3 fields against 5
    assert json_fields.field_counts(wrong, truth) == (2, 3, 5)
    assert json_fields.field_f1(wrong, truth) == pytest.approx(0.5)
    twice = {"menu": [{"name": "Tea"}, {"name": "Tea"}]}
    assert json_fields.field_counts(twice, {"menu": [{"name": "Tea"}]}) == (1, 2, 1)
    assert json_fields.field_f1("I cannot read it", truth) == 0
    assert math.isnan(json_fields.field_f1("{}", "no JSON")) and json_fields.field_f1("{}", {}) == 1


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure!\n```json\n{"a": [1, 2]}\n```\nDone.', {"a": [1, 2]}),
        ('The fields are {"a": "}"} as asked', {"a": "}"}),
        ('[broken {"a": 2}', {"a": 2}),
        ("{'a': 1}", None),
        ("42", None),
        ("", None),
        ("[" * 5000, None),
        ('{"a":' * 5000, None),
    ],
)
def test_json_in_an_answer(answer, value):
    assert json_fields.parse_json(answer) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES, VALUES, st.randoms())
def test_field_f1_is_symmetric_and_free_of_order(one, other, rng):
    def mixed(value):
        if isinstance(value, list):
            return rng.sample([mixed(each) for each in value], len(value))
        if isinstance(value, dict):
            return {k: mixed(value[k]) for k in rng.sample(list(value), len(value))}
        return value

    a, b = {"x": one}, {"x": other}
    assert json_fields.field_f1(a, mixed(a)) == 1
    assert json_fields.field_f1(a, b) == pytest.approx(json_fields.field_f1(mixed(b), a))
    assert 0 <= json_fields.field_f1(a, b) <= 1
    assert json_fields.field_f1(json.dumps(a), a) == 1


RECEIPT = {
    "type": "object",
    "required": ["total"],
    "additionalProperties": False,
    "properties": {
        "total": {"type": "number", "minimum": 0},
        "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"},
        "menu": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}},
        "currency": {"enum": ["EUR", "TWD"]},
    },
    "$defs": {
        "line": {"type": "object", "required": ["name"], "properties": {"n": {"type": "integer"}}}
    },
}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"total": 3.5, "date": "2024-01-31", "menu": [{"name": "Tea", "n": 2.0}]}, ""),
        ({}, "the answer: total is missing"),
        ({"total": "3"}, 'total: "3" is no number'),
        ({"total": True}, "total: true is no number"),
        ({"total": -1}, "total: -1 is not between 0 and inf"),
        ({"total": 1, "tip": 2}, "tip: it may not be there"),
        ({"total": 1, "date": "31.1.24"}, "date: "),
        ({"total": 1, "menu": []}, "menu: 0 items, where 1 to inf may be"),
        ({"total": 1, "menu": [{"n": 1}]}, "menu[0]: name is missing"),
        ({"total": 1, "menu": [{"name": "x", "n": 1.5}]}, "menu[0].n: 1.5 is no integer"),
        ({"total": 1, "currency": "USD"}, "currency: "),
        ([], "the answer: [] is no object"),
        (None, "the answer: null is no object"),
    ],
)
def test_a_receipt_by_its_schema(value, fault):
    faults = json_fields.schema_faults(value, RECEIPT)
    assert (faults[0].startswith(fault) and len(faults) == 1) if fault else faults == []


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, [None, "x"], [1]),
        ({"oneOf": [{"minimum": 2}, {"maximum": 3}]}, [1, 4], [2.5]),
        ({"allOf": [{"type": "integer"}, {"multipleOf": 0.5}]}, [3], [3.2]),
        ({"not": {"const": 1}}, [True, 2], [1, 1.0]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1]),
        ({"minimum": 0, "exclusiveMinimum": True}, [0.5], [0]),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "number"}}, [["a", 1]], [[1, 1]]),
        ({"uniqueItems": True}, [[1, True]], [[1, 1.0]]),
        ({"contains": {"type": "string"}}, [[1, "a"]], [[1], []]),
        ({"patternProperties": {"^x_": {"type": "number"}}, "additionalProperties": False},
         [{"x_a": 1}], [{"x_a": "1"}, {"y": 1}]),
        ({"propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
        ({"type": ["string", "null"]}, [None], [3]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
         [[], [[]]], [[1]]),
        (True, [1], []),
        (False, [], [1]),
    ],
)  # fmt: skip
def test_keywords_of_a_schema(schema, valid, invalid):
    assert all(not json_fields.schema_faults(value, schema) for value in valid)
    assert all(json_fields.schema_faults(value, schema) for value in invalid)


@pytest.mark.parametrize(
    "schema",
    [
        {"if": {}},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/none"},
        {"$ref": "#"},
        {"pattern": "["},
        {"required": 5},
        {"properties": ["a"]},
        {"minLength": "x"},
        {"items": 3},
        "x",
        7,
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema):
    with pytest.raises(DataError, match="schema is not usable"):
        for value in ("text", {"a": 1}, [1]):
            json_fields.schema_faults(value, schema)


def test_an_endless_answer_breaks_no_recursive_schema():
    deep = []
    for _ in range(900):
        deep = [deep]
    schema = {"type": "array", "items": {"$ref": "#"}}
    assert json_fields.schema_faults(deep, schema) == ["the answer is nested too deeply"]


# Intervals


def test_a_set_of_receipts_has_an_interval():
    counts = [json_fields.field_counts({"a": i % 3}, {"a": 0}) for i in range(30)]
    interval = stats.ratio_interval(
        [2 * common for common, _, _ in counts], [p + t for _, p, t in counts], bounds=(0, 1)
    )
    assert interval.value == pytest.approx(1 / 3) and interval.low < 1 / 3 < interval.high
