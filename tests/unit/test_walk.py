"""Which files a walk gives: .gitignore as git reads it, links, lock files, what is left out."""

import os
import random
import subprocess

import pytest

from onecard.datasets import gitignore
from onecard.datasets.files import Walk

NAMES = ("a", "b", "ab", "store", "docs", "z")
PATTERNS = (
    *("a", "b/", "/a", "*.md", "!a.md", "docs/", "/docs/b", "**/b", "a/**", "a/**/b", "!docs/a.md"),
    *("*", "!*/", "!*.txt", "b*", "[ab].md", "[!a].txt", "!", "\\", "\\!a", "#a", "\\#"),
    *("a ", "b\\ ", "/", "//", "**", "***", "a/b/", "?.md", "docs/*", "!docs/b/", "[", "a[", "\\a"),
    *("*.md\r", "**a", "a**b", "/**/a.md", "!/a", "z/*.md", "é.md"),
)


BACKWARDS = "[z-a].md"
"""git takes it for `z.md`, which no library follows."""


def git(folder, *words, stdin=b""):
    done = subprocess.run(["git", "-C", folder, *words], input=stdin, capture_output=True)
    return done.stdout


def generated_tree(dice, top, patterns):
    """Folders and files with .gitignore files of random lines."""
    folders = [top]
    for _ in range(8):
        folder = dice.choice(folders) / dice.choice(NAMES)
        if not folder.exists():
            folder.mkdir()
            folders.append(folder)
    for folder in folders:
        for name in dice.sample(NAMES, 3):
            path = folder / f"{name}{dice.choice(('.md', '.txt'))}"
            path.write_text("x")
        if dice.random() < 0.5 or folder == top:
            lines = dice.choices(patterns, k=dice.randrange(1, 6))
            (folder / ".gitignore").write_text("\n".join(lines) + "\n")
    return folders


def kept_by_git(top, folder):
    """Untracked files that git would add."""
    listing = git(top, "ls-files", "-z", "--others", "--exclude-standard", "--", folder)
    names = [os.fsdecode(name) for name in listing.split(b"\0") if name]
    return sorted(name for name in names if not name.endswith(".gitignore"))


def walked(top, folder):
    return sorted(file.path.relative_to(top).as_posix() for file in Walk().files([folder]))


@pytest.mark.parametrize("with_git", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_the_walk_keeps_what_git_keeps(tmp_path, monkeypatch, seed, with_git):
    """Generated trees and rules; below a folder the rules above it hold too."""
    dice = random.Random(seed)
    patterns = (*PATTERNS, BACKWARDS) if with_git else PATTERNS
    folders = generated_tree(dice, tmp_path, patterns)
    (folders[-1] / "tracked.md").write_text("x")
    git(tmp_path, "init", "--quiet")
    if not with_git:
        monkeypatch.setattr(gitignore.shutil, "which", lambda name: None)
    kept = kept_by_git(tmp_path, ".")
    assert kept or seed
    assert walked(tmp_path, tmp_path) == kept
    below = next(
        (each for each in folders if each != tmp_path and kept_by_git(tmp_path, each)), None
    )
    if below:
        assert walked(tmp_path, below) == kept_by_git(tmp_path, below)


def test_what_is_in_the_repository_is_not_ignored(tmp_path):
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "b.md").write_text("x")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "a.md")
    (tmp_path / ".gitignore").write_text("*.md\n")
    assert walked(tmp_path, tmp_path) == ["a.md"]


@pytest.mark.parametrize("repository", [True, False])
def test_an_ignored_folder_that_is_named_is_read(tmp_path, repository):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.md").write_text("x")
    (tmp_path / ".gitignore").write_text("out/\n")
    if repository:
        git(tmp_path, "init", "--quiet")
    assert walked(tmp_path, tmp_path / "out") == ["out/a.md"]


def test_a_repository_in_another_has_its_own_rules(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder, rule in ((tmp_path, "a.md\n"), (inner, "b.md\n")):
        git(folder, "init", "--quiet")
        (folder / ".gitignore").write_text(rule)
        for name in ("a.md", "b.md"):
            (folder / name).write_text("x")
    assert walked(tmp_path, tmp_path) == ["b.md", "inner/a.md"]


@pytest.mark.parametrize("line", [BACKWARDS, "!", "\\", "[", "a[", "\xff"])
def test_a_line_that_is_no_pattern_stops_nothing(tmp_path, monkeypatch, line):
    monkeypatch.setattr(gitignore.shutil, "which", lambda name: None)
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "b.md").write_text("x")
    (tmp_path / ".gitignore").write_bytes(line.encode("latin-1") + b"\nb.md\n")
    assert walked(tmp_path, tmp_path) == ["a.md"]


def test_a_pattern_of_many_stars_takes_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gitignore.shutil, "which", lambda name: None)
    (tmp_path / ("a" * 200 + ".md")).write_text("x")
    (tmp_path / ".gitignore").write_text("*a" * 60 + "b\n" + "a*" * 60 + "b.md\n")
    assert len(walked(tmp_path, tmp_path)) == 1


@pytest.fixture
def linked(tmp_path):
    """A folder with links into itself and out of it."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
    (inside / "sub" / "a.md").write_text("x")
    (outside / "secret.md").write_text("x")
    (inside / "folder").symlink_to(outside, target_is_directory=True)
    (inside / "file.md").symlink_to(outside / "secret.md")
    (inside / "own.md").symlink_to(inside / "sub" / "a.md")
    return inside


def test_a_link_that_leads_out_is_counted_and_not_followed(linked):
    walk = Walk()
    assert [file.path.name for file in walk.files([linked])] == ["own.md"]
    assert sum(n for reason, n in walk.left_out.items() if "lead out" in reason) == 2


def test_a_link_that_leads_out_is_followed_when_asked(linked):
    names = sorted(file.path.name for file in Walk(follow_links=True).files([linked]))
    assert names == ["file.md", "own.md"]


def test_what_is_left_out_is_counted_by_its_reason(tmp_path):
    names = (
        *("a.md", "README", "b.png", "c.png", ".hidden.md", "package-lock.json", "Cargo.lock"),
        *("d.min.js", "x.bin", "uv.lock", "pnpm-lock.yaml"),
    )
    for name in names:
        (tmp_path / name).write_text("x")
    walk = Walk()
    assert sorted(file.path.name for file in walk.files([tmp_path])) == ["README", "a.md"]
    assert walk.left_out == {
        ".png files": 2,
        "hidden": 1,
        "lock files": 2,
        ".lock files": 2,
        "minified code": 1,
        ".bin files": 1,
    }


def test_a_file_that_is_named_is_read_whatever_it_is_called(tmp_path):
    path = tmp_path / "yarn-lock.json"
    path.write_text("x")
    assert [file.path for file in Walk().files([path])] == [path]
