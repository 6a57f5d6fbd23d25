"""The terms that a newcomer meets in settings, plans and scores: `glossary.toml`. Knows no task."""

import dataclasses
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onecard.i18n import gettext

CONTEXT = "term"
"""Of the terms' names in a catalogue: `loss` is translated otherwise as the head of a table."""


@dataclass(frozen=True)
class Term:
    term: str
    definition: str
    """One or two sentences."""
    aliases: tuple[str, ...] = ()
    """Other spellings, and settings that are this: rank -> lora_r."""

    def localized(self, language: str | None = None) -> "Term":
        """In the language, the current one by default; aliases stay."""
        return dataclasses.replace(
            self,
            term=gettext(self.term, language, context=CONTEXT),
            definition=gettext(self.definition, language),
        )


@cache
def terms() -> list[Term]:
    """In English, by name."""
    text = (Path(__file__).parent / "glossary.toml").read_text(encoding="utf-8")
    rows = [
        Term(row["term"], " ".join(row["definition"].split()), tuple(row.get("aliases", ())))
        for row in tomllib.loads(text)["terms"]
    ]
    return sorted(rows, key=lambda row: row.term.lower())
