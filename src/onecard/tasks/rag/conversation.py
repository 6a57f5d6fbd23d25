"""A conversation over the notes: greetings, and follow-ups as questions of their own."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onecard.inference.client import Client
from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.citations import CitedAnswer
from onecard.tasks.rag.session import Session

CHINESE_PRONOUNS = ("它", "這", "那", "这", "其")
"""Chinese has no spaces between words: these are looked for anywhere in the question."""
REFERENCES = frozenset(["it", "its", "this", "that", "they", "them", "their", "those", "these"])
"""Words in whose place a thing of the question before can stand."""
PRONOUNS = REFERENCES | frozenset(
    re.findall(r"\w+", "he she him her his one ones there then so same other else more 他 她 他們")
)
"""A question with one of these words, or with fewer than MIN_TERMS terms, is a follow-up."""
MIN_TERMS = 4
CONTEXT_TURNS = 2
"""Turns before a follow-up that the model sees when it rewrites it."""
MAX_REWRITE_CHARS = 300
SMALL_TALK = frozenset(
    re.findall(
        r"\w+",
        "hi hello hey there good morning afternoon evening night day dear thanks thank you very "
        "much a lot so ok okay great cool nice perfect fine yes no sure please sorry bye goodbye "
        "see hallo guten tag morgen abend danke schön vielen dank bitte tschüss bonjour salut "
        "merci beaucoup au revoir hola buenos días gracias muchas adiós ciao grazie olá obrigado "
        "obrigada 你好 您好 嗨 早安 午安 晚安 謝謝 谢谢 謝謝你 谢谢你 多謝 好的 好 再見 再见 "
        "こんにちは おはよう ありがとう 안녕하세요 감사합니다",
    )
)
"""Words of greetings and thanks: a message of them alone asks nothing."""
PART_END = re.compile(r"(?<=[.!,;。！，])\s*|\n+")
OPENING = re.compile(
    r"(?i)^(?:and|or|but|und|oder|et|y|e)?\s*\b(?:(?:what|how) about|was ist mit|wie ist es mit|"
    r"qu'en est-il de|qué hay de|and|und|et|or|oder)\b\s*(?:of|for|that of|in|on)?\s*"
)
"""How a question begins that names another thing to ask the same of."""
GREETING_ANSWER = "Ask a question about your notes."
MAX_SPAN_WORDS = 4
MIN_COVERED = 0.75
"""Share of a rewritten question that one sentence of the notes must take up."""
Covers = Callable[[str], float]
"""Question -> the share of it that the best sentence of the notes takes up."""


def reply(session: Session, text: str, turns: Sequence[dict[str, Any]]) -> tuple[CitedAnswer, str]:
    """(answer, question as it was understood). Raises EngineError."""
    question = without_greeting(text)
    if not question:
        return CitedAnswer(GREETING_ANSWER, abstained=True), ""

    def covers(candidate: str) -> float:
        words = session.config.model_copy(update={"mode": "lexical", "rerank_model": ""})
        hits = session.retriever.search(candidate, config=words)
        return max((hit.coverage for hit in hits), default=0.0)

    question = condense_question(question, turns, session.client, covers)
    answer, _, _ = session.ask(question)
    return answer, question


def without_greeting(text: str) -> str:
    """The text behind greetings and thanks; "" if there is nothing else.

    >>> without_greeting("Thanks a lot! And the shed door?"), without_greeting("Hi, thank you.")
    ('And the shed door?', '')
    >>> without_greeting("Hello world example?")
    'Hello world example?'
    """
    # only up to a mark or a line: in "so many" and "good paint" the words mean something
    parts = [part for part in PART_END.split(text.strip()) if re.search(r"\w", part)]
    while parts and _is_small_talk(parts[0]):
        parts.pop(0)
    rest = text.strip()
    if not parts:
        return "" if re.search(r"\w", rest) else rest
    return rest[rest.index(parts[0]) :]


def _is_small_talk(text: str) -> bool:
    return all(word in SMALL_TALK for word in re.findall(r"\w+", text.lower()))


def condense_question(
    question: str,
    turns: Sequence[dict[str, Any]],
    client: Client | None,
    covers: Covers | None = None,
) -> str:
    """A follow-up question as a standalone one; any other question unchanged.

    The model's rewrite is used if it has all terms of the question and no term from outside the
    conversation. Else a thing of one question takes its place in the other where the notes then
    have a sentence for it. Otherwise the previous question is put in front.
    """
    turns = [turn for turn in turns if without_greeting(turn["question"])]
    if not turns or not is_follow_up(question):
        return question
    if client is not None:
        rewrite = _rewrite(question, turns, client)
        own = set(terms(question)) - PRONOUNS
        known_terms = own | {
            term
            for turn in turns[-CONTEXT_TURNS:]
            for term in terms(turn["question"] + " " + turn["answer"])
        }
        new = set(terms(rewrite))
        if own <= new <= known_terms and len(new) > len(own) and len(rewrite) < MAX_REWRITE_CHARS:
            return rewrite
    previous = without_greeting(turns[-1]["question"])
    if covers:
        candidates = list(dict.fromkeys(_substitutions(question, previous)))
        ranked = [(covers(text), len(set(terms(text))), text) for text in candidates]
        best = max(ranked, default=(0.0, 0, ""), key=lambda row: row[:2])
        if best[0] >= MIN_COVERED:
            return best[2]
    return f"{previous.rstrip('?？. ')}: {question}"


def is_follow_up(question: str) -> bool:
    words = {word.strip("?,.!").lower() for word in question.split()}
    return (
        bool(words & PRONOUNS)
        or any(pronoun in question for pronoun in CHINESE_PRONOUNS)
        or len(set(terms(question))) < MIN_TERMS
    )


def _substitutions(question: str, previous: str) -> Iterator[str]:
    """The previous question with the thing that a question like "And the gate?" names, or the
    question with a thing of the previous one in the place of its pronoun."""
    words = previous.rstrip("?？. ").split()
    spans = [
        (start, end)
        for start in range(len(words))
        for end in range(start + 1, min(start + MAX_SPAN_WORDS, len(words)) + 1)
        if terms(words[start]) and terms(words[end - 1])
    ]
    named = OPENING.sub("", question, count=1).rstrip("?？. ")
    if named != question.rstrip("?？. ") and terms(named):
        named = re.sub(r"(?i)^(?:the|a|an|der|die|das|le|la|el)\s+", "", named)
        for start, end in spans:
            yield " ".join([*words[:start], named, *words[end:]]) + "?"
    own = question.split()
    for i, word in enumerate(own):
        if word.strip("?,.!").lower() in REFERENCES:
            for start, end in spans:
                yield " ".join([*own[:i], "the", *words[start:end], *own[i + 1 :]])


def _rewrite(question: str, turns: Sequence[dict[str, Any]], client: Client) -> str:
    """The model's standalone form of a follow-up question."""
    conversation = "\n".join(
        f"Question: {turn['question']}\nAnswer: {turn['answer'][:300]}"
        for turn in turns[-CONTEXT_TURNS:]
    )
    rules = (
        "Rewrite the last question so that it can be understood without the talk before it. "
        "Reply with the question alone."
    )
    messages = [
        {"role": "system", "content": rules},
        {"role": "user", "content": f"{conversation}\n\nLast question: {question}"},
    ]
    return client.chat(messages, max_tokens=80).text.strip().split("\n")[0]
