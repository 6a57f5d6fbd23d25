"""The workloads that can be planned before any kind exists for them: `onecard plan WORKLOAD MODEL`.
Light: nothing is loaded.

A workload is a Settings class and a function of settings and card to a Plan; WORKLOADS is the list
that the command line shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from onecard.config import Settings
from onecard.errors import NotFound, SettingsError, not_found
from onecard.hub import names
from onecard.memory import calibration, formats, throughput
from onecard.memory import workloads_nets as nets
from onecard.memory.architectures import gguf, lm
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference, training
from onecard.memory.plan import Plan
from onecard.memory.workloads_nets import Change, context

BAND = {"llama.cpp": 0.04, "llm-infer": 0.11, "lora": 0.08, "qlora": 0.06, "full": 0.12}
"""Half-width of the band around a total: nine of ten published rows stay below its upper end
(onecard plan-bench). llama.cpp makes its buffers at the start, other engines as they answer."""


class InferSettings(Settings):
    model: str = ""
    """A name of the table, hf:org/name, a .gguf file or its web address, a model's folder or its
    config.json."""
    engine: Literal["llama.cpp", "transformers", "vllm"] = "llama.cpp"
    """What runs it."""
    format: str = ""
    """Weights: q4_k_m, q8_0 ... for llama.cpp; bf16, fp8, int8, nf4, gptq-int4, awq-int4, exl2-4.65
    ... for the others. Empty: q4_k_m or bf16."""
    n_ctx: int = Field(default=4096, ge=1, le=10_000_000)
    """Context window (tokens): prompt and answer together."""
    batch: int = Field(default=1, ge=1, le=4096)
    """Sequences at once."""
    kv_type: Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "fp8", "int8"] = "f16"
    """Type of the KV cache."""
    n_ubatch: int = Field(default=512, ge=16, le=8192)
    """llama.cpp: tokens of a prompt that are computed at once."""
    n_gpu_layers: int = Field(default=-1, ge=-1)
    """llama.cpp: layers on the card; -1 puts all there."""
    experts_on_cpu: bool = False
    """llama.cpp: leave the experts of a mixture in the computer's memory."""
    flash_attention: bool = True
    """llama.cpp: off adds score matrices."""
    utilization: float = Field(default=0.9, gt=0, le=1)
    """vLLM: share of the card that it takes."""


class TuneSettings(Settings):
    model: str = ""
    """A name of the table, a model's folder or its config.json."""
    format: str = ""
    """Frozen weights: nf4, nf4-dq, int8, bf16, fp16, fp32, gptq-int4.

    Empty: nf4-dq for qlora, bf16 else.
    """
    batch: int = Field(default=1, ge=1, le=4096)
    """Samples of a micro-batch."""
    seq: int = Field(default=2048, ge=1, le=1_000_000)
    """Tokens of a sample."""
    accumulation: int = Field(default=1, ge=1, le=4096)
    """Micro-batches of a step; from 2 on, gradients lie there while the loss is made."""
    lora_r: int = Field(default=16, ge=1, le=4096)
    """LoRA's rank."""
    targets: tuple[str, ...] = training.ALL_LINEAR
    """Layers with adapters: q, k, v, o, gate, up, down, head."""
    optimizer: Literal[
        "adamw",
        "adamw-8bit",
        "paged-adamw-8bit",
        "paged-adamw",
        "adafactor",
        "lion",
        "lion-8bit",
        "sgd",
        "sgd-momentum",
        "muon",
    ] = "adamw"
    """What steps; paged states live in the computer's memory when the card is full."""
    checkpointing: bool = True
    """Keep each layer's input only and compute the rest anew."""
    attention: Literal["sdpa", "flash", "eager", "samples"] = "sdpa"
    """Attention kernel; eager keeps score matrices; samples is that of onecard finetune."""
    loss: Literal["upcast", "plain", "chunked", "fused", "frozen"] = "upcast"
    """How cross-entropy is made: upcast is transformers' own, in fp32; frozen is that of onecard
    finetune."""
    rest_fp32: bool = False
    """Embeddings, head and norms in fp32, as PEFT's prepare_model_for_kbit_training makes them."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage (3 is what FSDP shards too), per rank."""
    ranks: int = Field(default=1, ge=1, le=1024)
    """Cards that share."""


