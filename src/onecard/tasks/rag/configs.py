"""What one may choose for rag."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from onecard.inference.config import EngineSettings
from onecard.runs.tracking import ReportTo


def _absolute(path: str) -> str:
    """A run must find its files again from another folder."""
    return os.path.normpath(Path(path).expanduser().absolute()) if path else path


PathText = Annotated[str, AfterValidator(_absolute)]


class Settings(EngineSettings):
    folders: tuple[PathText, ...] = ()
    """index: the folders and files to index."""
    question: str = ""
    """ask, search: the question."""
    index: PathText = ""
    """The folder of the index; empty means one by the name of the first folder, or the last one
    used."""
    store: Literal["faiss", "qdrant"] = "faiss"
    """Where vectors are searched: FAISS in this process, or Qdrant."""
    qdrant_url: str = ""
    """Address of a Qdrant server; empty keeps Qdrant's files in the index folder."""
    embedding_model: str = "e5-small"
    """The embedder: e5-small (embedded), http://host/v1#model, or a model of sentence-transformers.
    """
    rerank_model: str = ""
    """A cross-encoder for the best passages: bge-reranker-base, a folder, a GGUF, or
    http://host/v1#model."""
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    """How passages are found: by meaning, by words, or both."""
    top_k: int = Field(default=5, ge=1, le=100)
    """Passages given to the model, and shown by search."""
    candidates: int = Field(default=200, ge=10, le=2000)
    """Passages that each way of searching puts forward before they are fused."""
    lexical_weight: float = Field(default=0.45, ge=0, le=1)
    """Weight of words against meaning in hybrid search."""
    feedback: bool = True
    """Search a second time with the question moved towards the best three passages."""
    chunk_tokens: int = Field(default=320, ge=32, le=2000)
    """Longest passage (tokens, estimated); a section or function is kept whole up to this."""
    chunk_overlap: int = Field(default=32, ge=0, le=500)
    """Tokens that two parts of one long section share."""
    max_file_mb: int = Field(default=50, ge=1, le=4096)
    """Larger files are left out, and told."""
    watch: bool = False
    """index: stay and index again whenever a file changes."""
    style: Literal["auto", "write", "quote"] = "auto"
    """Answers: the model's own words with citations, or quotations only; auto quotes when the model
    is under 1e9 weights."""
    abstain_below: float = Field(default=0.3, ge=0, le=1)
    """Say that the notes don't hold it when the passages support the question less than this (0 to
    1)."""
    tools: tuple[str, ...] = ()
    """Tools that the model may call: search_notes, read_file, calculator, date.

    Each is asked for once when you sit there.
    """
    max_rounds: int = Field(default=4, ge=1, le=20)
    """Rounds of tool calls before the answer."""
    questions: PathText = ""
    """evaluate: JSONL with question, and answer, evidence [{path, quote}] or answerable: false.
    make-questions: the file to write."""
    n_questions: int = Field(default=20, ge=1, le=2000)
    """make-questions: how many to draft."""
    ablate: bool = False
    """evaluate: compare lexical, dense, hybrid, reranked and chunk sizes in one table."""
    answers: bool = True
    """evaluate: also answer each question with the model and score citations, abstention and text.
    """
    host: str = "127.0.0.1"
    """serve: the address to listen on; beyond this machine a token is demanded."""
    port: int = Field(default=8090, ge=0, le=65535)
    """serve: the port; 0 takes a free one."""
    token: str = ""
    """serve: the token that clients must send."""
    report_to: ReportTo = "none"
    """Also send scores to a tracker."""
