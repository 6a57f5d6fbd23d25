"""Turns knobs in the order of least loss until a plan fits, and finds the largest model that a card
holds. Knows settings and plans, no file.

Each rung says what it changes, what it saves and what it costs; a rung that saves nothing is passed
over.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from onecard.memory.architectures import lm
from onecard.memory.devices import Device
from onecard.memory.plan import Plan
from onecard.memory.quant_selection import BEST_FIRST
from onecard.memory.workloads import InferSettings, TuneSettings, Workload, get
from onecard.memory.workloads_nets import (
    Change,
    DiffusionSettings,
    SpeechSettings,
    VisionSettings,
    VlmSettings,
)
from onecard.units import size


@dataclass(frozen=True)
class Rung:
    """One change of the settings that was taken."""

    changes: dict[str, Any]
    saved_bytes: int
    cost: str

    def render(self) -> str:
        return (
            f"{', '.join(f'{name}={value}' for name, value in self.changes.items())}: saves "
            f"{size(self.saved_bytes)}; {self.cost}"
        )


def _tune_rungs(s: TuneSettings) -> Iterator[Change]:
    """DESIGN 6's order: what leaves the mathematics equal comes first."""
    if s.loss not in ("fused", "frozen"):
        yield {"loss": "fused"}, "the same mathematics, no slower (Liger kernel)"
    if s.attention == "eager":
        yield {"attention": "sdpa"}, "the same mathematics, faster"
    if s.rest_fp32:
        yield (
            {"rest_fp32": False},
            "embeddings and norms in 16 bits: the loss is equal within noise when they are not "
            "trained",
        )
    if not s.checkpointing:
        yield {"checkpointing": True}, "the same mathematics, about a third slower"
    batch = s.batch
    while batch > 1:
        batch //= 2
        yield (
            {"batch": batch, "accumulation": s.accumulation * s.batch // batch},
            "more accumulation keeps the effective batch and the mathematics; somewhat slower",
        )
    if s.optimizer in ("adamw", "paged-adamw"):
        yield {"optimizer": "adamw-8bit"}, "equal within noise in published runs (Dettmers 2022)"
    if s.optimizer != "paged-adamw-8bit":
        yield (
            {"optimizer": "paged-adamw-8bit"},
            "its states move to the computer's memory: a step slower when the card is full",
        )


def _shorter(s: TuneSettings) -> Iterator[Change]:
    seq = s.seq
    while seq > 256:
        seq //= 2
        yield {"seq": seq}, f"samples longer than {seq} tokens are cut or left out"


def _infer_rungs(s: InferSettings) -> Iterator[Change]:
    if not s.flash_attention:
        yield {"flash_attention": True}, "the same mathematics, faster"
    if s.kv_type == "f16":
        yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
    known = [quant for quant in BEST_FIRST if quant in BEST_FIRST[: BEST_FIRST.index("q4_k_m") + 1]]
    for quant in known[known.index(s.format) + 1 if s.format in known else len(known) :]:
        yield {"format": quant}, "a little quality: see the table of llama.cpp's quantize"
    model = lm.named(s.model)
    if model and model.experts and not s.experts_on_cpu:
        yield {"experts_on_cpu": True}, "experts answer from the computer's memory: slower"
    n_ctx = s.n_ctx
    while n_ctx > 2048:
        n_ctx //= 2
        yield {"n_ctx": n_ctx}, f"the talk is cut at {n_ctx} tokens"
    if model and s.n_gpu_layers < 0:
        for layers in range(model.L, -1, -1):
            yield (
                {"n_gpu_layers": layers},
                f"{model.L + 1 - layers} of {model.L + 1} layers stay on the CPU: much slower",
            )


def _rungs(workload: Workload, settings: Any) -> Iterator[Change]:
    if workload.rungs:
        yield from workload.rungs(settings)
    elif isinstance(settings, InferSettings):
        yield from _infer_rungs(settings)
    else:
        yield from _tune_rungs(settings)
        yield from _shorter(settings)


def fit(
    name: str,
    settings: Any,
    device: Device,
    planner: Callable[[Any, Device], Plan] | None = None,
    knobs: frozenset[str] = frozenset(),
) -> tuple[Any, Plan, list[Rung]]:
    """The settings that fit with room for the band, their plan, and the rungs taken; the last plan
    says so when nothing fits.

    `planner`: in place of the workload's own formulas, and only rungs that turn one of `knobs` are
    tried: a trace takes seconds.
    """
    workload: Workload = get(name)
    planned = planner or workload.plan
    rungs: list[Rung] = []
    plan = planned(settings, device)
    for changes, cost in _rungs(workload, settings):
        if plan.high_bytes <= device.free_bytes:
            break
        if planner and not changes.keys() & knobs:
            continue
        tried = settings.model_copy(update=changes)
        smaller = planned(tried, device)
        if smaller.total_bytes >= plan.total_bytes:
            continue
        last = rungs[-1] if rungs else None
        saved = plan.total_bytes - smaller.total_bytes
        if (
            last and last.changes.keys() == changes.keys()
        ):  # a knob turned further: one rung, with all that it saves
            rungs[-1] = Rung(changes, last.saved_bytes + saved, cost)
        else:
            rungs.append(Rung(changes, saved, cost))
        settings, plan = tried, smaller
    return settings, plan, rungs


def next_changes(name: str, settings: Any, device: Device, most: int = 3) -> list[Rung]:
    """The first rungs that save anything, each alone from the settings as they are: what to try
    after an out-of-memory."""
    workload = get(name)
    base = workload.plan(settings, device).total_bytes
    out: list[Rung] = []
    for changes, cost in _rungs(workload, settings):
        saved = base - workload.plan(settings.model_copy(update=changes), device).total_bytes
        if saved > 0 and all(changes.keys() != rung.changes.keys() for rung in out):
            out.append(Rung(changes, saved, cost))
    return out[:most]


USUAL = (
    "smollm2-135m",
    "qwen3-0.6b",
    "llama-3.2-1b",
    "qwen3-1.7b",
    "llama-3.2-3b",
    "qwen3-4b",
    "llama-3.1-8b",
    "gemma-3-12b",
    "qwen3-14b",
    "gemma-3-27b",
    "qwen3-32b",
    "llama-3.3-70b",
)
YOLO = ("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x")
SEGMENT = ("yolo11n-seg", "yolo11s-seg", "yolo11m-seg", "yolo11l-seg", "yolo11x-seg")
CLASSIFY = ("resnet18", "resnet50", "vit-base", "vit-large", "vit-huge")
PICTURES = ("sd-1.5", "sdxl", "sd3-medium", "flux.1", "qwen-image")
SPEECH = ("tiny", "base", "small", "medium", "large-v3")
SEEING = (
    "smolvlm-256m",
    "smolvlm-500m",
    "smolvlm-2.2b",
    "qwen2.5-vl-3b",
    "llava-1.5-7b",
    "llava-1.5-13b",
)
"""What `onecard fit` tries, smallest first: the models that people use."""
_TUNED = TuneSettings(seq=2048, loss="fused", optimizer="paged-adamw-8bit")
_TOKENS = (2048, 4096, 8192, 16384, 32768)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
ROWS: tuple[tuple[str, str, Any, tuple[str, ...], str, tuple[int, ...]], ...] = (
    (
        "llm-infer",
        "chat, Q4_K_M",
        InferSettings(format="q4_k_m", n_ctx=8192),
        USUAL,
        "n_ctx",
        (8192, 16384, 32768, 65536, 131072),
    ),
    ("qlora", "QLoRA", _TUNED, USUAL, "seq", _TOKENS),
    ("lora", "LoRA, 16 bits", _TUNED, USUAL, "seq", _TOKENS),
    (
        "full",
        "full fine-tuning",
        TuneSettings(seq=2048, loss="fused", optimizer="adamw-8bit"),
        USUAL,
        "seq",
        _TOKENS,
    ),
    ("detect", "detector, trained at 640 px", VisionSettings(batch=8), YOLO, "batch", _BATCHES[3:]),
    (
        "segment",
        "segmenter, trained at 640 px",
        VisionSettings(batch=8),
        SEGMENT,
        "batch",
        _BATCHES[3:],
    ),
    (
        "classify",
        "classifier, trained at 224 px",
        VisionSettings(batch=16, imgsz=224, optimizer="adamw"),
        CLASSIFY,
        "batch",
        (16, 32, 64, 128, 256),
    ),
    (
        "diffusion",
        "pictures made, parts offloaded",
        DiffusionSettings(offload="model", slicing=True),
        PICTURES,
        "batch",
        _BATCHES[:5],
    ),
    (
        "diffusion",
        "LoRA of a style",
        DiffusionSettings(task="lora", cached=True, optimizer="adamw-8bit", format="bf16"),
        PICTURES,
        "batch",
        _BATCHES[:5],
    ),
    ("asr", "speech written down", SpeechSettings(), SPEECH, "batch", _BATCHES[:6]),
    (
        "asr",
        "speech model, LoRA",
        SpeechSettings(task="lora", batch=4, checkpointing=True),
        SPEECH,
        "batch",
        _BATCHES[2:7],
    ),
    ("vlm", "sees and talks", VlmSettings(), SEEING, "batch", _BATCHES[:5]),
    (
        "vlm",
        "sees, QLoRA",
        VlmSettings(task="qlora", loss="fused", optimizer="paged-adamw-8bit", imgsz=672),
        SEEING,
        "batch",
        _BATCHES[:5],
    ),
)
"""What `onecard fit` shows: workload, in words, settings, the models to try, and the knob that is
turned up for the largest that fits."""


def largest(device: Device) -> list[dict[str, Any]]:
    """For each row the largest of the usual models that fits with its band, and for it the longest
    context, sample or batch."""
    rows = []
    for name, says, base, models, knob, values in ROWS:
        workload = get(name)

        def comfortable(settings: Any, plan: Callable[[Any, Device], Plan] = workload.plan) -> bool:
            return plan(settings, device).high_bytes <= device.free_bytes

        best = next(
            (
                made
                for model in reversed(models)
                if comfortable(made := base.model_copy(update={"model": model}))
            ),
            None,
        )
        if best is None:
            rows.append(
                {
                    "workload": name,
                    "says": says,
                    "model": "",
                    "bytes": 0,
                    "what": "none of the usual models",
                }
            )
            continue
        most = next(
            (
                value
                for value in reversed(values)
                if comfortable(best.model_copy(update={knob: value}))
            ),
            values[0],
        )
        chosen = best.model_copy(update={knob: most})
        rows.append(
            {
                "workload": name,
                "says": says,
                "model": chosen.model,
                "bytes": workload.plan(chosen, device).total_bytes,
                "what": f"{knob} {most}",
                "settings": chosen.model_dump(mode="json"),
            }
        )
    return rows
