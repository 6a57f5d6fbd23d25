"""Rows with pictures: every form that tools write, and what a user's folder may hold instead."""

import base64
import csv
import io
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onecard.config import describe
from onecard.datasets.images import reader
from onecard.errors import DataError, NotFound, SettingsError
from onecard.tasks.vlm import (
    controls,
    items,
    markers,
    picture_facts,
    picture_rows,
    presence_questions,
    text_baseline,
    validation,
)
from onecard.tasks.vlm.configs import VlmDataConfig
from onecard.tasks.vlm.items import Turn, VlmItem
from tests import made_pictures

COLOURS = {"red": (210, 30, 30), "green": (30, 180, 40), "blue": (30, 60, 220)}


def picture(path, seed=0, size=(48, 40), **settings):
    """Noise with a coarse pattern, so that two seeds are no duplicates."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 6, 3)).astype(np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(settings.pop("mode", "RGB")).save(path, **settings)
    return path


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        picture(tmp_path / "set" / name, i)
    return tmp_path / "set"


def write(path, rows):
    """By the ending of the name."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), dialect=["excel", "excel-tab"][path.suffix == ".tsv"]
            )
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows, ensure_ascii=False))
    return path


def read_rows(folder, rows, name="rows.jsonl", **settings):
    settings.setdefault("inline", folder / "inline")
    return picture_rows.read(write(folder / name, rows), **settings)


def data_uri(path, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


# Forms


def test_conversations_of_llava(folder):
    rows = [
        {
            "id": "000",
            "image": "a.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "A cat."},
                {"from": "human", "value": "Which colour?"},
                {"from": "gpt", "value": "Red."},
            ],
        },
        {
            "id": "000",
            "image": ["a.png", "b.jpg"],
            "conversations": [
                {"from": "system", "value": "Be short."},
                {"from": "human", "value": "Compare <image> with <image>."},
                {"from": "gpt", "value": "The second is larger."},
            ],
        },
        {
            "conversations": [
                {"from": "human", "value": "2 + 2?"},
                {"from": "gpt", "value": "4"},
            ],
        },
    ]
    for name in ("rows.json", "rows.jsonl"):
        parsed = read_rows(folder, rows, name)
        first, second, third = parsed.items
        assert first.images == (folder / "a.png",) and first.answers == ("Red.",)
        assert first.question == "Which colour?" and first.conversation.startswith("What is it?")
        assert second.images == (folder / "a.png", folder / "b.jpg")
        assert [turn.role for turn in second.turns] == ["system", "user", "assistant"]
        assert (first.id, second.id) == ("000", "000#2") and third.id.startswith("rows.json")
        assert parsed.n_text_only == 1 and not parsed.rejected and not parsed.mendings
        assert parsed.forms["conversations of LLaVA's form, text only"] == 1


def test_messages_with_pictures_beside_them_or_in_them(folder):
    def message(content):
        return [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]

    text = {"type": "text", "text": "Is it red?"}
    rows = [
        {"images": ["a.png"], "messages": message("<image>Is it red?")},
        {"messages": message([{"type": "image_url", "image_url": {"url": "a.png"}}, text])},
        {
            "messages": message(
                [{"type": "image_url", "image_url": data_uri(folder / "a.png")}, text]
            )
        },
        {"messages": message([{"type": "image", "image": "sub/c.png"}, text])},
        {
            "images": ["a.png", "b.jpg"],
            "messages": message([{"type": "image"}, text, {"type": "image"}]),
        },
    ]
    parsed = read_rows(folder, rows)
    assert [len(item.images) for item in parsed.items] == [1, 1, 1, 1, 2]
    inline = parsed.items[2].images[0]
    assert inline.parent == folder / "inline" and inline.suffix == ".png"
    assert inline.read_bytes() == (folder / "a.png").read_bytes()
    assert parsed.items[4].turns[0].text == "<image>\nIs it red?<image>"
    assert parsed.forms["messages with parts"] == 4 and not parsed.rejected


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_columns_of_pictures_questions_and_answers(folder, ending):
    rows = [
        {"image": "a.png", "question": 'What, "exactly"?', "answer": "a cat"},
        {"image": "sub/c.png", "question": "多少？", "answer": "三"},
    ]
    parsed = read_rows(folder, rows, f"rows.{ending}")
    assert [item.question for item in parsed.items] == ['What, "exactly"?', "多少？"]
    assert parsed.items[1].turns == (Turn("user", "<image>\n多少？"), Turn("assistant", "三"))
    assert parsed.items[0].answers == ("a cat",) and not parsed.mendings
    place = parsed.items[1].source.removeprefix(str(folder))
    assert place in (
        "/rows.jsonl:2",
        "/rows.json[2]",
        "/rows.csv:3",
        "/rows.tsv:3",
        "/rows.parquet[2]",
    )


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"picture": "a.png", "prompt": "Q", "response": "A"}, ("A",)),
        ({"file_name": "a.png", "instruction": "Q", "output": "A"}, ("A",)),
        ({"image_path": "a.png", "query": "Q", "label": ["A", "B"]}, ("A", "B")),
        ({"Image": "a.png", "Question": "Q", "Answer": 3}, ("3",)),
        ({"image": "a.png", "question": "Q", "answers": ["A", "B", "B"]}, ("A", "B", "B")),
        ({"image": "a.png", "question": "Q", "answers": [{"answer": "A"}]}, ("A",)),
        ({"image": "a.png", "question": "Q", "answers": '["A", "B"]'}, ("A", "B")),
        ({"image": "a.png", "question": "Q", "answer": "C", "answers": ["A"]}, ("C", "A")),
        ({"image": "a.png", "question": "Q", "answer": {"total": 3}}, ('{"total": 3}',)),
        ({"image": {"path": "a.png", "bytes": None}, "question": "Q", "answer": "A"}, ("A",)),
    ],
)
def test_names_of_columns_and_several_answers(folder, row, answers):
    (item,) = read_rows(folder, [row]).items
    assert item.answers == answers and item.question == "Q" and item.images == (folder / "a.png",)
    assert item.answer == Counter(answers).most_common(1)[0][0]


