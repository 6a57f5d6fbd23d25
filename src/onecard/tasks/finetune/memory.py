"""Memory of a fine-tune: terms of LoRA, QLoRA and full steps, from the command's own Config.

Pure arithmetic; memory/estimators/training.py holds the formulas.
"""

from collections.abc import Collection, Iterator
from typing import Any

from onecard.config import Config
from onecard.errors import SettingsError
from onecard.hub import auto, names
from onecard.inference.config import AUTO
from onecard.memory import calibration, formats, number_types, terms, throughput
from onecard.memory import peers as memory_peers
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.lm import USUAL
from onecard.memory.devices import Device
from onecard.memory.estimators import training
from onecard.memory.estimators.training import ALL_LINEAR
from onecard.memory.fallbacks import CHECKPOINTING, EIGHT_BIT, Change, FitRow, halve_batch
from onecard.memory.peers import PeerEstimate
from onecard.memory.plan import Plan, Term
from onecard.tasks.finetune.configs import LAYERS, PlanConfig, TrainConfig
from onecard.units import GIB

OPTIM = {
    "adamw_torch": "adamw",
    "adamw_8bit": "adamw-8bit",
    "paged_adamw_8bit": "paged-adamw-8bit",
    "paged_adamw_32bit": "paged-adamw",
    "adafactor": "adafactor",
    "lion_32bit": "lion",
    "lion_8bit": "lion-8bit",
    "sgd": "sgd",
    "muon": "muon",
}
"""transformers' names of optimizers -> the estimator's."""
ATTENTION = {"onecard": "samples", "sdpa": "sdpa", "flash_attention_2": "flash", "eager": "eager"}
SHORT = {f"{name}_proj": name for name in ("q", "k", "v", "o", "gate", "up", "down")}
SHORT |= {"lm_head": "head"}
CPU_PROGRAM_BYTES = 2 * GIB
"""Python with torch, transformers and TRL (0.9 GiB), and what heap and oneDNN hold beyond the
tensors: resident memory of SmolLM2's training was 3.1 GiB beside 1.03 GiB of tensors."""
BAND = {"lora": 0.17, "qlora": 0.16, "full": 0.14}
"""Half-width of the band around a total: nine of ten published rows lie inside when their source is
left out of the fit (tests/bench/bench_sources.py)."""


def optim_of(config: TrainConfig, device_type: str) -> str:
    """The optimizer that auto takes on a device."""
    if config.optim != "auto":
        return config.optim
    return "adamw_torch" if device_type == "cpu" else "paged_adamw_8bit"


def resolve_auto(
    config: TrainConfig, device: Device, check_hub: bool = False
) -> tuple[TrainConfig, str]:
    """(the config with a named model, why that one)."""
    if config.model != AUTO:
        return config, ""

    def fits(name: str) -> bool:
        named = config.model_copy(update={"model": name})
        return plan(named, device).high_bytes <= device.free_bytes

    name, reason = auto.best(device, fits, "its training fits", check_hub)
    return config.model_copy(update={"model": name}), reason


def plan(config: Config, device: Device) -> Plan:
    """Weights, adapters, gradients, optimizer, activations and the loss of one step.

    Nothing for the commands that do not train. Raises NotFound, SettingsError.
    """
    if not isinstance(config, TrainConfig):
        return Plan((), device)
    config, reason = resolve_auto(config, device)
    config = config.model_copy(update={"bf16": number_types.in_bf16(config, device)})
    narrow = number_types.products_in_bf16(config, device)
    recipe = recipe_of(config, device.type, narrow)
    lm = counts(config.model)
    parts = training.step(lm, recipe)
    on_cpu = device.type == "cpu"
    if on_cpu:
        because = "Python with torch and its libraries, heap and oneDNN"
        parts.append(Term("program", CPU_PROGRAM_BYTES, because))
    else:
        parts += [training.fragments(lm, recipe), *terms.cuda_context(device)]
    if config.method == "dpo":
        parts = [_twice(term) for term in parts]
    notes = [f"model auto: {config.model}, {reason}"] if reason else []
    notes.append(number_types.describe(narrow, device))
    if lm.expert_params and recipe.weights in formats.LINEAR_ONLY:
        notes.append(
            "experts stay in 16 bits: transformers 5 holds them as one parameter a layer, and "
            "bitsandbytes quantizes linear layers only"
        )
    if recipe.method == "full":
        notes.append("full fine-tuning was measured on few cards: its band is wider")
    choices: dict[str, Any] = {
        "model": lm.name,
        "weights": f"{lm.n_params / 1e9:.2f}e9",
        "format": recipe.weights,
        "optim": optim_of(config, device.type),
    }
    choices |= _rates(lm, device, recipe)
    band = calibration.band(device, recipe.method, BAND[recipe.method])
    return Plan(tuple(parts), device, choices, tuple(notes), band)


