"""OpenAI's /v1/audio/transcriptions and /v1/audio/translations in front of one ear.

Knows no model's inside.
"""

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from onecard.errors import DataError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import app, guards, openai_schemas
from onecard.tasks.asr import transcribe, words
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.model import Transcriber, open_ear
from onecard.tasks.asr.words import Transcript

FORMS = ("json", "text", "srt", "vtt", "verbose_json")


def serve(settings: Settings, run: Run) -> Result:
    """Listen until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded.
    """
    settings = transcribe.with_names(settings)
    with app.listen(settings) as server:
        ear = open_ear(settings, run)
        address = f"{server.url}/v1"
        server.run(
            application(ear, settings),
            f"OpenAI API at {address}/audio/transcriptions",
            run.reporter,
        )
    return Result({"address": address})


def application(ear: Transcriber, settings: Settings) -> Starlette:
    """The routes, without the guard."""
    front = _Front(ear, settings)
    return Starlette(
        routes=[
            Route("/v1/audio/transcriptions", front.transcribe, methods=["POST"]),
            Route("/v1/audio/translations", front.translate, methods=["POST"]),
            Route("/v1/models", front.models),
            Route("/health", front.health),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Front:
    def __init__(self, ear: Transcriber, settings: Settings) -> None:
        self.ear, self.s = ear, settings
        self.busy = (
            asyncio.Lock()
        )  # one recording at a time: the second waits and is not slowed down by the first

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list([self.s.model_name]))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def transcribe(self, request: Request) -> Response:
        return await self._answer(request, self.s.task)

    async def translate(self, request: Request) -> Response:
        return await self._answer(request, "translate")

    async def _answer(self, request: Request, task: str) -> Response:
        async with request.form(max_files=1, max_fields=30) as form:
            sent = form.get("file")
            if not isinstance(sent, UploadFile):
                return guards.error(
                    400, "file is missing: send the sound as a multipart field 'file'"
                )
            form_name = str(form.get("response_format") or "json")
            if form_name not in FORMS:
                return guards.error(400, f"response_format must be one of {', '.join(FORMS)}")
            language = str(form.get("language") or "")
            if language and language not in self.ear.model.supported_languages:
                return guards.error(400, f"there is no language '{language}'")
            hints = str(form.get("prompt") or "")
            diarize = (
                str(form.get("diarize") or form.get("diarization") or "").lower()
                in ("1", "true", "yes")
                or self.s.diarize
            )
            asked = self.s.model_copy(
                update={
                    "task": task,
                    "initial_prompt": hints or self.s.initial_prompt,
                    "diarize": diarize,
                    "language": language or self.s.language,
                }
            )
            with tempfile.NamedTemporaryFile(
                suffix=Path(sent.filename or "sound").suffix[:10]
            ) as file:
                while block := await sent.read(1 << 20):
                    file.write(block)
                    if (
                        file.tell() > guards.MAX_BODY_BYTES
                    ):  # a body in chunks says no length beforehand
                        return guards.error(
                            413, "the file is larger than 32 MiB; send it as mp3 or opus"
                        )
                file.flush()
                async with self.busy:
                    made = await run_in_threadpool(self._hear, Path(file.name), asked)
        return shaped(made, form_name, task)

    def _hear(self, path: Path, asked: Settings) -> Transcript:
        held, self.ear.s = self.ear.s, asked
        try:
            return transcribe.heard(self.ear, path, asked)
        except DataError as fault:  # a server's path tells a client nothing
            raise DataError(
                fault.what.replace(str(path), "the file"),
                why=fault.why.replace(str(path), "the file"),
                fix=fault.fix,
            ) from None
        finally:
            self.ear.s = held


def shaped(made: Transcript, form: str, task: str = "transcribe") -> Response:
    """In the forms of OpenAI's API; who speaks stands beside each segment."""
    if form in ("text", "srt", "vtt"):
        return PlainTextResponse(words.write(made, "txt" if form == "text" else form))
    if form == "json":
        more: dict[str, Any] = (
            {"diarization": [asdict(turn) for turn in made.turns]} if made.turns else {}
        )
        return JSONResponse({"text": made.text, **more})
    segments = [
        {
            "id": i,
            "start": s.start,
            "end": s.end,
            "text": s.text,
            "avg_logprob": s.avg_logprob,
            "no_speech_prob": s.no_speech_prob,
            "compression_ratio": s.compression_ratio,
            **({"speaker": s.speaker} if s.speaker else {}),
        }
        for i, s in enumerate(made.segments)
    ]
    spoken = [
        {
            "word": w.text.strip(),
            "start": w.start,
            "end": w.end,
            **({"speaker": w.speaker} if w.speaker else {}),
        }
        for s in made.segments
        for w in s.words
    ]
    return JSONResponse(
        {
            "task": task,
            "language": made.language,
            "duration": made.seconds,
            "text": made.text,
            "segments": segments,
            "words": spoken,
            "diarization": [asdict(turn) for turn in made.turns],
            "warnings": made.warnings,
        }
    )
