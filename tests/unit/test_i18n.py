"""Two languages: which one is spoken, what is translated, and what never is."""

import contextvars
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard import config, fsio, i18n, tasks
from onecard.cli.app import main
from onecard.cli.help_format import wrap
from onecard.errors import DataError
from onecard.reporting import Result, TerminalReporter, display_width, show, table

ROOT = Path(__file__).parents[2]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def module(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


messages = module(ROOT / "scripts" / "messages.py")


@pytest.fixture(autouse=True)
def english(monkeypatch):
    """The language of the developer's terminal changes no test, and none is left behind."""
    for name in ("ONECARD_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    i18n.catalog.cache_clear()
    with i18n.use("en"):
        yield
    i18n.catalog.cache_clear()


# Which language


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_TW.UTF-8"}, "zh_TW"),
        ({"LANG": "zh_HK"}, "zh_TW"),
        ({"LANG": "zh_MO.big5hkscs"}, "zh_TW"),
        ({"LANG": "zh_Hant_SG"}, "zh_TW"),
        ({"LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh"}, "en"),
        ({"LANG": "zh_TWX"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_TW.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh_TW"),
        ({"LANG": "zh_TW.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": ""}, "zh_TW"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "fr:zh_TW:en"}, "zh_TW"),
        ({"LANG": "zh_TW.UTF-8", "LANGUAGE": "en"}, "en"),
        ({"LANG": "zh_TW.UTF-8", "LANGUAGE": "fr"}, "zh_TW"),
        ({"LANG": "C", "LANGUAGE": "zh_TW"}, "en"),
        ({"LANG": "C", "ONECARD_LANG": "zh_TW"}, "zh_TW"),
        ({"LANG": "zh_TW.UTF-8", "ONECARD_LANG": "en"}, "en"),
        ({"LANG": "zh_TW.UTF-8", "ONECARD_LANG": "klingon"}, "en"),
    ],
)
def test_the_locale_chooses_as_in_gettext(environ, language):
    assert i18n.from_locale(environ) == language


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-TW,zh;q=0.9,en-US;q=0.8,en;q=0.7", "zh_TW"),
        ("zh-Hant-TW", "zh_TW"),
        ("ZH-tw", "zh_TW"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "en"),
        ("en;q=0.3, zh-TW;q=0.4", "zh_TW"),
        ("en;q=0.4, zh-TW;q=0.3", "en"),
        ("zh-TW;q=0, en;q=0.1", "en"),
        ("zh-TW;q=0", "en"),
        ("de, fr;q=0.5, zh-HK;q=0.1", "zh_TW"),
        ("en, zh-TW", "en"),
        ("zh-TW; q = 0.5 , en;q=0.4", "zh_TW"),
        ("zh-TW;q=2, en;q=0.1", "en"),
        ("zh-TW;q=nan, en;q=0.1", "en"),
        ("zh-TW;level=1, en;q=0.1", "en"),
        ("*", "en"),
        (",;,q=;=,zh-TW", "zh_TW"),
    ],
)
def test_a_browser_chooses_by_its_weights(header, language):
    assert i18n.from_header(header) == language


@given(st.text(alphabet="zhtwen-_;,q=.0159*nafi \x00\n中", max_size=200) | st.text())
def test_no_header_breaks_the_choice(header):
    assert i18n.from_header(header) in i18n.LANGUAGES


@given(st.dictionaries(st.sampled_from(["LANG", "LC_ALL", "LANGUAGE", "ONECARD_LANG"]), st.text()))
def test_no_locale_breaks_the_choice(environ):
    assert i18n.from_locale(environ) in i18n.LANGUAGES


def test_an_unknown_language_is_english():
    i18n.use("../../etc")
    assert i18n.current() == "en"
    assert i18n.catalog("../../etc") == {}


# The catalogue


def test_every_message_is_translated_and_none_is_left_over():
    """`python scripts/messages.py` lists the same; `--append` adds what is missing."""
    assert messages.faults("zh_TW") == []


def test_the_sources_of_messages_are_all_read():
    """A source that is read no more would let its messages go unnoticed."""
    rows = messages.messages()
    origins = set(rows.values())
    for word in ("glossary", "reporting.py", "cli/app.py", "word", "onecard doctor", "doctor.py"):
        assert word in origins
    help_texts = {
        text
        for task in tasks.all_tasks().values()
        for schema in tasks.configs(task).values()
        for text in config.describe(schema).values()
    }
    assert len(help_texts) > 400
    assert {("", text) for text in help_texts} <= rows.keys()