def test_own_names_of_columns_and_captions(folder):
    rows = [{"photo": "a.png", "frage": "Was?", "antwort": "Katze", "note": "x", "grp": "film 1"}]
    names = ("image=photo", "question=frage", "answer=antwort", "group=grp")
    parsed = read_rows(folder, rows, columns=names)
    assert parsed.items[0].answer == "Katze" and parsed.items[0].group == "film 1"
    assert parsed.unused == {"note": 1} and "columns not used: note" in "\n".join(parsed.notes())
    with pytest.raises(SettingsError, match="names no column"):
        read_rows(folder, rows, columns=("bild=photo",))
    captions = [{"file_name": "a.png", "text": "A cat on a mat."}]
    with pytest.raises(DataError, match="no usable row") as fault:
        read_rows(folder, captions)
    assert "--question" in fault.value.why
    (item,) = read_rows(folder, captions, question="Describe the image.").items
    assert item.turns[0].text == "<image>\nDescribe the image." and item.answer == "A cat on a mat."


def test_metadata_of_an_imagefolder(folder):
    write(folder / "metadata.csv", [{"file_name": "b.jpg", "question": "Q?", "answer": "A"}])
    (folder / "other.json").write_text("[]")
    parsed = picture_rows.read(folder)
    assert parsed.path.name == "metadata.csv" and parsed.items[0].images == (folder / "b.jpg",)


def test_easy_vqa(tmp_path):
    picture(tmp_path / "images" / "0.png")
    picture(tmp_path / "images" / "1.png", 1)
    rows = [["what shape?", "circle", 0], ["is it red?", "no", 1], ["is it red?", "no", 2]]
    parsed = read_rows(tmp_path, rows, "questions.json")
    assert [item.images[0].name for item in parsed.items] == ["0.png", "1.png"]
    assert [row.reason for row in parsed.rejected] == [f"no picture in {tmp_path} has the number 2"]


def vqa_pair(folder, n=2):
    for number in (42, 43):
        picture(folder / "val2014" / f"COCO_val2014_{number:012d}.jpg", number)
        picture(folder / "train2014" / f"COCO_train2014_{number:012d}.jpg", number + 9)
    questions = [
        {"question_id": 10 * i, "image_id": 42 + i % 2, "question": f"How many {i}?"}
        for i in range(n)
    ]
    annotations = [
        {
            "question_id": row["question_id"],
            "image_id": row["image_id"],
            "multiple_choice_answer": "2",
            "answers": [
                {"answer": "2" if k < 6 else "3", "answer_id": k + 1, "answer_confidence": "yes"}
                for k in range(10)
            ],
        }
        for row in questions
    ]
    names = ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")
    write(folder / names[0], {"info": {}, "data_subtype": "val2014", "questions": questions})
    write(folder / names[1], {"info": {}, "annotations": annotations})
    return [folder / name for name in names]


def test_a_pair_of_files_of_vqa(tmp_path):
    pair = vqa_pair(tmp_path)
    for path in pair:
        parsed = picture_rows.read(path)
        first, second = parsed.items
        assert first.images[0].name == "COCO_val2014_000000000042.jpg" and first.id == "0"
        assert first.answer == "2" and first.answers == ("2",) * 6 + ("3",) * 4
        assert second.id == "10" and dict(parsed.forms) == {"VQA's questions and annotations": 2}
    pair[1].unlink()
    with pytest.raises(DataError, match="needs one file of annotations"):
        picture_rows.read(pair[0])


