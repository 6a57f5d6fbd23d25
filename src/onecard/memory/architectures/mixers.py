"""Blocks of layers that are no plain attention: latent attention, gated delta nets, Mamba 2, short
convolutions. Shapes and state only.

State in fp32 as llama.cpp keeps it (llama-hparams.cpp, n_embd_r and n_embd_s): the convolution's
last inputs, and one matrix a head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onecard.memory.architectures.layers import Layer, Matrix

Get = Callable[..., int]


def join(parts: Sequence[Layer]) -> Layer:
    """One layer that holds all that the parts hold."""
    attention = next((part for part in parts if part.H), Layer())
    return replace(
        attention,
        F=max(part.F for part in parts) if len(parts) == 1 else sum(part.F for part in parts),
        matrices=tuple(matrix for part in parts for matrix in part.matrices),
        small_params=sum(part.small_params for part in parts),
        state_values=sum(part.state_values for part in parts),
        mixer_width=sum(part.mixer_width for part in parts),
    )


def latent(get: Get, D: int, H: int) -> Layer:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, 2.1): queries and keys through a
    low rank, one latent and one rotary part a token in the cache."""
    rank, rope = get("kv_lora_rank"), get("qk_rope_head_dim")
    q_rank = get("q_lora_rank")
    plain = get("qk_nope_head_dim") or get("head_dim")
    value = get("v_head_dim") or plain
    if min(rank, rope, plain, value) < 1:
        raise ValueError("a rank or head width of the latent attention is missing")
    q: tuple[Matrix, ...]
    if q_rank:
        q = (Matrix("q_a", q_rank, D), Matrix("q_b", H * (plain + rope), q_rank))
    else:
        q = (Matrix("q", H * (plain + rope), D),)
    matrices = (
        *q,
        Matrix("kv_a", rank + rope, D),
        Matrix("kv_b", H * (plain + value), rank),
        Matrix("o", D, H * value),
    )
    keys = rank + rope
    return Layer(H, H, plain + rope, 0, matrices, rank + q_rank, keys, 0, latent=rank)


def recurrent(kind: str, get: Get, config: Mapping[str, Any], D: int) -> Layer:
    """A mixer that keeps a state of fixed size instead of a cache. Raises ValueError."""
    if kind == "delta":
        return delta(get, D)
    if kind == "mamba":
        return mamba2(get, config, D)
    if kind == "conv":
        return short_conv(get, config, D)
    raise ValueError("the family has no recurrent layers, but its list of layers names some")


def delta(get: Get, D: int) -> Layer:
    """Gated delta net (Qwen3-Next, Qwen3.5): arXiv 2412.06464."""
    heads, width = get("linear_num_value_heads"), get("linear_value_head_dim")
    keys = get("linear_num_key_heads") * get("linear_key_head_dim")
    values, kernel = heads * width, get("linear_conv_kernel_dim", default=4)
    if min(keys, values) < 1:
        raise ValueError("a count of the linear attention is missing")
    channels = 2 * keys + values
    matrices = (
        Matrix("in", channels, D),
        Matrix("in", values, D),
        Matrix("in", 2 * heads, D),
        Matrix("out", D, values),
    )
    state = (kernel - 1) * channels + get("linear_key_head_dim") * values
    small = channels * kernel + 2 * heads + width
    return Layer(
        matrices=matrices,
        small_params=small,
        state_values=state,
        mixer_width=delta_width(channels),
    )


def mamba2(get: Get, config: Mapping[str, Any], D: int) -> Layer:
    """Mamba 2 (arXiv 2405.21060) under the names of Granite, Bamba, Falcon-H1 and Nemotron-H."""
    heads = get("mamba_n_heads", "mamba_num_heads")
    width = get("mamba_d_head", "mamba_head_dim")
    inner = get("mamba_d_ssm") or (heads * width if width else 0)
    inner = inner or get("mamba_expand", "expand", default=2) * D
    groups = get("mamba_n_groups", "n_groups", default=1)
    states = get("mamba_d_state", "ssm_state_size")
    kernel = get("mamba_d_conv", "conv_kernel", default=4)
    if min(heads, inner, groups, states, kernel) < 1:
        raise ValueError("a count of the Mamba layers is missing")
    channels = inner + 2 * groups * states
    matrices = (Matrix("in", inner + channels + heads, D), Matrix("out", D, inner))
    has_norm = config.get("mamba_rms_norm", True)
    has_bias = config.get("mamba_conv_bias", config.get("use_conv_bias", True))
    small = channels * (kernel + bool(has_bias)) + 3 * heads + (inner if has_norm else 0)
    if config.get("mamba_proj_bias"):
        small += inner + channels + heads + D
    return Layer(
        matrices=matrices,
        small_params=small,
        state_values=(kernel - 1) * channels + states * inner,
        mixer_width=mamba_width(inner, channels, heads, D),
    )


def delta_width(channels: int) -> int:
    """Values of one token at a gated delta net's widest, by the embedded engine's buffers over 10
    sizes (tests/e2e/test_engine_buffers.py; within 13 %)."""
    return round(3.3 * channels)


def mamba_width(inner: int, channels: int, heads: int, D: int) -> int:
    """Values of one token at a Mamba 2 mixer's widest: the projection, the convolution's input,
    output and its activation, and what the scan reads and writes (same source; within 3 %)."""
    return inner + channels + heads + 3 * channels + 2 * inner + D // 2


def short_conv(get: Get, config: Mapping[str, Any], D: int) -> Layer:
    """LFM2's double-gated short convolution."""
    kernel = get("conv_L_cache", default=3)
    if kernel < 1:
        raise ValueError("conv_L_cache is 0: no convolution")
    small = D * kernel + (D + 4 * D if config.get("conv_bias") else 0)
    return Layer(
        matrices=(Matrix("in", 3 * D, D), Matrix("out", D, D)),
        small_params=small,
        state_values=D * (kernel - 1),
        mixer_width=4 * D,
    )


def lfm2_width(get: Get, config: Mapping[str, Any]) -> int:
    """LFM2 rounds its feed-forward from a nominal width (modeling_lfm2.py, Lfm2MLP)."""
    width = get("intermediate_size", "block_ff_dim")
    if "num_experts" in config or not config.get("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    factor = config.get("block_ffn_dim_multiplier")
    if isinstance(factor, int | float) and 0 < factor < 100:
        width = int(factor * width)
    multiple = max(get("block_multiple_of", default=256), 1)
    return multiple * -(-width // multiple)
