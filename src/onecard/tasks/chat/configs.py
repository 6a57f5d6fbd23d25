"""What one may choose for chat."""

from typing import Literal

from pydantic import Field

from onecard.inference.config import EngineSettings
from onecard.runs.tracking import ReportTo


class Settings(EngineSettings):
    question: str = ""
    """The question; what is piped in on standard input is given as context."""
    system: str = (
        "You are a helpful assistant. Answer shortly and truthfully; say so when you do not know."
    )
    """The instruction that stands before the talk."""
    host: str = "127.0.0.1"
    """serve: the address to listen on; beyond this machine a token is demanded."""
    port: int = Field(default=8080, ge=0, le=65535)
    """serve: the port; 0 takes a free one."""
    token: str = ""
    """serve: the token that clients must send; beyond this machine one is made when none is given.
    """
    n_parallel: int = Field(default=1, ge=1, le=64)
    """serve: talks answered at once; each has a context of its own."""
    embedding_model: str = "e5-small"
    """serve: the model of /v1/embeddings and, without a rerank_model, of /v1/rerank."""
    rerank_model: str = ""
    """serve: a cross-encoder (GGUF or a folder of sentence-transformers) for /v1/rerank."""
    repeats: int = Field(default=5, ge=1, le=100)
    """bench: measurements of each size; medians are told."""
    prompt_tokens: int = Field(default=512, ge=8)
    """bench: length of the prompt (tokens)."""
    generate_tokens: int = Field(default=128, ge=8)
    """bench: length of the answer (tokens)."""
    questions: str = ""
    """evaluate: a JSONL file with question and answer in each line."""
    judge: Literal["none", "self"] = "none"
    """evaluate: 'self' has the same model mark the answers by the rubric; rows with human_mark show
    how far to trust it."""
    rubric: str = "5: right and complete. 3: partly right. 1: wrong or no answer."
    """evaluate: what the judge marks by."""
    report_to: ReportTo = "none"
    """Also send scores to a tracker."""
