"""Questions over two notes, and dialogues with follow-ups, on the notes of `made_notes`."""

import random

import made_notes

GREETINGS = ("hi", "Hello!", "good morning", "hey there", "Guten Tag", "你好")
THANKS = ("thanks", "Thank you!", "ok, great", "cool, thanks a lot", "merci", "謝謝")


def _facts(seed, folder):
    """(house facts, tones, owners) by thing: {thing: (what, value)}."""
    made_notes.write(folder, seed)
    house, tones, owners = {}, {}, {}
    lines = (folder / "house.md").read_text().split("\n")
    for heading, value in zip(lines, lines[2:], strict=False):
        for thing in made_notes.THINGS:
            if heading.lower().startswith(f"## {thing} "):
                house[thing] = (heading.lower().removeprefix(f"## {thing} "), value)
    for thing in made_notes.THINGS:
        text = (folder / "home" / f"{thing.capitalize()} note.md").read_text()
        tones[thing] = text.split("tone ")[1].split(",")[0]
        owners[thing] = text.split("owner: ")[1].split("\n")[0]
    return house, tones, owners


def two_notes(folder, seed, n):
    """[(question, two facts that the quotations must hold)]."""
    source = random.Random(seed)
    house, tones, owners = _facts(seed, folder)
    rows = []
    for i in range(n):
        a, b = source.sample(made_notes.THINGS, 2)
        what, value = house[a]
        rows.append(
            (
                (f"In which tones are the {a} and the {b} painted?", (tones[a], tones[b])),
                (f"Who owns the {a} note and who owns the {b} note?", (owners[a], owners[b])),
                (f"What is the {what} of the {a}, and the tone of the {b}?", (value, tones[b])),
                (
                    f"What is the {what} of the {a} and who is the owner of its note?",
                    (value, owners[a]),
                ),
            )[i % 4]
        )
    return rows


def dialogues(folder, seed, n):
    """[(messages of the user, fact that answers the last, facts of the question before)]."""
    source = random.Random(seed)
    house, tones, owners = _facts(seed, folder)
    rows = []
    for i in range(n):
        a, b = source.sample(made_notes.THINGS, 2)
        what, value = house[a]
        others = [thing for thing in house if house[thing][0] == what and thing != a]
        other = source.choice(others) if others else b
        hello, thanks = source.choice(GREETINGS), source.choice(THANKS)
        tone = f"In which tone is the {a} painted?"
        rows.append(
            (
                ([hello, tone, f"And the {b}?"], tones[b], tones[a]),
                ([tone, thanks, f"What about the {b}?"], tones[b], tones[a]),
                ([hello, tone, thanks, "Who is the owner of its note?"], owners[a], tones[a]),
                (
                    [f"What is the {what} of the {a}?", thanks, f"and of the {other}?"],
                    house[other][1],
                    value,
                ),
                (
                    [
                        f"Who is the owner of the {a} note?",
                        f"{thanks} In which tone is it painted?",
                    ],
                    tones[a],
                    owners[a],
                ),
                ([tone, hello, f"Thanks. How about the {b}?"], tones[b], tones[a]),
            )[i % 6]
        )
    return rows
