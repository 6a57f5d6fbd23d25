"""A transformer that reads from top to bottom: a language model of 1 to 200 million weights. Knows
no data, no training and no files.

The letters, at the end of each tensor's name:
    B sequences of a batch     T their new tokens         S all tokens so far, cached ones included
    D width (n_embd)           H query heads              G key and value heads (G < H: GQA)
    K width of a head (D / H)  F width of the MLP (d_ff)  V vocabulary            L layers

From ids to logits:
    ids_BT -> embedding (+ position) -> L x [ x + attention(norm(x)), x + mlp(norm(x)) ] -> norm ->
    embedding, transposed -> logits_BTV
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onecard.errors import SettingsError
from onecard.tasks.tinylm.model_config import ModelConfig

INIT_STD = 0.02
"""Standard deviation of fresh weights (Radford et al. 2019, GPT-2)."""


# 1. Norm and dropout


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019): LayerNorm without the mean and
    without a bias."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Dropout(nn.Module):
    """Zeroes a share p of the values in training and scales the rest by 1 / (1 - p) (Srivastava et
    al. 2014).

    On a CPU one random byte a value decides (p in steps of 1/256): torch's own dropout draws a
    float each, which took 14 % of a step here; this takes a third of that.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.threshold = p, round(p * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if x.is_cuda:
            return F.dropout(x, self.p)
        # eight bytes a draw
        int64s = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        random_bytes = int64s.view(torch.uint8)[: x.numel()].view(x.shape)
        scale = 256 / (256 - self.threshold)
        return x.masked_fill(random_bytes < self.threshold, 0.0) * scale


# 2. Positions: four ways to encode where a token stands


def sinusoids(positions_T: Tensor, width: int) -> Tensor:
    """(T, D): sin(p / 10000^(2i/D)) in the even columns, cos in the odd ones (Vaswani et al. 2017,
    section 3.5)."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2, device=positions_T.device) / width)
    angles = positions_T[:, None].float() * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def rope_angles(positions_T: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin (T, K) of the angles p * theta^(-2i/K), each twice, for the two halves of a head
    (Su et al. 2021)."""
    rates = theta ** (
        -torch.arange(0, head_width, 2, device=positions_T.device).float() / head_width
    )
    angles = (positions_T[:, None].float() * rates).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i+K/2}) by their angles: q.k then depends on the distance of the
    two tokens only. The pairing is that of Llama in transformers."""
    first, second = x_BHTK.chunk(2, dim=-1)
    turned_BHTK = torch.cat([-second, first], dim=-1)
    return x_BHTK * cos_TK.to(x_BHTK.dtype) + turned_BHTK * sin_TK.to(x_BHTK.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """(H): 2^(-8h/H) for h = 1..H; where H is no power of two, the slopes of the next lower power
    and every other of the next higher one (Press et al. 2022, and its code)."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    return torch.tensor(slopes + [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)])


