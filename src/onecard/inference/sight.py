"""Whether a served model takes pictures, asked of the server itself."""

from onecard.errors import OneCardError
from onecard.inference.client import Client

BLIND = (
    "image input is not supported",
    "not support image",
    "not support vision",
    "not a multimodal",
    "image_url is not supported",
)
"""Words of servers whose model reads text only."""


def is_blind(fault: OneCardError) -> bool:
    """Whether a refusal says that the model reads text only."""
    return any(words in fault.why.lower() for words in BLIND)


def sees_pictures(client: Client, uri: str) -> bool:
    """Whether the picture of a data URI reaches the model. Some servers leave it out and answer all
    the same: their count of the prompt tells; True also where a server does not count.

    Raises EngineError, DataError.
    """
    counts = []
    for uris in ((), (uri,)):
        parts = [{"type": "image_url", "image_url": {"url": each}} for each in uris]
        content = [*parts, {"type": "text", "text": "?"}]
        try:
            reply = client.chat([{"role": "user", "content": content}], max_tokens=1)
        except OneCardError as fault:
            if uris and is_blind(fault):
                return False
            raise
        counts.append(reply.prompt_tokens)
    return not all(counts) or counts[1] > counts[0]