def test_translations_are_chinese_and_simplified_chinese_is_not():
    """All but names and file lists hold Chinese; no character that only simplified Chinese has."""
    simplified = set("这个为么们请输数据库设备会发时说语类网络训练显卡预测试验证图档读写")
    simplified -= set("這個為麼們請輸數據庫設備會發時說語類網絡訓練顯卡預測試驗證圖檔讀寫")
    translations = list(i18n.catalog("zh_TW").values())
    assert not [text for text in translations if simplified & set(text)]
    assert sum(bool(CHINESE.search(text)) for text in translations) > 0.95 * len(translations)


def test_missing_messages_are_appended_once_and_nothing_is_touched(tmp_path, monkeypatch):
    text = messages.po_file("zh_TW").read_text(encoding="utf-8")
    blocks = text.rstrip("\n").split("\n\n")
    kept = "\n\n".join(block for block in blocks if 'msgid "Peak learning rate."' not in block)
    path = tmp_path / "onecard.po"
    path.write_text(kept + "\n", encoding="utf-8")
    complete = dict.fromkeys(messages.entries("zh_TW"), "somewhere")
    monkeypatch.setattr(messages, "messages", lambda: complete)
    monkeypatch.setattr(messages, "po_file", lambda language: path)
    assert messages.append("zh_TW") == 1
    assert path.read_text(encoding="utf-8").startswith(kept)
    assert messages.append("zh_TW") == 0
    assert messages.faults("zh_TW") == ["empty: 'Peak learning rate.'"]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (('msgstr "峰值"', 'msgstr ""'), "empty"),
        (("{n} 項", "項"), "placeholders differ"),
        (("#. cli/commands/doctor.py", "#, fuzzy"), "fuzzy"),
        (('msgid "all is well"', 'msgid "all is not well"'), "unused"),
    ],
)
def test_faults_of_a_catalogue_are_found(damage, fault, tmp_path, monkeypatch):
    text = messages.po_file("zh_TW").read_text(encoding="utf-8")
    text = text.replace('msgstr "學習率的最高值。"', 'msgstr "峰值"', 1)
    path = tmp_path / "onecard.po"
    path.write_text(text.replace(*damage), encoding="utf-8")
    monkeypatch.setattr(messages, "po_file", lambda language: path)
    assert any(row.startswith(fault) for row in messages.faults("zh_TW"))


def test_messages_of_the_web_page_are_gathered(tmp_path, monkeypatch):
    web = tmp_path / "web"
    (web / "templates").mkdir(parents=True)
    (web / "static").mkdir()
    (web / "templates" / "a.html").write_text(
        '{{ _("It\'s one") }} <b title="{{ _(\'two\') }}"> {% trans %}three{% endtrans %}'
        '{{ _("a " ~ "b") }} {{ x_("no") }}'
    )
    (web / "static" / "a.js").write_text(
        """t("four"); t('fi\\'ve', {n: 1}); t("six " +\n  "seven"); part("no"); a.t("no")"""
    )
    (web / "a.py").write_text('_("eight " "nine"); gettext("ten"); other("no"); _(name)')
    monkeypatch.setattr(messages, "SRC", tmp_path)
    texts = {text for _, text, _ in messages._web()}
    assert texts == {"It's one", "two", "three", "a b", "four", "fi've", "six seven", *NINE}


NINE = {"eight nine", "ten"}


def test_placeholders_are_filled_after_the_translation():
    with i18n.use("zh_TW"):
        assert i18n.gettext("{n} to mend").format(n=3) == "有 3 項需要處理"
    assert i18n.gettext("{n} to mend", "zh_TW") != "{n} to mend"
    assert i18n.gettext("no such message", "zh_TW") == "no such message"
    assert i18n.gettext("", "zh_TW") == ""


def test_a_compiled_catalogue_is_kept_and_read_again(monkeypatch, empty_home):
    assert i18n.gettext("fits", "zh_TW") == "放得下"
    kept = list((empty_home / "locale").glob("*.mo"))
    assert len(kept) == 1
    i18n.catalog.cache_clear()
    monkeypatch.setattr(i18n, "_compile", None)
    assert i18n.gettext("fits", "zh_TW") == "放得下"


