"""A driver that no longer hears of actors gives up instead of waiting without end."""

import time
from collections.abc import Iterator

import pytest

from infra.errors import UserError
from infra.hearing import Echo, Hearing
from infra.job import Resources
from infra.nodes import Room, rows_while_room

pytestmark = pytest.mark.ray
# To the driver, an actor that no node can ever hold is like one of whose creation it does not hear.
UNHEARD = {"resources": {"nowhere": 1}}


def test_an_echo_answers(ray_cluster: None) -> None:
    assert Echo().answered(60.0)
    assert not Echo(**UNHEARD).answered(1.0)


def test_silence_with_an_answer_goes_on_and_silence_without_one_ends(ray_cluster: None) -> None:
    alive, deaf = Hearing("render", quiet_s=0.2, patience_s=60.0), Hearing("render", quiet_s=0.2, patience_s=1.0, options=UNHEARD)
    answers = 0
    end = time.monotonic() + 120
    while answers < 2 and time.monotonic() < end:  # asked again while the silence lasts
        asked = alive._echo is not None
        alive.check()
        answers += asked and alive._echo is None
        time.sleep(0.05)
    assert answers == 2
    with pytest.raises(UserError, match=r"render: this process no longer hears of actors.*since 1 s"):
        while True:
            deaf.check()
            time.sleep(0.05)


def test_what_comes_ends_the_silence(ray_cluster: None) -> None:
    hearing = Hearing("render", quiet_s=0.0, patience_s=0.0, options=UNHEARD)
    hearing.check()  # asks
    hearing.heard()
    hearing.check()  # asks anew
    with pytest.raises(UserError):
        hearing.check()


def test_rows_that_never_come_are_not_waited_for(ray_cluster: None) -> None:
    def rows() -> Iterator[int]:
        yield 1
        time.sleep(600)

    read = rows_while_room(rows(), Room("encode", Resources()), Hearing("encode", quiet_s=0.5, patience_s=1.0, options=UNHEARD))
    assert next(read) == 1
    with pytest.raises(UserError, match="encode: this process no longer hears"):
        next(read)
