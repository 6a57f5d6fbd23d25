"""Terms, BM25, fusion, chunking, citations and tools, by hand-worked examples."""

import numpy as np
import pytest

from onecard.datasets.blocks import Block
from onecard.errors import DataError, SettingsError
from onecard.inference.client import Reply
from onecard.tasks.rag import (
    analyzer,
    answer,
    bm25,
    chunking,
    citations,
    conversation,
    coverage,
    rank_fusion,
    tool_calling,
    units,
)
from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.calculator import calculate
from onecard.tasks.rag.configs import ChatConfig
from onecard.tasks.rag.evidence_metrics import longest_common_end, ranking_scores, token_scores
from onecard.tasks.rag.quotes import Quote, best_quotes
from onecard.tasks.rag.retrieve import Hit
from onecard.tasks.rag.store import Chunk
from onecard.tasks.rag.tools import tool_from


def hit(text, n=1, dense=0.9, coverage=1.0, title="Head", background=0.8):
    chunk = Chunk(n, f"/n/{n}.md", title, text, 1, 3, 0)
    return Hit(chunk, 1.0 / n, dense, 1.0, coverage, background)


def test_terms_of_words_code_and_chinese():
    assert terms("The parsers are parsing HTTPResponse_codes") == [
        "parser",
        "pars",
        "httpresponse_codes",
        "http",
        "respons",
        "code",
    ]
    assert terms("資料庫db連線") == ["資料", "料庫", "db", "連線"]


@pytest.mark.parametrize("text", ["", "the of and", "... --- !"])
def test_text_without_meaning_has_no_terms(text):
    assert terms(text) == []


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("a" * 100_000, 1),
        ("\0\ud800x", 1),
        ("😀" * 1000, 0),
        ("مرحبا بالعالم", 2),
        ("_" * 50_000, 0),
        ("中" * 50_000, 49_999),
    ],
    ids=["letters", "surrogate", "emoji", "arabic", "underscores", "chinese"],
)
@pytest.mark.timeout(300)  # a line of underscores took 77 s with another pattern
def test_hostile_text_gives_terms(text, n):
    assert len(terms(text)) == n
    packed, length = bm25.pack_terms(text, text)
    assert length == 2 * n
    assert len(packed) == 8 * len(set(terms(text)))


def build(texts):
    packed, lengths = zip(*(bm25.pack_terms("", text) for text in texts), strict=True)
    return bm25.BM25Index.build(packed, lengths)


def test_bm25_by_hand():
    index = build(["cat cat dog", "dog bird", "fish"])
    scores = index.scores("cat", 3)
    idf, norm = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5)), 1.2 * (1 - 0.75 + 0.75 * 3 / 2)
    assert scores[0] == pytest.approx(idf * 2 * 2.2 / (2 + norm), rel=1e-5)
    assert scores[1] == scores[2] == 0
    assert not index.scores("unknownword", 3).any()


def covered(question, *texts):
    index = build(["cat cat dog", "dog bird", "fish"])
    sets = [set(analyzer.terms(text)) for text in texts]
    return coverage.coverage(
        coverage.question_parts(question), sets, lambda term: index.rarity(term, 3)
    )


def test_coverage_is_the_weighted_share_of_the_questions_terms_in_one_text():
    assert covered("cat dog", "cat dog") == 1
    in_one, in_two = np.log(1 + 3.5 / 1.5), np.log(1 + 3.5 / 2.5)
    assert covered("cat dog", "dog bird") == pytest.approx(in_two / (in_one + in_two))
    assert covered("cat dog", "dog", "cat") == pytest.approx(in_one / (in_one + in_two))
    assert covered("cat dog", "fish") == covered("", "fish") == covered("cat") == 0


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("v4.2.1", "4.2.1", 1),
        ("v4.2.1", "2.1.4", 0),
        ("4 March 2025", "2025-03-04", 1),
        ("4 March 2025", "March 4, 2024", 0),
        ("2025年3月4日", "on 4.3.2025", 1),
        ("如何設定", "我們設定它", 1),
        ("如何刪除設定", "設定", 0.5),
        ("什麼是背景任務？", "背景任務", 1),
    ],
)
def test_parts_of_dates_and_of_chinese_words_do_not_count(question, text, expected):
    assert covered(question, text) == pytest.approx(expected)


def test_a_date_weighs_more_than_the_words_around_it():
    assert covered("what happened on 4 March 2025", "2025-03-04") > 0.7
    assert covered("what happened on 4 March 2025", "happened in March 2025") < 0.3