def test_docvqa_and_gqa(folder):
    rows = [
        {
            "questionId": 5,
            "question": "Date?",
            "image": "sub/c.png",
            "docId": 9,
            "answers": ["1", "2"],
        }
    ]
    whole = {"dataset_name": "docvqa", "dataset_split": "val", "data": rows}
    (item,) = picture_rows.read(write(folder / "val.json", whole)).items
    assert (item.id, item.group, item.answers, item.answer) == ("5", "9", ("1", "2"), "1")
    gqa = {"q1": {"imageId": "a", "question": "Red?", "answer": "yes", "fullAnswer": "Yes, it is."}}
    parsed = picture_rows.read(write(folder / "gqa.json", gqa))
    assert parsed.items[0].id == "q1" and parsed.items[0].images == (folder / "a.png",)
    assert parsed.unused == {"fullAnswer": 1}


def test_pictures_as_bytes_in_parquet(folder):
    data = (folder / "a.png").read_bytes()
    rows = [{"image": {"bytes": data, "path": "x.png"}, "question": "Q?", "answer": "A"}] * 2
    parsed = read_rows(folder, rows, "rows.parquet")
    assert len({item.images for item in parsed.items}) == 1
    assert parsed.items[0].images[0].read_bytes() == data


# Places of pictures


def test_pictures_are_opened_only_where_the_user_says(folder, tmp_path):
    outside = picture(tmp_path / "elsewhere" / "x.png", 7)
    rows = [
        {"image": str(outside), "question": "Q", "answer": "A"},
        {"image": "../elsewhere/x.png", "question": "Q", "answer": "A"},
        {"image": str(folder / "a.png"), "question": "Q", "answer": "A"},
        {"image": f"file://{folder}/a.png", "question": "Q", "answer": "A"},
        {"image": "sub\\c.png", "question": "Q", "answer": "A"},
        {"image": "x.png", "question": "Q", "answer": "A"},
        {"image": "/etc/hostname", "question": "Q", "answer": "A"},
        {"image": "a", "question": "Q", "answer": "A"},
    ]
    parsed = read_rows(folder, rows)
    assert [item.images[0].name for item in parsed.items] == ["a.png", "a.png", "c.png", "a.png"]
    reasons = [row.reason for row in parsed.rejected]
    assert (
        "lies outside" in reasons[0]
        and "leads out" in reasons[1]
        and "no picture x.png" in reasons[2]
    )
    assert "lies outside" in reasons[3] and parsed.rejected[0].source.endswith("rows.jsonl:1")
    parsed = read_rows(folder, rows, images=[outside.parent])
    assert [item.images[0] for item in parsed.items].count(outside) == 3
    with pytest.raises(NotFound, match="no folder"):
        read_rows(folder, rows, images=[folder / "none"])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("https://example.org/a.png", "is an address"),
        ("HTTP://example.org/a.png", "is an address"),
        ("s3://bucket/a.png", "is an address"),
        ("//host/share/a.png", "is an address"),
        ({"url": "https://example.org/a.png"}, "is an address"),
        ("data:image/png;base64,####", "not base64"),
        ("data:image/png;base64", "without a comma"),
        ("data:image/png;base64,aGVsbG8=", "is not usable"),
        ("data:image/svg+xml,<svg xmlns='x'></svg>", "SVG"),
        ("data:,", "is not usable"),
        (True, "named by a path"),
        ({"x": 1}, "has no path"),
        ([""], "is empty"),
        (["a.png", None], "is empty"),
        ("a\0.png", "no name"),
        ("a" * 5000, "no name"),
        ("a" * 300 + ".png", "there is no picture"),
        ("sub", "there is no picture"),
        (3.5, "named by a path"),
    ],
)
def test_what_names_no_picture(folder, image, reason):
    rows = [{"image": image, "question": "Q", "answer": "A"}, {"question": "Q", "answer": "A"}]
    parsed = read_rows(folder, rows)
    assert len(parsed.items) == 1 and reason in parsed.rejected[0].reason
    assert not list(folder.glob("inline/*"))


def test_large_pictures_in_rows_are_refused(folder):
    uri = "data:image/png;base64," + "A" * (50 << 20)
    rows = [{"image": uri, "question": "Q", "answer": "A"}, {"question": "Q", "answer": "A"}]
    parsed = read_rows(folder, rows)
    assert "a data URI of 37 MiB; 32 MiB is the most" in parsed.rejected[0].reason
    assert len(parsed.rejected[0].raw) < 3000


def test_numbers_that_several_pictures_have(tmp_path):
    picture(tmp_path / "x_07.png")
    picture(tmp_path / "y_7.png", 1)
    rows = [{"image_id": 7, "question": "Q", "answer": "A"}, {"question": "Q", "answer": "A"}]
    assert "2 pictures have the number 7" in read_rows(tmp_path, rows).rejected[0].reason


