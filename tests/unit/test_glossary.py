"""The glossary: its terms, the settings they name, and the page that is made of them."""

import importlib.util
import re
from pathlib import Path

from onecard import glossary, tasks

ROOT = Path(__file__).parents[2]


def generated_page():
    """As docs/generate.py makes it."""
    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate.glossary_page()


def test_every_setting_named_in_the_glossary_exists():
    fields = {
        field
        for task in tasks.all_tasks().values()
        for schema in tasks.configs(task).values()
        for field in schema.model_fields
    }
    names = {alias for term in glossary.terms() for alias in term.aliases}
    named = {name for name in names if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name)}
    other = {"adamw_torch", "adamw_8bit", "paged_adamw_8bit", "q4_k_m", "q8_0", "q5_k_m"}
    scores = {"tokens_per_s", "real_time_factor", "eval_loss", "train_loss", "val_loss"}
    scores |= {"general_loss", "balanced_accuracy", "pixel_accuracy", "relaxed_accuracy"}
    scores |= {"exact_match", "bits_per_char", "grad_norm", "clip_t", "map50_95"}
    assert named - other - scores <= fields


def test_terms_are_named_once():
    names = [term.term.lower() for term in glossary.terms()]
    assert len(names) == len(set(names)) > 90
    assert names == sorted(names)


def test_a_definition_is_one_or_two_sentences():
    for term in glossary.terms():
        assert term.definition.endswith("."), term.term
        assert len(re.findall(r"[.:;] [A-Z]", term.definition)) <= 2, term.term
        assert len(term.definition) < 300, term.term


def test_a_term_is_told_in_chinese():
    term = next(each for each in glossary.terms() if each.term == "learning rate")
    chinese = term.localized("zh_TW")
    assert chinese.term == "學習率（learning rate）"
    assert re.search(r"[\u4e00-\u9fff]", chinese.definition)
    assert chinese.aliases == term.aliases
    assert term.localized("en") == term


def test_the_glossary_page_is_made_from_the_terms():
    """python docs/generate.py"""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert page == generated_page()
