"""What a PNG says of how it was made: a JSON text `onecard` that reproduces it, and A1111's text
`parameters` that other programs read. Opens no picture and no other file.

Read with limits: a text chunk can promise gigabytes (a decompression bomb), and its words come from
anyone. The chunks are walked by hand, so that no pixel is decoded.
"""

import json
import re
import shlex
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from onecard.errors import DataError, NotFound

KEY = "onecard"
A1111 = "parameters"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 256 << 10
"""Bytes of a text, decompressed: a prompt of 100,000 letters and all settings take less."""
MAX_CHUNKS = 100_000
VERSION = 1
SAMPLERS = {
    "DDIM": "ddim",
    "Euler": "euler",
    "Euler a": "euler-a",
    "DPM++ 2M": "dpm++",
    "DPM++ 2M Karras": "dpm++",
    "UniPC": "unipc",
    "LCM": "lcm",
}
"""A1111's names of samplers that we have."""


def build(record: Mapping[str, Any]) -> Any:
    """Both texts, as Pillow's PngInfo. `record`: see generate.record_of."""
    from PIL.PngImagePlugin import PngInfo  # a plan only reads

    info = PngInfo()
    info.add_text(KEY, json.dumps({"version": VERSION, **record}, sort_keys=True))
    info.add_text(A1111, a1111_text(record))
    return info


def a1111_text(record: Mapping[str, Any]) -> str:
    """As A1111 writes it: the prompt with its LoRAs, the negative prompt, a line of settings."""
    settings = record["settings"]
    loras = record["loras"]
    tags = "".join(f" <lora:{Path(row['file']).stem}:{row['weight']:g}>" for row in loras)
    sampler = next(
        (name for name, ours in SAMPLERS.items() if ours == settings["scheduler"]),
        str(record["sampler"]),
    )
    rows = {
        "Steps": settings["num_inference_steps"],
        "Sampler": sampler,
        "CFG scale": f"{settings['guidance_scale']:g}",
        "Seed": settings["seed"],
        "Size": f"{record['size'][0]}x{record['size'][1]}",
        "Model hash": record["model"]["fingerprint"].rpartition(":")[2][:10],
        "Model": Path(record["model"]["name"]).name,
    }
    if settings["init_image"]:
        rows["Denoising strength"] = f"{settings['strength']:g}"
    if loras:
        hashes = ", ".join(f"{Path(row['file']).stem}: {row['sha256'][:12]}" for row in loras)
        rows["Lora hashes"] = json.dumps(hashes)
    rows["Version"] = f"onecard {record['packages'].get('onecard', '')}".strip()
    lines = [settings["prompt"] + tags]
    if settings["negative_prompt"]:
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in rows.items()))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """A1111 puts a value with a comma, colon or line break between quotes, as JSON."""
    return json.dumps(value) if re.search(r"[,:\n]", value) and not value.startswith('"') else value


def read(path: Path) -> dict[str, str]:
    """The texts `onecard` and `parameters` of a PNG, those that are there.

    Raises NotFound, DataError for what is no PNG, is cut off or promises too much.
    """
    if not path.is_file():
        raise NotFound(
            f"there is no picture {path}",
            why="it is a folder" if path.is_dir() else "nothing lies at that path",
            fix="a PNG that onecard diffusion generate wrote",
        )
    try:
        with path.open("rb") as file:
            return _texts(file, path)
    except OSError as fault:
        raise DataError(
            f"{path} cannot be read",
            why=fault.strerror or str(fault),
            fix="check its permissions",
        ) from None


def _texts(file: IO[bytes], path: Path) -> dict[str, str]:
    if file.read(8) != SIGNATURE:
        raise _broken(path, "it is no PNG", "other kinds of picture keep no settings")
    texts: dict[str, str] = {}
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise _broken(path, "it is cut off", "copy it again")
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return texts
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or size > MAX_TEXT:
            file.seek(size + 4, 1)
            continue
        body, check = file.read(size), file.read(4)
        if len(check) < 4 or zlib.crc32(kind + body) != struct.unpack(">I", check)[0]:
            raise _broken(path, "a text in it is damaged", "copy it again")
        name, _, rest = body.partition(b"\0")
        key = name.decode("latin-1")
        if key in (KEY, A1111) and key not in texts:
            texts[key] = _text(kind, rest, path)
    raise _broken(path, f"it has more than {MAX_CHUNKS:,} parts", "take another copy")


