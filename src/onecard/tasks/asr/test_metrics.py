"""Errors in languages with words and in those without: no model."""

import pytest

pytest.importorskip("transformers", reason="installed by make test")

from onecard.tasks.asr import metrics


@pytest.mark.parametrize(
    ("heard", "reference", "language", "wrong"),
    [
        ("今天天气很好。", "今天天氣很好", "zh", 0),
        ("臺灣的電腦", "台湾的电脑", "zh", 0),
        ("今天天气很坏", "今天天氣很好", "zh", 1),
        ("今日は雨です。", "今日は、雪です", "ja", 1),
        ("今天天气很好。", "今天天氣很好", "en", 0),
    ],
    ids=["other script", "other variants", "one character", "japanese", "language detected wrong"],
)
def test_characters_are_the_measure_without_spaces(heard, reference, language, wrong):
    errors = metrics.count_errors(heard, reference, language)
    assert errors.words == 0
    assert errors.char_errors == wrong
    assert errors.rate == pytest.approx(wrong / errors.chars)


def test_no_word_error_rate_is_told_where_nothing_has_words():
    chinese = metrics.count_errors("今天很坏", "今天很好", "zh")
    assert set(metrics.error_rates([chinese] * 3)) == {"cer"}
    english = metrics.count_errors("good day", "good night", "en")
    rates = metrics.error_rates([chinese, english, english])
    assert rates["wer"].value == pytest.approx(0.5), "words of English alone"


def test_japanese_characters_are_not_made_chinese():
    assert metrics.count_errors("学校の図書館", "学校の圖書館", "ja").char_errors == 1