def test_saved_and_loaded_is_the_same(tmp_path):
    index = build(["cat dog", "北京 天氣", "parse_config value"])
    index.save(tmp_path / "l.npz")
    again = bm25.BM25Index.load(tmp_path / "l.npz")
    for question in ("cat", "天氣", "config"):
        assert index.scores(question, 3).any()
        assert np.array_equal(index.scores(question, 3), again.scores(question, 3))


def test_fusion_by_hand():
    dense, lexical = np.array([0.1, 0.05, -0.2]), np.array([0.0, 4.0, 2.0])
    fused = rank_fusion.convex_combination(dense, lexical, 0.4)
    assert fused == pytest.approx([0.6, 0.3 + 0.4, 0.2])
    assert not rank_fusion.max_normalize(np.array([-1.0, -2.0])).any()
    assert len(rank_fusion.max_normalize(np.array([]))) == 0


def test_feedback_moves_the_query_by_hand():
    query, best = np.array([1.0, 0.0]), np.array([[0.0, 1.0], [0.0, 1.0]])
    moved = rank_fusion.pseudo_relevance_feedback(query, best)
    assert moved == pytest.approx(np.array([1.0, 0.5]) / np.sqrt(1.25))


def test_passages_join_small_blocks_and_cut_long_ones():
    blocks = [
        Block("one " * 20, 1, 1, ("A",)),
        Block("two " * 20, 3, 3, ("A",)),
        Block("three " * 300, 5, 5, ("B",)),
        Block("page", 1, 1, (), 2),
    ]
    passages = chunking.chunk_blocks(blocks, 100, 10)
    first = passages[0]
    assert (first.text.count("one"), first.text.count("two")) == (20, 20)
    assert first.heading == ("A",)
    assert len(passages) >= 6
    assert max(chunking.estimate_tokens(p.text) for p in passages) <= 125
    assert passages[-1].page == 2
    assert sum(p.text.count("three") for p in passages) >= 300


def test_lines_of_a_cut_block_are_true():
    text = "\n".join(f"line number {i} says something of its own" for i in range(100))
    passages = chunking.chunk_blocks([Block(text, 11, 110, ())], 100, 20)
    assert len(passages) > 5
    assert (passages[0].line, passages[-1].last_line) == (11, 110)
    for passage in passages:
        lines = passage.text.split("\n")
        assert lines[0] == f"line number {passage.line - 11} says something of its own"
        assert lines[-1] == f"line number {passage.last_line - 11} says something of its own"


def test_a_long_line_without_end_is_cut():
    passages = chunking.chunk_blocks([Block("x" * 50_000, 1, 1)], 100, 10)
    assert sum(len(p.text) for p in passages) >= 50_000
    assert max(chunking.estimate_tokens(p.text) for p in passages) <= 150


HITS = [
    hit("The delay doubles after each failure and is never longer than 30 seconds.", 1),
    hit("At most 100 connections are kept open.", 2),
]
SOURCES = {1: HITS[0].chunk.text, 2: HITS[1].chunk.text}


def verify(reply, facts=(), question="How long is the delay?"):
    quotes = [Quote(1, HITS[0].chunk.text, 1.0)]
    return citations.verify_citations(question, reply, HITS, quotes, SOURCES, facts)


def test_a_supported_sentence_keeps_its_citation():
    done = verify("The delay is never longer than 30 seconds [1].")
    assert done.text == "The delay is never longer than 30 seconds [1]."
    assert [c["n"] for c in done.citations] == [1]
    assert done.dropped == []


def test_a_missing_citation_is_put_in_and_a_false_one_removed():
    assert verify("The delay is never longer than 30 seconds.").citations[0]["n"] == 1
    many = "How many connections are kept open?"
    done = verify("At most 100 connections are kept open [7].", question=many)
    assert "[2]" in done.text
    assert "[7]" not in done.text
    assert done.wrong_citations == 1


PLANS = hit("| Plan | Largest upload |\n|---|---|\n| Solo | 5 MB |\n| Crew | 60 MB |", 1)


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("It is 60 MB [1].", True),
        ("The Crew plan has 60 MB [1].", True),
        ("It is 5 MB [1].", False),
    ],
)
def test_a_number_of_the_row_beside_is_no_answer(sentence, kept):
    question = "What is the largest upload on the Crew plan?"
    done = citations.verify_citations(
        question, sentence, [PLANS], best_quotes(question, [PLANS], None), {1: PLANS.chunk.text}, ()
    )
    assert (sentence.split(" [")[0] in done.text) == kept
    assert "60 MB" in done.text


