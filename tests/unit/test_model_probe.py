"""Who passes the probe, with writers whose answers are known."""

import json

import pytest

from onecard.reporting import Reporter
from onecard.tasks.rag import model_probe
from onecard.tasks.rag.configs import AskConfig

ROWS = {
    row["question"]: row["answer"]
    for row in map(json.loads, model_probe.QUESTIONS.read_text(encoding="utf-8").splitlines())
}


def oracle(question, hits):
    assert len(hits) == model_probe.PASSAGES
    answer = ROWS[question]
    assert not answer or any(answer in hit.chunk.text for hit in hits)
    return answer


@pytest.mark.parametrize(
    ("write", "passes"),
    [
        (oracle, True),
        (lambda question, hits: hits[0].chunk.text, False),
        (lambda question, hits: "", False),
        (lambda question, hits: oracle(question, hits) or "It is said to be so.", False),
    ],
    ids=["right", "first passage", "silent", "never at a loss"],
)
def test_the_result_is_measured_once_and_kept(empty_home, write, passes):
    config = AskConfig(model="ollama:some-model")
    assert model_probe.known_result(config) is None
    assert model_probe.probe(config, write, Reporter()) is passes
    assert model_probe.known_result(config) is passes


def test_what_costs_money_is_not_probed():
    assert model_probe.known_result(AskConfig(base_url="http://elsewhere/v1", model="m")) is True
