"""Your files to samples, gates, packs: no torch."""

import json

import pytest

from onecard.errors import DataError, NotFound, SettingsError
from onecard.memory import devices
from onecard.tasks.finetune import dataset, tokenize_rows, validation
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.dataset import Sample
from onecard.tasks.finetune.memory import plan, smaller


def write(path, *rows):
    path.write_text(
        "".join(
            (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n"
            for row in rows
        ),
        encoding="utf-8",
    )
    return path


def pair(question, answer, where="f:1", group=""):
    return Sample(
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
        where,
        group,
    )


class Marks:
    """A tokenizer of characters with ChatML's template."""

    chat_template = "chatml"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return "".join(f"<{m['role'][0]}>{m['content']}</>\n" for m in messages) + (
            "<a>" if add_generation_prompt else ""
        )

    def __call__(self, text, **how):
        return {
            "input_ids": [ord(c) for c in text],
            "offset_mapping": [(i, i + 1) for i in range(len(text))],
        }


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Say hi", "input": "", "output": "hi"},
        {"prompt": "Say hi", "completion": "hi"},
        {"question": "Say hi", "answer": "hi"},
        {"conversations": [{"from": "human", "value": "Say hi"}, {"from": "gpt", "value": "hi"}]},
        {
            "messages": [
                {"role": "user", "content": "Say hi"},
                {"role": "assistant", "content": "hi"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Say hi"}]},
                {"role": "assistant", "content": "hi"},
            ]
        },
        {
            "prompt": [{"role": "user", "content": "Say hi"}],
            "completion": [{"role": "assistant", "content": "hi"}],
        },
        {"instruction": "Say hi", "instances": [{"input": "", "output": "hi"}]},
    ],
)
def test_every_form_gives_the_same_pair(tmp_path, row):
    found = dataset.read(write(tmp_path / "d.jsonl", row)).samples
    assert [(s.question, s.answer) for s in found] == [("Say hi", "hi")]


def test_alpacas_input_follows_the_instruction(tmp_path):
    assert (
        dataset.read(
            write(
                tmp_path / "d.jsonl",
                {"instruction": "Translate", "input": "Haus", "output": "house"},
            )
        )
        .samples[0]
        .question
        == "Translate\n\nHaus"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        },
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
        },
    ],
)
def test_preferences(tmp_path, row):
    found = dataset.read(write(tmp_path / "d.jsonl", row)).samples[0]
    assert (found.question, found.answer, found.rejected) == ("q", "good", "bad")


def test_tables_and_xml(tmp_path):
    (tmp_path / "d.csv").write_text("frage,antwort\nWas?,Das.\n", encoding="utf-8")
    assert (
        dataset.read(tmp_path / "d.csv", ("prompt=frage", "completion=antwort")).samples[0].answer
        == "Das."
    )
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "1.xml").write_text(
        "<Document><QAPairs><QAPair><Question>What?</Question><Answer>That\n "
        "<b>thing</b>.</Answer></QAPair></QAPairs></Document>"
    )
    (folder / "2.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><x/>')
    (folder / "3.xml").write_text("<x")
    read = dataset.read(folder)
    assert [(s.answer, s.group) for s in read.samples] == [
        ("That thing.", str(folder / "1.xml"))
    ] and len(read.broken) == 2
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "d.parquet")
    assert dataset.read(tmp_path / "d.parquet").samples[0].answer == "b"


def test_a_broken_line_is_kept_aside_with_its_place(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        {"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d"},
        '{"prompt": "e", ',
        {"prompt": "x"},
        [1],
        {"messages": [{"role": "judge", "content": "x"}]},
    )
    read = dataset.read(path)
    assert (
        len(read.samples) == 2
        and [b.where.rpartition(":")[2] for b in read.broken] == ["3", "4", "5", "6"]
        and "judge" in read.broken[-1].why
    )


def test_what_cannot_be_read_at_all_is_refused(tmp_path):
    with pytest.raises(NotFound):
        dataset.read(tmp_path / "none.jsonl")
    for text in ("", "\n\n", '{"prompt": "a"}\n', '{"a": 1}\n'):
        (tmp_path / "d.jsonl").write_text(text)
        with pytest.raises(DataError):
            dataset.read(tmp_path / "d.jsonl")
    with pytest.raises(SettingsError):
        dataset.read(write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "b"}), ("answer=x",))