def test_a_section_inside_a_passage_has_its_own_heading():
    log = hit(
        "- Adds a dark theme.\n\n## v1.4.2\n- Drops the old importer.\n\n## v2.4.1\n- Adds maps.",
        1,
        title="Changelog > v1.2.4",
    )
    for version, change in (("1.2.4", "dark"), ("1.4.2", "importer"), ("2.4.1", "maps")):
        best = best_quotes(f"What changed in v{version}?", [log], None)[0]
        assert change in best.text
        assert best.heading == f"v{version}"
        assert best.render().startswith(f'v{version}: "')


def test_short_facts_rows_and_list_items_are_quoted_with_what_they_belong_to():
    note = hit(
        "4471#\n\n## Bin day\nTuesday\n\n## Hours\nThe office opens:\n- at 7 on weekdays\n"
        "- at 9 on Sundays\n\n## Rent\npart: hinge\nshelf: B7",
        1,
        title="House > Gate code",
    )
    for question, expected in (
        ("What is the gate code?", "4471#"),
        ("Which day is bin day?", "Tuesday"),
        ("When does the office open on Sundays?", "The office opens: at 9 on Sundays"),
        ("On which shelf is the hinge?", "part: hinge; shelf: B7"),
    ):
        assert best_quotes(question, [note], None)[0].text == expected


def test_what_is_made_up_is_dropped():
    done = verify("The delay is 45 minutes [1]. The delay is never longer than 30 seconds [1].")
    assert "45" not in done.text
    assert done.dropped == ["The delay is 45 minutes [1]."]
    alone = verify("Paris is the capital of France [1].")
    assert alone.text.startswith('"The delay doubles')
    assert alone.dropped == ["Paris is the capital of France [1]."]


def test_a_fact_of_a_tool_needs_no_citation():
    fact = "12 * 31 = 372"
    done = verify("It is 372, since 12 * 31 = 372.", [fact])
    assert "372" in done.text
    assert done.citations == []
    assert done.facts == [fact]


def test_a_quotation_must_stand_in_the_passage():
    done = verify('The notes say "the delay is never longer than 90 seconds" [1].')
    assert done.wrong_citations == 1
    assert "90" not in done.text
    assert verify('It "is never longer than 30 seconds" [1].').wrong_citations == 0


def test_an_echo_is_no_answer_and_not_found_is_said():
    assert verify("How long is the delay?").text.startswith('"')
    assert verify("NOT FOUND").abstained


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ([], 0.0),
        ([hit("y", dense=0.80, coverage=0.0)], 0.0),
        ([hit("y", dense=0.92, coverage=1.0)], 1.0),
        ([hit("y", dense=0.86, coverage=0.2)], 0.5 * 0.2 + 0.5 * 0.5),
        ([hit("y", dense=0.95, coverage=0.0), hit("z", dense=0.7, coverage=1.0)], 1.0),
        ([hit("y", dense=0.0, coverage=0.6, background=None)], 0.6),
    ],
)
def test_groundedness_by_hand(hits, expected):
    assert answer.groundedness(hits) == pytest.approx(expected)


@pytest.mark.parametrize("hits", [[], [hit("y", dense=0.79, coverage=0.1)]])
def test_nothing_is_answered_without_grounds(hits):
    done = answer.answer("x", hits, None, None, ChatConfig())
    assert done.abstained
    assert done.text == citations.NO_ANSWER


def test_quotations_are_the_answer_without_a_model():
    done = answer.answer("How many connections are kept open?", HITS, None, None, ChatConfig())
    assert not done.abstained
    assert done.text.startswith('"At most 100 connections are kept open." [2]')


@pytest.mark.parametrize(
    "bad",
    [
        "__import__('os')",
        "open('x')",
        "9**9**9",
        "1/0",
        "(1).__class__",
        "a",
        "[1]*9",
        "'x'*3",
        "1 if 1 else 2",
        "x" * 400,
        "lambda: 1",
    ],
)
def test_the_calculator_runs_nothing_else(bad):
    with pytest.raises(DataError):
        calculate(bad)