# Markers and turns


def talk(*texts, image="a.png", **more):
    who = ["human", "gpt"]
    turns = [{"from": who[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **({"image": image} if image else {}), **more}


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (talk("What?", "A", "And?", "B"), "a picture without a marker put before the question"),
        (talk("What?", "A", image=["a.png", "b.jpg"]), "pictures without a marker put before"),
        (talk("<|image_1|> and <image 2>?", "A", image=["a.png", "b.jpg"]), "another form"),
        (talk("<|vision_start|><|image_pad|><|image_pad|><|vision_end|>Q", "A"), "another form"),
        (talk("<start_of_image>Q", "A"), "another form"),
        (talk("<image>Q", "A", "and next?"), "the question after the last answer"),
    ],
)
def test_what_is_mended_is_told(folder, row, outcome):
    parsed = read_rows(folder, [row])
    ((told, n),) = parsed.mendings.items()
    assert outcome in told and n == 1 and told in "\n".join(parsed.notes())
    item = parsed.items[0]
    assert sum(turn.text.count("<image>") for turn in item.turns) == len(item.images)
    assert item.turns[0].text.count("<image>") == len(item.images)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk("<image><image>Q", "A"), "2 markers <image> and 1 picture"),
        (talk("<image>Q", "A", image=None), "1 marker <image> and 0 pictures"),
        (talk("<image>Q", "A", image=["a.png", "b.jpg"]), "1 marker <image> and 2 pictures"),
        (talk("Q", "A", "Q", "A", image=["a.png", "b.jpg"]), "0 markers <image> and 2 pictures"),
        (talk("Q", "It is <image>"), "stands in a turn of the assistant"),
        (talk("<image 2> <image 1>", "A", image=["a.png", "b.jpg"]), "numbered 2, 1"),
        (talk("<image 2> Q", "A"), "has the number 2"),
        ({"conversations": [{"from": "gpt", "value": "A"}]}, "must take turns"),
        ({"conversations": [{"from": "human", "value": "A"}]}, "does not end with an answer"),
        ({"conversations": []}, "a list of messages"),
        ({"conversations": "x"}, "a list of messages"),
        ({"conversations": ["x"]}, "a message is"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'tool' is not known"),
        ({"messages": [{"role": "user", "content": None}]}, "no text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "video": "x"}]}]},
            "type video",
        ),
        ({"image": "a.png", "question": "Q"}, "no answer"),
        ({"image": "a.png", "answer": "A"}, "no question"),
        ({"image": "a.png", "question": "Q", "answer": True}, "no text but True"),
        ({"image": "a.png", "question": "\ud800", "answer": "A"}, "half a character"),
        ([1, 2, 3], "no JSON object"),
        ("text", "no JSON object"),
        (None, "no JSON object"),
    ],
)
def test_what_costs_a_row(folder, row, reason):
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(talk("<image>Q", "A")) + "\n{broken\n")
    parsed = picture_rows.read(path)
    assert len(parsed.items) == 1 and len(parsed.rejected) == 2
    assert reason in parsed.rejected[0].reason and parsed.rejected[0].source == f"{path}:1"
    assert "not JSON" in parsed.rejected[1].reason and parsed.rejected[1].source == f"{path}:3"


@given(
    st.lists(st.sampled_from(["<image>", "x", "<image 1>", "<|image_pad|>"]), max_size=4),
    st.integers(0, 3),
)
def test_markers_fit_or_are_refused(parts, n):
    turns = (Turn("user", " ".join(parts)), Turn("assistant", "A"))
    try:
        unified, _ = markers.unify(turns)
        fitting, _ = markers.fit(unified, n)
    except ValueError:
        assert parts
        return
    assert sum(turn.text.count("<image>") for turn in fitting) == n
    assert markers.fit(fitting, n) == (fitting, "")


KEYS = "image images question answer answers messages role content conversations from value type"
KEYS += " text bytes image_url url id"
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("a.png"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(JSON_VALUES, max_size=4))
def test_no_row_breaks_the_reader(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("fuzz")
    picture(folder / "a.png")
    path = write(folder / "rows.jsonl", [*rows, {"question": "Q", "answer": "A"}])
    parsed = picture_rows.read(path, inline=folder / "inline")
    assert len(parsed.items) + len(parsed.rejected) == len(rows) + 1
    assert len({item.id for item in parsed.items}) == len(parsed.items)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("rows.jsonl", "", "no usable row"),
        ("rows.json", "[{]", "not JSON"),
        ("rows.json", "[" * 100_000, "not JSON"),
        ("rows.json", "{}", "no usable row"),
        ("rows.csv", "image,question\n", "no usable row"),
        ("rows.csv", 'image,question,answer\na.png,"open,A\n', "no usable row"),
        ("rows.csv", "image,question,answer\na.png,Q, with comma,A\n", "needs quotation marks"),
        ("rows.parquet", "PAR1 nothing", "no whole Parquet file"),
        ("rows.jsonl", "\x00\x01\x02\x03" * 400, "binary"),
    ],
)
def test_files_without_a_usable_row(folder, name, content, match):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (folder / name).write_text(content)
    with pytest.raises(DataError) as fault:
        picture_rows.read(folder / name)
    assert match in str(fault.value)


