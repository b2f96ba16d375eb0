"""How a service's answers are judged: declared with the service, kept with each of its versions.

Workers read it with the manifest, so it imports nothing that measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from tidegate.contract.field import DataType, Role
from tidegate.contract.schema import Contract, Field
from tidegate.core.declared import Declared
from tidegate.core.error import InvalidSetting

Task = Literal["binary", "multiclass", "regression", "ranking", "forecast"]


class CostMatrix(Declared, frozen=True):
    """What one decision brings, by what happens then. Gains are positive, costs negative.

    Attributes:
        true_positive: Acted, and it happened.
        false_positive: Acted, and it did not happen.
        false_negative: Did not act, and it happened.
        true_negative: Did not act, and it did not happen.
        currency: Unit of all four, for example `EUR`.
    """

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float
    currency: str

    def threshold(self) -> float:
        """Return the probability from which acting is worth more than not, if it is calibrated.

        Raises:
            InvalidSetting: Acting is not better when it happens, or not worse when it does not: then
                no threshold separates the two.

        Source: Elkan, The foundations of cost-sensitive learning, IJCAI 2001.
        """
        regret_of_acting = self.true_negative - self.false_positive
        regret_of_waiting = self.true_positive - self.false_negative
        if not (regret_of_acting > 0 and regret_of_waiting > 0):
            raise InvalidSetting(
                "A cost matrix must make acting better where it happens and worse where it does not.",
                hint="Costs are negative: check the signs.",
            )
        return regret_of_acting / (regret_of_acting + regret_of_waiting)


class Monotone(Declared, frozen=True, tag="monotone"):
    """A rule: with more of one column and all else equal, the prediction never goes the other way.

    Attributes:
        column: A column of numbers.
        direction: Which way the prediction may go as the column rises.
        tolerance: Steps back up to this much are forgiven, in the prediction's unit.
    """

    column: str
    direction: Literal["rising", "falling"]
    tolerance: float = 1e-9


class Invariant(Declared, frozen=True, tag="invariant"):
    """A rule: another value of one column, all else equal, does not change the prediction.

    Attributes:
        column: The column that must not matter.
        tolerance: Changes up to this much are forgiven, in the prediction's unit.
    """

    column: str
    tolerance: float = 1e-9


class Evaluation(Declared, frozen=True, omit_defaults=True, kw_only=True):
    """What is measured of a model, beside what follows from its contract.

    Attributes:
        target: Column that holds what came true, and name of the outcome in the journal. Empty: what
            the trainer's trial calls it.
        output: Output field that is judged; empty: the only one that can be.
        task: What is predicted; None: an event where the output is a probability, else a number, or
            classes where the output has one value a class.
        classes: Names of the classes, in the order of the output's values.
        event_time: Column that says when a row happened: the report then says how old it is.
        group: Column whose rows are no independent evidence, such as the day.
        query: Of a ranking: column that says which results stand in one list.
        season: Of a forecast: steps of a season.
        threshold: From which probability on one acts; None: the best one where costs are declared,
            else 0.5.
        costs: What decisions bring in money.
        protected: Protected attributes, by column; they need not be inputs. Inputs that the contract
            calls protected are among them anyway.
        rules: What has to hold of the model, whatever the rows.
    """

    target: str = ""
    output: str = ""
    task: Task | None = None
    classes: tuple[str, ...] = ()
    event_time: str = ""
    group: str = ""
    query: str = ""
    season: int = 1
    threshold: float | None = None
    costs: CostMatrix | None = None
    protected: Sequence[str] = ()
    rules: Sequence[Monotone | Invariant] = ()

    def checked(self, contract: Contract) -> Evaluation:
        """Return the declaration, as it fits a contract.

        Raises:
            InvalidSetting: It names a field that the contract lacks, or one that cannot be judged.
        """
        for rule in self.rules:
            if rule.column not in contract.input.by_name:
                raise InvalidSetting(
                    f"The rule on {rule.column!r} names no input field.",
                    hint=f"Input fields: {', '.join(contract.input.names)}.",
                    field=rule.column,
                )
            kind = contract.input.by_name[rule.column].type
            if isinstance(rule, Monotone) and not (kind.is_float or kind.is_integer):
                raise InvalidSetting(
                    f"A monotone rule needs a field of numbers; {rule.column!r} is {kind}.", field=rule.column
                )
        if self.output and self.output not in contract.output.by_name:
            raise InvalidSetting(
                f"The evaluation judges {self.output!r}, which is no output field.",
                hint=f"Output fields: {', '.join(contract.output.names)}.",
                field=self.output,
            )
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise InvalidSetting(
                f"An evaluation has two classes or more, each once. Got {', '.join(self.classes)}.",
                hint="Name them in the order of the output: tg.Evaluation(classes=('no', 'yes')).",
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InvalidSetting(f"A threshold is a probability. Got {self.threshold}.")
        if self.costs is not None:
            self.costs.threshold()  # refuses costs under which no threshold is best
        return msgspec.structs.replace(self, protected=tuple(self.protected), rules=tuple(self.rules))

    def judged(self, contract: Contract) -> Field:
        """Return the output field that is judged.

        Raises:
            InvalidSetting: Several could be, and none is declared.
        """
        if self.output:
            return contract.output.by_name[self.output]
        numeric = [field for field in contract.output.fields if field.type.is_float]
        found = numeric or [field for field in contract.output.fields if field.type is not DataType.BYTES]
        if len(found) != 1:
            raise InvalidSetting(
                f"The contract has {len(found)} outputs that could be judged.",
                hint="Say which: tg.Evaluation(output=...).",
            )
        return found[0]

    def kind(self, contract: Contract) -> Task:
        """Return what is predicted, as declared or as the judged output has it."""
        field = self.judged(contract)
        if self.task is not None:
            return self.task
        if not field.is_scalar or field.type.is_text:
            return "multiclass"
        return "binary" if field.type.is_float and field.ge == 0 and field.le == 1 else "regression"

    def attributes(self, contract: Contract) -> tuple[str, ...]:
        """Return the protected attributes: the contract's, then those declared here."""
        own = [field.name for field in contract.input.fields if Role.PROTECTED in field.roles]
        return tuple(dict.fromkeys([*own, *self.protected]))