def test_a_tool_from_a_function():
    def weather(city: str, days: int = 1) -> str:
        """Tell the weather of a city."""
        return "sun"

    tool = tool_from(weather)
    assert tool.summary == "Tell the weather of a city."
    assert tool.parameters["required"] == ["city"]
    assert tool.parameters["properties"]["days"]["type"] == "integer"
    with pytest.raises(SettingsError):
        tool_from(lambda x: x)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (None, "no JSON object"),
        ({"tool": "rm"}, "no such tool, or not allowed"),
        ({"tool": "weather"}, "no arguments"),
        ({"tool": "weather", "arguments": {}}, "lacks city"),
        ({"tool": "weather", "arguments": {"city": 3}}, "argument city"),
        ({"tool": "weather", "arguments": {"city": "Oslo", "x": 1}}, "argument x"),
        ({"tool": "weather", "arguments": {"city": "Oslo"}}, ""),
    ],
)
def test_a_call_is_checked_before_it_runs(call, fault):
    def weather(city: str) -> str:
        """Tell the weather of a city."""
        return "sun"

    assert tool_calling.call_fault(call, {"weather": tool_from(weather)}) == fault


TURNS = [{"question": "How large is the connection pool?", "answer": "100"}]


@pytest.mark.parametrize(
    ("question", "turns"),
    [
        ("Where is the retry delay doubled after failures?", TURNS),
        ("Can it be changed?", []),
    ],
)
def test_a_standalone_question_is_not_changed(question, turns):
    assert conversation.condense_question(question, turns, None) == question


def test_a_follow_up_is_put_behind_the_question_before_it():
    condensed = conversation.condense_question("Can it be changed?", TURNS, None)
    assert condensed == "How large is the connection pool: Can it be changed?"


class Rewriter:
    """A language model that rewrites every follow-up to the same question."""

    def __init__(self, text):
        self.text = text

    def chat(self, messages, **options):
        return Reply(self.text)


@pytest.mark.parametrize(
    ("rewrite", "used"),
    [
        ("Can the connection pool be changed?", True),
        ("Can the colour be changed?", False),  # a term from nowhere
        ("How large is the connection pool?", False),  # the question's own term is lost
    ],
)
def test_a_rewrite_is_used_only_if_it_adds_and_loses_nothing(rewrite, used):
    condensed = conversation.condense_question("Can it be changed?", TURNS, Rewriter(rewrite))
    assert (condensed == rewrite) == used


@pytest.mark.parametrize(
    ("quote", "passage", "n"),
    [
        ("a b c d e", "x a b c d e y", 5),
        ("a b c d e", "x y a b c d", 4),  # the passage ends within the quote
        ("a b c d e", "c d e x y", 3),
        ("a b c d e", "d e x y", 0),  # two words are chance
        ("a b c d e", "a x b x c x d x e", 0),
    ],
)
def test_a_quote_is_found_in_one_run_from_its_start_or_end(quote, passage, n):
    assert longest_common_end(quote.split(), passage.split()) == n


RANKED = [
    hit("nothing of the kind", 1),
    hit("at most one hundred connections are kept", 2),
    hit("one hundred connections are kept open", 2),
    hit("never longer than thirty seconds", 3),
]
EVIDENCE = [
    {"path": "n/2.md", "quote": "one hundred connections are kept open"},
    {"path": "n/3.md", "quote": "never longer than thirty seconds"},
]


def test_another_passage_of_the_same_evidence_takes_no_place_in_the_ranking():
    scores = ranking_scores(RANKED, EVIDENCE, 4)
    # the order is: nothing, the first evidence, the second; the third passage repeats the first
    best, found = 1 + 1 / np.log2(3), 1 / np.log2(3) + 1 / np.log2(4)
    assert scores["ndcg@10"] == pytest.approx(found / best)
    assert scores["mrr"] == 0.5
    assert scores["recall@4"] == scores["recall@10"] == 1.0
    assert ranking_scores(RANKED, EVIDENCE, 3)["recall@3"] == 0.5


def test_evidence_of_another_file_is_not_found():
    scores = ranking_scores(RANKED, [{"path": "n/9.md", "quote": EVIDENCE[0]["quote"]}], 4)
    assert (scores["recall@4"], scores["mrr"], scores["token_recall"]) == (0.0, 0.0, 0.0)


def test_token_scores_by_hand():
    scores = token_scores(RANKED[1:2], EVIDENCE[:1])
    # 6 words are quoted, 7 are in the passage, 5 are common
    assert scores == {"token_recall": 5 / 6, "token_precision": 5 / 7, "token_iou": 5 / 8}
    assert token_scores(RANKED, [{"path": "n/2.md"}]) == {}


def test_fences_are_no_quotations_and_a_parenthesis_stays_with_its_sentence():
    text = "Turn it on:\n```shell\nrun --fast\n```\n- the limit of all. (Default 100)"
    assert units.split_sentences(text) == [
        "Turn it on:",
        "run --fast",
        "the limit of all. (Default 100)",
    ]