def test_a_row_of_a_megabyte_is_read(tmp_path):
    assert (
        len(
            dataset.read(write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "b " * 500_000}))
            .samples[0]
            .answer
        )
        > 900_000
    )


def test_gates_tell_and_put_aside():
    long = (
        "The kidneys remove waste and extra water from the blood and make urine, about two quarts "
        "in a day"
    )
    rows = [
        pair("q1", "One answer.", "f:1"),
        pair("Q1 ", "One  answer.", "f:2"),
        pair("q2", " ", "f:3"),
        pair("q3", long + ".", "f:4"),
        pair("q3", long + "!", "f:5"),
        pair("q6", "Mail me: someone@example.com.", "f:6"),
        pair("q7", "AKIAABCDEFGHIJKLMNOP.", "f:7"),
    ]
    gate = validation.inspect(rows, [])
    said = {finding.what: finding.count for finding in gate.findings}
    assert (
        said["exact duplicates"] == 1
        and said["no question or no answer"] == 1
        and said["near duplicates (pairs)"] == 1
        and said["an e-mail address in the text"] == 1
        and said["an AWS key in the text"] == 1
    )
    assert [s.where for s in gate.samples] == ["f:1", "f:4", "f:5", "f:6", "f:7"] and {
        b.where for b in gate.rejected
    } == {"f:2", "f:3"}


def test_a_split_keeps_groups_and_near_duplicates_together_and_does_not_depend_on_order():
    rows = [
        pair(
            f"question number {i}",
            f"The answer to number {i} is {i * i}.",
            f"f:{i}",
            group=f"doc{i // 4}",
        )
        for i in range(80)
    ]
    gate = validation.Gate(rows)
    gate.near = [(0, 79)]
    train, held = validation.split(gate, 0.2, 100, 0)
    assert not {s.group for s in train} & {s.group for s in held} and 8 <= len(held) <= 28
    assert ("f:0" in {s.where for s in held}) == ("f:79" in {s.where for s in held})
    back = validation.Gate(rows[::-1])
    back.near = [(79, 0)]
    assert {s.where for s in validation.split(back, 0.2, 100, 0)[1]} == {s.where for s in held}


def test_rows_in_both_halves_are_refused():
    rows = [
        pair(f"question {i}", f"answer {i} is long enough to be told from the others {i}")
        for i in range(5)
    ]
    validation.leaks(rows[:3], rows[3:])
    with pytest.raises(DataError, match="both train and eval"):
        validation.leaks(rows, rows[2:3])
    with pytest.raises(DataError):
        validation.split(validation.Gate(rows[:1]), 0.5, 10, 0)


def test_loss_is_on_the_answers_only():
    talk = Sample(
        (
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yo"},
            {"role": "user", "content": "bye"},
            {"role": "assistant", "content": "ok"},
        ),
        "f:1",
    )
    made = tokenize_rows.encode(Marks(), talk)
    learned = "".join(chr(label) for label in made.labels if label != tokenize_rows.IGNORED)
    assert (
        learned == "yo</>ok</>"
        and made.answer_tokens == len(learned)
        and len(made.ids) == len(made.labels)
    )


def test_packs_hold_every_sample_once_within_the_size():
    lengths = [(i * 37) % 90 + 5 for i in range(200)]
    rows = tokenize_rows.pack(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(200)) and all(
        sum(lengths[i] for i in row) <= 100 for row in rows
    )
    assert len(rows) <= 1.1 * sum(lengths) / 100 + 1


def test_the_guides_request_is_planned_under_10_gib():
    made = plan(
        Settings(
            model_name="meta-llama/Meta-Llama-3.1-8B-Instruct",
            load_in_4bit=True,
            bf16=True,
            gradient_checkpointing=True,
            max_seq_length=2048,
            gradient_accumulation_steps=16,
        ),
        devices.find("4070ti"),
    )
    assert made.fits and made.high_bytes < 10 * 2**30


def test_the_ladder_keeps_the_effective_batch_and_ends():
    settings = Settings(
        model_name="llama-3.1-8b", per_device_train_batch_size=4, gradient_accumulation_steps=4
    )
    rungs = list(smaller(settings))
    assert rungs[0][0] == {"gradient_checkpointing": True}
    for changes, _ in rungs[1:3]:
        assert changes["per_device_train_batch_size"] * changes["gradient_accumulation_steps"] == 16
    assert len(rungs) < 15
