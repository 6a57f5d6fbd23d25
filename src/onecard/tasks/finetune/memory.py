"""What a fine-tune will need: the terms of LoRA and QLoRA steps, for the settings' own names.

Pure arithmetic.
"""

from collections.abc import Iterable
from typing import Any

from onecard.memory import workloads
from onecard.memory.architectures import lm
from onecard.memory.devices import Device
from onecard.memory.plan import Plan, Term
from onecard.tasks.finetune.configs import Settings
from onecard.units import GIB

OPTIM = {"adamw_torch": "adamw", "adamw_8bit": "adamw-8bit", "paged_adamw_8bit": "paged-adamw-8bit"}
SHORT = {f"{name}_proj": name for name in ("q", "k", "v", "o", "gate", "up", "down")}
CPU_PROGRAM_BYTES = 2 * GIB
"""Python with torch, transformers and TRL (0.9 GiB), and what heap and oneDNN hold beyond the
tensors: resident memory of SmolLM2's training was 3.1 GiB beside 1.03 GiB of tensors."""


def optim_of(settings: Settings, device: str) -> str:
    return (
        settings.optim
        if settings.optim != "auto"
        else "adamw_torch"
        if device == "cpu"
        else "paged_adamw_8bit"
    )


def plan(settings: Settings, device: Device) -> Plan:
    """Weights, adapters, gradients, optimizer, activations and the chunked loss of one step.

    Raises NotFound, SettingsError.
    """
    method, tuned = as_workload(settings, device)
    made = workloads.get(method).plan(tuned, device)
    terms = [
        term
        for term in made.terms
        if not (device.type == "cpu" and term.name in ("fragments", "CUDA context"))
    ]
    if device.type == "cpu":
        terms.append(
            Term(
                "program", CPU_PROGRAM_BYTES, "Python with torch and its libraries, heap and oneDNN"
            )
        )
    if (
        settings.method == "dpo"
    ):  # chosen and rejected lie in one batch, and the reference reads them before
        terms = [
            Term(t.name, 2 * t.bytes, f"chosen and rejected: twice {t.reason}")
            if "activations" in t.name or "loss" in t.name
            else t
            for t in terms
        ]
    chosen = {key: value for key, value in made.choices.items() if key != "s/step, about"}
    return Plan(
        tuple(terms),
        device,
        chosen | {"optim": optim_of(settings, device.type)},
        made.notes,
        made.band,
    )


def as_workload(settings: Settings, device: Device) -> tuple[str, workloads.TuneSettings]:
    """The same step in the words of `onecard plan lora|qlora`."""
    format = (
        "nf4-dq"
        if settings.load_in_4bit
        else "int8"
        if settings.load_in_8bit
        else "bf16"
        if settings.bf16
        else "fp32"
    )
    known = tuple(SHORT[name] for name in settings.target_modules if name in SHORT)
    tuned = workloads.TuneSettings(
        model=plan_name(settings.model_name),
        format=format,
        batch=settings.per_device_train_batch_size,
        seq=settings.max_seq_length,
        accumulation=settings.gradient_accumulation_steps,
        lora_r=settings.lora_r,
        targets=known or workloads.TuneSettings.model_fields["targets"].default,
        optimizer=OPTIM[optim_of(settings, device.type)],
        checkpointing=settings.gradient_checkpointing,
        loss="frozen",
        attention="samples",
    )
    return ("qlora" if settings.load_in_4bit else "lora"), tuned


def plan_name(name: str) -> str:
    """A hub name that the table of usual models knows, else the name as it is."""
    return name.removeprefix("hf:") if lm.named(name.removeprefix("hf:")) else name


def smaller(settings: Settings) -> Iterable[tuple[dict[str, Any], str]]:
    """The ladder: smallest loss first; what leaves the mathematics equal says so."""
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, "the same mathematics, about a third slower"
    batch = settings.per_device_train_batch_size
    while batch > 1:
        batch //= 2
        yield (
            {
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": settings.gradient_accumulation_steps
                * settings.per_device_train_batch_size
                // batch,
            },
            "the same mathematics: the effective batch stays; somewhat slower",
        )
    if settings.optim in ("adamw_torch", "auto"):
        yield (
            {"optim": "paged_adamw_8bit"},
            "equal within noise in published runs (Dettmers 2022), its states can leave the card; "
            "they start anew",
        )
    if not settings.load_in_4bit:
        yield (
            {"load_in_4bit": True, "load_in_8bit": False},
            "frozen weights in 4 bits: a little quality (QLoRA, Dettmers 2023)",
        )
    seq = settings.max_seq_length
    while seq > 128:
        seq //= 2
        yield (
            {"max_seq_length": seq},
            f"samples longer than {seq} tokens are left out or cut: other data",
        )
