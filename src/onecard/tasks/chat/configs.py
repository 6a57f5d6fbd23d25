"""Settings of chat, one Config per command."""

from typing import Literal

from pydantic import Field

from onecard.config import Config
from onecard.inference.config import LlmConfig
from onecard.runs.config import TrackingConfig
from onecard.serving.config import ServeConfig as HttpConfig

LlamaCppCache = Literal["f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
CacheType = LlamaCppCache | Literal["fp8", "int8", "int4"]


class PromptConfig(Config):
    """Prompt."""

    system: str = (
        "You are a helpful assistant. Answer shortly and truthfully; say so when you do not know."
    )
    """System prompt."""


class ChatConfig(PromptConfig, LlmConfig):
    """Chat."""


class AskConfig(PromptConfig, LlmConfig):
    """Question."""

    question: str = ""
    """The question; what is piped in on standard input is given as context."""


class ServeConfig(HttpConfig, LlmConfig):
    """OpenAI API."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port; 0 takes a free one."""
    n_parallel: int = Field(default=1, ge=1, le=64)
    """Conversations answered at once; each has a context of its own."""
    embedding_model: str = "e5-small"
    """The model of /v1/embeddings and, without a rerank_model, of /v1/rerank."""
    rerank_model: str = ""
    """A cross-encoder (GGUF or a folder of sentence-transformers) for /v1/rerank."""


class BenchConfig(LlmConfig, TrackingConfig):
    """Benchmark."""

    repeats: int = Field(default=5, ge=1, le=100)
    """Measurements of each size; medians are reported."""
    prompt_tokens: int = Field(default=512, ge=8)
    """Length of the prompt (tokens)."""
    generate_tokens: int = Field(default=128, ge=8)
    """Length of the answer (tokens)."""


class EvaluateConfig(PromptConfig, LlmConfig, TrackingConfig):
    """Evaluation."""

    questions: str = ""
    """A JSONL file with question and answer in each line."""
    judge: Literal["none", "self"] = "none"
    """'self' has the same model mark the answers by the rubric; rows with human_mark show how far
    to trust it."""
    rubric: str = "5: right and complete. 3: partly right. 1: wrong or no answer."
    """What the judge marks by."""


class PlanConfig(LlmConfig):
    """What-if: other engines than onecard's own."""

    engine: Literal["embedded", "llama.cpp", "transformers", "vllm"] = "embedded"
    """What runs the model: onecard's own llama.cpp, another program of it (llama-server, Ollama,
    LM Studio), transformers or vLLM."""
    build: int = Field(default=0, ge=0)
    """llama.cpp: number of the build, as 9400 of b9400. 0 plans for the larger buffers."""
    quant: str = ""
    """Weights: q4_k_m, q8_0 ... for llama.cpp; bf16, fp8, int8, nf4, gptq-int4, awq-int4,
    exl2-4.65 ... for the others. Empty: q4_k_m or bf16."""
    kv_type: CacheType = "f16"  # type: ignore[assignment]
    """Type of the KV cache; each engine has its own."""
    v_type: CacheType | Literal[""] = ""
    """llama.cpp: type of the cache's values where it differs from the keys'."""
    n_ctx: int = Field(default=4096, ge=1, le=10_000_000)
    """Context window (tokens): prompt and answer together."""
    n_parallel: int = Field(default=1, ge=1, le=4096)
    """Sequences at once."""
    cpu_moe: bool = False
    """llama.cpp: keep the experts of a mixture in the computer's memory."""
    n_cpu_moe: int = Field(default=0, ge=0, le=4096)
    """llama.cpp: of so many first layers the experts stay in the computer's memory."""
    swa_full: bool = False
    """llama.cpp: layers with a sliding window keep the whole context."""
    flash_attn: bool = True
    """llama.cpp: without it score matrices are added."""
    prompt_tokens: int = Field(default=1, ge=1, le=10_000_000)
    """transformers: tokens of n_ctx that are the prompt; the answer is the rest."""
    logits_to_keep: int = Field(default=1, ge=0)
    """transformers: 0 makes logits of the whole prompt, in fp32, as before 4.45 and as models with
    code of their own do."""
    legacy_cache: bool = False
    """transformers before 4.36 and models with code of their own: each new token copies the cache.
    """
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """vLLM: share of the card that it takes."""
