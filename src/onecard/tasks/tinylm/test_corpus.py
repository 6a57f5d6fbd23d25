"""Texts to tokens: every character comes back, parts do not overlap, bad files are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from onecard.errors import DataError, NotFound, SettingsError
from onecard.reporting import Reporter
from onecard.tasks.tinylm import corpus, sizing, tokenization
from onecard.tasks.tinylm.configs import TrainConfig
from onecard.tasks.tinylm.tokenization import END_OF_TEXT

TEXT = (
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n\n"
    "The quick brown fox – 漢字 🙂 – jumps over 12 lazy dogs.\n\n    indented = code(7)\n"
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path / "home"))
    return tmp_path


def prepare(path, **more):
    return corpus.prepare(TrainConfig(dataset=str(path), **more), Reporter())


def text_of(row, tokenizer):
    return tokenizer.decode([int(i) for i in row], skip_special_tokens=False)


def test_a_tokenizer_of_characters_gives_each_character_one_token():
    letters = set(TEXT)
    tokenizer = tokenization.char_tokenizer(letters)
    ids, unknown = tokenization.encoder(tokenizer)(TEXT)
    assert len(ids) == len(TEXT) and not unknown and text_of(ids, tokenizer) == TEXT
    assert tokenizer.encode(TEXT, add_special_tokens=False).ids == ids.tolist(), (
        "the table and the library must agree"
    )
    assert tokenization.encoder(tokenizer)("aXa")[1] == 1


SCRIPTS = {
    "latin": "Zwölf Boxkämpfer jagen Viktor. Ça va, señor? Příliš žluťoučký kůň. ",
    "greek": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το σκυλί. ",
    "cyrillic": "Съешь же ещё этих мягких французских булок. ",
    "arabic": "نص حكيم له سر قاطع وذو شأن عظيم. ",
    "hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה. ",
    "hindi": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण। ",
    "thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ",
    "chinese": "敏捷的棕色狐狸跳过了懒狗。汉字很多。",
    "japanese": "いろはにほへと ちりぬるを、カタカナと漢字。",
    "korean": "키스의 고유조건은 입술끼리 만나야 하고. ",
    "emoji": "🙂👩‍👩‍👧 🇩🇪 ✈️ ",
}


@pytest.mark.parametrize("kind", ["bpe", "code"])
@pytest.mark.parametrize("vocab_size", [257, 300, 512])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bpe_with_few_merges_drops_no_letter(script, vocab_size, kind):
    """Each learned from one script must write all others too."""
    tokenizer = tokenization.train_bpe(
        iter([SCRIPTS[script] * 20]), vocab_size, code=kind == "code"
    )
    assert tokenization.char_vocabulary(tokenizer) is None
    encode, counts = tokenization.encoder(tokenizer), tokenization.chars_per_token(tokenizer)
    for text in SCRIPTS.values():
        ids, n_unknown = encode(text)
        assert not n_unknown and text_of(ids, tokenizer) == text
        assert counts[ids].sum() == len(text)


def test_a_corpus_with_byte_tokens_keeps_every_letter(home):
    text = "\n".join(SCRIPTS.values()) * 20
    book = home / "book.txt"
    book.write_text(text, encoding="utf-8")
    read = prepare(book, tokenizer="bpe", vocab_size=257)
    assert text_of(np.concatenate([read.train, read.val]), read.tokenizer) == text


def test_every_script_has_a_character_vocabulary():
    for text in SCRIPTS.values():
        tokenizer = tokenization.char_tokenizer(set(text))
        assert set(tokenization.char_vocabulary(tokenizer) or ()) >= set(text)


class Lines(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def line(self, text=""):
        self.told.append(text)


def test_characters_that_a_vocabulary_lacks_are_told(home):
    tokenizer = tokenization.char_tokenizer(set("abcdefgh \n"))
    path = home / "tokenizer.json"
    tokenizer.save(str(path))
    book = home / "book.txt"
    book.write_text("abc def gh\n" * 100 + "Ω", encoding="utf-8")
    reporter = Lines()
    read = corpus.prepare(TrainConfig(dataset=str(book), tokenizer=str(path)), reporter)
    assert read.facts["unknown_chars"] == 1
    assert reporter.told[-1].startswith("left out: 1 of 1,101 characters")


@pytest.mark.parametrize("kind", ["char", "bpe", "code"])
def test_tokens_give_the_text_back_whatever_the_tokenizer(home, kind):
    book = home / "book.txt"
    book.write_text(TEXT * 40, encoding="utf-8")
    result = prepare(book, tokenizer=kind, vocab_size=300)
    assert (
        text_of(result.train, result.tokenizer) + text_of(result.val, result.tokenizer) == TEXT * 40
    )
    counts = tokenization.chars_per_token(result.tokenizer)
    assert (
        counts[result.train].sum() + counts[result.val].sum()
        == len(TEXT) * 40
        == result.facts["chars"]
    )


def test_a_code_tokenizer_is_known_by_its_splitting_and_not_by_a_word(home):
    """A vocabulary may contain the word Digits itself."""
    book = home / "book.txt"
    book.write_text("Digits Digits Digits and other words\n" * 60)
    assert "Digits" in prepare(book, tokenizer="bpe", vocab_size=300).tokenizer.get_vocab()
    splits = {
        kind: tokenization.splits_digits(prepare(book, tokenizer=kind, vocab_size=300).tokenizer)
        for kind in ("bpe", "code")
    }
    assert splits == {"bpe": False, "code": True}


@pytest.mark.parametrize("kind", ["char", "bpe", "code"])
def test_llama_cpp_can_read_our_tokenizers(home, kind):
    book = home / "book.txt"
    book.write_text(TEXT * 40, encoding="utf-8")
    tokenizer = prepare(book, tokenizer=kind, vocab_size=300).tokenizer
    assert tokenization.incompatibility(tokenizer) == ""


def test_a_text_cut_in_pieces_has_the_same_tokens(monkeypatch, home):
    book = home / "book.txt"
    book.write_text(TEXT * 400, encoding="utf-8")
    first = prepare(book, tokenizer="bpe", vocab_size=400)
    again = home / "again"
    monkeypatch.setenv("ONECARD_HOME", str(again))
    monkeypatch.setattr(corpus, "PIECE_CHARS", 997)
    monkeypatch.setattr(corpus, "WHOLE_FILE_BYTES", 10)
    assert np.array_equal(
        corpus.prepare(TrainConfig(dataset=str(book)), Reporter(), first.tokenizer).train,
        first.train,
    )


def test_a_position_split_cuts_where_nanogpt_does(home):
    book = home / "book.txt"
    book.write_text("abcdefghij" * 100)
    result = prepare(book)
    assert (
        len(result.train) == 900
        and len(result.val) == 100
        and result.tokenizer.get_vocab_size() == 11
    )


def test_documents_and_files_stay_whole(home):
    folder = home / "notes"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.txt").write_text(f"<{i:02}> note one\n\n<{i:02}> note two\n\n")
    by_file = prepare(folder, split="file", val_share=0.3)
    train, val = (text_of(row, by_file.tokenizer) for row in (by_file.train, by_file.val))
    assert (
        all(
            (f"<{i:02}> note one" in val)
            == (f"<{i:02}> note two" in val)
            != (f"<{i:02}> note one" in train)
            for i in range(20)
        )
        and 3 <= val.count("one") <= 8
    )
    assert val.count(END_OF_TEXT) == val.count("one")
    by_document = prepare(folder, split="document", val_share=0.3)
    train, val = (
        text_of(row, by_document.tokenizer) for row in (by_document.train, by_document.val)
    )
    assert train.count("note") + val.count("note") == 40 and 4 <= val.count("note") <= 20
    (folder / "00.txt").write_text("<00> a\n\n<00> a\n\n<00> a\n\n")
    twins = prepare(folder, split="document", val_share=0.3)
    train, val = (text_of(row, twins.tokenizer) for row in (twins.train, twins.val))
    assert 0 in (train.count("<00> a"), val.count("<00> a")), "equal documents must lie in one part"


def test_jsonl_rows_are_documents(home):
    rows = home / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"row {i} says {i * 7}"}) + "\n" for i in range(50))
    )
    result = prepare(rows, split="document")
    assert (
        text_of(result.train, result.tokenizer).count(END_OF_TEXT)
        + text_of(result.val, result.tokenizer).count(END_OF_TEXT)
        == 50
    )


def test_a_bpe_vocabulary_has_not_seen_what_is_held_out(home):
    book = home / "book.txt"
    book.write_text("the cat sat on the mat. " * 90 + "zyxwv " * 40)
    assert not any(
        "zyxw" in word
        for word in prepare(book, tokenizer="bpe", vocab_size=400).tokenizer.get_vocab()
    )


def test_batches_are_the_same_whatever_came_before(home):
    book = home / "book.txt"
    book.write_text(TEXT * 40)
    result = prepare(book)
    assert np.array_equal(
        result.batch(3, 17, 8, 16), result.batch(3, 17, 8, 16)
    ) and not np.array_equal(result.batch(3, 17, 8, 16), result.batch(3, 18, 8, 16))
    rows = result.batch(0, 0, 64, 16)
    assert rows.shape == (64, 17) and text_of(rows[5], result.tokenizer) in TEXT * 40


@pytest.mark.parametrize(
    ("name", "content", "fault", "message"),
    [
        ("empty.txt", b"", DataError, "is empty"),
        ("one.txt", b"a" * 5000, DataError, "one character repeated"),
        ("picture.txt", bytes(range(256)) * 40, DataError, "binary"),
        (
            "noise.txt",
            bytes(np.random.default_rng(0).integers(1, 256, 5000, dtype=np.uint8)),
            DataError,
            "binary|no known encoding",
        ),
        ("broken.jsonl", b'{"text": "a b"}\n{"text": \n', DataError, "broken.jsonl:2"),
    ],
)
def test_a_bad_text_is_refused(home, name, content, fault, message):
    (home / name).write_bytes(content)
    with pytest.raises(fault, match=message):
        prepare(home / name)
    assert not list((home / "home").rglob("train.bin"))


def test_other_refusals(home):
    with pytest.raises(NotFound):
        prepare(home / "nowhere.txt")
    with pytest.raises(SettingsError):
        prepare("")
    book = home / "book.txt"
    book.write_text(TEXT)
    with pytest.raises(NotFound, match="no tokenizer"):
        prepare(book, tokenizer="wordy")
    with pytest.raises(SettingsError, match="split by file"):
        prepare(book, split="file")
    with pytest.raises(DataError, match="shorter than one block"):
        corpus.require_blocks(prepare(book), 256)
    other = tokenization.char_tokenizer(set("abc"))
    with pytest.raises(DataError, match="does not know this text"):
        corpus.prepare(TrainConfig(dataset=str(book)), Reporter(), other)


def test_latin_1_and_line_ends_are_read(home):
    book = home / "book.txt"
    book.write_bytes(
        ("Ein Märchen über Bären: König und Königin lebten glücklich.\r\n" * 50).encode("latin-1")
    )
    result = prepare(book)
    whole = text_of(result.train, result.tokenizer) + text_of(result.val, result.tokenizer)
    assert "Märchen über Bären" in whole and "\r" not in whole


def test_100_million_characters_are_not_read_into_memory(home):
    """Measured in a process of its own: 25 MB here, the bench has the 100."""
    book = home / "big.txt"
    with book.open("w") as file:
        for i in range(25):
            file.write((TEXT + f"chapter {i}\n") * (1_000_000 // len(TEXT)))
    code = f"""
