"""Batches made ahead: order, depth, errors, and what is reported of their speed. Threads are held by events, not by sleeping."""

import random
import threading
import time

import pytest
import torch

import training.loader as loader_module
from training.loader import Loader, to_device


def test_order_is_that_of_the_steps_whatever_the_threads_do():
    rng = random.Random(0)

    def make(step, k):
        time.sleep(rng.random() * 0.003)
        return {"uid": [f"{step}.{k}"]}

    for ahead, readers in ((0, 1), (1, 3), (5, 4)):
        with Loader(make, range(7, 12), 3, ahead, readers).running() as loader:
            taken = [[batch["uid"][0] for batch in loader.next().batches] for _ in range(5)]
            assert taken == [[f"{step}.{k}" for k in range(3)] for step in range(7, 12)]
            with pytest.raises(IndexError):
                loader.next()


def test_so_many_steps_are_made_ahead_and_no_more():
    begun, allowed = [], threading.Event()

    def make(step, k):
        begun.append(step)
        if step > 0:
            allowed.wait(10)
        return {}

    with Loader(make, range(100), 1, ahead=3, readers=8).running() as loader:
        loader.next()
        while len(begun) < 4:
            time.sleep(0.001)
        time.sleep(0.05)
        assert sorted(begun) == [0, 1, 2, 3]
        allowed.set()


def test_an_error_of_a_reader_reaches_the_caller_and_the_rest_is_dropped():
    begun = []

    def make(step, k):
        begun.append(step)
        if step == 2:
            raise KeyError("no such object")
        return {}

    with pytest.raises(KeyError, match="no such object"):
        with Loader(make, range(1000), 1, ahead=2, readers=1).running() as loader:
            for _ in range(3):
                loader.next()
    assert max(begun) <= 4


class Clock:
    """Time that passes when told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(loader_module.time, "perf_counter", lambda: self.now)


def test_speed_counts_only_the_time_in_which_readers_work(monkeypatch):
    clock = Clock(monkeypatch)

    def make(step, k):
        clock.now += 0.25
        return {}

    with Loader(make, range(4), 2, ahead=0, readers=1).running() as loader:
        assert loader.take_speed() is None
        for _ in range(3):
            loader.next()
            clock.now += 100.0  # the caller computes
        assert loader.take_speed() == pytest.approx(4.0)
        assert loader.take_speed() is None


def test_two_readers_at_work_count_once(monkeypatch):
    clock, both = Clock(monkeypatch), threading.Barrier(2)

    def make(step, k):
        both.wait(10)  # both are inside
        if k == 0:
            clock.now += 0.5
        both.wait(10)
        return {}

    with Loader(make, range(1), 2, ahead=0, readers=2).running() as loader:
        loader.next()
        assert loader.take_speed() == pytest.approx(4.0)


def test_waiting_is_what_the_caller_stood_still(monkeypatch):
    clock = Clock(monkeypatch)

    def make(step, k):
        clock.now += 0.125
        return {}

    with Loader(make, range(2), 1, ahead=0, readers=1).running() as loader:
        assert loader.next().wait_s in (0.0, 0.125)  # 0 where the reader was through before the caller began to wait


def test_tensors_move_wherever_they_are():
    moved = to_device({"a": torch.ones(1), "b": [torch.ones(1), "text"], "c": (1, torch.ones(1))}, torch.device("meta"))
    assert moved["a"].is_meta and moved["b"][0].is_meta and moved["c"][1].is_meta and moved["b"][1] == "text"
