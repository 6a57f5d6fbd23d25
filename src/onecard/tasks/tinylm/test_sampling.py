"""Prompts with escapes, and the text at which generation ends."""

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")

from onecard.tasks.tinylm import model, sampling, tokenization  # noqa: E402
from onecard.tasks.tinylm.configs import GenerateConfig  # noqa: E402
from onecard.tasks.tinylm.model_config import ModelConfig  # noqa: E402

LETTERS = "abcde \n\té漢"


@pytest.fixture(params=["char", "bpe"])
def writer(request):
    """A function that generates 80 tokens with a net of random weights."""
    tokenizer = tokenization.char_tokenizer(set(LETTERS))
    if request.param == "bpe":
        tokenizer = tokenization.train_bpe(iter([LETTERS * 30]), 270, code=False)
    torch.manual_seed(0)
    net = model.TinyLM(ModelConfig(tokenizer.get_vocab_size(), 128, 1, 2, 2, 32, 48)).eval()

    def write(prompt, stop="", seed=0):
        config = GenerateConfig(stop=stop, seed=seed, temperature=1)
        return list(sampling.generate_text(net, tokenizer, prompt, 80, config))

    return write


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (r"KING:\n", "KING:\n"),
        (r"a\tb", "a\tb"),
        (r"a\\nb", r"a\nb"),
        (r"\d+ \x", r"\d+ \x"),
        ("a\nb", "a\nb"),
        ("\\", "\\"),
    ],
)
def test_escapes(typed, read):
    assert sampling.unescape(typed) == read


def test_a_prompt_is_read_with_its_escapes(writer):
    assert "".join(writer(r"a\nb\t")).startswith("a\nb\t")


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("at", [0, 7, 31])
def test_it_ends_where_the_stop_text_comes(writer, length, at):
    prompt = "abc"
    texts = ("".join(writer(prompt, seed=seed))[len(prompt) :] for seed in range(50))
    seed, whole = next((i, text) for i, text in enumerate(texts) if len(text) > 40)
    stop = whole[at : at + length]
    pieces = writer(prompt, stop=stop, seed=seed)
    assert "".join(pieces) == prompt + whole[: whole.index(stop)]


def test_a_stop_text_that_never_comes_costs_no_letter(writer):
    """Also where the text ends with its beginning."""
    whole = "".join(writer("abc")).rstrip("\ufffd")
    assert "".join(writer("abc", stop="XYZ")) == whole
    assert "".join(writer("abc", stop=whole[-2:] + "XYZ")) == whole


def test_the_stop_text_of_the_prompt_does_not_end_it(writer):
    assert len("".join(writer("abcde", stop="abcde"))) > len("abcde")
