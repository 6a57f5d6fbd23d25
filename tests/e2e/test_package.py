"""onecard as a wheel in an empty virtual environment, outside the tree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `onecard` program of a fresh environment with the wheel and its light dependencies."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("onecard-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*install, *constraints, str(wheel)], check=True, capture_output=True)
    return folder / "env" / "bin" / "onecard"


def run(program, *words, cwd):
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, cwd=cwd, env=env
    )


def test_the_wheel_answers_a_question_with_citations(installed, notes, tmp_path):
    index = run(installed, "rag", "index", notes, "--index", tmp_path / "ix", cwd=tmp_path)
    assert index.returncode == 0, index.stderr
    question = "How many connections are kept open?"
    answer = run(installed, "rag", "ask", question, "--index", tmp_path / "ix", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "100 connections" in answer.stdout
    assert "pool.md" in answer.stdout


def test_the_wheel_knows_every_task(installed, tmp_path):
    shown = run(installed, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for task in ("asr", "chat", "detect", "diffusion", "finetune", "rag", "tinylm", "vlm"):
        assert f"\n  {task}" in shown.stdout


def test_the_wheel_plans_with_its_tables(installed, tmp_path):
    plan = run(installed, "plan", "qlora", "llama-3.1-8b", "--card", "4070ti", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "fits" in plan.stdout


def test_a_missing_extra_names_the_command_that_installs_it(installed, tmp_path):
    refused = run(installed, "finetune", "train", "pairs.jsonl", cwd=tmp_path)
    assert refused.returncode == 4, refused.stderr
    assert "pip install 'onecard[finetune]'" in refused.stderr


def test_the_wheel_holds_no_tests(installed):
    site = next((installed.parents[1] / "lib").glob("python*/site-packages/onecard"))
    assert not list(site.rglob("test_*.py"))
