"""Notes of kinds that look alike inside (changelogs, FAQs, tables, dated notes, note names), with
questions whose answer is known. Everything is drawn from a seed; no two answers are equal."""

import random
from dataclasses import dataclass
from pathlib import Path

SUBJECTS = (
    "export of reports", "login page", "licence", "import of photographs", "printing of labels",
    "dark theme", "backup encryption", "search box", "sync service", "mobile layout", "spell check",
    "calendar view", "audit log", "map tiles", "voice notes", "password reset", "tag cloud",
    "offline mode", "webhook retries", "colour picker",
)  # fmt: skip
VERBS = ("adds", "removes", "repairs", "speeds up", "rewrites", "renames", "limits", "documents")
THINGS = (
    "garden gate", "cellar door", "bicycle lock", "boiler", "water meter", "router", "roof window",
    "mailbox", "greenhouse", "rain barrel", "wood stove", "tool shed", "freezer", "doorbell",
    "attic hatch", "car battery", "lawn mower", "smoke alarm", "septic tank", "solar panel",
)  # fmt: skip
PLANS = ("Basic", "Standard", "Plus", "Team", "Business", "Enterprise")
LIMITS = ("maximum file size", "number of seats", "price per month", "history kept", "API calls")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
DEEDS = (
    "rang the roofer", "paid the water bill", "planted the beans", "sold the old desk",
    "met the surveyor", "fixed the fence", "ordered firewood", "cleaned the gutters",
    "returned the ladder", "painted the hall", "picked the plums", "moved the bookcase",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str
    """What the first quotation must contain."""
    wrong: tuple[str, ...] = ()
    """Answers of neighbours, none of which it may contain instead."""


def changelog(random: random.Random, folder: Path, n: int) -> list[Question]:
    versions: set[str] = set()
    while len(versions) < 24:
        versions.add(".".join(str(random.randint(1, 4)) for _ in range(3)))
    lines, questions = ["# Changelog", ""], []
    for i, version in enumerate(sorted(versions, key=lambda v: random.random())):
        verb, subject = random.choice(VERBS), SUBJECTS[i % len(SUBJECTS)]
        change = f"{verb} the {subject} (#{1000 + 7 * i})"
        lines += [f"## v{version}", "", f"- {change.capitalize()}.", ""]
        ask = random.choice(
            (f"What changed in v{version}?", f"What is new in version {version}?",
             f"Which change came with release {version}?")
        )  # fmt: skip
        questions.append(Question("changelog", ask, f"#{1000 + 7 * i}"))
    (folder / "CHANGELOG.md").write_text("\n".join(lines))
    return random.sample(questions, n)


def faq(random: random.Random, folder: Path, n: int) -> list[Question]:
    lines, questions = ["# House facts", ""], []
    for i, thing in enumerate(THINGS):
        fact = random.choice(("code", "serial number", "service date", "key colour"))
        value = {
            "code": f"{random.randint(1000, 9999)}#",
            "serial number": f"Z {random.randint(10, 99)} {random.randint(100, 999)}",
            "service date": f"{random.choice(MONTHS)} {2001 + i}",
            "key colour": f"{random.choice(('red', 'blue', 'green'))} {i}",
        }[fact]
        lines += [f"## {thing.capitalize()} {fact}", "", value, ""]
        ask = random.choice(
            (f"What is the {fact} of the {thing}?", f"{thing} {fact}?",
             f"Which {fact} does the {thing} have?")
        )  # fmt: skip
        questions.append(Question("faq", ask, value))
    (folder / "house.md").write_text("\n".join(lines))
    return random.sample(questions, n)


def tables(random: random.Random, folder: Path, n: int) -> list[Question]:
    questions = []
    units = {"maximum file size": "MB", "number of seats": "seats", "price per month": "EUR",
             "history kept": "days", "API calls": "calls"}  # fmt: skip
    values = iter(random.sample(range(11, 999), 60))
    cells = {(p, limit): f"{next(values)} {units[limit]}" for p in PLANS for limit in LIMITS}
    head = "| Plan | " + " | ".join(limit.capitalize() for limit in LIMITS) + " |"
    rows = [f"| {p} | " + " | ".join(cells[p, limit] for limit in LIMITS) + " |" for p in PLANS]
    text = ["# Plans", "", "What each plan offers.", "", head, "|---" * 6 + "|", *rows, ""]
    (folder / "plans.md").write_text("\n".join(text))
    for (plan, limit), value in cells.items():
        ask = f"What is the {limit} on the {plan} plan?"
        others = tuple(v for (p, li), v in cells.items() if li == limit and p != plan)
        questions.append(Question("table", ask, value, others))
    parts = ["part;shelf;price"]
    for i, thing in enumerate(THINGS):
        parts.append(
            f"{thing} hinge;{random.choice('ABCDEF')}{i + 10};{i + 3},{random.randint(10, 99)}"
        )
        shelf = parts[-1].split(";")[1]
        questions.append(Question("csv", f"On which shelf is the {thing} hinge?", shelf))
    (folder / "parts.csv").write_text("\n".join(parts))
    return random.sample(questions, n)


def dated(random: random.Random, folder: Path, n: int) -> list[Question]:
    days: set[tuple[int, int]] = set()
    while len(days) < 12:
        day, month = random.randint(1, 12), random.randint(1, 12)
        days |= {(day, month), (month, day)}
    (folder / "daily").mkdir(exist_ok=True)
    questions = []
    for i, (day, month) in enumerate(sorted(days)):
        deed = f"{DEEDS[i % len(DEEDS)]} for {random.randint(20, 99)}.{i:02} euros"
        (folder / "daily" / f"2025-{month:02}-{day:02}.md").write_text(f"## Tasks\n\n- {deed}\n")
        ask = random.choice(
            (f"What did I do on {day} {MONTHS[month - 1]} 2025?",
             f"What happened on {MONTHS[month - 1]} {day}, 2025?",
             f"What did I note on 2025-{month:02}-{day:02}?")
        )  # fmt: skip
        questions.append(Question("date", ask, deed))
    return random.sample(questions, min(n, len(questions)))


def names(random: random.Random, folder: Path, n: int) -> list[Question]:
    (folder / "home").mkdir(exist_ok=True)
    questions = []
    for i, thing in enumerate(THINGS):
        name = f"{thing.capitalize()} note"
        owner = f"{random.choice(('Marta', 'Jon', 'Ilse', 'Omar'))} {chr(65 + i)}."
        (folder / "home" / f"{name}.md").write_text(
            f"---\naliases: [project {DEEDS[i % 12].split()[-1]}{i}]\nowner: {owner}\n---\n\n"
            f"Painted in tone {3000 + 17 * i}, last year.\n"
        )
        questions.append(
            Question("name", f"In which tone is the {thing} painted?", str(3000 + 17 * i))
        )
        questions.append(Question("front matter", f"Who is the owner of the {thing} note?", owner))
    return random.sample(questions, n)


KINDS = (changelog, faq, tables, dated, names)


def write(folder: Path, seed: int, n_each: int = 10) -> list[Question]:
    """Writes the notes and returns their questions, `n_each` of a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(seed)
    return [question for kind in KINDS for question in kind(source, folder, n_each)]
