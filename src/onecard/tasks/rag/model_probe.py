"""Whether a language model answers from passages or invents: 30 short questions with known answers,
asked once a model. A model that fails is not asked for answers: quotations lead.

SmolLM2-135M replaced a better quotation 7 times of 19 and was right in 2: its weight count is not
what decides, as Qwen2.5-Coder-0.5B said nothing wrong.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import fsio, paths
from onecard.hub import names
from onecard.inference.config import LlmConfig
from onecard.reporting import Reporter
from onecard.runs.record import read_json
from onecard.tasks.rag.retrieve import Hit
from onecard.tasks.rag.store import Chunk

QUESTIONS = Path(__file__).with_name("probe.jsonl")
"""Written for onecard: neighbours in tables, lists and sentences, and what is not said at all."""
MAX_WRONG, MIN_RIGHT = 0.05, 0.6
"""Shares of the questions. Words that do not answer are worse than a quotation; where there are
none, it takes their place."""
PASSAGES = 5
EARLY = 15
"""Questions after which a model with no wrong answer and enough right ones has passed."""
MEASURED = {"smollm2-135m": False, "qwen2.5-coder:0.5b": True}
"""SmolLM2: 18 of 30 right, 3 wrong; Qwen: 11 of the first 15 right, none wrong. Models of the
catalog that were probed before, so that a first answer need not wait."""

Write = Callable[[str, list[Hit]], str]
"""(question, passages) -> the model's verified words, "" for none."""


@dataclass(frozen=True)
class ProbeResult:
    asked: int
    right: int
    wrong: int

    @property
    def passed(self) -> bool:
        return self.wrong <= MAX_WRONG * self.asked and self.right >= MIN_RIGHT * self.asked


def known_result(config: LlmConfig) -> bool | None:
    """What an earlier probe found; None where there was none. A server elsewhere is not probed: its
    answers may cost money, and its model is taken for a large one."""
    if config.base_url:
        return True
    if config.model in MEASURED:
        return MEASURED[config.model]
    stored = read_json(_path(config))
    if not stored:
        return None
    return ProbeResult(stored["asked"], stored["right"], stored["wrong"]).passed


def probe(config: LlmConfig, write: Write, reporter: Reporter) -> bool:
    """Ask the questions and keep the result."""
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    # every third question first, so that all kinds come early
    rows = [row for start in range(3) for row in rows[start::3]]
    right = wrong = asked = 0
    with reporter.progress(f"testing how {config.model} answers, once", len(rows)) as bar:
        for number, row in enumerate(rows):
            text = write(row["question"], _hits(rows, number))
            asked += 1
            is_right = row["answer"] in text if row["answer"] else not text
            right += is_right
            wrong += bool(text) and not is_right
            bar.step(note=f"{right} right, {wrong} wrong")
            if wrong > MAX_WRONG * len(rows) or (
                asked == EARLY and not wrong and right >= MIN_RIGHT * asked
            ):
                break
    result = ProbeResult(asked, right, wrong)
    fsio.write_text(_path(config), json.dumps({"model": config.model, **result.__dict__}) + "\n")
    verdict = "it writes answers" if result.passed else "answers are quotations"
    reporter.line(f"{config.model}: {right} of {asked} right, {wrong} wrong: {verdict}")
    return result.passed


def _path(config: LlmConfig) -> Path:
    """By the file's content as far as its size and date tell, else by the name."""
    key = config.model
    if not config.model.startswith("ollama:"):
        file = names.find(config.model, config.quant).path
        if file and file.is_file():
            stat = file.stat()
            key = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    questions = QUESTIONS.read_bytes()
    digest = hashlib.sha256(key.encode() + questions).hexdigest()[:24]
    return paths.home() / "probes" / f"{digest}.json"


def _hits(rows: Sequence[dict[str, Any]], number: int) -> list[Hit]:
    """The question's passages behind one of another question and before more: as many as a search
    brings."""
    own = list(rows[number]["passages"])
    others = [
        text
        for row in [*rows[number + 1 :], *rows[:number]]
        for text in row["passages"]
        if text not in own
    ]
    passages = [*dict.fromkeys(others)][: PASSAGES - len(own)]
    passages[1:1] = own
    return [_hit(i, text) for i, text in enumerate(passages)]


def _hit(i: int, text: str) -> Hit:
    chunk = Chunk(i, f"notes/{i}.md", "Notes", text, 1, text.count("\n") + 1, 0)
    return Hit(chunk, 1.0 - 0.1 * i, 0.9, 1.0, 1.0)