@dataclass(frozen=True)
class Workload:
    says: str
    settings: type[Settings]
    plan: Callable[[Any, Device], Plan]
    rungs: Callable[[Any], Iterator[Change]] | None = None
    """What makes it smaller, smallest loss first; ladder.py knows language models' own."""


def get(name: str) -> Workload:
    """Raises NotFound with the nearest name."""
    if name not in WORKLOADS:
        raise not_found("workload", name, WORKLOADS, "onecard plan --help")
    return WORKLOADS[name]


def _model(name: str) -> tuple[lm.LM, int]:
    """The model's counts, and its weights' bytes where a GGUF header says them.

    Raises SettingsError, NotFound.
    """
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan qlora llama-3.1-8b",
        )
    if name.lower().startswith(("http://", "https://")):
        header = gguf.read_remote(name)
        return lm.from_header(header, name.rpartition("/")[2]), header.data_bytes
    try:
        if name.lower().endswith(".gguf"):  # the file itself says more than a table of names
            raise NotFound(
                f"there is no model file {name}",
                why="nothing that can be read lies there",
                fix="check the path, or give the model's name",
            )
        return lm.find(name), 0
    except NotFound as fault:
        known = fault
    try:
        counts = names.find(name).counts()
    except NotFound:
        counts = None
    if counts is None:
        raise known
    return counts


def _format(name: str, usual: str, known: Callable[[str], bool], names: str) -> str:
    chosen = name.lower() or usual
    if not known(chosen):
        raise SettingsError(
            f"the format '{name}' is not known here",
            why=f"known are: {names}",
            fix="--format with one of these",
        )
    return chosen


def plan_infer(s: InferSettings, device: Device) -> Plan:
    """Weights, KV cache and buffers of a model that answers."""
    model, exact_bytes = _model(s.model)
    if s.engine == "llama.cpp":
        quant = _format(
            s.format, "q4_k_m", lambda f: f in formats.MIXTURES, ", ".join(formats.MIXTURES)
        )
        parts = llm_inference.llamacpp(
            model,
            quant,
            s.n_ctx * s.batch,
            k_type=s.kv_type,
            n_ubatch=s.n_ubatch,
            n_parallel=s.batch,
            n_gpu_layers=-1 if device.type == "cpu" else s.n_gpu_layers,
            experts_on_cpu=s.experts_on_cpu and device.type != "cpu",
            build="now" if s.flash_attention else "fa-off",
            device=device.type,
            exact_bytes=exact_bytes,
        )
    else:
        format = _format(
            s.format,
            "bf16",
            lambda f: formats.known(f) and f not in formats.GGUF_ONLY,
            ", ".join([*formats.PLAIN, *formats.LINEAR, "exl2-N"]),
        )
        parts = (
            llm_inference.transformers(model, format, 1, s.n_ctx - 1, B=s.batch, kv_type=s.kv_type)
            if s.engine == "transformers"
            else llm_inference.vllm(
                model, format, s.n_ctx * s.batch, device.total_bytes, utilization=s.utilization
            )
        )
    notes = (
        (f"the model was trained on {model.max_tokens} tokens; n_ctx {s.n_ctx} is longer",)
        if model.max_tokens and s.n_ctx > model.max_tokens
        else ()
    )
    chosen = {"model": model.name, "weights": f"{model.n_params / 1e9:.2f}e9"}
    total = (
        formats.gguf(model, quant).total - formats.gguf(model, quant).embedding * (not model.tied)
        if s.engine == "llama.cpp"
        else 0
    )
    rates = {
        "tokens/s, first": throughput.decode_tokens_per_s(
            model, parts, device, 1, s.kv_type, total
        ),
        f"tokens/s at {s.n_ctx}": throughput.decode_tokens_per_s(
            model, parts, device, s.n_ctx, s.kv_type, total
        ),
        "prompt tokens/s": throughput.prompt_tokens_per_s(model, device),
    }
    return Plan(
        (*parts, *context(device)),
        device,
        chosen | {name: round(rate, 1) for name, rate in rates.items() if rate},
        notes,
        calibration.band(
            device, "llm-infer", BAND["llama.cpp" if s.engine == "llama.cpp" else "llm-infer"]
        ),
    )


