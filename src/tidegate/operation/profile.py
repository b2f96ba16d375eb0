"""Look at what came in, hour by hour and slice by slice, beside the reference."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Protocol

import msgspec

from tidegate.contract.slicing import Slicing
from tidegate.core.error import InvalidSetting
from tidegate.monitoring.period import (
    WHOLE,
    Anchor,
    Moved,
    PeriodProfile,
    ProfileStore,
    Span,
    anchor_of,
    coarser,
    moved,
    profiles_of,
    same_hour,
    summed,
)
from tidegate.monitoring.profile import Profile
from tidegate.monitoring.subject import History, Subject

Days = tuple[date, date]


class CountedHistory(History, Protocol):
    """A history that knows how many records a day has without reading them."""

    def n_records(self, day: date) -> int:
        """Return how many records there are of a day, by which one knows that no more have come."""
        ...


class ProfileView(msgspec.Struct, frozen=True):
    """One period or one slice beside the reference.

    Attributes:
        minute: Where the period begins, minutes since 1970 UTC; None: the whole stretch of days.
        part: Field and value of the slice; empty texts: everything.
        n_rows: Answered records in it.
        n_reference: Records of the reference that it is compared with.
        moved: Each field, the farthest from the reference first.
        profile: Its counts by bin.
    """

    minute: int | None
    part: tuple[str, str]
    n_rows: int
    n_reference: int
    moved: tuple[Moved, ...]
    profile: Profile


class ProfileBook:
    """A service's profiles against one reference; hours of a day are counted once and kept."""

    def __init__(
        self,
        history: CountedHistory,
        subject: Subject,
        slicing: Slicing,
        store: ProfileStore,
        *,
        reference: Days | None = None,
    ) -> None:
        """Take a history.

        Args:
            history: Its records.
            subject: How it is watched.
            slicing: By what its records are counted apart.
            store: Where profiles are kept.
            reference: What they are compared with; None: the first days of the history, as many as
                the service declares.

        Raises:
            InvalidSetting: There is no record in the reference.
        """
        self._history = history
        self._service = subject.service
        self._slicing = slicing
        self._store = store
        days = history.days()
        if reference is None:
            first = days[: subject.monitoring.reference_days]
            reference = (first[0], first[-1]) if first else (date.min, date.min)
        basis = history.records(*reference)
        if not basis.height:
            raise InvalidSetting(
                f"Service {subject.service!r} has no records in the reference.",
                hint="Name one: --reference FIRST..LAST. `tidegate journal count` shows what there is.",
            )
        self._days = set(days)
        self.anchor: Anchor = anchor_of(basis, [*subject.inputs, *subject.outputs], slicing)
        self.reference = [each for day in _days(reference) for each in self.hours(day)]

    @property
    def last_day(self) -> Days:
        """The last day that has records."""
        last = max(self._days)
        return last, last

    def hours(self, day: date) -> list[PeriodProfile]:
        """Return a day's profiles by hour and slice."""
        if day not in self._days:
            return []
        n_rows = self._history.n_records(day)
        kept = self._store.kept(self._service, self.anchor, day)
        if kept is not None and kept[0] == n_rows:
            return kept[1]
        found = profiles_of(self._history.records(day, day), self.anchor, self._slicing, Span.HOUR)
        self._store.keep(self._service, self.anchor, day, n_rows, found)
        return found

    def periods(self, over: Days, span: Span, part: tuple[str, str] = WHOLE) -> list[ProfileView]:
        """Return what came in by period: minutes and hours beside the reference's same hours of the day."""
        by_hour = same_hour(self.reference)
        whole = summed(self.reference)
        views = []
        for day in _days(over):
            for each in self._of_day(day, span):
                if each.part != part:
                    continue
                hour = each.minute % Span.DAY // Span.HOUR
                before = whole.get(part) if span is Span.DAY else by_hour.get((hour, part))
                views.append(self._view(each.minute, part, each.profile, before or Profile()))
        return views

    def _of_day(self, day: date, span: Span) -> list[PeriodProfile]:
        if span is not Span.MINUTE:
            return coarser(self.hours(day), span)
        if day not in self._days:
            return []
        return profiles_of(self._history.records(day, day), self.anchor, self._slicing, span)

    def slices(self, over: Days, field: str) -> list[ProfileView]:
        """Return what came in by slice, each beside the same slice of the reference, the most moved first.

        Raises:
            InvalidSetting: Records are not counted apart by that field.
        """
        if field not in self.anchor.slices:
            known = ", ".join(self.anchor.slices) or "none"
            raise InvalidSetting(
                f"Records of {self._service!r} are not profiled by {field!r}.",
                hint=f"Slices: {known}. Declare others with tg.Monitoring(slices=(...)).",
                field=field,
            )
        before = summed(self.reference)
        now = summed(each for day in _days(over) for each in self.hours(day))
        views = [
            self._view(None, part, profile, before.get(part, Profile()))
            for part, profile in now.items()
            if part[0] == field
        ]
        return sorted(views, key=lambda view: (-max((m.beyond for m in view.moved), default=0.0), view.part))

    def _view(
        self, minute: int | None, part: tuple[str, str], profile: Profile, before: Profile
    ) -> ProfileView:
        found = tuple(moved(profile, before, self.anchor.grids))
        return ProfileView(minute, part, profile.n_rows, before.n_rows, found, profile)


def _days(span: Days) -> list[date]:
    return [span[0] + timedelta(days=n) for n in range((span[1] - span[0]).days + 1)]