def test_places_without_rows(tmp_path):
    with pytest.raises(NotFound, match="there is no"):
        picture_rows.read(tmp_path / "none.json")
    with pytest.raises(NotFound) as fault:
        picture_rows.read("https://example.org/rows.json")
    assert "addresses are not opened" in fault.value.why
    with pytest.raises(DataError, match="no file of rows"):
        picture_rows.read(tmp_path)
    write(tmp_path / "a.json", [])
    write(tmp_path / "b.json", [])
    with pytest.raises(DataError, match="several files of rows"):
        picture_rows.read(tmp_path)


# Validation


def coloured(folder, n=24, start=0):
    """Rows about n pictures: two questions each."""
    rows = []
    for i in range(start, start + n):
        name = f"p{i:03d}.png"
        picture(folder / name, i + 100)
        colour = list(COLOURS)[i % 3]
        rows.append({"image": name, "question": "Which colour?", "answer": colour})
        rows.append(
            {"image": name, "question": "Is it red?", "answer": "yes" if i % 3 == 0 else "no"}
        )
    return rows


def test_pictures_that_cannot_be_used_cost_their_rows(folder):
    rows = coloured(folder)
    (folder / "svg.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    (folder / "cut.png").write_bytes((folder / "p000.png").read_bytes()[:300])
    (folder / "empty.jpg").write_bytes(b"")
    picture(folder / "dot.png", size=(1, 1))
    picture(folder / "cmyk.jpg", 5, mode="CMYK")
    picture(folder / "small.png", 6, size=(20, 24))
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    names = ["svg.png", "cut.png", "empty.jpg", "dot.png", "cmyk.jpg", "small.png", "film.gif"]
    rows += [{"image": name, "question": "What?", "answer": "x"} for name in names]
    report = validation.validate(read_rows(folder, rows))
    assert len(report.items) == 48 + 3
    reasons = " ".join(row.reason for row in report.rejected)
    assert all(word in reasons for word in ("SVG", "damaged or cut off", "empty", "1x1"))
    assert all(":" in row.source for row in report.rejected)
    issues = {finding.issue: finding.count for finding in report.findings}
    assert issues["unusable pictures"] == 4
    assert issues["pictures: CMYK, read as RGB"] == 1
    assert issues["pictures: smaller than 28 px"] == 1
    assert issues["pictures: animated or of several pages, of which the first is read"] == 1
    text = report.render()
    assert "4  unusable pictures" in text and "rows to train on" in text
    json.dumps(report.as_dict())


def test_empty_and_repeated_rows_and_contradictions(folder):
    rows = coloured(folder, 8)
    (folder / "copy.png").write_bytes((folder / "p000.png").read_bytes())
    rows += [
        {"image": "p000.png", "question": "Which colour?", "answer": "red"},
        {"image": "copy.png", "question": "Which colour?", "answer": "red"},
        {"image": "p001.png", "question": "Which colour?", "answer": "violet"},
        talk("<image>", "A", image="p002.png"),
        talk("<image>\nQ", " ", image="p002.png"),
        {"image": "p003.png", "question": "Tell.", "answer": "long " * 400},
    ]
    report = validation.validate(read_rows(folder, rows))
    issues = {finding.issue: finding.count for finding in report.findings}
    assert issues["repeated rows"] == 2 and issues["no question"] == 1 and issues["no answer"] == 1
    assert issues["one picture and question, different answers"] == 1
    assert issues["very long answers"] == 1
    assert issues["pictures that are the same file under two names"] == 1
    assert len(report.items) == 16 + 2 and report.answers["red"] == 3


def test_yes_no_and_scripts_are_counted(folder):
    rows = [
        {"image": "a.png", "question": f"有 {i} 只狗吗" if i % 4 == 0 else f"Is there dog {i}?",
         "answer": "no" if i % 5 == 0 else "yes"}
        for i in range(40)
    ]  # fmt: skip
    report = validation.validate(read_rows(folder, rows))
    assert report.yes_no == {"yes": 32, "no": 8} and report.scripts == {"Latin": 30, "Chinese": 10}
    assert any("answer is yes" in finding.issue for finding in report.findings)
    assert "40 questions of yes or no: 80 % are yes" in report.render()


def test_nothing_left_is_refused(folder):
    (folder / "x.png").write_text("no picture")
    with pytest.raises(DataError, match="no row of"):
        validation.validate(read_rows(folder, [{"image": "x.png", "question": "Q", "answer": "A"}]))


def test_a_few_shared_pictures_leave_the_training_and_many_are_refused(tmp_path):
    train, held = tmp_path / "train", tmp_path / "held"
    rows, others = coloured(train, 40), coloured(held, 10, start=60)
    with Image.open(train / "p003.png") as image:
        image.resize((96, 80), Image.Resampling.BICUBIC).save(held / "again.jpg", quality=90)
        image.save(train / "second.jpg", quality=92)
    rows.append({"image": "second.jpg", "question": "Bright?", "answer": "no"})
    others.append({"image": "again.jpg", "question": "Which colour?", "answer": "red"})
    report = validation.validate(read_rows(train, rows), read_rows(held, others))
    assert len(report.items) == 78 and len(report.evaluation) == 21
    names = {item.images[0].name for item in report.items}
    assert not names & {"p003.png", "second.jpg"}
    finding = next(f for f in report.findings if "evaluation" in f.issue)
    assert finding.count == 3 and "train/rows.jsonl" in finding.examples[0]
    for i in range(5):
        (held / f"q{i}.png").write_bytes((train / f"p{i:03d}.png").read_bytes())
        others.append({"image": f"q{i}.png", "question": "Q?", "answer": "A"})
    with pytest.raises(DataError, match="show pictures of the evaluation") as fault:
        validation.validate(read_rows(train, rows), read_rows(held, others))
    assert "--eval_data" in fault.value.fix
    report = validation.validate(
        read_rows(train, rows), read_rows(held, others), allow_leakage=True
    )
    assert len(report.items) == 81
    with pytest.raises(DataError, match="show pictures of the evaluation"):
        validation.validate(read_rows(train, rows), read_rows(train, rows, "same.jsonl"))


def test_a_split_never_parts_a_picture(tmp_path):
    rows = coloured(tmp_path, 30)
    with Image.open(tmp_path / "p000.png") as image:
        image.save(tmp_path / "copy.jpg", quality=95)
    rows.append({"image": ["copy.jpg", "p001.png"], "question": "Same?", "answer": "no"})
    parsed = read_rows(tmp_path, rows)
    facts = picture_facts.look(parsed.items)
    train, held = validation.split(parsed.items, 0.2, 0, facts)
    assert len(train) + len(held) == 61 and 8 <= len(held) <= 14
    sides = [{facts.original(p) for item in part for p in item.images} for part in (train, held)]
    assert not sides[0] & sides[1]
    assert facts.original(tmp_path / "copy.jpg") == tmp_path / "p000.png"
    (linked,) = [group for group in picture_facts.groups_of(parsed.items, facts) if 60 in group]
    assert linked == [0, 1, 2, 3, 60]  # the rows of p000.png, p001.png, and of both
    assert len(picture_facts.groups_of(parsed.items)) == 30
    # the same rows in another order, from another folder
    random.Random(1).shuffle(rows)
    again = validation.split(read_rows(tmp_path, rows).items, 0.2, 0, facts)[1]
    assert {(i.images, i.turns) for i in again} == {(i.images, i.turns) for i in held}
    assert validation.split(parsed.items, 0.2, 1, facts)[1] != held
    assert len(validation.split(parsed.items, 0.5, 0, facts, max_items=4)[1]) <= 4
    with pytest.raises(DataError, match="cannot be split"):
        validation.split(parsed.items[:2], 0.5, 0, facts)


def test_a_fingerprint_is_of_the_content(folder):
    rows = coloured(folder, 4)
    parsed = read_rows(folder, rows)
    facts = picture_facts.look(parsed.items)
    one = items.fingerprint(parsed.items, facts.digests)
    assert one == items.fingerprint(reversed(parsed.items), facts.digests)
    picture(folder / "p000.png", 999)
    facts = picture_facts.look(parsed.items)
    assert one != items.fingerprint(parsed.items, facts.digests)
    assert one != items.fingerprint(read_rows(folder, rows[1:]).items, facts.digests)


# Text alone


def item(name, question, answer, image="p.png", answers=()):
    turns = (Turn("user", f"<image>\n{question}"), Turn("assistant", answer))
    return VlmItem(name, (Path(image),), turns, f"rows:{name}", "", answers or (answer,))


def test_answers_that_follow_from_the_question_are_seen():
    leaky = [
        item(
            str(i), f"colour of a {['banana', 'lime'][i % 2]}?", ["yellow", "green"][i % 2], f"{i}"
        )
        for i in range(60)
    ]
    alone = text_baseline.cross_validate(leaky, [[i] for i in range(60)])
    assert alone.guess.value == 1 and alone.majority.value <= 0.6
    assert alone.gain.verdict == "better" and "100.0 % [" in alone.render()
    rng = random.Random(0)
    fair = [item(str(i), "which colour?", rng.choice("rgb"), f"{i}") for i in range(300)]
    alone = text_baseline.cross_validate(fair, [[i] for i in range(300)])
    assert abs(alone.guess.value - 1 / 3) < 0.1 and alone.gain.verdict != "better"
    assert text_baseline.cross_validate(fair[:10], [[i] for i in range(10)]) is None


def test_the_guess_falls_back_to_the_beginning_then_to_the_majority():
    train = [item("1", "how many dogs are here?", "two"), item("2", "how many dogs bark?", "2"),
             *[item(f"m{i}", f"is thing {i} red?", "no") for i in range(5)]]  # fmt: skip
    guess = text_baseline.TextBaseline(train)
    assert guess.answer(item("x", "How many dogs sleep?", "")) == "2"
    assert guess.answer(item("x", "why?", "")) == "no" == guess.majority
    assert guess.scores([item("x", "why?", "No.")]) == {"x": 1.0}
    assert text_baseline.TextBaseline([]).answer(item("x", "why?", "")) == ""


def test_rows_of_one_picture_do_not_teach_each_other():
    # each picture has a question of its own, so that only another row of it can tell the answer
    rows = [
        item(f"{p}-{k}", f"code of {p}?", f"x{p}", f"{p}-{k}.png")
        for p in range(20)
        for k in range(5)
    ]
    groups = [[5 * p + k for k in range(5)] for p in range(20)]
    assert text_baseline.cross_validate(rows, groups).guess.value == 0
    assert text_baseline.cross_validate(rows, [[i] for i in range(100)]).guess.value > 0.9


# Controls


def test_blind_items_have_no_picture_and_no_marker(folder):
    parsed = read_rows(folder, [talk("<image>What?", "A", "And?", "B"), talk("Q", "A", image=None)])
    (unseen,) = controls.blind(parsed.items)
    assert unseen.images == () and unseen.id == parsed.items[0].id
    assert [turn.text for turn in unseen.turns] == ["What?", "A", "And?", "B"]


@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 5))
@settings(deadline=None)
def test_shuffled_pictures_are_never_the_own_ones(n, per_picture, seed):
    rows = [
        item(f"{p}-{k}", f"question {k}?", f"{p}", f"{p}.png")
        for p in range(n)
        for k in range(per_picture)
    ]
    deal = controls.shuffled(rows, seed)
    assert len(deal.items) + len(deal.left_out) == len(rows) and not deal.left_out
    own = {each.id: each.images for each in rows}
    assert all(each.images != own[each.id] for each in deal.items)
    assert controls.shuffled(list(reversed(rows)), seed).items == tuple(reversed(deal.items))