def peers(config: Config, device: Device) -> list[PeerEstimate]:
    """What others' formulas say of the same step."""
    if not isinstance(config, TrainConfig):
        return []
    config, _ = resolve_auto(config, device)
    recipe = recipe_of(config, device.type)
    return memory_peers.training(counts(config.model), recipe.method, recipe.B * recipe.T)


def _twice(term: Term) -> Term:
    """DPO: chosen and rejected are in one batch, and the reference reads both before."""
    if "activations" in term.name or "loss" in term.name:
        return Term(term.name, 2 * term.bytes, f"chosen and rejected: twice {term.reason}")
    return term


def _rates(lm: LM, device: Device, recipe: training.Recipe) -> dict[str, Any]:
    rate = throughput.train_tokens_per_s(lm, device, recipe.method, recipe.checkpointing)
    if not rate:
        return {}
    seconds = recipe.B * recipe.T * recipe.accumulation / rate
    return {"tokens/s, about": round(rate), "s/step, about": round(seconds, 2)}


def counts(name: str) -> LM:
    """The model's counts. Raises NotFound, SettingsError for no name."""
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan qlora llama-3.1-8b",
        )
    return names.counts(name)


def recipe_of(
    config: TrainConfig, device_type: str = "cuda", narrow: bool = True
) -> training.Recipe:
    """The step as the estimator reads it. `narrow`: products with quantized weights are in 16 bits.
    Raises SettingsError."""
    what_if = config if isinstance(config, PlanConfig) else PlanConfig()
    unknown = [name for name in config.target_modules if name not in SHORT]
    if unknown and isinstance(config, PlanConfig):  # a training asks the model itself
        raise SettingsError(
            f"'{unknown[0]}' is no layer to adapt",
            why=f"layers are: {', '.join([*LAYERS, 'lm_head'])}",
            fix="--target_modules q_proj,v_proj",
        )
    method = "qlora" if config.load_in_4bit else "lora"
    if not what_if.use_peft:
        method = "full"
    weights = _weights(config, what_if)
    # what is not quantized is in fp32 then, and so is what the layers hand on
    wide = (config.load_in_4bit or config.load_in_8bit) and not narrow
    return training.Recipe(
        method,  # type: ignore[arg-type]
        weights,
        config.per_device_train_batch_size,
        config.max_seq_length,
        config.lora_r,
        tuple(SHORT[name] for name in config.target_modules if name in SHORT) or ALL_LINEAR,
        OPTIM[optim_of(config, device_type)],
        config.gradient_checkpointing,
        ATTENTION[what_if.attn_implementation],  # type: ignore[arg-type]
        what_if.fp32_norms or wide,
        what_if.autocast_adapter_dtype,
        loss="frozen" if what_if.loss == "onecard" else what_if.loss,
        compute_fp32=wide or weights in ("fp32", "f32"),
        accumulation=config.gradient_accumulation_steps,
        keeps_logits=what_if.keep_logits,
        mixed=what_if.fp32_master_weights,
        deepspeed=what_if.deepspeed,
        dropout=config.lora_dropout > 0,
        keeps_inputs=what_if.keep_inputs,
        untied=not what_if.tie_word_embeddings,
        optimizer_in_backward=what_if.optimizer_in_bwd,
        compiled=what_if.torch_compile,
        offload_activations=what_if.enable_activation_offloading,
        shards=what_if.num_gpus,
        zero=what_if.zero_stage,
    )


