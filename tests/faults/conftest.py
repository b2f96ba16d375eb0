"""Servers that are hurt on purpose."""

from __future__ import annotations

from tests.system.conftest import server, shared

__all__ = ["server", "shared"]