def test_shuffled_pictures_keep_their_frequency_and_avoid_the_same_answer():
    rows = [item(str(i), "red?", ["yes", "no"][i % 2], f"{i}.png") for i in range(40)]
    deal = controls.shuffled(rows, 3)
    assert not deal.left_out
    answer = {each.images[0]: each.answer for each in rows}
    assert all(answer[each.images[0]] != each.answer for each in deal.items)
    assert Counter(e.images for e in deal.items) == Counter(e.images for e in rows)
    # all the same: no other picture would be wrong
    same = [item(str(i), "red?", "yes", f"{i}.png") for i in range(5)]
    assert controls.shuffled(same).items == () and len(controls.shuffled(same).left_out) == 5


def test_questions_without_answers_get_other_pictures_too():
    rows = [
        VlmItem(str(i), (Path(f"{i % 3}.png"),), (Turn("user", f"<image>{i}?"),), "")
        for i in range(9)
    ]
    deal = controls.shuffled(rows)
    assert all(new.images != old.images for new, old in zip(deal.items, rows, strict=True))


def test_copies_of_a_picture_are_the_same_picture():
    rows = [
        item("1", "q1?", "a", "a.png"),
        item("2", "q2?", "b", "b.png"),
        item("3", "q3?", "c", "c.png"),
    ]
    facts = picture_facts.PictureFacts(originals={Path("b.png"): Path("a.png")})
    for seed in range(6):
        deal = controls.shuffled(rows, seed, facts)
        pictures = {each.id: each.images[0].name for each in deal.items}
        assert pictures["1"] == pictures["2"] == "c.png" and pictures["3"] in ("a.png", "b.png")


