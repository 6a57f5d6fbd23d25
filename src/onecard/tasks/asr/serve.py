"""onecard asr serve: OpenAI's /v1/audio/transcriptions and /v1/audio/translations."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from onecard.errors import OneCardError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import app, guards, openai_schemas, shell
from onecard.serving.turns import Turns
from onecard.tasks.asr import formats, language_names, transcript
from onecard.tasks.asr.configs import ServeConfig
from onecard.tasks.asr.names import with_names_file
from onecard.tasks.asr.recording import OnChunk, Row, transcribe_recording
from onecard.tasks.asr.transcriber import Transcriber, open_transcriber
from onecard.tasks.asr.transcript import Segment, Transcript

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
            Route("/v1/models/{name:path}", api.model),
            Route("/health", api.health),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Api:
    def __init__(self, transcriber: Transcriber, config: ServeConfig) -> None:
        self.transcriber, self.config = transcriber, config
        # one recording at a time: a second one waits instead of slowing the first one down
        self.turns = Turns()

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list([self.config.model]))

    async def model(self, request: Request) -> Response:
        return openai_schemas.model_reply(request.path_params["name"], [self.config.model])

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def transcribe(self, request: Request) -> Response:
        return await self._answer(request, self.config.task)

    async def translate(self, request: Request) -> Response:
        return await self._answer(request, "translate")

    async def _answer(self, request: Request, task: str) -> Response:
        await shell.turn_for_body(request, self.turns)
        async with request.form(max_files=1, max_fields=30) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                return guards.error(
                    400, "file is missing: send the sound as a multipart field 'file'"
                )
            response_format = str(form.get("response_format") or "json")
            if response_format not in RESPONSE_FORMATS:
                known = ", ".join(RESPONSE_FORMATS)
                return guards.error(400, f"response_format must be one of {known}")
            language = language_names.code_of(str(form.get("language") or ""))
            if language and language not in self.transcriber.model.supported_languages:
                return guards.error(400, f"there is no language '{form.get('language')}'")
            config = self._settings_of(form, task, language)
            # in memory: the client's name says nothing, and no decoder is given a path to resolve
            sound = await _read(upload)
        if sound is None:
            return guards.error(413, "the file is larger than 32 MiB; send it as mp3 or opus")
        await shell.turn(request, self.turns)
        if _is_true(form.get("stream")):
            events = self._events(sound, config)
            return StreamingResponse(events, media_type="text/event-stream")
        result = await shell.in_thread(self._transcribe_sound, sound, config)
        return to_response(result, response_format, task)

    async def _events(self, sound: bytes, config: ServeConfig) -> AsyncIterator[str]:
        """Server-sent events as OpenAI's API has them: a delta for each segment as its part of the
        recording is done, then the whole text."""
        deltas: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        so_far: list[str] = []

        def on_chunk(row: Row, seconds: float) -> None:
            for segment in row["segments"]:
                before = transcript.join_texts(so_far)
                so_far.append(segment["text"])
                delta = transcript.join_texts(so_far)[len(before) :]
                loop.call_soon_threadsafe(deltas.put_nowait, delta)

        job = asyncio.create_task(shell.in_thread(self._transcribe_sound, sound, config, on_chunk))
        job.add_done_callback(lambda _: deltas.put_nowait(None))
        while (delta := await deltas.get()) is not None:
            yield _event({"type": "transcript.text.delta", "delta": delta})
        try:
            result = job.result()
        except OneCardError as fault:
            message = f"{fault.what}: {fault.why}"
            yield _event({"type": "error", "error": {"message": message}})
        else:
            yield _event(
                {
                    "type": "transcript.text.done",
                    "text": result.text,
                    "usage": _usage(result),
                    **({"dropped": result.dropped} if result.dropped else {}),
                }
            )

    def _settings_of(self, form: FormData, task: str, language: str) -> ServeConfig:
        """The server's settings with what the request overrides."""
        diarize = form.get("diarize") or form.get("diarization")
        return self.config.model_copy(
            update={
                "task": task,
                "initial_prompt": str(form.get("prompt") or "") or self.config.initial_prompt,
                "diarize": _is_true(diarize) or self.config.diarize,
                "multilingual": _is_true(form.get("multilingual"))
                or (self.config.multilingual and not language),
                "language": language or self.config.language,
            }
        )

    def _transcribe_sound(
        self, sound: bytes, config: ServeConfig, on_chunk: OnChunk | None = None
    ) -> Transcript:
        self.transcriber.config = config
        try:
            return transcribe_recording(self.transcriber, sound, config, (), on_chunk)
        finally:
            self.transcriber.config = self.config


async def _read(upload: UploadFile) -> bytes | None:
    """The bytes of an upload; None for too many. A chunked body has no length beforehand."""
    blocks, size = [], 0
    while block := await upload.read(1 << 20):
        size += len(block)
        if size > guards.MAX_BODY_BYTES:
            return None
        blocks.append(block)
    return b"".join(blocks)


def _is_true(value: object) -> bool:
    return str(value or "").lower() in ("1", "true", "yes")


def _event(row: dict[str, Any]) -> str:
    return f"data: {json.dumps(row, ensure_ascii=False)}\n\n"


def _usage(result: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(result.seconds)}


def to_response(result: Transcript, form: str, task: str = "transcribe") -> Response:
    """In OpenAI's response formats, with the speaker beside each segment and word."""
    if form == "text":
        return PlainTextResponse(result.text + "\n", headers=_removed_header(result))
    if form in ("srt", "vtt"):
        return PlainTextResponse(formats.render(result, form))
    turns = [asdict(turn) for turn in result.turns]
    removals = {"dropped": result.dropped} if result.dropped else {}
    if form == "json":
        more = {"diarization": turns} if turns else {}
        return JSONResponse({"text": result.text, "usage": _usage(result), **more, **removals})
    return JSONResponse(
        {
            "task": task,
            "language": language_names.name_of(result.language),
            "languages": [
                {**row, "language": language_names.name_of(row["language"])}
                for row in result.languages
            ],
            "duration": result.seconds,
            "text": result.text,
            "segments": [_segment_row(i, segment) for i, segment in enumerate(result.segments)],
            "words": _word_rows(result),
            "usage": _usage(result),
            "diarization": turns,
            "warnings": result.warnings,
            **removals,
        }
    )


def _removed_header(result: Transcript) -> dict[str, str]:
    """Plain text has no place for what was removed but the header."""
    if not result.dropped:
        return {}
    times = "; ".join(
        f"{row['start']:.1f}-{row['end']:.1f} {row['why']}" for row in result.dropped[:20]
    )
    return {"X-Removed": times.encode("ascii", "replace").decode()}


def _segment_row(number: int, segment: Segment) -> dict[str, Any]:
    """With all fields that OpenAI's schema demands."""
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": segment.avg_logprob,
        "no_speech_prob": segment.no_speech_prob,
        "compression_ratio": segment.compression_ratio,
        **({"speaker": segment.speaker} if segment.speaker else {}),
        **({"language": segment.language} if segment.language else {}),
    }


def _word_rows(result: Transcript) -> list[dict[str, Any]]:
    return [
        {
            "word": word.text.strip(),
            "start": word.start,
            "end": word.end,
            **({"speaker": word.speaker} if word.speaker else {}),
        }
        for segment in result.segments
        for word in segment.words
    ]
