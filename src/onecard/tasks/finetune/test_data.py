"""Files to samples, validation, splits and packing: no torch."""

import json

import pytest

from onecard.errors import DataError, NotFound, SettingsError
from onecard.memory import devices
from onecard.tasks.finetune import dataset, tokenization, validation
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.dataset import ParsedDataset
from onecard.tasks.finetune.memory import fallbacks, plan
from onecard.tasks.finetune.sample import Sample


def write(path, *rows):
    path.write_text(
        "".join(
            (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n"
            for row in rows
        ),
        encoding="utf-8",
    )
    return path


def pair(question, answer, source="f:1", group=""):
    return Sample(
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
        source,
        group,
    )


class CharTokenizer:
    """One token a character, with ChatML's template."""

    chat_template = "chatml"
    all_special_tokens = ("</>",)
    eos_token = "</>"

    def get_added_vocab(self):
        return {}

    def apply_chat_template(self, messages, tools, tokenize, add_generation_prompt):
        return "".join(f"<{m['role'][0]}>{m['content']}</>\n" for m in messages) + (
            "<a>" if add_generation_prompt else ""
        )

    def __call__(self, text, **options):
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
    samples = dataset.read(write(tmp_path / "d.jsonl", row)).samples
    assert [(s.question, s.answer) for s in samples] == [("Say hi", "hi")]


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
    sample = dataset.read(write(tmp_path / "d.jsonl", row)).samples[0]
    assert (sample.question, sample.answer, sample.rejected) == ("q", "good", "bad")


def test_csv_with_columns_of_other_names(tmp_path):
    (tmp_path / "d.csv").write_text("frage,antwort\nWas?,Das.\n", encoding="utf-8")
    parsed = dataset.read(tmp_path / "d.csv", ("prompt=frage", "completion=antwort"))
    assert [s.answer for s in parsed.samples] == ["Das."]


def test_a_folder_of_xml(tmp_path):
    """Tags inside an answer are dropped; a file with entities and a broken one are rejected."""
    (tmp_path / "1.xml").write_text(
        "<Document><QAPairs><QAPair><Question>What?</Question><Answer>That\n "
        "<b>thing</b>.</Answer></QAPair></QAPairs></Document>"
    )
    (tmp_path / "2.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><x/>')
    (tmp_path / "3.xml").write_text("<x")
    parsed = dataset.read(tmp_path)
    assert [(s.answer, s.group) for s in parsed.samples] == [
        ("That thing.", str(tmp_path / "1.xml"))
    ]
    assert [row.source for row in parsed.rejected] == [
        str(tmp_path / "2.xml"),
        str(tmp_path / "3.xml"),
    ]


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "d.parquet")
    assert [s.answer for s in dataset.read(tmp_path / "d.parquet").samples] == ["b"]


def test_a_broken_line_is_rejected_with_its_place(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        {"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d"},
        '{"prompt": "e", ',
        {"prompt": "x"},
        [1],
        {"messages": [{"role": "judge", "content": "x"}]},
    )
    parsed = dataset.read(path)
    assert len(parsed.samples) == 2
    assert [row.source.rpartition(":")[2] for row in parsed.rejected] == ["3", "4", "5", "6"]
    assert "judge" in parsed.rejected[-1].reason


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


def test_validation_rejects_and_reports():
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
    report = validation.validate(ParsedDataset(rows))
    counts = {finding.issue: finding.count for finding in report.findings}
    assert counts == {
        "no question or no answer": 1,
        "exact duplicates": 1,
        "near duplicates (pairs)": 1,
        "one question, different answers": 1,
        "an e-mail address in the text": 1,
        "an AWS key in the text": 1,
    }
    assert [s.source for s in report.samples] == ["f:1", "f:4", "f:5", "f:6", "f:7"]
    assert {row.source for row in report.rejected} == {"f:2", "f:3"}


def test_truncated_answers_are_reported():
    """Only among answers that mostly end in a full stop."""
    complete = [pair(f"question {i}", f"This is answer number {i}.", f"f:{i}") for i in range(9)]
    truncated = pair("question 9", "This long answer ends in the middle of a senten", "f:9")
    findings = validation.validate(ParsedDataset([*complete, truncated])).findings
    assert [(f.issue, f.count) for f in findings] == [("answers that seem cut off", 1)]


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
    report = validation.ValidationReport(rows)
    report.near_duplicates = [(0, 79)]
    train, held_out = validation.split(report, 0.2, 100, 0)
    assert not {s.group for s in train} & {s.group for s in held_out}
    assert 8 <= len(held_out) <= 28
    sources = {s.source for s in held_out}
    assert ("f:0" in sources) == ("f:79" in sources)
    reverse = validation.ValidationReport(rows[::-1])
    reverse.near_duplicates = [(79, 0)]
    assert {s.source for s in validation.split(reverse, 0.2, 100, 0)[1]} == sources


def test_a_single_row_cannot_be_split():
    report = validation.ValidationReport([pair("question", "answer")])
    with pytest.raises(DataError, match="cannot be split"):
        validation.split(report, 0.5, 10, 0)


def test_rows_in_train_and_eval_are_refused():
    rows = [
        pair(f"question {i}", f"answer {i} is long enough to be told from the others {i}")
        for i in range(5)
    ]
    validation.check_leakage(rows[:3], rows[3:])
    with pytest.raises(DataError, match="1 rows stand in both train and eval"):
        validation.check_leakage(rows, rows[2:3])


def test_near_duplicates_in_train_and_eval_are_refused():
    words = " ".join(f"word{i}" for i in range(60))
    with pytest.raises(DataError, match="both train and eval"):
        validation.check_leakage([pair("q", words)], [pair("q", words + " more")])


def test_loss_is_on_the_answers_only():
    conversation = Sample(
        (
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yo"},
            {"role": "user", "content": "bye"},
            {"role": "assistant", "content": "ok"},
        ),
        "f:1",
    )
    example = tokenization.encode(CharTokenizer(), conversation)
    learned = "".join(chr(label) for label in example.labels if label != tokenization.IGNORED)
    assert learned == "yo</>ok</>"
    assert example.answer_tokens == len(learned)
    assert len(example.ids) == len(example.labels)


def test_packs_hold_every_sample_once_within_the_size():
    lengths = [(i * 37) % 90 + 5 for i in range(200)]
    rows = tokenization.pack(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(200)) and all(
        sum(lengths[i] for i in row) <= 100 for row in rows
    )
    assert len(rows) <= 1.1 * sum(lengths) / 100 + 1


def test_the_guides_request_is_planned_under_10_gib():
    request = plan(
        TrainConfig(
            model="meta-llama/Meta-Llama-3.1-8B-Instruct",
            load_in_4bit=True,
            bf16=True,
            gradient_checkpointing=True,
            max_seq_length=2048,
            gradient_accumulation_steps=16,
        ),
        devices.find("4070ti"),
    )
    assert request.fits and request.high_bytes < 10 * 2**30


def test_fallbacks_keep_the_effective_batch_and_end():
    settings = TrainConfig(
        model="llama-3.1-8b", per_device_train_batch_size=4, gradient_accumulation_steps=4
    )
    changes = list(fallbacks(settings))
    assert changes[0][0] == {"gradient_checkpointing": True}
    for change, _ in changes[1:3]:
        assert change["per_device_train_batch_size"] * change["gradient_accumulation_steps"] == 16
    assert len(changes) < 18