from pathlib import Path
from onecard.tasks.tinylm import corpus
from onecard.tasks.tinylm.configs import TrainConfig
from onecard.runs.record import peak_rss_bytes
from onecard.reporting import Reporter
# some pieces: the memory that one takes is there before
Path({str(home / "small.txt")!r}).write_text({TEXT!r} * (2_000_000 // {len(TEXT)}))
corpus.prepare(TrainConfig(dataset={str(home / "small.txt")!r}), Reporter())
before = peak_rss_bytes()
result = corpus.prepare(TrainConfig(dataset={str(book)!r}), Reporter())
print(len(result.train), (peak_rss_bytes() - before) / 2**20)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    tokens, growth_mb = process.stdout.split()
    assert int(tokens) > 20_000_000
    assert float(growth_mb) < 60


@pytest.mark.parametrize("size", ["0.1m", "1m", "3m", "10m", "30m", "124m"])
def test_the_dial_meets_its_size(size):
    vocab = 66 if sizing.parse_size(size) < 5e7 else 8192
    setup = sizing.derive(TrainConfig(size=size), vocab, 0)
    assert 0.75 < setup.model_config.n_params / sizing.parse_size(size) < 1.25
    assert {"n_layer", "n_embd", "n_head", "d_ff", "block_size"} <= set(setup.reasons)
    assert all(f"  {name} " in setup.render() for name in setup.reasons)


@pytest.mark.parametrize(
    "more",
    [
        {"n_embd": 100, "n_head": 3},
        {"n_embd": 128, "n_head": 4, "n_kv_head": 3},
        {"n_embd": 36, "n_head": 4},
        {"size": "big"},
        {"size": "9b"},
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_the_next_that_do(more):
    with pytest.raises(SettingsError) as fault:
        sizing.derive(TrainConfig(**more), 66, 0)
    assert fault.value.fix.startswith("--")
