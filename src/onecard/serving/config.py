"""The mixin of every command that serves HTTP. Light."""

from pydantic import Field, SecretStr

from onecard.config import Config, Secret


class ServeConfig(Config):
    """Server."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond this machine a token is demanded."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port; 0 takes a free one."""
    token: Secret = SecretStr("")
    """Token that clients must send: env:NAME or file:PATH; beyond this machine one is made when
    none is given."""
    allow_origin: list[str] = Field(default_factory=list)
    """Origins of web pages and apps that may call the server, as app://obsidian.md."""
    timeout_s: int = Field(default=600, ge=0)
    """Longest time without a byte of an answer (s) before it is given up; 0 for no limit."""
