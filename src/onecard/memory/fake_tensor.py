"""The truth check without a card: the real model class on fake tensors, one training step, every
storage counted. Knows no formula.

Heavy: imports torch and transformers. Nothing is computed and no weight is allocated, so an 8B
model's step takes seconds.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onecard.errors import DataError, SettingsError
from onecard.memory import formats
from onecard.memory.architectures.layers import LM
from onecard.memory.estimators.training import OPTIMIZER, Recipe
from onecard.memory.plan import Term

transformers.logging.set_verbosity_error()
LINEARS = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


@dataclass(frozen=True)
class Traced:
    """What lay there before the step, and the most that lay there within it (bytes)."""

    static_bytes: int
    peak_bytes: int


class Counter(TorchDispatchMode):
    """Bytes of all storages that are alive, each counted once however many tensors share it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return result

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = -(-storage.nbytes() // 512) * 512  # torch's allocator hands out blocks of 512 bytes
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _Adapted(torch.nn.Module):
    """A frozen linear layer with LoRA beside it, as PEFT computes it."""

    def __init__(
        self,
        base: torch.nn.Module,
        n_in: int,
        n_out: int,
        r: int,
        dtype: torch.dtype,
        casts: bool = True,
    ) -> None:
        super().__init__()
        self.base, self.casts = base, casts
        self.down = torch.nn.Parameter(torch.empty(r, n_in, dtype=dtype))
        self.up = torch.nn.Parameter(torch.empty(n_out, r, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = torch.nn.functional.linear(
            torch.nn.functional.linear(x.to(self.down.dtype) if self.casts else x, self.down),
            self.up,
        )
        return self.base(x) + side.to(x.dtype)


class _FourBit(torch.nn.Module):
    """Stands in for bitsandbytes' Linear4bit, which does not run on fakes: packed weights and
    scales, opened for each use."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.shape = (n_out, n_in)
        self.register_buffer("packed", torch.empty(n_in * n_out // 2, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(n_in * n_out // 64, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        opened: torch.Tensor = _Opened.apply(x, self.packed, self.shape)
        return opened


class _Opened(torch.autograd.Function):
    """x W^T with W opened from 4 bits in both directions and kept in neither."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        ctx.shape, ctx.dtype = shape, x.dtype
        ctx.save_for_backward(packed)
        return torch.nn.functional.linear(x, torch.empty(shape, dtype=x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad @ torch.empty(ctx.shape, dtype=grad.dtype), None, None


def model_of(lm: LM, attention: str) -> Any:
    """transformers' own class for this model: by its config where it has one, else Qwen3 for normed
    heads and Llama. Raises DataError for what it cannot build."""
    implementation = "eager" if attention == "eager" else "sdpa"
    config = _own_config(lm) or _plain_config(lm)
    try:
        return transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=implementation
        )
    except (ValueError, TypeError, ImportError) as fault:
        raise DataError(
            f"{lm.name} cannot be built for a trace",
            why=str(fault).splitlines()[0][:200],
            fix="plan it without --trace",
        ) from None


def _own_config(lm: LM) -> Any:
    """The class's own config; None for a model that was described without one."""
    if not lm.config or lm.family not in transformers.CONFIG_MAPPING:
        return None
    values = {k: v for k, v in lm.config.items() if k not in ("model_type", "quantization_config")}
    for name in ("layer_types", "layers_block_type"):
        if isinstance(values.get(name), list):
            values[name] = values[name][: lm.L]
    known = set(transformers.CONFIG_MAPPING[lm.family]().to_dict())
    values = {k: v for k, v in values.items() if k in known}
    values |= {"num_hidden_layers": lm.L, "vocab_size": lm.V, "use_cache": False}
    return transformers.CONFIG_MAPPING[lm.family](**values)


def _plain_config(lm: LM) -> Any:
    if lm.expert_params or lm.state_values or not lm.gated or lm.norms != 2:
        raise DataError(
            f"{lm.name} cannot be traced from its counts",
            why="mixtures, latent attention, hybrids and plain feed-forwards need their own class",
            fix="plan it without --trace",
        )
    config_class: Any = transformers.Qwen3Config if lm.qk_norm else transformers.LlamaConfig
    return config_class(
        vocab_size=lm.V,
        hidden_size=lm.D,
        intermediate_size=lm.F,
        num_hidden_layers=lm.L,
        num_attention_heads=lm.H,
        num_key_value_heads=lm.G,
        head_dim=lm.K,
        tie_word_embeddings=lm.tied,
        use_cache=False,
        max_position_embeddings=max(lm.max_tokens, 131072),
    )


def step(
    lm: LM,
    s: Recipe,
    progress: Callable[[str], None] = lambda text: None,
    loss_of: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
) -> Traced:
    """One training step after a first one, so that optimizer states lie there.

    `loss_of` (model, words_BT) stands in for the model's own loss. Raises DataError.
    """
    before = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter:
        try:
            torch.set_default_dtype(torch.float32 if s.compute_fp32 else torch.bfloat16)
            model = model_of(lm, s.attention)
        finally:
            torch.set_default_dtype(before)
        progress("model built")
        if s.method != "full":
            _adapt(model, s)
        if s.checkpointing:
            model.activation_checkpointing_enable()
            if s.method != "full":
                model.enable_input_require_grads()
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        words = torch.zeros((s.B, s.T), dtype=torch.long)
        static = peak = 0
        for _ in range(2):
            static, counter.peak = counter.now, counter.now
            for _ in range(s.accumulation):
                with torch.autocast("cpu", torch.bfloat16, enabled=not s.compute_fp32):
                    out: Any = model(input_ids=words, labels=words) if loss_of is None else None
                    loss = out.loss if loss_of is None else loss_of(model, words)
                if not s.keeps_logits:
                    out = None
                loss.backward()
                out = loss = None
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            peak = counter.peak
            progress("step done")
    return Traced(static, peak)


def _adapt(model: Any, s: Recipe) -> None:
    """Freeze all, put 4-bit stand-ins and adapters in place."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adapted = {LINEARS[name] for name in s.targets if name in LINEARS}
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or "lm_head" in name:
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        n_in, n_out = module.in_features, module.out_features
        layer: torch.nn.Module = module
        if s.method == "qlora":
            layer = _FourBit(n_in, n_out)
        if leaf in adapted:
            dtype = torch.float32 if s.adapter_fp32 else torch.bfloat16
            layer = _Adapted(layer, n_in, n_out, s.r, dtype, casts=s.loss != "frozen")
        setattr(parent, leaf, layer)


def plan_terms(config: Any, path: Path) -> tuple[list[Term], dict[str, Any]]:
    """(terms, choices) of a plan whose architecture no formula knows: its real class, traced.

    `config`: of a language model's answer (`n_ctx`) or of its training. Raises DataError,
    SettingsError for a format that cannot be traced.
    """
    training = hasattr(config, "per_device_train_batch_size")
    if training:
        method = "full" if not getattr(config, "use_peft", True) else "lora"
        format = getattr(config, "weights", "") or ("nf4-dq" if config.load_in_4bit else "bf16")
        batch, tokens = config.per_device_train_batch_size, config.max_seq_length
    else:
        method, format = "infer", config.quant or "bf16"
        batch, tokens = getattr(config, "n_parallel", 1), config.n_ctx
    each = formats.PLAIN.get(format) or formats.LINEAR.get(format)
    if each is None:
        raise SettingsError(
            f"the format '{format}' cannot be traced",
            why=f"no formula knows the architecture of {path}: only plain formats and quantized "
            "linear layers can be counted",
            fix="--quant bf16, --quant nf4 or --quant int8",
        )
    n_params, weights, passing = of_config(path, method, batch, tokens, each)
    reason = f"traced: {batch} x {tokens} tokens"
    if training:
        reason += ", forward and back" + ("" if method == "full" else ", without adapters")
    terms = [
        Term("weights", weights, f"{n_params / 1e9:.2f}e9 in {format}"),
        Term("one pass", passing, reason),
    ]
    if method == "full":
        optim = "adamw" if config.optim in ("auto", "adamw_torch") else "adamw-8bit"
        terms.append(Term("optimizer", round(n_params * OPTIMIZER[optim][1]), optim))
    return terms, {"model": path.parent.name}


def of_config(
    path: Path, method: str, B: int, T: int, bytes_a_weight: float
) -> tuple[int, int, int]:
    """(weights' count, bytes of weights, peak bytes beyond them) of an architecture that no formula
    knows: its real class by its config.json, one pass of B x T tokens.

    `method`: infer runs forward only; lora and qlora run back to the inputs of all layers; full
    makes all gradients. Raises DataError for a class that transformers has not, or that does not
    run on fakes.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(str(path.parent), local_files_only=True)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            model.requires_grad_(method == "full").train(method != "infer")
            params = sum(p.numel() for p in model.parameters())
            counter = Counter()
            for tensor in [*model.parameters(), *model.buffers()]:
                counter.see(tensor)
            before = counter.now
            ids = torch.ones(B, T, dtype=torch.long)
            with counter, torch.set_grad_enabled(method != "infer"):
                if method == "infer":
                    model(input_ids=ids, use_cache=True, logits_to_keep=1)
                else:
                    embeds = (
                        model.get_input_embeddings()(ids).detach().requires_grad_() * 1
                    )  # some classes write into it
                    loss = model(inputs_embeds=embeds, labels=ids, use_cache=False).loss
                    loss.backward()
            return params, round(params * bytes_a_weight), counter.peak - before
    except (
        ValueError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        AttributeError,
        NotImplementedError,
    ) as fault:
        raise DataError(
            f"{path} cannot be traced",
            why=f"{type(fault).__name__}: {str(fault).splitlines()[0][:200] if str(fault) else ''}",
            fix="a model whose class transformers has; code from the hub is never run",
        ) from None
