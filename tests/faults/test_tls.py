"""Both ports speak TLS where a certificate is given, and what cannot work is told before anything starts."""

from __future__ import annotations

import json
import ssl
import urllib.request

import pytest
import trustme

from tests.certificate import write_certificate
from tests.system.model import add_version, deploy, write_sum
from tests.system.server import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def certificate(authority, tmp_path):
    return write_certificate(authority, tmp_path)


def fetch(url, context, body=None):
    with urllib.request.urlopen(url, data=body, context=context, timeout=30) as response:
        return json.loads(response.read())


def test_both_ports_speak_tls_and_a_renewed_certificate_is_read_at_a_restart(
    server, authority, certificate, tmp_path
):
    chain, key = certificate
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    add_version(server, "sum", write_sum(server.folder / "sum.onnx", 0.0))
    deploy(server, "sum", version=1)
    server.start("--tls-certificate", chain, "--tls-key", key)
    data, control = f"https://127.0.0.1:{server.port}", f"https://127.0.0.1:{server.control_port}"

    answer = fetch(f"{data}/services/sum/predict", trusting, b'{"a":1,"b":2}')
    assert answer["output"] == {"total": 3.0}
    wait_until(lambda: reachable(f"{control}/healthz", trusting), what="the control port")
    with server.client() as client:  # not a word of TLS
        client.send(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.is_closed()

    other = trustme.CA()
    write_certificate(other, tmp_path)
    assert server.command("restart").returncode == 0

    with pytest.raises(OSError, match="certificate verify failed"):
        fetch(f"{data}/v2/health/live", trusting)
    renewed = ssl.create_default_context()
    other.configure_trust(renewed)
    assert fetch(f"{data}/v2/health/live", renewed)["live"]


def reachable(url, context):
    try:
        return fetch(url, context)
    except OSError:
        return None


def test_a_certificate_that_cannot_be_used_is_refused_before_anything_starts(server, certificate, tmp_path):
    chain, key = certificate
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")

    for arguments in (
        ("--tls-certificate", nonsense, "--tls-key", key),
        ("--tls-certificate", chain),
    ):
        done = server.command("up", *arguments)
        assert done.returncode == 1
        assert "TLS certificate cannot be used" in done.stderr

    done = server.command("up", "--tls-key", key)
    assert done.returncode == 1
    assert "without a certificate" in done.stderr
