"""The settings inside a PNG, judged as if a user had typed them: unknown names are passed over,
every value is checked by GenerateConfig. Light: a plan reads them too."""

from pathlib import Path
from typing import Any

from onecard import config as configs
from onecard.config import Layer
from onecard.errors import DataError, SettingsError
from onecard.tasks.diffusion import png_metadata
from onecard.tasks.diffusion.configs import AgainConfig, GenerateConfig

MAX_LORAS = 20
MAX_BATCH = 256
PASSED_OVER = ("compile", "output_dir", "num_frames")
"""What a stranger's picture does not decide here."""


def read(config: AgainConfig) -> tuple[GenerateConfig, dict[str, Any]]:
    """The settings with the user's own places of the model and LoRAs, and the whole record.

    Raises SettingsError, NotFound, DataError.
    """
    if not config.picture:
        raise SettingsError(
            "no picture is named",
            why="the settings are read from a PNG",
            fix="onecard diffusion again PICTURE.png",
        )
    path = Path(config.picture).expanduser()
    record = png_metadata.record(path)
    known = {
        name: value
        for name, value in record["settings"].items()
        if name in GenerateConfig.model_fields and name not in PASSED_OVER
    }
    own: dict[str, Any] = {"num_images": 1, "output_dir": config.output_dir}
    if config.model:
        own["model"] = config.model
    if config.lora:
        own["lora"] = config.lora
    settings = configs.load(GenerateConfig, Layer(f"in {path.name}", known), Layer("", own))
    if len(settings.lora) > MAX_LORAS:
        raise _unusable(path, f"{len(settings.lora)} LoRAs")
    batch = record.get("batch")
    if not isinstance(batch, list) or not 1 <= len(batch) <= MAX_BATCH:
        raise _unusable(path, "no usable batch")
    if not all(type(seed) is int and 0 <= seed < 1 << 63 for seed in batch):
        raise _unusable(path, "seeds that are no numbers")
    if settings.seed not in batch:
        raise _unusable(path, "a seed that is not in its batch")
    for name in (settings.model, settings.init_image, settings.mask_image, *settings.lora):
        if "://" in name:
            raise _unusable(path, f"an address, {name[:80]}, which is not opened")
    return settings, record


def _unusable(path: Path, what: str) -> DataError:
    return DataError(
        f"the settings in {path.name} are not usable",
        why=f"they hold {what}",
        fix="the PNG as onecard diffusion generate wrote it",
    )
