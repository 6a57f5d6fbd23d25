"""Terms, BM25, fusion, passages, and the check of an answer, by hand-worked examples."""

import time

import numpy as np
import pytest

from onecard.datasets.blocks import Block
from onecard.errors import DataError, SettingsError
from onecard.tasks.rag import answer, chat, chunk, fuse, lexical, tools
from onecard.tasks.rag.retrieve import Hit
from onecard.tasks.rag.store import Chunk
from onecard.tasks.rag.tokens import terms


def hit(text, n=1, dense=0.9, coverage=1.0):
    return Hit(Chunk(n, f"/n/{n}.md", "Head", text, 1, 3, 0), 1.0 / n, dense, 1.0, coverage)


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
    assert terms("") == [] and terms("the of and") == []


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "\0\ud800x", "😀" * 1000, "مرحبا بالعالم", "_" * 50_000, "中" * 50_000]
)
def test_hostile_text_gives_terms_in_bounded_time(text):
    started = time.perf_counter()
    assert isinstance(terms(text), list)
    lexical.pack(text, text)
    assert time.perf_counter() - started < 5


def build(texts):
    packed, lengths = zip(*(lexical.pack("", text) for text in texts), strict=True)
    return lexical.Lexical.build(packed, lengths)


def test_bm25_by_hand():
    index = build(["cat cat dog", "dog bird", "fish"])
    scores = index.scores("cat", 3)
    idf, norm = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5)), 1.2 * (1 - 0.75 + 0.75 * 3 / 2)
    assert (
        scores[0] == pytest.approx(idf * 2 * 2.2 / (2 + norm), rel=1e-5)
        and scores[1] == scores[2] == 0
    )
    assert not index.scores("unknownword", 3).any()
    assert index.coverage("cat dog", 0, 3) == 1 and 0 < index.coverage("cat dog", 1, 3) < 1


def test_saved_and_loaded_is_the_same(tmp_path):
    index = build(["cat dog", "北京 天氣", "parse_config value"])
    index.save(tmp_path / "l.npz")
    again = lexical.Lexical.load(tmp_path / "l.npz")
    for question in ("cat", "天氣", "config"):
        assert (
            np.array_equal(index.scores(question, 3), again.scores(question, 3))
            and index.scores(question, 3).any()
        )


def test_fusion_by_hand():
    fused = fuse.fuse(np.array([0.1, 0.05, -0.2]), np.array([0.0, 4.0, 2.0]), 0.4)
    assert fused == pytest.approx([0.6, 0.3 + 0.4, 0.2])
    assert not fuse.positive(np.array([-1.0, -2.0])).any() and len(fuse.positive(np.array([]))) == 0
    assert np.linalg.norm(
        fuse.feedback(np.array([1.0, 0.0]), np.array([[0.0, 1.0]]))
    ) == pytest.approx(1)


def test_passages_join_small_blocks_and_cut_long_ones():
    blocks = [
        Block("one " * 20, 1, 1, ("A",)),
        Block("two " * 20, 3, 3, ("A",)),
        Block("three " * 300, 5, 5, ("B",)),
        Block("page", 1, 1, (), 2),
    ]
    made = chunk.passages(blocks, 100, 10)
    assert (
        made[0].text.count("one") == 20
        and made[0].text.count("two") == 20
        and made[0].heading == ("A",)
    )
    assert all(chunk.estimate_tokens(p.text) <= 125 for p in made) and made[-1].page == 2
    assert sum(p.text.count("three") for p in made) >= 300


def test_lines_of_a_cut_block_are_true():
    text = "\n".join(f"line number {i} says something of its own" for i in range(100))
    for passage in chunk.passages([Block(text, 11, 110, ())], 100, 20):
        first, last = passage.text.split("\n")[0], passage.text.split("\n")[-1]
        assert (
            first == f"line number {passage.line - 11} says something of its own"
            and last == f"line number {passage.last_line - 11} says something of its own"
        )


def test_a_long_line_without_end_is_cut():
    assert all(
        chunk.estimate_tokens(p.text) <= 150
        for p in chunk.passages([Block("x" * 50_000, 1, 1)], 100, 10)
    )


HITS = [
    hit("The delay doubles after each failure and is never longer than 30 seconds.", 1),
    hit("At most 100 connections are kept open.", 2),
]
SOURCES = {1: HITS[0].chunk.text, 2: HITS[1].chunk.text}


def checked(said, facts=()):
    return answer.check(
        "How long is the delay?",
        said,
        HITS,
        [answer.Quote(1, HITS[0].chunk.text, 1.0)],
        SOURCES,
        facts,
    )


def test_a_supported_sentence_keeps_its_citation():
    done = checked("The delay is never longer than 30 seconds [1].")
    assert (
        done.text == "The delay is never longer than 30 seconds [1]."
        and [c["n"] for c in done.citations] == [1]
        and not done.dropped
    )


def test_a_missing_citation_is_put_in_and_a_false_one_removed():
    assert checked("The delay is never longer than 30 seconds.").citations[0]["n"] == 1
    done = checked("At most 100 connections are kept open [7].")
    assert "[2]" in done.text and "[7]" not in done.text and done.wrong_citations == 1


def test_what_is_made_up_is_dropped():
    done = checked("The delay is 45 minutes [1]. The delay is never longer than 30 seconds [1].")
    assert "45" not in done.text and done.dropped == ["The delay is 45 minutes [1]."]
    alone = checked("Paris is the capital of France [1].")
    assert alone.text.startswith('"The delay doubles') and alone.dropped


def test_a_quotation_must_stand_in_the_passage():
    done = checked('The notes say "the delay is never longer than 90 seconds" [1].')
    assert done.wrong_citations == 1 and "90" not in done.text
    assert checked('It "is never longer than 30 seconds" [1].').wrong_citations == 0


def test_an_echo_is_no_answer_and_not_found_is_said():
    assert checked("How long is the delay?").text.startswith('"')
    assert checked("NOT FOUND").abstained


def test_without_support_nothing_is_answered():
    from onecard.tasks.rag.configs import Settings

    done = answer.answer("x", [hit("y", dense=0.79, coverage=0.1)], None, None, Settings())
    assert done.abstained and done.text == answer.NOT_HELD
    assert answer.answer("x", [], None, None, Settings()).abstained


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
        tools.calculate(bad)


def test_a_tool_from_a_function():
    def weather(city: str, days: int = 1) -> str:
        """Tell the weather of a city."""
        return "sun"

    tool = tools.declare(weather)
    assert (
        tool.parameters["required"] == ["city"]
        and tool.parameters["properties"]["days"]["type"] == "integer"
    )
    with pytest.raises(SettingsError):
        tools.declare(lambda x: x)
    assert (
        tools._fault({"tool": "weather", "arguments": {"city": 3}}, {"weather": tool})
        == "argument city"
    )
    assert tools._fault(
        {"tool": "weather", "arguments": {}}, {"weather": tool}
    ) == "lacks city" and tools._fault({"tool": "rm"}, {"weather": tool}).startswith("no such")


def test_questions_that_stand_alone_are_left_alone():
    turns = [{"question": "How large is the connection pool?", "answer": "100"}]
    assert (
        chat.condense_question("Where is the retry delay doubled after failures?", turns, None)
        == "Where is the retry delay doubled after failures?"
    )
    assert (
        chat.condense_question("Can it be changed?", turns, None)
        == "How large is the connection pool: Can it be changed?"
    )
    assert chat.condense_question("Can it be changed?", [], None) == "Can it be changed?"