def causal(length: int, start: int, device: torch.device) -> Tensor:
    """(T, S): True where a token may attend, to itself and to what stands before it. The T tokens
    have the positions start, start + 1, ..."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(diagonal=start)


def alibi_bias(slopes_H: Tensor, length: int, start: int) -> Tensor:
    """(H, T, S): -slope * distance, which is added to the scores; minus infinity for what comes
    later (Press et al. 2022, section 3)."""
    position_T1 = torch.arange(start, start + length, device=slopes_H.device)[:, None]
    distance_TS = position_T1 - torch.arange(start + length, device=slopes_H.device)[None]
    return (-slopes_H[:, None, None] * distance_TS).masked_fill(distance_TS < 0, -math.inf)


# 3. The cache: keys and values of the tokens before, so that a new token costs one row


class Cache:
    """Keys and values of all layers, (L, B, G, capacity, K) each; `length` of them are filled."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.k_LBGSK = torch.zeros(
            config.n_layer,
            batch,
            config.n_kv_head,
            capacity,
            config.head_width,
            device=device,
            dtype=dtype,
        )
        self.v_LBGSK = torch.zeros_like(self.k_LBGSK)
        self.capacity, self.length = capacity, 0

    def add(self, layer: int, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Append T new ones of a layer; returns all of that layer so far. `length` itself is
        advanced by the model, after its last layer."""
        stop = self.length + k_BGTK.shape[2]
        self.k_LBGSK[layer, :, :, self.length : stop] = k_BGTK
        self.v_LBGSK[layer, :, :, self.length : stop] = v_BGTK
        return self.k_LBGSK[layer, :, :, :stop], self.v_LBGSK[layer, :, :, :stop]


# 4. A layer: attention mixes tokens, the MLP works on each alone


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K) + bias) v over the tokens so far (Vaswani et al. 2017); each of G < H
    key and value heads serves H / G query heads (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.model_config, self.layer = config, layer
        q_width = config.n_head * config.head_width
        kv_width = config.n_kv_head * config.head_width
        self.wq = nn.Linear(config.n_embd, q_width, bias=False)
        self.wk = nn.Linear(config.n_embd, kv_width, bias=False)
        self.wv = nn.Linear(config.n_embd, kv_width, bias=False)
        self.wo = nn.Linear(q_width, config.n_embd, bias=False)
        # bounds the scores at high learning rates (Henry et al. 2020; Dehghani et al. 2023)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, config.norm_eps)
            self.k_norm = RMSNorm(config.head_width, config.norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        c = self.model_config
        q = self.wq(x_BTD).view(B, T, c.n_head, c.head_width).transpose(1, 2)
        k = self.wk(x_BTD).view(B, T, c.n_kv_head, c.head_width).transpose(1, 2)
        v = self.wv(x_BTD).view(B, T, c.n_kv_head, c.head_width).transpose(1, 2)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is not None:
            k, v = cache.add(self.layer, k.to(cache.k_LBGSK.dtype), v.to(cache.v_LBGSK.dtype))
            k, v = k.to(q.dtype), v.to(q.dtype)
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        # is_causal without a mask lets SDPA use its fused kernel: the (T, S) scores are never
        # written to memory (Dao et al. 2022)
        mixed_BHTK = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and T > 1,
            enable_gqa=c.n_kv_head < c.n_head,
        )
        return self.wo(mixed_BHTK.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """swiglu: (silu(x W_gate) * x W_up) W_down (Shazeer 2020). gelu: gelu(x W_up) W_down (Hendrycks
    & Gimpel 2016)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        if self.gated:
            self.gate = nn.Linear(config.n_embd, config.d_ff, bias=False)
        self.up = nn.Linear(config.n_embd, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.n_embd, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        up_BTF = self.up(x_BTD)
        if self.gated:
            return self.down(F.silu(self.gate(x_BTD)) * up_BTF)
        return self.down(F.gelu(up_BTF))


class Block(nn.Module):
    """Attention and MLP read a normalized copy and add to the residual stream (pre-norm, Xiong et
    al. 2020): gradients pass the sums unchanged."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.attention, self.mlp = Attention(config, layer), MLP(config)
        # of what is added, not of the attention's weights: SDPA has no fused kernel for that on a
        # CPU
        self.drop = Dropout(config.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        x_BTD = x_BTD + self.drop(self.attention(self.attention_norm(x_BTD), angles, mask, cache))
        return x_BTD + self.drop(self.mlp(self.mlp_norm(x_BTD)))


# 5. The whole model


class TinyLM(nn.Module):
    """Logits of the next token at each position. One matrix is the embedding and, transposed, the
    output head (tied; Press & Wolf 2017)."""

    slopes: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model_config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.positions = nn.Embedding(config.block_size, config.n_embd)
        if config.position == "alibi":
            self.register_buffer("slopes", alibi_slopes(config.n_head), persistent=False)
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.apply(self._initialize)
        # 2L additions to the residual stream: each starts smaller, so that the sum does not grow
        # with depth (GPT-2)
        residual_std = INIT_STD / math.sqrt(2 * config.n_layer)
        for name, weight in self.named_parameters():
            if name.endswith(("wo.weight", "down.weight")):
                nn.init.normal_(weight, std=residual_std)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)

    @property
    def n_params(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def forward(self, ids_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """logits_BTV. With a cache, the ids follow what it holds and are added to it.

        Raises SettingsError where learned positions end.
        """
        T, start = ids_BT.shape[1], cache.length if cache is not None else 0
        x_BTD, angles, mask = self._embed(ids_BT, start)
        if mask is None and start and T > 1:
            mask = causal(T, start, ids_BT.device)
        x_BTD = self.drop(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, angles, mask, cache)
        if cache is not None:
            cache.length += T
        return F.linear(self.norm(x_BTD), self.embedding.weight)

    def _embed(
        self, ids_BT: Tensor, start: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor | None]:
        """Embedded tokens (B, T, D), RoPE's angles and ALiBi's bias: each position code acts at one
        of these three places."""
        c, T = self.model_config, ids_BT.shape[1]
        x_BTD = self.embedding(ids_BT)
        positions_T = torch.arange(start, start + T, device=ids_BT.device)
        if c.position == "learned":
            if start + T > c.block_size:
                raise SettingsError(
                    f"there is no position {start + T}",
                    why=f"this model learned {c.block_size} positions and no further ones",
                    fix="a shorter text, or a model with --position rope or alibi",
                )
            return x_BTD + self.positions(positions_T), None, None
        if c.position == "sinusoidal":
            # embeddings are scaled to the size of the sinusoids (Vaswani et al. 2017, section 3.4)
            return x_BTD * math.sqrt(c.n_embd) + sinusoids(positions_T, c.n_embd), None, None
        if c.position == "alibi":
            return x_BTD, None, alibi_bias(self.slopes, T, start)
        return x_BTD, rope_angles(positions_T, c.head_width, c.rope_theta), None


def loss_of(net: nn.Module, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy of the next token (nats a token), in fp32."""
    logits_BTV = net(ids_BT)
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())
