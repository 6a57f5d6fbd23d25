"""Texts without secrets: for run folders, logs and error messages. Light; knows no config."""

import re
from collections.abc import Iterable

_IN_ADDRESS = re.compile(r"(://)[^/@\s:]*:[^/@\s]+@")
_IN_QUERY = re.compile(r"(?i)([?&](?:api_?key|access_?token|token|key|secret|password)=)[^&\s\"']+")
SECRET_NAME = re.compile(r"(?i)(TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL)")
HIDDEN = "***"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets: the given ones, and passwords and keys inside web addresses.

    >>> redact("http://me:pa55word@host/v1?api_key=abc&x=1")
    'http://***@host/v1?api_key=***&x=1'
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", text)
