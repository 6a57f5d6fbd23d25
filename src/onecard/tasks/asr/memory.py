"""What hearing or learning to hear will need: Whisper under CTranslate2, or a training step. Pure
arithmetic."""

from collections.abc import Iterable
from typing import Any

from onecard.memory import calibration
from onecard.memory import workloads_nets as nets
from onecard.memory.devices import Device
from onecard.memory.estimators import speech
from onecard.memory.plan import Plan, Term
from onecard.tasks.asr.configs import Settings
from onecard.units import GIB, MIB

PROGRAM_BYTES = 260 * MIB
"""Python with CTranslate2, PyAV and Silero, and a stretch of sound: measured resident memory less
the model."""
TRAIN_PROGRAM_BYTES = round(0.9 * GIB)
"""Python with torch and transformers."""


def plan(settings: Settings, device: Device) -> Plan:
    """The larger of hearing and training, if there is something to train on.

    Raises NotFound for a model that is not known by name.
    """
    name, model = _model(settings.model_name)
    form = {
        "auto": "fp16" if device.type != "cpu" else "int8",
        "float16": "fp16",
        "bfloat16": "bf16",
        "float32": "fp32",
        "int8_float16": "int8-fp16",
    }.get(settings.compute_type, settings.compute_type)
    terms = speech.transcribe(
        model, form, settings.batch_size, settings.beam_size, device=device.type
    )
    program = PROGRAM_BYTES
    if settings.dataset:
        recipe = speech.Training(
            settings.method,
            settings.per_device_train_batch_size,
            r=settings.lora_r,
            targets=("q", "v"),
            amp=settings.bf16,
            checkpointing=settings.gradient_checkpointing,
            frozen_encoder=settings.freeze_encoder,
            foreach=device.type != "cpu",
        )
        training = speech.train(model, recipe, device.type != "cpu")
        if sum(term.bytes for term in training) > sum(term.bytes for term in terms):
            terms, program = training, TRAIN_PROGRAM_BYTES
    terms = [
        *terms,
        *(
            [Term("program", program, "Python with its libraries, and eight minutes of sound")]
            if device.type == "cpu"
            else nets.context(device)
        ),
    ]
    return Plan(
        tuple(terms),
        device,
        {"model": name, "weights": f"{model.n_params / 1e6:.0f}e6", "format": form},
        (),
        calibration.band(device, "asr", nets.BAND["asr"]),
    )


def _model(name: str) -> tuple[str, Any]:
    """A folder or a run is as large as the base model unless its name says otherwise."""
    known = (
        name if not name.startswith("run:") and "/" not in name.removeprefix("openai/") else "base"
    )
    return speech.find(known)


def smaller(settings: Settings) -> Iterable[tuple[dict[str, Any], str]]:
    """The ladder: smallest loss first."""
    if settings.dataset:
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
                "the same mathematics: the effective batch stays",
            )
        if not settings.gradient_checkpointing:
            yield {"gradient_checkpointing": True}, "the same mathematics, a third slower"
        if not settings.freeze_encoder:
            yield {"freeze_encoder": True}, "words are learned, sounds are not"
    batch = settings.batch_size
    while batch > 1:
        batch //= 2
        yield {"batch_size": batch}, "the same words, slower"
    if settings.compute_type in ("auto", "float16", "float32"):
        yield (
            {"compute_type": "int8_float16"},
            "word errors rise by some tenths of a point at most in published runs",
        )
