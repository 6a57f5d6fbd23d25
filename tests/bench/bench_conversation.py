"""Questions over two notes, and follow-ups behind greetings, on made notes.

python tests/bench/bench_conversation.py [--seeds 3]     about 2 minutes

Right: the quotations hold both facts; the first quotation of the follow-up holds its fact and not
that of the question before. Writes bench-results/conversation.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from onecard.reporting import Reporter, table
from onecard.tasks.rag import conversation
from onecard.tasks.rag.configs import ChatConfig, IndexConfig
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.session import Session
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import made_dialogues  # noqa: E402


def last_answer(session, messages):
    turns = []
    for text in messages:
        answer, question = conversation.reply(session, text, turns)
        turns.append({"question": question, "answer": answer.text})
    return answer.text.split("\n")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    counts = {"two notes": [0, 0], "follow-up": [0, 0]}
    for seed in range(11, 11 + parser.parse_args().seeds):
        with tempfile.TemporaryDirectory() as temp:
            notes, index = Path(temp, "notes"), Path(temp, "index")
            questions = made_dialogues.two_notes(notes, seed, 24)
            dialogues = made_dialogues.dialogues(notes, seed, 18)
            store = Store(index, create=True)
            Indexer(store, IndexConfig(index=str(index)), Reporter()).update([notes])
            store.close()
            config = ChatConfig(index=str(index))
            retriever = Retriever(config)
            session = Session(config, retriever, None, {})
            for question, facts in questions:
                text = session.ask(question)[0].text
                counts["two notes"][0] += all(fact in text for fact in facts)
            for messages, fact, other in dialogues:
                first = last_answer(session, messages)
                counts["follow-up"][0] += fact in first and other not in first
            counts["two notes"][1] += len(questions)
            counts["follow-up"][1] += len(dialogues)
            retriever.close()
    print(table([[kind, *map(str, row)] for kind, row in counts.items()], ["kind", "right", "of"]))
    path = ROOT / "bench-results" / "conversation.json"
    path.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
