"""Settings of `onecard mcp`. Light."""

from pydantic import Field

from onecard.config import PathText
from onecard.serving.config import ServeConfig


class McpConfig(ServeConfig):
    """Tools for other assistants."""

    http: bool = False
    """Answer over HTTP (streamable HTTP at /mcp) instead of standard input and output."""
    port: int = Field(default=8322, ge=0, le=65535)
    """Port with --http; 0 takes a free one."""
    root: list[str] = Field(default_factory=list)
    """Folders whose sounds, pictures and data the assistant may name; the home folder by default.
    """
    allow_write: bool = False
    """Offer the tools that change something too: index_notes, start_job and stop_job."""
    index: PathText = ""
    """Index of search_notes and ask_notes where the assistant names none; empty: the last used."""
    notes_model: str = ""
    """Model that answers from notes; empty: what fits this device."""
    speech_model: str = ""
    """Model that transcribes; empty: what fits this device."""
    vision_model: str = ""
    """Model that looks at pictures; empty: what fits this device."""
