"""Plans of onecard's own training of a vision-language model, and of the answers before and after
it."""

from dataclasses import replace
from typing import Any

from onecard.memory import calibration, number_types, terms
from onecard.memory.architectures.vlm import VLM
from onecard.memory.devices import Device
from onecard.memory.estimators import training, vlm, vlm_training
from onecard.memory.plan import Plan, Term
from onecard.tasks.vlm import planned_models, planned_pictures
from onecard.tasks.vlm.configs import ProjectorConfig, TrainConfig, VisionTrainConfig
from onecard.tasks.vlm.planned_answers import AT_ONCE, BAND, CPU_PROGRAM_BYTES
from onecard.tasks.vlm.planned_models import Known


def plan(config: VisionTrainConfig, reason: str, device: Device) -> Plan:
    """Raises NotFound, DataError, SettingsError. `reason`: why the model was chosen."""
    if isinstance(config, ProjectorConfig) and not config.vision_model:
        return Plan((), device)  # nothing is named yet; the command refuses it
    known = trained(config)
    m, step = known.model, step_of(config, device)
    parts, at_once = _whole(known, step, config, device)
    sight = vlm.pictures_of(m, step)
    recipe = step.recipe
    notes = [f"model auto: {known.name}, {reason}"] if reason else []
    notes.append(number_types.describe(not recipe.compute_fp32, device))
    notes += planned_pictures.rows(
        m,
        config,
        lambda sized: sum(
            term.bytes for term in _whole(known, step_of(sized, device), sized, device)[0]
        ),
    )
    choices: dict[str, Any] = {
        "model": known.name,
        "format": recipe.weights,
        "pictures of a row": len(step.sizes) or step.images,
        "tokens of the pictures": sight.tokens,
        "optim": config.optim,
        "questions at once": at_once,
    }
    band = calibration.band(device, "vlm", BAND)
    return Plan(tuple(parts), device, choices, tuple(notes), band)


def _whole(
    known: Known, step: vlm.Training, config: VisionTrainConfig, device: Device
) -> tuple[list[Term], int]:
    """(the terms of a step, or of the answers before and after it where these need more; how many
    questions are answered at once: as many as fit)."""
    parts = _training_terms(known, step, device)
    needed = sum(term.bytes for term in parts if term.name == "activations")
    others = sum(term.bytes for term in parts) - needed
    asked = {n: _evaluation_bytes(known.model, step, n, config) for n in AT_ONCE}
    room = max(device.free_bytes - others, needed)
    at_once = next((n for n in AT_ONCE if asked[n] <= room), 1)
    if asked[at_once] > needed:
        why = f"{at_once} questions answered at once, before and after the training"
        term = Term("activations", asked[at_once], why)
        parts = [term if part.name == "activations" else part for part in parts]
    return parts, at_once


def trained(config: Any) -> Known:
    if isinstance(config, ProjectorConfig):
        model = planned_models.joined(config)
        return Known(model.name, model)
    return planned_models.find(config.model)


def step_of(config: VisionTrainConfig, device: Device) -> vlm.Training:
    """The step of onecard's own training as the estimator reads it."""
    tune = config if isinstance(config, TrainConfig) else TrainConfig(language_model="frozen")
    narrow = device.type == "cuda" and bool(number_types.bf16_unit(device))
    narrow = narrow or number_types.products_in_bf16(config, device)
    weights = "bf16" if narrow else "fp32"
    if config.load_in_4bit or config.load_in_8bit:
        weights = "nf4-dq" if config.load_in_4bit else "int8"
    lora = "qlora" if config.load_in_4bit else "lora"
    full = tune.language_model == "full"
    recipe = training.Recipe(
        "full" if full else lora,  # type: ignore[arg-type]
        weights,
        config.per_device_train_batch_size,
        1,
        tune.lora_r,
        training.ALL_LINEAR if tune.language_model == "lora" else (),
        optimizer=config.optim,
        checkpointing=config.gradient_checkpointing,
        loss="frozen",
        compute_fp32=not narrow,
        accumulation=max(config.gradient_accumulation_steps, 1),
        dropout=tune.lora_dropout > 0,
        mixed=full and narrow,
        keeps_logits=False,
    )
    return vlm.Training(
        recipe,
        config.text_tokens,
        config.imgsz,
        config.height or config.imgsz,
        config.min_pixels,
        config.max_pixels,
        tune.vision_tower,
        tune.projector,
        max(config.num_images, 1),
    )


def _training_terms(known: Known, step: vlm.Training, device: Device) -> list[Term]:
    parts = vlm_training.step(known.model, step)
    if device.type == "cpu":
        because = "Python with torch and its libraries, heap and oneDNN"
        return [*parts, Term("program", CPU_PROGRAM_BYTES, because)]
    recipe = with_tokens(known.model, step)
    return [*parts, training.fragments(known.model.words, recipe), *terms.cuda_context(device)]


def _evaluation_bytes(m: VLM, step: vlm.Training, at_once: int, config: VisionTrainConfig) -> int:
    """Cache and activations while held-out rows are answered."""
    look = vlm.Look(
        step.recipe.weights,
        at_once,
        step.width,
        step.height,
        step.words,
        config.max_new_tokens,
        images=step.images,
        min_pixels=step.min_pixels,
        max_pixels=step.max_pixels,
        wide=4.0 if step.recipe.compute_fp32 else 2.0,
    )
    return sum(t.bytes for t in vlm.talk(m, look) if t.name in ("KV cache", "activations"))


def with_tokens(m: VLM, step: vlm.Training) -> training.Recipe:
    """The recipe with the tokens of its rows."""
    return replace(step.recipe, T=vlm.pictures_of(m, step).tokens + step.words)