def _text(kind: bytes, rest: bytes, path: Path) -> str:
    """Of a chunk's bytes after its name (PNG specification, 11.3.3)."""
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflated(rest[1:], path).decode("latin-1")
    packed, rest = rest[:1], rest[2:]
    _, _, rest = rest.partition(b"\0")  # language
    _, _, rest = rest.partition(b"\0")  # translated name
    data = _inflated(rest, path) if packed == b"\1" else rest
    return data.decode("utf-8", "replace")


def _inflated(data: bytes, path: Path) -> bytes:
    machine = zlib.decompressobj()
    try:
        out = machine.decompress(data, MAX_TEXT)
    except zlib.error:
        raise _broken(path, "a text in it is damaged", "copy it again") from None
    if machine.unconsumed_tail:
        raise _broken(
            path, f"a text in it unpacks to more than {MAX_TEXT >> 10} kB", "do not use it"
        )
    return out


def _broken(path: Path, why: str, fix: str) -> DataError:
    return DataError(f"{path} gives no settings", why=why, fix=fix)


def record(path: Path) -> dict[str, Any]:
    """What `build` wrote. Raises NotFound, DataError for a picture that keeps none."""
    texts = read(path)
    if KEY not in texts and A1111 in texts:
        raise DataError(
            f"{path} does not say how onecard made it",
            why="another program wrote its settings",
            fix=f"as far as they are known here: {command_line(texts[A1111])} --model MODEL",
        )
    if KEY not in texts:
        raise DataError(
            f"{path} does not say how onecard made it",
            why="it has no such text; programs that edit or send pictures often drop it",
            fix="the PNG as onecard diffusion generate wrote it",
        )
    try:
        values = json.loads(texts[KEY])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict):
        raise DataError(
            f"{path} does not say how onecard made it",
            why=f"its text '{KEY}' is no JSON object with settings",
            fix="the PNG as onecard diffusion generate wrote it",
        )
    return values


# Other programs' pictures

_SETTING = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_LORA = re.compile(r"\s*<lora:([^:>]+)(?::([-\d.]+))?>")


def from_a1111(text: str) -> dict[str, Any]:
    """Settings of generate in A1111's text, as far as they have a counterpart here; `loras` holds
    the names and weights, which are no files.

    >>> from_a1111("a cat\\nSteps: 20, Sampler: Euler a, Seed: 5, Size: 512x768")["seed"]
    5
    """
    lines = text[:MAX_TEXT].strip().split("\n")
    last = lines[-1] if "Steps:" in lines[-1] else ""
    body = "\n".join(lines[:-1] if last else lines)
    prompt, _, negative = body.partition("\nNegative prompt: ")
    rows = {m[1].strip(): m[2].strip() for m in _SETTING.finditer(last)}
    values: dict[str, Any] = {
        "prompt": _LORA.sub("", prompt).strip(),
        "negative_prompt": negative.strip(),
        "loras": [(m[1], _number(m[2], 1.0)) for m in _LORA.finditer(prompt)],
    }
    whole = {"Steps": "num_inference_steps", "Seed": "seed"}
    values |= {
        ours: int(rows[name]) for name, ours in whole.items() if rows.get(name, "").isdigit()
    }
    if "CFG scale" in rows:
        values["guidance_scale"] = _number(rows["CFG scale"], -1.0)
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", rows.get("Size", "")):
        values |= {"imgsz": int(size[1]), "height": int(size[2])}
    if rows.get("Sampler") in SAMPLERS:
        values["scheduler"] = SAMPLERS[rows["Sampler"]]
    return values


def _number(text: str | None, other: float) -> float:
    try:
        return float(text or other)
    except ValueError:
        return other


def command_line(text: str) -> str:
    """A1111's text as a command of ours; its LoRAs are names there, and left out."""
    values = from_a1111(text)
    words = ["onecard", "diffusion", "generate", values.pop("prompt")]
    values.pop("loras")
    for name, value in values.items():
        if value not in ("", -1.0):
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)
