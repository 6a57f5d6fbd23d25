"""Memory of asr: Whisper under CTranslate2, or a training step. Pure arithmetic."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.errors import NotFound, SettingsError
from onecard.hub import names
from onecard.memory import calibration, number_types, terms
from onecard.memory.architectures import listeners
from onecard.memory.architectures.whisper import Whisper
from onecard.memory.devices import Device
from onecard.memory.estimators import speech
from onecard.memory.fallbacks import CHECKPOINTING, Change, FitRow, halve, halve_batch
from onecard.memory.plan import Plan, Term
from onecard.tasks.asr import compute_types
from onecard.tasks.asr.configs import DecodeConfig, PlanConfig, PlanTrainConfig, TrainConfig
from onecard.units import GIB, MIB

BAND = {"cpu": 0.12}
"""Half-width of the band around a total: measured on a CPU only (within 7 %), not known on a card.
"""
PROGRAM_BYTES = 260 * MIB
"""Python with CTranslate2, PyAV and Silero, and a chunk of sound: measured resident memory less the
model."""
TRAIN_PROGRAM_BYTES = round(0.9 * GIB)
"""Python with torch and transformers."""
FORMATS = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "int8_float16": "int8-fp16",
    "int8": "int8",
}
"""CTranslate2's compute_type -> the estimator's format."""


def plan(config: Config, device: Device) -> Plan:
    """Of transcription or of training; nothing for the commands that do neither.

    Raises NotFound for a model that is not known by name.
    """
    if isinstance(config, TrainConfig):
        return _plan_training(config, device)
    if not isinstance(config, DecodeConfig):
        return Plan((), device)
    if isinstance(config, PlanConfig) and (other := listeners.named(config.model)):
        return _plan_listener(*other, config, device)
    name, model = find(config.model, whole=isinstance(config, PlanConfig))
    format = _format(config, device)
    engine = config.engine if isinstance(config, PlanConfig) else "ctranslate2"
    parts = speech.transcribe(
        model, format, config.batch_size, config.beam_size, engine, device=device.type
    )
    if device.type == "cpu":
        because = "Python with its libraries, and eight minutes of sound"
        parts.append(Term("program", PROGRAM_BYTES, because))
    else:
        parts += terms.cuda_context(device)
    choices = {"model": name, "weights": f"{model.n_params / 1e6:.0f}e6", "format": format}
    return Plan(
        tuple(parts),
        device,
        choices,
        (),
        calibration.band(device, "asr", BAND.get(device.type, 0.0)),
    )


def _plan_listener(
    name: str, model: listeners.Listener, config: PlanConfig, device: Device
) -> Plan:
    """A speech model beside Whisper: what transformers or NeMo would need for it."""
    format = _format(config, device)
    parts = speech.listen(name, model, format, config.batch_size)
    if device.type == "cpu":
        parts.append(Term("program", TRAIN_PROGRAM_BYTES, "Python with torch and transformers"))
    else:
        parts += terms.cuda_context(device)
    choices = {"model": name, "weights": f"{model.params / 1e6:.0f}e6", "format": format}
    notes = ("planned for transformers; onecard itself transcribes with Whisper",)
    band = calibration.band(device, "asr", 0.0)  # not known: no figure was at hand
    return Plan(tuple(parts), device, choices, notes, band)


def _format(config: DecodeConfig, device: Device) -> str:
    return FORMATS[compute_types.resolve(config.compute_type, device.type != "cpu")]


def _plan_training(config: TrainConfig, device: Device) -> Plan:
    name, model = find(config.model)
    parts = speech.train(model, recipe_of(config, device.type), device.type != "cpu")
    if device.type == "cpu":
        parts.append(Term("program", TRAIN_PROGRAM_BYTES, "Python with torch and transformers"))
    else:
        parts += [*terms.cnn_segments(parts, device), *terms.cuda_context(device)]
    choices = {"model": name, "weights": f"{model.n_params / 1e6:.0f}e6"}
    notes = (number_types.describe(config.bf16, device),)
    return Plan(
        tuple(parts),
        device,
        choices,
        notes,
        calibration.band(device, "asr", BAND.get(device.type, 0.0)),
    )


def recipe_of(config: TrainConfig, device_type: str) -> speech.Training:
    """The step as the estimator reads it."""
    what_if = config if isinstance(config, PlanTrainConfig) else PlanTrainConfig()
    return speech.Training(
        config.method,
        config.per_device_train_batch_size,
        what_if.label_tokens,
        r=config.lora_r,
        targets=("q", "v"),
        amp=config.bf16,
        optimizer=what_if.optim,
        checkpointing=config.gradient_checkpointing,
        frozen_encoder=config.freeze_encoder,
        foreach=device_type != "cpu",
    )


def find(name: str, whole: bool = False) -> tuple[str, Whisper]:
    """A folder or a run is as large as the base model unless its name says otherwise; so is another
    repository of the hub, which may be anyone's, but for `whole` names.

    Raises NotFound, SettingsError for no name or another model.
    """
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan asr large-v3-turbo",
        )
    if name.startswith("run:"):
        return speech.find("base")
    try:
        return speech.find(name)
    except NotFound:
        if names.local_path(name) or ("/" in name and not whole):
            return speech.find("base")
        raise


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first; what leaves the mathematics equal says so."""
    if isinstance(config, TrainConfig):
        yield from halve_batch(config)
        if not config.gradient_checkpointing:
            yield {"gradient_checkpointing": True}, CHECKPOINTING
        if not config.bf16:
            yield {"bf16": True}, "equal within noise in published runs, faster on a GPU"
        if not config.freeze_encoder:
            yield {"freeze_encoder": True}, "the decoder learns, the encoder does not"
        if config.method == "full":
            yield {"method": "lora"}, "adapters instead of all weights"
    elif isinstance(config, DecodeConfig):
        yield from halve("batch_size", config.batch_size, 1, "the same text, slower")
        if config.compute_type in ("auto", "float16", "float32", "bfloat16"):
            cost = "word errors rise by some tenths of a point at most in published runs"
            yield {"compute_type": "int8"}, cost
        yield from halve("beam_size", config.beam_size, 1, "a few more errors")


SIZES = ("tiny", "base", "small", "medium", "large-v3")


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of asr."""
    training = TrainConfig(
        bf16=True,
        freeze_encoder=False,
        per_device_train_batch_size=4,
        gradient_checkpointing=True,
    )
    batches = (1, 2, 4, 8, 16, 32)
    return (
        FitRow("asr", "transcription", PlanConfig(batch_size=1), SIZES, "batch_size", batches),
        FitRow(
            "asr-lora",
            "Whisper, LoRA",
            training,
            SIZES,
            "per_device_train_batch_size",
            (4, 8, 16, 32, 64),
        ),
    )


TRACER = "speech"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""