def _weights(config: TrainConfig, what_if: PlanConfig) -> str:
    if what_if.weights:
        return formats.choose(what_if.weights, formats.LOADED, config.model, "--weights")
    if config.load_in_4bit:
        return "nf4-dq"
    if config.load_in_8bit:
        return "int8"
    return "bf16" if config.bf16 else "fp32"


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first; what leaves the mathematics equal says so."""
    if not isinstance(config, TrainConfig):
        return
    full = False
    if isinstance(config, PlanConfig):
        full = not config.use_peft
        if config.loss not in ("onecard", "fused"):
            yield {"loss": "fused"}, "the same mathematics, no slower (Liger kernel)"
        if config.attn_implementation == "eager":
            yield {"attn_implementation": "sdpa"}, "the same mathematics, faster"
        if config.fp32_norms:
            cost = "embeddings and norms in 16 bits: the loss is equal within noise"
            yield {"fp32_norms": False}, cost
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, CHECKPOINTING
    yield from halve_batch(config)
    if config.optim == "adamw_torch":
        yield {"optim": "adamw_8bit"}, f"{EIGHT_BIT}; its states start anew"
    if config.optim != "paged_adamw_8bit":
        cost = f"{EIGHT_BIT}, and its states can leave the GPU; they start anew"
        yield {"optim": "paged_adamw_8bit"}, cost
    if not config.bf16 and not (config.load_in_4bit or config.load_in_8bit):
        yield {"bf16": True}, "equal within noise in published runs, faster on a GPU"
    if not config.load_in_4bit and not full:
        change = {"load_in_4bit": True, "load_in_8bit": False}
        yield change, "frozen weights in 4 bits: a little quality (QLoRA, Dettmers 2023)"
    seq = config.max_seq_length
    while seq > 128:
        seq //= 2
        cost = f"samples longer than {seq} tokens are left out or cut: other data"
        yield {"max_seq_length": seq}, cost


USUAL_SCRIPT = {"loss": "upcast", "attn_implementation": "sdpa", "optim": "adamw_torch"}


def usual_script(config: PlanConfig, given: Collection[str]) -> PlanConfig:
    """The config of a script on transformers' own trainer, for a traceback that is not ours;
    fields that were given stay."""
    return config.model_copy(update={k: v for k, v in USUAL_SCRIPT.items() if k not in given})


TOKENS = (2048, 4096, 8192, 16384, 32768)


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of finetune."""
    usual: dict[str, Any] = {
        "bf16": True,
        "gradient_checkpointing": True,
        "max_seq_length": 2048,
    }
    rows = {
        "qlora": ("QLoRA", PlanConfig(load_in_4bit=True, **usual)),
        "lora": ("LoRA, 16 bits", PlanConfig(**usual)),
        "full": (
            "full fine-tuning",
            PlanConfig(use_peft=False, loss="fused", optim="adamw_8bit", **usual),
        ),
    }
    return tuple(
        FitRow(name, summary, config, USUAL, "max_seq_length", TOKENS)
        for name, (summary, config) in rows.items()
    )


def traced(config: PlanConfig) -> tuple[LM, training.Recipe]:
    """What `onecard plan --trace` runs: the real model class with AdamW and its own loss.

    Raises SettingsError for settings that the trace does not know.
    """
    same = {"optim": ("auto", "adamw_torch"), "attn_implementation": ("onecard", "sdpa", "eager")}
    for name, values in same.items():
        if getattr(config, name) not in values:
            raise SettingsError(
                f"--{name} {getattr(config, name)} cannot be traced",
                why="the trace knows AdamW and PyTorch's own attention",
                fix=f"leave --{name} out",
            )
    if config.fp32_norms or config.loss not in ("onecard", "upcast"):
        raise SettingsError(
            "these settings cannot be traced",
            why="the trace knows the model's own loss, with embeddings in the model's type",
            fix="leave --loss and --fp32_norms out",
        )
    attention = "eager" if config.attn_implementation == "eager" else "sdpa"
    update: dict[str, Any] = {
        "optim": "adamw_torch",
        "loss": "upcast",
        "attn_implementation": attention,
        # two micro-batches have the peak of eight, in a quarter of the time
        "gradient_accumulation_steps": min(config.gradient_accumulation_steps, 2),
    }
    return counts(config.model), recipe_of(config.model_copy(update=update))
