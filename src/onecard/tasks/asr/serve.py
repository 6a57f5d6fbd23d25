"""onecard asr serve: OpenAI's /v1/audio/transcriptions and /v1/audio/translations."""

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from onecard.errors import DataError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import app, guards, openai_schemas
from onecard.tasks.asr import transcript
from onecard.tasks.asr.configs import ServeConfig
from onecard.tasks.asr.names import with_names_file
from onecard.tasks.asr.recording import transcribe_recording
from onecard.tasks.asr.transcriber import Transcriber, open_transcriber
from onecard.tasks.asr.transcript import Transcript

RESPONSE_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")


def serve(config: ServeConfig, run: Run) -> Result:
    """Listen until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded.
    """
    config = with_names_file(config)
    with app.listen(config) as server:
        transcriber = open_transcriber(config, run)
        address = f"{server.url}/v1"
        server.run(
            application(transcriber, config),
            f"OpenAI API at {address}/audio/transcriptions",
            run.reporter,
        )
    return Result({"address": address})


def application(transcriber: Transcriber, config: ServeConfig) -> Starlette:
    """The routes, without the guard."""
    api = _Api(transcriber, config)
    return Starlette(
        routes=[
            Route("/v1/audio/transcriptions", api.transcribe, methods=["POST"]),
            Route("/v1/audio/translations", api.translate, methods=["POST"]),
            Route("/v1/models", api.models),
            Route("/health", api.health),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Api:
    def __init__(self, transcriber: Transcriber, config: ServeConfig) -> None:
        self.transcriber, self.config = transcriber, config
        # one recording at a time: a second one waits instead of slowing the first one down
        self.lock = asyncio.Lock()

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list([self.config.model]))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def transcribe(self, request: Request) -> Response:
        return await self._answer(request, self.config.task)

    async def translate(self, request: Request) -> Response:
        return await self._answer(request, "translate")

    async def _answer(self, request: Request, task: str) -> Response:
        async with request.form(max_files=1, max_fields=30) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                return guards.error(
                    400, "file is missing: send the sound as a multipart field 'file'"
                )
            response_format = str(form.get("response_format") or "json")
            if response_format not in RESPONSE_FORMATS:
                formats = ", ".join(RESPONSE_FORMATS)
                return guards.error(400, f"response_format must be one of {formats}")
            language = str(form.get("language") or "")
            if language and language not in self.transcriber.model.supported_languages:
                return guards.error(400, f"there is no language '{language}'")
            config = self._settings_of(form, task, language)
            suffix = Path(upload.filename or "sound").suffix[:10]
            with tempfile.NamedTemporaryFile(suffix=suffix) as file:
                while block := await upload.read(1 << 20):
                    file.write(block)
                    # a chunked request body has no length beforehand
                    if file.tell() > guards.MAX_BODY_BYTES:
                        return guards.error(
                            413, "the file is larger than 32 MiB; send it as mp3 or opus"
                        )
                file.flush()
                async with self.lock:
                    path = Path(file.name)
                    result = await run_in_threadpool(self._transcribe_file, path, config)
        return to_response(result, response_format, task)

    def _settings_of(self, form: FormData, task: str, language: str) -> ServeConfig:
        """The server's settings with what the request overrides."""
        diarize = str(form.get("diarize") or form.get("diarization") or "").lower()
        return self.config.model_copy(
            update={
                "task": task,
                "initial_prompt": str(form.get("prompt") or "") or self.config.initial_prompt,
                "diarize": diarize in ("1", "true", "yes") or self.config.diarize,
                "language": language or self.config.language,
            }
        )

    def _transcribe_file(self, path: Path, config: ServeConfig) -> Transcript:
        self.transcriber.config = config
        try:
            return transcribe_recording(self.transcriber, path, config)
        except DataError as fault:  # the server's temporary path means nothing to a client
            raise DataError(
                fault.what.replace(str(path), "the file"),
                why=fault.why.replace(str(path), "the file"),
                fix=fault.fix,
            ) from None
        finally:
            self.transcriber.config = self.config


def to_response(result: Transcript, form: str, task: str = "transcribe") -> Response:
    """In OpenAI's response formats, with the speaker beside each segment and word."""
    if form in ("text", "srt", "vtt"):
        return PlainTextResponse(transcript.render(result, "txt" if form == "text" else form))
    turns = [asdict(turn) for turn in result.turns]
    if form == "json":
        return JSONResponse({"text": result.text, **({"diarization": turns} if turns else {})})
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
        for i, s in enumerate(result.segments)
    ]
    words = [
        {
            "word": w.text.strip(),
            "start": w.start,
            "end": w.end,
            **({"speaker": w.speaker} if w.speaker else {}),
        }
        for s in result.segments
        for w in s.words
    ]
    return JSONResponse(
        {
            "task": task,
            "language": result.language,
            "duration": result.seconds,
            "text": result.text,
            "segments": segments,
            "words": words,
            "diarization": turns,
            "warnings": result.warnings,
        }
    )