def scores(n, share, seed=0):
    rng = random.Random(seed)
    return {str(i): float(rng.random() < share) for i in range(n)}


def test_the_verdict_names_a_score_from_the_text_alone():
    seeing = scores(200, 0.7)
    blind = {**seeing, "0": 1 - seeing["0"]}
    verdict = controls.verdict(seeing, blind, shuffled_scores=blind, metric="exact match")
    assert not verdict.needs_picture
    assert "the score comes from the text alone, as far as 200 items show" in verdict.render()
    assert "any picture does" in verdict.render() and verdict.render().startswith("exact match")
    verdict = controls.verdict(scores(200, 0.95), scores(200, 0.5, 1), scores(200, 0.45, 2))
    assert verdict.needs_picture and "text alone" not in verdict.render()
    assert len(verdict.comparisons) == 2
    assert "Holm over 2" in verdict.comparisons["with the picture against without"].test
    assert "not known" in controls.verdict(seeing).render()


def test_the_verdict_tells_what_the_training_gained_from_words():
    base, base_blind = scores(300, 0.3, 1), scores(300, 0.3, 2)
    learned = scores(300, 0.7, 3)
    words_only = controls.verdict(learned, dict(learned), None, base, base_blind)
    assert "it learned the answers' words" in words_only.render()
    assert "text alone" in words_only.render()
    seeing = controls.verdict(scores(300, 0.9, 4), scores(300, 0.3, 5), None, base, base_blind)
    assert "made it use the picture more" in seeing.render()
    one = controls.verdict(seeing={"a": 1.0}, unseeing={"a": 0.0})
    assert not one.needs_picture  # one item shows nothing
    groups = {str(i): i // 100 for i in range(300)}
    few = controls.verdict(scores(300, 0.9, 4), scores(300, 0.3, 5), groups=groups)
    assert not few.needs_picture  # three pictures show nothing


# Presence


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes") / "coco"
    scenes = [made_pictures.scene(i, n_objects=1 + i % 3) for i in range(30)]
    return reader.read(made_pictures.write_coco(root, scenes), "detect")


def test_presence_questions_are_balanced_and_true(boxes):
    questions = presence_questions.presence_questions(boxes, n=2)
    shown = {p.path: {boxes.classes[b.label] for b in p.boxes} for p in boxes.pictures}
    assert set(questions) == {"random", "popular", "adversarial"}
    for rows in questions.values():
        assert Counter(each.answer for each in rows)["yes"] * 2 == len(rows) > 0
        assert len({each.id for each in rows}) == len(rows)
        for each in rows:
            name = each.id.rpartition(":")[2]
            assert (name in shown[each.images[0]]) == (each.answer == "yes")
            assert each.question == f"Is there a {name} in the image?"
    asked = [{e.id for e in rows if e.answer == "yes"} for rows in questions.values()]
    assert asked[0] == asked[1] == asked[2]
    assert questions == presence_questions.presence_questions(boxes, n=2)
    few = presence_questions.presence_questions(boxes, max_pictures=3)
    assert len({each.images for each in few["random"]}) == 3


def test_absent_things_by_frequency_and_by_company(tmp_path):
    names = ["cat", "dog", "bus", "tree", "eel"]
    # tree: most pictures; dog: always beside the cat
    shown = [{0, 1}] * 4 + [{3}] * 9 + [{2}] * 5 + [{0}, {4}]
    pictures = []
    for i, labels in enumerate(shown):
        boxes = tuple(made_box(label) for label in labels)
        pictures.append(
            presence_questions.Picture(tmp_path / f"{i}", f"{i:02d}", 50, 50, "", boxes)
        )
    dataset = presence_questions.ImageDataset(tmp_path, "coco", tuple(names), pictures)
    questions = presence_questions.presence_questions(dataset, n=1)

    def absent(strategy):
        (row,) = [q for q in questions[strategy] if q.id[:3] == "18:" and q.answer == "no"]
        return row.id.rpartition(":")[2]

    assert absent("popular") == "tree" and absent("adversarial") == "dog"
    assert any("Is there an eel" in q.question for q in questions["random"])
    with pytest.raises(DataError, match="no question of presence"):
        presence_questions.presence_questions(dataset, min_side=90)
    alone = presence_questions.ImageDataset(tmp_path, "coco", ("cat",), pictures[18:19])
    with pytest.raises(DataError, match="no question of presence"):
        presence_questions.presence_questions(alone)


def made_box(label):
    from onecard.datasets.images.records import Box

    return Box(label, 1, 1, 40, 40)


# Settings


def test_settings_have_help():
    assert all(describe(VlmDataConfig).values())
    assert VlmDataConfig(images=("~/x",)).images[0].startswith("/")


def test_an_item_shows_itself(folder):
    (one,) = read_rows(folder, [talk("<image>What?", "A")]).items
    assert one.as_dict()["messages"][1] == {"role": "assistant", "content": "A"}
    assert one.prompt == one.turns[:1] and one.place == "set/rows.jsonl:1"
    buffer = io.StringIO(json.dumps(one.as_dict()))
    assert json.load(buffer)["id"] == "rows.jsonl:1"
    asked = read_rows(folder, [{"image": "a.png", "question": "Q?"}], needs_answer=False).items[0]
    assert not asked.has_answer and asked.answer == "" and asked.prompt == asked.turns
