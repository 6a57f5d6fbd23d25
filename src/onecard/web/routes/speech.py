"""Speech to text: a recording of the page's microphone or a file, through the speech service."""

import asyncio
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request

from onecard.errors import DataError
from onecard.web import services
from onecard.web.routes.chat import BINARY, answers_of
from onecard.web.routes.chat_messages import client_of

router = APIRouter(tags=["speech"])
MAX_SOUND = 25 << 20
"""Bytes: an hour of speech in opus."""
LOOK_S = 0.2


@router.post("/transcriptions", openapi_extra=BINARY)
async def transcribe(
    request: Request,
    language: Annotated[str, Query(max_length=20, pattern=r"^[A-Za-z-]*$")] = "",
) -> dict[str, Any]:
    """The text of a recording (webm, ogg, wav, mp3 ...; at most 25 MiB); `language` as en or zh, by
    default it is recognised. The speech model is loaded first where it does not run."""
    sound = await request.body()
    if not sound:
        raise DataError(
            "there is no recording", why="the body is empty", fix="send the file as body"
        )
    if len(sound) > MAX_SOUND:
        raise DataError(
            "the recording is too large",
            why=f"it has {len(sound) / 2**20:.0f} MiB, at most {MAX_SOUND >> 20} are taken",
            fix="a shorter one, or onecard asr transcribe",
        )
    answers = await to_thread.run_sync(answers_of, request)
    job = await to_thread.run_sync(services.start, "speech", {})
    while not (service := await to_thread.run_sync(services.ready, job)):
        await asyncio.sleep(LOOK_S)
    value = await answers.http.transcribe(service, sound, language, client_of(request))
    return {
        "text": str(value.get("text") or ""),
        "language": str(value.get("language") or ""),
        "seconds": value.get("duration") or 0,
    }