@pytest.mark.parametrize("content", [b"", b"junk", "cut"])
def test_a_damaged_compiled_catalogue_is_made_again(content, empty_home):
    i18n.catalog("zh_TW")
    path = next((empty_home / "locale").glob("*.mo"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    i18n.catalog.cache_clear()
    assert i18n.gettext("fits", "zh_TW") == "放得下"
    assert path.read_bytes() == whole


def test_an_older_compiled_catalogue_is_removed(empty_home):
    older = empty_home / "locale" / "onecard-zh_TW-0000.mo"
    older.parent.mkdir()
    older.write_bytes(b"old")
    i18n.catalog("zh_TW")
    assert not older.exists()


def test_a_home_that_cannot_be_written_costs_no_translation(monkeypatch, empty_home):
    def full(path):
        raise DataError("the disk is full", why="no space is left", fix="free some")

    monkeypatch.setattr(fsio, "atomic_write", full)
    assert i18n.gettext("fits", "zh_TW") == "放得下"
    assert not (empty_home / "locale").exists()


def test_english_reads_no_file(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(i18n, "catalog", None)
        assert i18n.gettext("fits") == "fits"


def test_an_installation_without_the_catalogue_speaks_english(monkeypatch, tmp_path):
    monkeypatch.setattr(i18n, "LOCALE", tmp_path)
    assert i18n.gettext("fits", "zh_TW") == "fits"


def test_the_catalogue_is_part_of_the_package():
    assert '"**/*.po"' in (ROOT / "pyproject.toml").read_text()


# Two languages at once


def test_threads_speak_their_own_language():
    both, said = threading.Barrier(2, timeout=20), {}

    def speak(language):
        i18n.use(language)
        both.wait()
        said[language] = [i18n.gettext("does not fit") for _ in range(200)]
        both.wait()

    threads = [threading.Thread(target=speak, args=(language,)) for language in i18n.LANGUAGES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(said["en"]) == {"does not fit"}
    assert set(said["zh_TW"]) == {"放不下"}
    assert i18n.current() == "en"


def test_a_context_is_left_as_it_was():
    def inside():
        i18n.use("zh_TW")
        return i18n.current()

    assert contextvars.copy_context().run(inside) == "zh_TW"
    with i18n.use("zh_TW"), i18n.use("en"):
        assert i18n.current() == "en"
    assert i18n.current() == "en"


# The command line


HELP = [
    ["--help"],
    ["rag", "--help"],
    ["finetune", "train", "--help"],
    ["plan", "qlora", "--help"],
    ["plan", "--help"],
    ["detect", "plan", "--help"],
    ["models", "--help"],
    ["runs", "--help"],
    ["doctor", "--help"],
    ["explain-oom", "--help"],
]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_is_chinese_and_leaves_no_english_sentence(words, capsys):
    assert main(["--lang", "zh_TW", *words]) == 0
    shown = capsys.readouterr().out
    sentences = [line for line in shown.splitlines() if re.search(r"(?:\b[a-z]{2,} ){5}", line)]
    assert CHINESE.search(shown)
    assert not sentences


@pytest.mark.parametrize("words", HELP[:-1], ids=" ".join)
def test_help_keeps_every_flag(words, capsys):
    def flags():
        assert main(words) == 0
        return re.findall(r"^\s+(--\w+|-\w, --\w+|[a-z-]{3,}(?=  ))", capsys.readouterr().out, re.M)

    english = flags()
    words = [*words, "--lang=zh_TW"]
    assert flags() == english


@pytest.mark.parametrize(
    "words",
    [
        ["--lang", "zh_TW", "rag", "search", "--help"],
        ["rag", "--lang", "zh_TW", "search", "--help"],
        ["rag", "search", "--help", "--lang", "zh_TW"],
        ["rag", "search", "--lang=zh-tw", "--help"],
    ],
)
def test_the_language_may_stand_anywhere(words, capsys):
    assert main(words) == 0
    assert "只列出段落" in capsys.readouterr().out
    assert i18n.current() == "en"


def test_the_locale_chooses_where_no_flag_does(monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_TW.UTF-8")
    main(["--help"])
    assert "任務" in capsys.readouterr().out
    main(["--help", "--lang", "en"])
    assert not CHINESE.search(capsys.readouterr().out)


def test_two_dashes_end_the_search_for_the_flag(capsys):
    assert main(["rag", "search", "--nope", "--", "--lang", "zh_TW"]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--lang", "fr"], ["plan", "--lang"], ["--lang=", "fit"]])
def test_a_language_that_is_not_spoken_is_refused(words, capsys):
    assert main(words) == 2
    assert "--lang en or --lang zh_TW" in capsys.readouterr().err


def test_a_plan_speaks_chinese(capsys):
    assert main(["plan", "qlora", "llama-3.1-8b", "--card", "4070ti", "--lang", "zh_TW"]) == 0
    shown = capsys.readouterr().out
    for word in ("放得下 (", "總計", "權重", "理由"):
        assert word in shown


def test_what_programs_read_is_the_same_in_both(capsys):
    words = ["plan", "qlora", "llama-3.1-8b", "--card", "4070ti", "--json"]
    assert main(words) == 0
    english = json.loads(capsys.readouterr().out)
    assert main([*words, "--lang", "zh_TW"]) == 0
    assert json.loads(capsys.readouterr().out) == english
    assert english["verdict"] == "fits"


def test_errors_have_labels_in_the_language_and_json_stays(capsys):
    assert main(["models", "pull", "--lang", "zh_TW", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "錯誤: 無法理解這行指令" in err
    assert "原因:" in err
    assert "解法:" in err
    assert json.loads(out)["error"]["what"] == "the command line is not understood"


def test_warnings_have_a_label_in_the_language(capsys):
    with i18n.use("zh_TW"):
        TerminalReporter().warn("x")
    assert capsys.readouterr().err == "警告: x\n"


def test_doctor_and_runs_speak_chinese(capsys, monkeypatch):
    monkeypatch.setattr(
        "onecard.api.machine.doctor",
        lambda: Result(
            {"bad": 0}, "", (table([["good", "disk", "1", ""]], ["state", "what", "found", "fix"]),)
        ),
    )
    assert main(["doctor", "--lang", "zh_TW"]) == 0
    shown = capsys.readouterr().out
    assert "正常" in shown
    assert "一切正常" in shown
    assert main(["runs", "--lang", "zh_TW"]) == 0
    assert "還沒有執行紀錄" in capsys.readouterr().out


def test_words_of_a_table_are_translated_and_data_are_not():
    rows = [["good", "good"], ["bad", "better: +0.1 [+0.0, +0.2], p=0.010"]]
    english = table(rows, ["state", "answer"])
    with i18n.use("zh_TW"):
        chinese = table(rows, ["state", "answer"])
    assert english.rows == rows
    assert [row[0] for row in chinese.rows] == ["正常", "異常"]
    assert [row[1] for row in chinese.rows] == [row[1] for row in rows]
    assert len({display_width(line) for line in str(chinese).splitlines()[1:2]}) == 1


def test_the_verdict_before_its_figures_is_translated(capsys):
    text = "wer: better: -0.120 [-0.2, -0.1], p=0.001\nthe answer is better: it says so"
    show(Result({}, text))
    assert capsys.readouterr().out == f"{text}\n"
    with i18n.use("zh_TW"):
        show(Result({}, text))
    assert capsys.readouterr().out == text.replace("better: -", "變好: -") + "\n"


def test_a_chinese_line_is_as_wide_as_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    main(["finetune", "train", "--help", "--lang", "zh_TW"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(display_width, lines)) > 50
    wide = [line for line in lines if display_width(line) > 60]
    assert all(" " not in line.strip() for line in wide)  # only a word that cannot be cut
    assert not [line for line in lines if line.strip()[:1] in "，。、；：？！）」" if line.strip()]


@given(st.text(alphabet="ab 中文字，。（）「」0", max_size=80), st.integers(4, 40))
def test_wrapping_keeps_every_letter(text, width):
    lines = wrap(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())


@pytest.mark.parametrize("language", ["en", "zh_TW"])
def test_a_start_in_english_loads_no_babel_and_a_second_one_in_chinese_neither(language, tmp_path):
    environ = os.environ | {"ONECARD_HOME": str(tmp_path), "ONECARD_LANG": language}
    code = (
        "import sys; from onecard.cli.app import main; main(['--help']); "
        "print('babel' in sys.modules, file=sys.stderr)"
    )

    def babel_loaded():
        run = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        return run.stderr.split()[-1]

    assert babel_loaded() == str(language == "zh_TW")
    assert babel_loaded() == "False"
