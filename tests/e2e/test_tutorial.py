"""The tutorial runs as it is written (docs/tutorial.md)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
INTERACTIVE = {"onecard chat"}
"""Commands that wait for a person."""


def sections():
    """Heading -> the code block below it."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^## (\d+)\. [^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return {int(number): re.findall(r"```\n(.*?)```", body, re.S) for number, body in found}


def script(number):
    blocks = "".join(sections()[number])
    lines = [line for line in blocks.splitlines() if line.strip() not in INTERACTIVE]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def reader(tmp_path_factory, session_home):
    """Runs a section in the folder of the one who reads; output and errors."""
    folder = tmp_path_factory.mktemp("tutorial")
    bin_dir = folder / "bin"
    bin_dir.mkdir()
    program = bin_dir / "onecard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m onecard "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "ONECARD_HOME": str(session_home)}
    env["PATH"] = f"{bin_dir}:{env['PATH']}"

    def read(number):
        run = subprocess.run(
            ["bash", "-euc", script(number)], cwd=folder, env=env, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    return read


def test_the_tutorial_has_its_sections():
    assert set(sections()) == {1, 2, 3, 4, 5, 6}
    assert "onecard rag ask" in script(4)


def test_doctor_and_fit(reader):
    out = reader(1)
    assert "python" in out
    assert "QLoRA" in out


def test_plans(reader):
    out = reader(2)
    assert "fits" in out
    assert "changes, smallest loss first" in out


def test_a_question_to_a_model(reader):
    assert reader(3).strip()


def test_notes_are_asked_and_scored(reader):
    answers = reader(4)
    assert "02:30" in answers
    assert "backup.md" in answers
    scores = reader(5)
    assert "recall" in scores
    assert "evaluate" in scores
