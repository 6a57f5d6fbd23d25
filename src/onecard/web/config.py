"""Settings of `onecard ui`. Light."""

from pydantic import Field

from onecard.serving.config import ServeConfig


class UiConfig(ServeConfig):
    """Web page."""

    port: int = Field(default=8321, ge=0, le=65535)
    """Port; 0 takes a free one."""
    root: list[str] = Field(default_factory=list)
    """Folders that the page may read and write; the home folder and the current one by default."""
    browser: bool = True
    """Open the page in the browser of this machine."""
