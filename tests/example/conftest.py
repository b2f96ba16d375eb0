"""The archive, read once."""

import flight_data
import pytest


@pytest.fixture(scope="session")
def archive():
    return flight_data.load_flights()
