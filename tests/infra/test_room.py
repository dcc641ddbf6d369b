"""How often the cluster is looked at while work waits for nodes."""

import pytest

from infra.job import Resources
from infra.nodes import Room


@pytest.mark.parametrize(("patience_s", "look_s"), [(600.0, 5.0), (1.0, 1.0), (0.0, 0.1)])
def test_looks_are_as_near_as_the_patience_asks_and_never_without_a_pause(patience_s: float, look_s: float) -> None:
    assert Room("render", Resources(), patience_s=patience_s).look_s == look_s
