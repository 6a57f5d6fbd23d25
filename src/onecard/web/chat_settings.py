"""Settings of a conversation: sampling, sent with each question, and the model's context."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SEEDS = 2**31
"""Seeds that are drawn lie below."""


class ChatSettings(BaseModel):
    """Names and bounds are those of the model's server."""

    model_config = ConfigDict(extra="ignore")

    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    """Randomness of the answer; 0 always takes the likeliest token."""
    top_p: float = Field(0.95, gt=0, le=1, allow_inf_nan=False)
    """Share of probability that tokens are drawn from."""
    max_tokens: int = Field(1024, ge=1, le=131_072)
    """Longest answer (tokens)."""
    seed: int | None = Field(None, ge=0, lt=SEEDS)
    """The same seed gives the same answer; without one each answer has its own."""
    n_ctx: int = Field(4096, ge=256, le=1_048_576)
    """Context window (tokens): prompt and answer together."""

    def sent(self) -> dict[str, Any]:
        """What goes with a question."""
        return self.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})


def valid(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among values that came from a file; those out of bounds are the default."""
    out: dict[str, Any] = {}
    for name in ChatSettings.model_fields:
        if name in values:
            try:
                row = ChatSettings.model_validate({name: values[name]})
            except ValidationError:
                continue
            out[name] = getattr(row, name)
    return out
