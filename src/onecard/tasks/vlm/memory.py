"""Memory of a vision-language model: an answer or a training step. Pure arithmetic."""

from collections.abc import Iterator
from pathlib import Path

from onecard.config import Config
from onecard.errors import SettingsError
from onecard.hub import names
from onecard.memory import calibration, formats, terms
from onecard.memory.architectures import mmproj
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference, training, vlm
from onecard.memory.fallbacks import CHECKPOINTING, EIGHT_BIT, Change, FitRow, halve
from onecard.memory.plan import Plan
from onecard.memory.quant_selection import gguf_format
from onecard.tasks.vlm.configs import PlanConfig, TrainPlanConfig, VlmConfig

BAND = 0.0
"""Half-width of the band around a total: not known, four published rows are too few."""
USUAL = (
    "smolvlm2-256m",
    "smolvlm2-500m",
    "smolvlm2-2.2b",
    "qwen3-vl-4b",
    "qwen3-vl-8b",
    "gemma-3-12b",
)


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError, DataError."""
    assert isinstance(config, VlmConfig)
    if isinstance(config, PlanConfig) and (config.mmproj or config.engine == "llama.cpp"):
        return _plan_llamacpp(config, device)
    name, model = find(config.model)
    size = (config.imgsz, config.height or config.imgsz, config.min_pixels, config.max_pixels)
    _, _, image_tokens = vlm.tiles_of(model, *size)
    if isinstance(config, PlanConfig):
        format = formats.choose(config.quant or "bf16", formats.LOADED, name)
        look = vlm.Look(
            format,
            config.batch_size,
            *size[:2],
            config.text_tokens,
            config.max_new_tokens,
            config.logits_to_keep == 0 or model.old_code,
            config.attn_implementation == "sdpa",
            image=config.num_images > 0,
            min_pixels=config.min_pixels,
            max_pixels=config.max_pixels,
        )
        parts = vlm.talk(model, look)
    else:
        assert isinstance(config, TrainPlanConfig)
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
        recipe_of_all = vlm.Training(recipe, config.text_tokens, *size, config.vision_tower)
        parts = vlm.tune(model, recipe_of_all)
    choices = {"model": name, "tokens of a picture": image_tokens}
    band = calibration.band(device, "vlm", BAND)
    return Plan((*parts, *terms.cuda_context(device)), device, choices, (), band)


def _plan_llamacpp(config: PlanConfig, device: Device) -> Plan:
    """The language model's GGUF with the vision half's file beside it."""
    if not config.mmproj:
        raise SettingsError(
            "no file of the vision half is named",
            why="llama.cpp reads a model that sees from two files: its language model and mmproj",
            fix="--mmproj mmproj-FILE.gguf, from the repository of the language model's GGUF",
        )
    if not config.model.strip():
        find(config.model)
    words = names.counts(config.model)
    half = mmproj.read(Path(config.mmproj).expanduser())
    image_tokens = half.tokens(config.imgsz, config.height)
    quant = gguf_format(words, config.quant)
    n_ctx = config.n_ctx or image_tokens + config.text_tokens + config.max_new_tokens
    parts = llm_inference.llamacpp(
        words,
        quant,
        n_ctx * config.batch_size,
        k_type=config.kv_type,
        n_ubatch=config.n_ubatch,
        n_parallel=config.batch_size,
        build=llm_inference.build_of(0, config.flash_attn),
        device=device.type,
    )
    parts += vlm.projector(half, config.imgsz, config.height, config.flash_attn)
    choices = {"model": words.name, "tokens of a picture": image_tokens, "n_ctx": n_ctx}
    band = calibration.band(device, "vlm", BAND)
    notes = (f"the same in llama.cpp: llama-server -m FILE --mmproj {config.mmproj} -c {n_ctx}",)
    return Plan((*parts, *terms.cuda_context(device)), device, choices, notes, band)


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
    if isinstance(config, PlanConfig):
        if config.mmproj or config.engine == "llama.cpp":
            if config.kv_type == "f16":
                yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
            yield from halve("max_new_tokens", config.max_new_tokens, 128, "shorter answers")
            return
        for format in ("int8", "nf4-dq"):
            if config.quant not in (format, "nf4-dq"):
                yield {"quant": format}, "a little quality"
    elif isinstance(config, TrainPlanConfig):
        yield from _training_fallbacks(config)
    assert isinstance(config, VlmConfig)
    patch = find(config.model)[1].tower.patch
    yield from halve("imgsz", config.imgsz or 1280, 8 * patch, "small things are lost")


def _training_fallbacks(config: TrainPlanConfig) -> Iterator[Change]:
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
    training = TrainPlanConfig(load_in_4bit=True, loss="fused", optim="paged-adamw-8bit", imgsz=672)
    return (
        FitRow("vlm", "answers about pictures", PlanConfig(), USUAL, "batch_size", batches),
        FitRow(
            "vlm-qlora",
            "vision-language model, QLoRA",
            training,
            USUAL,
            "per_device_train_batch_size",
            batches,
        ),
    )
