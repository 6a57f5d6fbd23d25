"""The list of names that a transcript may contain."""

from pathlib import Path
from typing import TypeVar

from onecard.errors import SettingsError
from onecard.tasks.asr.configs import DecodeConfig

Decoding = TypeVar("Decoding", bound=DecodeConfig)


def with_names_file(config: Decoding) -> Decoding:
    """The config with the names of --names_file beside those of --names. Raises SettingsError."""
    if not config.names_file:
        return config
    path = Path(config.names_file).expanduser()
    if not path.is_file():
        raise SettingsError(
            f"there is no list of names {path}",
            why="nothing lies at that path",
            fix="a text file with one name a line",
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    from_file = [line.strip() for line in lines if line.strip()]
    names = tuple(dict.fromkeys([*config.names, *from_file]))
    return config.model_copy(update={"names": names, "names_file": ""})
