"""Models come from MLflow's stores, and a store that is not there is not made."""

from __future__ import annotations

import pytest

from tidegate.bootstrap.local import Local
from tidegate.bootstrap.mlflow import import_model
from tidegate.bootstrap.setting import Settings
from tidegate.core.error import NotFound


def test_a_misspelt_store_is_not_found_and_not_made(tmp_path):
    place = tmp_path / "none.db"

    with Local(Settings(home=str(tmp_path / "home"))) as local, pytest.raises(NotFound, match=str(place)):
        import_model(local, "fraud", "models:/fraud/1", tracking=f"sqlite:///{place}")
    assert not place.exists()
