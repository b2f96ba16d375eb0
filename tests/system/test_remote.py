"""A service whose model another server runs, over TLS: trained, served, broken, healed."""

from __future__ import annotations

import pytest
import trustme

from tests.certificate import write_certificate
from tests.system.model import add_version, deploy, write_sum
from tests.system.server import running, wait_until

SERVICE = """
import tidegate as tg

class Pair(tg.Input):
    a: float
    b: float

class Total(tg.Output):
    total: float

service = tg.Service("near", input=Pair, output=Total, fallback=tg.Constant({{"total": -1.0}}))

@service.trainer
def train(data, params):
    far = tg.Remote("https://127.0.0.1:{port}", model="far", timeout="2s")
    return tg.Trained(model=far, sample={{"a": [1.0, 2.0], "b": [3.0, 4.0]}})
"""


@pytest.mark.slow
def test_another_servers_model_is_trained_served_and_heals_with_it(tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    chain, key = write_certificate(authority, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    with running(tmp_path / "far", n_workers=1) as far, running(tmp_path / "near", n_workers=1) as near:
        add_version(far, "far", write_sum(far.folder / "far.onnx", 10.0))
        deploy(far, "far")
        far.start("--tls-certificate", chain, "--tls-key", key)
        folder = tmp_path / "near" / "service"
        folder.mkdir()
        (folder / "service.py").write_text(SERVICE.format(port=far.port))

        trained = near.command("train", folder)
        assert trained.returncode == 0, trained.stderr
        near.start(folder)

        def ask() -> tuple[int, float]:
            with near.client(timeout_s=60) as client:
                answer = client.post("/services/near/predict", {"a": 1.0, "b": 2.0})
            return answer.status, answer.json()["output"]["total"]

        assert ask() == (200, 13.0)
        far.stop()
        assert ask() == (200, -1.0)
        far.start("--tls-certificate", chain, "--tls-key", key)
        wait_until(lambda: ask() == (200, 13.0), what="the other server's answers")

        by = {record.answered_by or "model" for record in near.records(service="near")}
        assert by == {"model", "constant"}
