"""The written parts of a card come from a file beside the service, and what is missing is asked for."""

from __future__ import annotations

import pytest

from tidegate.bootstrap.folder import load_service
from tidegate.core.decision import Verdict
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.gate import record
from tidegate.registry.card import Card
from tidegate.registry.card_file import read_card

SERVICE = """
import tidegate as tg


class Row(tg.Input):
    x: float


class Answer(tg.Output):
    y: float


service = tg.Service("paint", input=Row, output=Answer, card=tg.Card(owner="the painters"))
"""

CARD = """
intended_use = "Which pot to open."
limitations = '''
Two colours,
one wall.'''

[paint]
limitations = "One wall."

[other]
owner = "others"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "card.toml").write_text(CARD)
    return tmp_path


def test_a_file_beside_the_service_completes_what_the_service_declares(folder):
    card = load_service(folder).card

    assert card == Card(intended_use="Which pot to open.", limitations="One wall.", owner="the painters"), (
        "a service's own table counts over the top, and another's not at all"
    )
    assert card.missing == ()


def test_a_part_that_is_written_twice_otherwise_is_refused(folder):
    (folder / "card.toml").write_text('owner = "somebody else"')

    with pytest.raises(InvalidSetting, match="both write owner"):
        load_service(folder)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("owner = ", "TOML"), ('purpose = "x"', "no part 'purpose'"), ("owner = 3", "must be text")],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path, text, fault):
    path = tmp_path / "card.toml"
    path.write_text(text)

    with pytest.raises(InvalidSetting, match=fault) as caught:
        read_card(path, "paint")
    assert "card.toml" in caught.value.message
    with pytest.raises(NotFound):
        read_card(tmp_path / "nowhere.toml", "paint")


def test_the_gate_asks_for_what_is_missing_and_says_where_it_goes():
    found = record.card(("owner",))

    assert found.verdict is Verdict.UNDECIDED
    assert "Who answers for it" in found.reason
    assert "card.toml" in found.reason
