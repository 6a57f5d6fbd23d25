"""easy-VQA: 48,248 questions about 5,000 pictures of one shape each."""

import time

import pytest

from onecard.evaluation import stats
from onecard.tasks.vlm import controls, picture_facts, picture_rows, text_baseline, validation


@pytest.fixture
def sets(shared):
    folder = shared / "data" / "easyvqa" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/easyvqa, which only the project's own machines have")
    return [picture_rows.read(folder / side) for side in ("train", "test")]


def test_all_rows_are_read_in_seconds(sets, shared):
    start = time.perf_counter()
    again = picture_rows.read(shared / "data" / "easyvqa" / "data" / "train")
    assert time.perf_counter() - start < 20  # 1.7 s on two free cores
    assert len(again.items) == 38_575
    assert [len(rows.items) for rows in sets] == [38_575, 9_673]
    assert not any(rows.rejected or rows.mendings or rows.unused for rows in sets)
    assert dict(sets[0].forms) == {"easy-VQA's [question, answer, picture]": 38_575}
    assert len({path for item in sets[1].items for path in item.images}) == 1000


def test_two_thirds_of_the_answers_need_no_picture(sets):
    train, test = sets
    report = validation.validate(train, test)
    # 22 test pictures look like training ones: the rows of those leave the training
    assert len(report.items) == 38_362 and len(report.evaluation) == 9_673
    assert report.text_alone.guess.value == pytest.approx(0.662, abs=0.004)
    assert report.text_alone.majority.value == pytest.approx(0.366, abs=0.004)
    assert "66.2 % [65.8, 66.7] of the answers follow from the question alone" in report.render()
    assert report.yes_no.total() == 35_389 and len(report.answers) == 13
    units = picture_facts.unit_names(report.evaluation, report.facts)
    guesses = text_baseline.TextBaseline(report.items).scores(report.evaluation)
    value = stats.mean_interval(list(guesses.values()), bounds=(0, 1)).value
    assert value == pytest.approx(0.669, abs=0.003)
    verdict = controls.verdict(guesses, guesses, groups=units)
    assert "the score comes from the text alone" in verdict.render()


def test_controls_and_split(sets):
    test = sets[1]
    facts = picture_facts.look(test.items)
    deal = controls.shuffled(test.items, 0, facts)
    assert len(deal.items) == 9_673 and not deal.left_out
    own = {item.id: item for item in test.items}
    assert not any(item.images == own[item.id].images for item in deal.items)
    train, held = validation.split(test.items, 0.2, 0, facts)
    assert len(held) == pytest.approx(1935, abs=20)
    assert not {i.images for i in train} & {i.images for i in held}
