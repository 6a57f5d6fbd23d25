"""Standard input as it comes: another encoding, or none at all; file names that are not UTF-8."""

import os
import subprocess
import sys

import pytest


def onecard(*words, stdin=b"", shell_end="", cwd=None):
    command = [sys.executable, "-m", "onecard", *map(str, words)]
    if shell_end:
        command = ["sh", "-c", f'exec "$0" "$@" {shell_end}', *command]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=300, cwd=cwd)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"should not happen" not in done.stderr, done.stderr.decode()
    return done


@pytest.mark.parametrize("codec", ["cp1252", "utf-16"])
def test_ask_reads_a_pipe_in_another_encoding(own_home, codec):
    text = "Der Schlüssel für die Tür liegt über dem Küchenschrank."
    done = onecard("chat", "ask", "--max_tokens", "4", "--json", stdin=text.encode(codec))
    assert done.returncode == 0, done.stderr
    assert "Küchenschrank" in done.stdout.decode()


def test_the_repl_goes_on_after_a_line_that_is_not_utf8(own_home):
    done = onecard("chat", "--max_tokens", "4", stdin=b"/system caf\xe9 rules\nhi\n/exit\n")
    assert done.returncode == 0
    assert done.stdout.strip()


@pytest.mark.parametrize("command", [("chat",), ("chat", "ask"), ("models", "list")])
def test_a_closed_stdin_is_an_empty_one(own_home, command):
    done = onecard(*command, shell_end="<&-")
    assert done.returncode == {"ask": 2}.get(command[-1], 0), done.stderr


def test_a_file_name_that_is_not_utf8_stops_no_batch(own_home, tmp_path):
    pytest.importorskip("faster_whisper", reason="installed by make test")
    import voices

    folder = tmp_path / "sounds"
    folder.mkdir()
    sound = voices.write(folder / "a.wav", voices.spoken("Good morning.") * 0.7).read_bytes()
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes(sound)
    (folder / "z.wav").write_bytes(sound)
    out = tmp_path / "out"
    done = onecard("asr", "transcribe", folder, "--language", "en", "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.txt")) == [
        "a.txt",
        os.fsdecode(b"caf\xe9.txt"),
        "z.txt",
    ]
