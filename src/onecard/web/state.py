"""What all routes share: the folders of the page, its sessions, its language."""

from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from onecard import paths
from onecard.web.access import Sessions
from onecard.web.roots import Roots


@dataclass(frozen=True)
class State:
    roots: Roots
    sessions: Sessions

    @property
    def uploads(self) -> Path:
        return paths.home() / "uploads"


def of(request: Request) -> State:
    state: State = request.app.state.onecard
    return state
