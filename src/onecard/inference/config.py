"""Mixins of every command that asks a language model. Light; knows no engine."""

from typing import Literal

from pydantic import Field

from onecard.config import Config

PROMPT_CACHE_MIB = 256
"""Prompts of earlier conversations that are kept in the computer's memory. The library's default of
8 GiB let chat serve grow by 12 MiB with every 300 requests, beyond any plan."""
AUTO = "auto"
KvType = Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class ModelConfig(Config):
    """Language model."""

    model: str = AUTO
    """The language model: a name of `onecard models list`, org/name of the hub, a .gguf file or its
    web address, a folder, ollama:name or run:ID; auto takes the best catalogued one for the device,
    and the embedded one offline or without a card."""
    quant: str = ""
    """Quantization of the weights, as q4_k_m; empty takes the best that the device holds."""
    base_url: str = ""
    """Address of an OpenAI-compatible server (vLLM, LM Studio, llama-server ...) to ask instead of
    the embedded engine."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key for base_url; the key itself is never a
    setting."""


class EngineConfig(Config):
    """Engine (llama.cpp)."""

    n_ctx: int = Field(default=4096, ge=256, le=1_048_576)
    """Context window (tokens): prompt and answer together."""
    n_gpu_layers: int = Field(default=-1, ge=-1)
    """Layers on the GPU; -1 puts there as many as fit."""
    n_threads: int = Field(default=0, ge=0, le=512)
    """CPU threads; 0 takes as many as there are free physical cores, measured at the start."""
    n_ubatch: int = Field(default=512, ge=16, le=8192)
    """Prompt tokens that are computed at once."""
    kv_type: KvType = "f16"
    """Type of the KV cache; q8_0 halves it at little loss."""


class SamplingConfig(Config):
    """Sampling."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    """Randomness of the answer; 0 always takes the likeliest token."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of probability that tokens are drawn from."""
    repeat_penalty: float = Field(default=1.0, ge=1, le=2)
    """Penalty on tokens already used; 1 is off."""
    max_tokens: int = Field(default=512, ge=1, le=131_072)
    """Longest answer (tokens)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling: the same seed gives the same answer."""


class LlmConfig(ModelConfig, EngineConfig, SamplingConfig):
    """Language model with its engine and sampling."""
