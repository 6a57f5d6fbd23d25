"""`onecard fit`: every row names its format and a command that plans the same."""

import shlex

import pytest

from onecard import api
from onecard.cli.app import main


@pytest.mark.parametrize("card", ["8gb", "12gb", "24gb"])
def test_every_command_of_the_table_plans_what_it_says(card, capsys):
    rows = [row for row in api.fit_card(card).data["rows"] if row["model"]]
    assert len(rows) >= 10
    for row in rows:
        words = shlex.split(row["command"])
        assert words[0] == "onecard"
        assert main([*words[1:], "--card", card]) == 0, row["command"]
        assert "does not fit" not in capsys.readouterr().out, row["command"]


def chat(card):
    return next(r for r in api.fit_card(card).data["rows"] if r["workload"] == "llm-infer")


def test_a_mixture_is_kept_with_experts_off_the_card():
    row = chat("4070ti")
    assert row["settings"]["n_cpu_moe"] > 0
    assert row["tokens_per_s"] > 30


def test_a_card_that_holds_all_keeps_the_experts():
    assert chat("24gb")["settings"]["n_cpu_moe"] == 0
