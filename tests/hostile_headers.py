"""Mutated GGUF headers and config.json files: what a plan must read or refuse, never fall over."""

import json
import random
import struct

from onecard.memory.architectures import lm

EXTREMES = [0, 1, -1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 0x7F800000, 0x7FC00000]
VALUES = [
    *(None, True, False, 0, 1, -1, -896, 2**31, 2**63, 10**400, 1e308, -1e308, 0.5, 1e-320),
    *("", "auto", "12", "nan", "x" * 10_000, "\ud800", [], {}, [None] * 50, [[]] * 9, [1, "a", -5]),
    *([0] * 5000, {"text_config": {}}, float("nan"), float("inf"), -float("inf")),
]


def mutated_header(dice: random.Random, data: bytes) -> bytes:
    """The bytes with flips, cuts, extreme numbers or parts moved."""
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4, 30])):
        way = dice.randrange(6)
        at = dice.randrange(max(len(out), 1))
        near = dice.randrange(min(len(out), 2000) or 1)
        if way == 0 and out:
            out[at] ^= 1 << dice.randrange(8)
        elif way == 1:
            del out[near if dice.random() < 0.5 else at :]
        elif way == 2:
            extreme = dice.choice(EXTREMES) & 0xFFFFFFFFFFFFFFFF
            out[near : near + 8] = struct.pack("<Q", extreme)
        elif way == 3:
            out[near : near + 4] = struct.pack("<I", dice.choice(EXTREMES) & 0xFFFFFFFF)
        elif way == 4:
            length = dice.randrange(1, 64)
            out[near:near] = out[at : at + length]
        elif out:
            out[near] = dice.randrange(256)
    return bytes(out)


def mutated_config(dice: random.Random) -> str:
    """JSON text of a known model's config with keys dropped, replaced, nested or cut."""
    config = dict(dice.choice(list(lm.configs().values())))
    keys = list(config)
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        key = dice.choice(keys)
        way = dice.randrange(5)
        if way == 0:
            config.pop(key, None)
        elif way == 1:
            number = config.get(key)
            if isinstance(number, int):
                config[key] = number * dice.choice([-1, 0, 10**6, 10**30]) + dice.randrange(3)
        else:
            config[key] = dice.choice(VALUES)
    if dice.random() < 0.1:
        config["model_type"] = dice.choice(["", "made-up", 7, None, "gemma3_text", "nemotron_h"])
    if dice.random() < 0.2:
        config = {"text_config": config, **dict(list(config.items())[:3])}
    text = json.dumps(config)
    if dice.random() < 0.05:
        return text[: dice.randrange(len(text))]
    if dice.random() < 0.02:
        return "[" * 100_000 + text
    return text
