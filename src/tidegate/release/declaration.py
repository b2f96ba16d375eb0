"""What a service says of its experiments: declared with it, kept with each of its versions."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from tidegate.core.declared import Declared
from tidegate.core.error import InvalidSetting


class Experiment(Declared, frozen=True, omit_defaults=True, kw_only=True):
    """What experiments on a service measure, and how they draw keys.

    Attributes:
        arms: Arm -> share of the keys, in (0, 1), for arms that are started without one.
        outcome: Name of the outcome that counts, of each key's first answer that has one; "": none does.
        against: Output that foretells it: what counts is that both differ. Without one it is the outcome
            itself: that it is true or above 0.
        beyond: Difference above which two numbers differ.
        number: Whether the outcome's number itself counts, and is averaged.
        alpha: Probability that any interval, of any arm at any time, misses what it promises to hold.
    """

    arms: dict[str, float] = msgspec.field(default_factory=dict)
    outcome: str = ""
    against: str = ""
    beyond: float = 0.5
    number: bool = False
    alpha: float = 0.05

    def checked(self, outputs: Collection[str]) -> Experiment:
        """Return the declaration, as it fits a service.

        Raises:
            InvalidSetting: It contradicts itself, or compares with what is no output.
        """
        if not 0 < self.alpha < 1:
            raise InvalidSetting(f"An experiment's alpha lies between 0 and 1. Got {self.alpha}.")
        for arm, share in self.arms.items():
            if not 0 < share < 1:
                raise InvalidSetting(
                    f"The share of arm {arm!r} of an experiment lies between 0 and 1. Got {share}.", arm=arm
                )
        if sum(self.arms.values()) >= 1:
            raise InvalidSetting(
                f"The arms of an experiment leave some keys to stable. Got {self.arms}, which leaves none.",
                hint="Give shares that add up to less than 1.",
            )
        if self.against and (self.number or not self.outcome or self.against not in outputs):
            raise InvalidSetting(
                f"An experiment compares an outcome with an output. Got outcome {self.outcome!r} against "
                f"{self.against!r}{' as a number' if self.number else ''}.",
                hint=f"Outputs: {', '.join(outputs)}. A number is averaged as it is, against nothing.",
            )
        return self
