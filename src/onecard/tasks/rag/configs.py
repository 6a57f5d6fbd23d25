"""Settings of rag, one Config per command."""

from typing import Annotated, Literal

from pydantic import Field

from onecard.config import Config, PathText, ShortName
from onecard.inference.config import LlmConfig
from onecard.runs.config import TrackingConfig
from onecard.serving.config import ServeConfig as HttpConfig

TOOLS = ("search_notes", "read_file", "calculator", "date")
"""That a model may call."""


class IndexPathConfig(Config):
    """Index."""

    index: PathText = ""
    """Folder of the index; empty means one by the name of the first folder, or the last one used.
    """


class EmbedderConfig(Config):
    """Embedder."""

    embedding_model: str = "e5-small"
    """The embedder: e5-small (embedded), http://host/v1#model, or a model of sentence-transformers.
    """


class SearchConfig(IndexPathConfig, EmbedderConfig):
    """Search."""

    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    """How passages are found: by meaning (dense), by words (lexical), or both."""
    top_k: int = Field(default=5, ge=1, le=100)
    """Passages given to the model, and shown by search."""
    rerank_model: str = ""
    """A cross-encoder for the best passages: bge-reranker-base, a folder, a GGUF, or
    http://host/v1#model."""
    store: Literal["faiss", "qdrant"] = "faiss"
    """Vector index: FAISS in this process, or Qdrant."""
    qdrant_url: str = ""
    """Address of a Qdrant server; empty keeps Qdrant's files in the index folder."""
    candidates: int = Field(default=200, ge=10, le=2000)
    """Passages that each way of searching puts forward before rank fusion."""
    lexical_weight: float = Field(default=0.45, ge=0, le=1)
    """Weight of words against meaning in hybrid search."""
    pseudo_relevance_feedback: bool = False
    """Search a second time with the query moved towards the best three passages."""
    n_threads: int = Field(default=0, ge=0, le=512)
    """CPU threads; 0 takes as many as there are free physical cores, measured at the start."""


class AnswerConfig(Config):
    """Answer."""

    style: Literal["auto", "write", "quote"] = "auto"
    """The model's own words with citations (write), or quotations only (quote); auto tests once
    whether the model answers from passages without inventing."""
    abstain_below: float = Field(default=0.4, ge=0, le=1)
    """Say that the notes do not hold the answer when groundedness (0 to 1) is below this."""
    tools: tuple[Annotated[str, ShortName(*TOOLS)], ...] = ()
    """Tools that the model may call: search_notes, read_file, calculator, date. Each is asked for
    once when you sit there."""
    max_rounds: int = Field(default=4, ge=1, le=20)
    """Rounds of tool calls before the answer."""


class PictureConfig(Config):
    """Pictures and scans."""

    descriptions: tuple[PathText, ...] = ()
    """Files of descriptions that onecard vlm describe wrote (descriptions.jsonl): the pictures and
    PDF pages that have one become passages, cited like text."""
    describe_url: str = ""
    """Address of an OpenAI-compatible server with a vision-language model (onecard vlm serve, vLLM,
    LM Studio ...), as http://127.0.0.1:8090/v1: pictures and scanned PDF pages are sent there and
    described while indexing, each once. Empty: none."""
    describe_model: str = ""
    """The server's name of the model; empty for the first one that it lists. Another name has all
    pictures described anew."""
    describe_question: str = "Describe this picture in two or three sentences. Read out its text."
    """What is asked of each picture and page. Another question has all of them described anew."""
    describe_pages: Literal["scans", "all"] = "scans"
    """Pages of PDF files that are described: those without text, or all."""
    describe_max_tokens: int = Field(default=1024, ge=16, le=131_072)
    """Longest description (tokens)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key for describe_url."""


class IndexConfig(PictureConfig, IndexPathConfig, EmbedderConfig):
    """Documents."""

    folders: tuple[PathText, ...] = ()
    """Folders and files to index."""
    follow_links: bool = False
    """Follow links that lead out of the folders; without it they are counted and left out."""
    watch: bool = False
    """Stay and index again whenever a file changes."""
    chunk_tokens: int = Field(default=320, ge=32, le=2000)
    """Longest passage (tokens, estimated); a section or function is kept whole up to this."""
    chunk_overlap: int = Field(default=32, ge=0, le=500)
    """Tokens that two parts of one long section share."""
    max_file_mb: int = Field(default=50, ge=1, le=4096)
    """Larger files are left out, and named."""
    ocr: bool = False
    """Read the scanned pages of PDFs too (needs the extra ocr; about 3 s for a page)."""
    max_file_s: int = Field(default=5, ge=1, le=3600)
    """CPU time to read a file, and as much again for each MB; what takes longer is left out."""
    n_threads: int = Field(default=0, ge=0, le=512)
    """CPU threads; 0 takes as many as there are free physical cores, measured at the start."""


class IndexesConfig(Config):
    """Indexes."""


class QuestionConfig(Config):
    """Question."""

    question: str = ""
    """The question."""


class QueryConfig(QuestionConfig, SearchConfig):
    """Passages."""


class ChatConfig(SearchConfig, AnswerConfig, LlmConfig):
    """Chat."""


class AskConfig(QuestionConfig, ChatConfig):
    """Answer with citations."""


class ServeConfig(HttpConfig, ChatConfig):
    """Page and API."""

    port: int = Field(default=8090, ge=0, le=65535)
    """Port; 0 takes a free one."""


class EvaluateConfig(ChatConfig, TrackingConfig):
    """Evaluation."""

    questions: PathText = ""
    """JSONL with question, and answer, evidence [{path, quote}] or answerable: false."""
    ablate: bool = False
    """Compare lexical, dense, hybrid, reranked and chunk sizes in one table."""
    answers: bool = True
    """Also answer each question with the model and score citations, abstention and text."""
    chunk_tokens: int = Field(default=320, ge=32, le=2000)
    """Longest passage (tokens, estimated) of the index; --ablate tries others."""


class DraftQuestionsConfig(SearchConfig, LlmConfig):
    """Synthetic questions."""

    questions: PathText = ""
    """The JSONL file to write."""
    num_questions: int = Field(default=20, ge=1, le=2000)
    """How many to draft."""
