"""Rows of a data file and pictures of a data set, to be looked at, changed and rejected."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from onecard import api
from onecard.web import shown, state

router = APIRouter(tags=["data"])
MAX_ROWS = 200


@router.get("/rows")
def rows(
    request: Request,
    path: str,
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 50,
    q: str = "",
) -> dict[str, Any]:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file with their places; `q` filters."""
    return api.rows(state.of(request).roots.check(path), start, limit, q)


@router.get("/pictures")
def pictures(
    request: Request,
    path: str,
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 24,
    rejected: bool = False,
) -> dict[str, Any]:
    """Names of a data set's pictures, or of those that were rejected."""
    root = state.of(request).roots.check(path)
    return api.pictures(root, start, limit, rejected=rejected)


@router.get("/pictures/file")
def picture(request: Request, path: str, name: str, rejected: bool = False) -> Response:
    """A picture of a data set."""
    root = state.of(request).roots.check(path)
    return shown.file_reply(api.picture_file(root, name, rejected=rejected))


class Rejection(BaseModel):
    path: str = Field(max_length=4096)
    name: str = Field(max_length=4096)
    restore: bool = False


@router.post("/pictures")
def reject(request: Request, body: Rejection) -> dict[str, list[str]]:
    """Move a picture with its labels into the data set's hidden folder, or back."""
    root = state.of(request).roots.check(body.path)
    return {"moved": api.reject_picture(root, body.name, restore=body.restore)}


class Edits(BaseModel):
    path: str = Field(max_length=4096)
    edits: dict[Annotated[int, Field(ge=0, le=10**9)], str | None] = Field(max_length=20_000)
    """Number of a row -> its new JSON, or null to leave it out."""


@router.post("/rows", status_code=201)
def edit(request: Request, body: Edits) -> dict[str, Any]:
    """Write a copy with the edits beside the file; the file itself stays as it is."""
    path = state.of(request).roots.check(body.path)
    target, counts = api.edited_rows(path, body.edits)
    return {"path": str(target), **counts}
