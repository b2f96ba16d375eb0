"""What only a person can say about a version: the written parts of its model card."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tidegate.core.declared import Declared
from tidegate.core.error import InvalidSetting


class Card(Declared, frozen=True, omit_defaults=True, kw_only=True):
    """The written parts, each a few sentences.

    Attributes:
        intended_use: Who asks, what for, and what is done with the answer.
        limitations: Where it should not be trusted, and why.
        owner: Who answers for it: a person or a team, and how to reach them.
        out_of_scope: Uses that it was not made for.
        training_data: What the rows are and how they came about, beyond what lineage says.
        ethics: Who could be harmed, and what is done about it.
    """

    intended_use: str = ""
    limitations: str = ""
    owner: str = ""
    out_of_scope: str = ""
    training_data: str = ""
    ethics: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """The required parts that nobody wrote."""
        return tuple(name for name in REQUIRED if not getattr(self, name).strip())

    def with_parts(self, parts: Iterable[tuple[str, str]]) -> Card:
        """Return the card with parts written anew.

        Raises:
            InvalidSetting: There is no such part.
        """
        given = dict(parts)
        for name in given:
            if name not in PARTS:
                raise InvalidSetting(
                    f"A model card has no part {name!r}.", hint=f"Parts: {', '.join(PARTS)}.", part=name
                )
        return msgspec.structs.replace(self, **given)


PARTS = tuple(Card.__struct_fields__)
REQUIRED = ("intended_use", "limitations", "owner")

QUESTIONS = {
    "intended_use": "Who asks, what for, and what is done with the answer?",
    "limitations": "Where should it not be trusted, and why?",
    "owner": "Who answers for it, and how are they reached?",
    "out_of_scope": "What was it not made for?",
    "training_data": "What are the rows, and how did they come about?",
    "ethics": "Who could be harmed, and what is done about it?",
}
