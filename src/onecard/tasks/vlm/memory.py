"""Memory of a vision-language model: an answer or a training step. Pure arithmetic."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.errors import SettingsError
from onecard.memory import calibration, formats, terms
from onecard.memory.devices import Device
from onecard.memory.estimators import training, vlm
from onecard.memory.fallbacks import CHECKPOINTING, EIGHT_BIT, Change, FitRow, halve
from onecard.memory.plan import Plan
from onecard.tasks.vlm.configs import AskConfig, TrainConfig, VlmConfig

BAND = 0.0
"""Half-width of the band around a total: not known, four published rows are too few."""
USUAL = (
    "smolvlm-256m",
    "smolvlm-500m",
    "smolvlm-2.2b",
    "qwen2.5-vl-3b",
    "llava-1.5-7b",
    "llava-1.5-13b",
)


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError."""
    assert isinstance(config, VlmConfig)
    name, model = find(config.model)
    width, height = config.imgsz, config.height or config.imgsz
    _, _, image_tokens = vlm.tiles_of(model, width, height)
    if isinstance(config, AskConfig):
        format = config.quant.lower()
        if format not in formats.PLAIN and format not in formats.LINEAR:
            raise SettingsError(
                f"the format '{config.quant}' is not known here",
                why=f"known are: {', '.join([*formats.PLAIN, *formats.LINEAR])}",
                fix="--quant with one of these",
            )
        parts = vlm.talk(
            model,
            format,
            config.batch_size,
            width,
            height,
            config.text_tokens,
            model.old_code or config.logits_to_keep == 0,
            config.attn_implementation == "sdpa",
            config.num_images > 0,
        )
    else:
        assert isinstance(config, TrainConfig)
        recipe = training.Recipe(
            "qlora" if config.load_in_4bit else config.method,
            "nf4-dq" if config.load_in_4bit else "bf16",
            config.per_device_train_batch_size,
            1,
            config.lora_r,
            optimizer=config.optim,
            checkpointing=config.gradient_checkpointing,
            loss=config.loss,
            mixed=config.fp32_master_weights,
            keeps_logits=False,
        )
        parts = vlm.tune(
            model, vlm.Training(recipe, config.text_tokens, width, height, config.vision_tower)
        )
    choices = {"model": name, "tokens of a picture": image_tokens}
    band = calibration.band(device, "vlm", BAND)
    return Plan((*parts, *terms.cuda_context(device)), device, choices, (), band)


def find(name: str) -> tuple[str, vlm.VLM]:
    """Raises NotFound, SettingsError for no name."""
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan vlm qwen2.5-vl-3b",
        )
    return vlm.find(name)


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    if isinstance(config, AskConfig):
        for format in ("int8", "nf4-dq"):
            if config.quant not in (format, "nf4-dq"):
                yield {"quant": format}, "a little quality"
    elif isinstance(config, TrainConfig):
        yield from _training_fallbacks(config)
    assert isinstance(config, VlmConfig)
    patch = vlm.TOWERS[find(config.model)[1].tower].patch
    yield from halve("imgsz", config.imgsz or 1280, 8 * patch, "small things are lost")


def _training_fallbacks(config: TrainConfig) -> Iterator[Change]:
    if config.loss != "fused":
        yield {"loss": "fused"}, "the same mathematics, no slower (Liger kernel)"
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, CHECKPOINTING
    batch = config.per_device_train_batch_size
    yield from halve("per_device_train_batch_size", batch, 1, "accumulation keeps the batch")
    if config.optim == "adamw":
        yield {"optim": "adamw-8bit"}, EIGHT_BIT
    if config.vision_tower == "full":
        yield {"vision_tower": "lora"}, "the vision tower learns less"
    if config.vision_tower != "frozen":
        yield {"vision_tower": "frozen"}, "the vision tower does not learn"
    if config.method == "lora" and not config.load_in_4bit:
        yield {"load_in_4bit": True}, "equal to 16 bits in published runs (Dettmers 2023)"


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of vlm."""
    batches = (1, 2, 4, 8, 16)
    training = TrainConfig(load_in_4bit=True, loss="fused", optim="paged-adamw-8bit", imgsz=672)
    return (
        FitRow("vlm", "answers about pictures", AskConfig(), USUAL, "batch_size", batches),
        FitRow(
            "vlm-qlora",
            "vision-language model, QLoRA",
            training,
            USUAL,
            "per_device_train_batch_size",
            batches,
        ),
    )
