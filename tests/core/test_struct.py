"""What is decoded in several threads at once is learnt before."""

import subprocess
import sys

import msgspec

from tidegate.core.struct import learn_structs

THREADS = """
import sys, threading
import msgspec
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Contract, Schema
from tidegate.predictor.protocol import Spec
from tidegate.service.manifest import Manifest

contract = Contract(Schema((Field("x", DataType.FLOAT64),)), Schema((Field("p", DataType.FLOAT64),)))
data = Manifest("delay", contract, Spec("constant", options={"outputs": {"p": 0.5}})).to_json()
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)

def read():
    barrier.wait()
    Manifest.from_json(data)

threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_manifests_are_read_in_many_threads_at_once():
    """A worker does so at its start; while each thread had to learn the class, it ended five times of six."""
    assert subprocess.run([sys.executable, "-c", THREADS], check=False, timeout=60).returncode == 0


def test_what_cannot_be_learnt_is_passed_over():
    class Odd(msgspec.Struct):
        what: "NoSuchName"  # noqa: F821 - the point

    assert learn_structs() > 0
