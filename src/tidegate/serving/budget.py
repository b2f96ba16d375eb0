"""Which of the models that were loaded on demand have to go when memory runs short.

Source: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy",
HP Labs 1998: what is asked for often, costs much to load again and takes little room stays; what has not
been asked for since ages, whatever it was worth then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator


class Resident:
    """A model that was loaded on demand.

    Attributes:
        name: Of its service.
        size_bytes: What it takes, as measured.
        load_s: What loading it again would take.
    """

    __slots__ = ("_asked", "_seen", "load_s", "name", "size_bytes", "worth")

    def __init__(self, name: str, *, size_bytes: int, load_s: float, asked: Callable[[], int]) -> None:
        """Take what was measured.

        Args:
            name: Of its service.
            size_bytes: What it takes.
            load_s: How long it took to load.
            asked: How many requests it has had.
        """
        self.name = name
        self.size_bytes = max(1, size_bytes)
        self.load_s = load_s
        self._asked = asked
        self._seen = -1  # so that a model that was just loaded is worth something
        self.worth = 0.0

    def renew(self, age: float) -> float:
        """Return its worth now: above `age` only if it was asked for since the last look."""
        n_asked = self._asked()
        if n_asked != self._seen:
            self._seen = n_asked
            self.worth = age + (1 + n_asked) * self.load_s / self.size_bytes
        return self.worth


class ModelBudget:
    """Keeps the models that were loaded on demand within so many bytes."""

    def __init__(self, limit_bytes: int) -> None:
        """Take the bound.

        Args:
            limit_bytes: What they may take together.
        """
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._residents: dict[str, Resident] = {}
        self._age = 0.0

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, name: str) -> bool:
        return name in self._residents

    def add(self, resident: Resident) -> None:
        """Take a model in."""
        self.drop(resident.name)
        self._residents[resident.name] = resident
        self.used_bytes += resident.size_bytes

    def drop(self, name: str) -> None:
        """Let a model go."""
        gone = self._residents.pop(name, None)
        if gone is not None:
            self.used_bytes -= gone.size_bytes

    def evict(
        self, *, down_to_bytes: int | None = None, keep: Callable[[str], bool] = lambda name: False
    ) -> Iterator[str]:
        """Yield the names of models to close, least worth first, until the rest is within the bound.

        Args:
            down_to_bytes: The bound, if another than the limit.
            keep: Whether a model has to stay for now.
        """
        bound = self.limit_bytes if down_to_bytes is None else down_to_bytes
        if self.used_bytes <= bound:
            return
        ranked = sorted(self._residents.values(), key=lambda resident: resident.renew(self._age))
        for resident in ranked:
            if self.used_bytes <= bound:
                return
            if keep(resident.name):
                continue
            self._age = max(self._age, resident.worth)
            self.drop(resident.name)
            yield resident.name
