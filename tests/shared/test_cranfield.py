"""Quality of lexical search on Cranfield, a public collection of 1,400 abstracts."""

import cranfield

from onecard.evaluation.metrics.retrieval import ndcg_at
from onecard.tasks.rag import bm25


def test_bm25_reaches_the_published_level(shared):
    documents, questions = cranfield.read(shared / "data/cranfield")
    names = list(documents)
    packed, lengths = zip(*(bm25.pack_terms(*documents[name]) for name in names), strict=True)
    index = bm25.BM25Index.build(packed, lengths)
    scores = []
    for question, grades in questions:
        order = (-index.scores(question, len(names))).argsort(kind="stable")[:10]
        scores.append(ndcg_at([names[i] for i in order], grades, 10))
    assert len(scores) == 225
    assert sum(scores) / len(scores) > 0.51  # others' BM25: .513 (../shared/data/README.md)
