"""Events that come over the control port: into the online store, by the registered view's transform."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tidegate.bootstrap.feature import open_store
from tidegate.bootstrap.local import Local
from tidegate.feature.online import OnlineStore, Pushed

if TYPE_CHECKING:
    from tidegate.feature.view import FeatureView

_LOOK_S = 1.0
"""How long a definition is taken for current: a view keeps its meaning as long as it keeps its name."""


class Pusher:
    """Takes events in any thread; each has its own store, which belongs to the thread that opened it."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._own = threading.local()
        self._views: dict[str, tuple[float, FeatureView]] = {}

    def push(self, view: str, rows: Sequence[Mapping[str, Any]]) -> Pushed:
        """Put events of a registered view.

        Raises:
            NotFound: No service declares the view.
            InvalidFeatureData: A row is none of the view's table. Nothing was put.
            OnlineStoreUnavailable: The store failed; pushing again is safe.
            StoreUnavailable: The definition cannot be read.
        """
        from tidegate.feature.materialise import push_all  # brings the data frames

        put = push_all(self._view(view), rows, self._store())
        return Pushed(put.n_events, put.n_new)

    def _view(self, name: str) -> FeatureView:
        from tidegate.feature.expression import view_of
        from tidegate.operation.feature import find_view

        local = self._local
        now_s = local.clock.monotonic_s()
        known = self._views.get(name)
        if known is None or now_s - known[0] > _LOOK_S:
            view = view_of(find_view(local.unit, local.artifacts, name))
            known = self._views[name] = (now_s, view)
        return known[1]

    def _store(self) -> OnlineStore:
        store: OnlineStore | None = getattr(self._own, "store", None)
        if store is None:
            store = self._own.store = open_store(self._local.home, self._local.settings.online_store)
        return store
