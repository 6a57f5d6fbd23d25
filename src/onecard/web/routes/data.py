"""Rows of a data file, to be read, changed and rejected in the page."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from onecard import api
from onecard.web import state

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
