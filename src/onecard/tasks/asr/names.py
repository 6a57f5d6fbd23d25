"""The list of names that a transcript may contain."""

from pathlib import Path

from onecard.errors import SettingsError
from onecard.tasks.asr.configs import Settings


def with_names_file(settings: Settings) -> Settings:
    """The settings with the names of --names_file beside those of --names. Raises SettingsError."""
    if not settings.names_file:
        return settings
    path = Path(settings.names_file).expanduser()
    if not path.is_file():
        raise SettingsError(
            f"there is no list of names {path}",
            why="nothing lies at that path",
            fix="a text file with one name a line",
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    from_file = [line.strip() for line in lines if line.strip()]
    names = tuple(dict.fromkeys([*settings.names, *from_file]))
    return settings.model_copy(update={"names": names, "names_file": ""})
