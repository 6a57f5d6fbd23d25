"""Greetings, follow-ups and questions over two notes."""

import made_dialogues
import pytest

from onecard.reporting import Reporter
from onecard.tasks.rag import conversation
from onecard.tasks.rag.configs import ChatConfig, IndexConfig
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.session import Session
from onecard.tasks.rag.store import Store

SEED, N_DIALOGUES, N_QUESTIONS = 9, 18, 20


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    notes, index = folder / "notes", folder / "index"
    made_dialogues.two_notes(notes, SEED, 1)
    store = Store(index, create=True)
    Indexer(store, IndexConfig(index=str(index)), Reporter()).update([notes])
    store.close()
    config = ChatConfig(index=str(index))
    retriever = Retriever(config)
    yield Session(config, retriever, None, {})
    retriever.close()


def test_a_question_over_two_notes_quotes_both(session, tmp_path):
    questions = made_dialogues.two_notes(tmp_path, SEED, N_QUESTIONS)
    right = sum(
        all(fact in session.ask(question)[0].text for fact in facts)
        for question, facts in questions
    )
    assert right / N_QUESTIONS >= 0.9


def test_a_follow_up_behind_a_greeting_is_answered(session, tmp_path):
    right = 0
    for messages, fact, other in made_dialogues.dialogues(tmp_path, SEED, N_DIALOGUES):
        turns: list[dict[str, str]] = []
        for text in messages:
            answer, question = conversation.reply(session, text, turns)
            turns.append({"question": question, "answer": answer.text})
        first = answer.text.split("\n")[0]
        right += fact in first and other not in first
    assert right / N_DIALOGUES >= 0.9


@pytest.mark.parametrize("text", ["hi", "Thanks a lot!", "Vielen Dank.", "謝謝", "OK, great"])
def test_a_greeting_searches_nothing(session, text):
    answer, question = conversation.reply(session, text, [{"question": "x", "answer": "y"}])
    assert (answer.text, question) == (conversation.GREETING_ANSWER, "")
    assert answer.citations == []


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Hi. Where is the key?", "Where is the key?"),
        ("Good paint for the shed?", "Good paint for the shed?"),
        ("What is a good morning routine?", "What is a good morning routine?"),
        ("thanks\nand the gate?", "and the gate?"),
        ("?", "?"),
    ],
)
def test_only_a_greeting_is_taken_off(text, rest):
    assert conversation.without_greeting(text) == rest


def test_without_a_sentence_for_it_the_question_before_is_put_in_front():
    turns = [{"question": "How large is the pool?", "answer": "100"}]
    condensed = conversation.condense_question("And the roof?", turns, None, lambda text: 0.5)
    assert condensed == "How large is the pool: And the roof?"
    condensed = conversation.condense_question(
        "And the roof?", turns, None, lambda text: float("How" in text and "large" in text)
    )
    assert condensed == "How large is the roof?"


def test_a_thing_stands_in_the_place_of_a_pronoun():
    turns = [{"question": "Who owns the old kiln?", "answer": "Ilse"}]

    def covers(text: str) -> float:
        return float("old kiln" in text and "owns" not in text)

    condensed = conversation.condense_question("When was it built?", turns, None, covers)
    assert condensed == "When was the old kiln built?"