def _pace(model: lm.LM, device: Device, method: str, s: TuneSettings) -> dict[str, Any]:
    rate = throughput.train_tokens_per_s(model, device, method, s.checkpointing)
    return (
        {"tokens/s, about": round(rate), "s/step, about": round(s.batch * s.seq / rate, 2)}
        if rate
        else {}
    )


def recipe_of(
    method: Literal["lora", "qlora", "full"], s: TuneSettings, format: str = ""
) -> training.Recipe:
    """The settings as train.py reads them."""
    format = format or s.format or FORMAT[method]
    return training.Recipe(
        method,
        format,
        s.batch,
        s.seq,
        s.lora_r,
        tuple(s.targets),
        s.optimizer,
        s.checkpointing,
        s.attention,
        s.rest_fp32,
        loss=s.loss,
        compute_fp32=format in ("fp32", "f32"),
        accumulation=s.accumulation,
        keeps_logits=False,
        shards=s.ranks,
        zero=s.zero,
    )


FORMAT = {"lora": "bf16", "qlora": "nf4-dq", "full": "bf16"}
"""The usual format of what is trained or frozen."""


def _plan_tune(method: Literal["lora", "qlora", "full"]) -> Callable[[TuneSettings, Device], Plan]:
    def plan(s: TuneSettings, device: Device) -> Plan:
        model, _ = _model(s.model)
        format = _format(
            s.format,
            FORMAT[method],
            lambda f: f in formats.PLAIN or f in formats.LINEAR,
            ", ".join([*formats.PLAIN, *formats.LINEAR]),
        )
        if wrong := [name for name in s.targets if name not in (*training.ALL_LINEAR, "head")]:
            raise SettingsError(
                f"'{wrong[0]}' is no layer to adapt",
                why=f"layers are: {', '.join(training.ALL_LINEAR)}, head",
                fix="--targets q --targets v",
            )
        recipe = recipe_of(method, s, format)
        parts = [*training.step(model, recipe), training.fragments(model, recipe)]
        notes = (
            ("measured on one card only up to now: full training's band is wider",)
            if method == "full"
            else ()
        )
        return Plan(
            (*parts, *context(device)),
            device,
            {"model": model.name, "weights": f"{model.n_params / 1e9:.2f}e9", "format": format}
            | _pace(model, device, method, s),
            notes,
            calibration.band(device, method, BAND[method]),
        )

    return plan


WORKLOADS: dict[str, Workload] = {
    "llm-infer": Workload(
        "a language model that answers: llama.cpp, transformers or vLLM", InferSettings, plan_infer
    ),
    "lora": Workload("LoRA fine-tuning on 16-bit weights", TuneSettings, _plan_tune("lora")),
    "qlora": Workload("QLoRA fine-tuning on 4-bit weights", TuneSettings, _plan_tune("qlora")),
    "full": Workload("full fine-tuning", TuneSettings, _plan_tune("full")),
    "detect": Workload(
        "a detector: YOLO, RTMDet, RT-DETR, D-FINE, RF-DETR, Faster R-CNN, RetinaNet",
        nets.VisionSettings,
        nets.plan_vision("detect"),
        nets.vision_rungs,
    ),
    "classify": Workload(
        "a classifier: ResNet, ViT, ConvNeXt",
        nets.VisionSettings,
        nets.plan_vision("classify"),
        nets.vision_rungs,
    ),
    "segment": Workload(
        "a segmenter: YOLO, U-Net, DeepLab",
        nets.VisionSettings,
        nets.plan_vision("segment"),
        nets.vision_rungs,
    ),
    "diffusion": Workload(
        "pictures made, or a LoRA of a style",
        nets.DiffusionSettings,
        nets.plan_diffusion,
        nets.diffusion_rungs,
    ),
    "asr": Workload(
        "speech written down, or Whisper fine-tuned",
        nets.SpeechSettings,
        nets.plan_speech,
        nets.speech_rungs,
    ),
    "vlm": Workload("a model that sees and talks", nets.VlmSettings, nets.plan_vlm, nets.vlm_rungs),
    "tinylm": Workload(
        "a tiny language model from scratch", nets.TinySettings, nets.plan_tiny, nets.tiny_rungs
    ),
}
