"""What a running server says of itself."""

from __future__ import annotations

import pytest

from tidegate.bootstrap.overview import port_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "https://127.0.0.1:8080"),
        ("localhost", "https://localhost:8080"),
        ("::1", "https://[::1]:8080"),
        ("::", "https://[::]:8080"),
    ],
)
def test_a_host_of_ipv6_stands_in_brackets(host: str, url: str) -> None:
    assert port_url("https", host, 8080) == url
