"""A flight model that expects another unit, and a healthy retrain, at their gates; servers are left out.

`python -m benchmarks.gates` has every kind of broken model, on all rows and with servers.
"""

from __future__ import annotations

import pytest

from benchmarks.gates import Lab, judge
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings


@pytest.mark.slow
def test_a_model_of_kilometres_is_stopped_and_a_healthy_retrain_passes(archive, tmp_path):
    with Local(Settings(home=str(tmp_path))) as local:
        lab = Lab(local, archive.sample(fraction=0.25, seed=0), with_load=False)
        lab.deploy_champion()
        scenarios = {
            name: scenario
            for name, scenario in lab.scenarios().items()
            if name.startswith(("healthy", "trained on kilometres"))
        }

        states = {name: lab.gate(scenario.make()) for name, scenario in scenarios.items()}

    assert len(states) == 2
    for name, state in states.items():
        assert judge(name, scenarios[name], state), state.words
