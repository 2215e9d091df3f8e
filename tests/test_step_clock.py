"""The parts of a step add up, and inner ones do not count twice."""

import time

import pytest
import torch

from step_clock import StepClock


def test_an_inner_part_does_not_count_for_the_outer_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = StepClock(torch.device("cpu"))
    for _ in range(2):
        with clock.part("loading"):
            now[0] += 1
        with clock.part("forward"):
            now[0] += 2
            with clock.part("backward"):
                now[0] += 4
            now[0] += 8
        now[0] += 16
    rows = [row.split() for row in clock.table(2).splitlines()]
    assert clock.seconds == {"other": 32, "loading": 2, "forward": 20, "backward": 8}
    assert [(name, float(ms), share) for name, ms, *_, share in rows] == [
        ("other", 16000, "51.6%"), ("forward", 10000, "32.3%"), ("backward", 4000, "12.9%"), ("loading", 1000, "3.2%"),
    ]


def test_a_part_ends_with_an_error_too():
    clock = StepClock(torch.device("cpu"))
    with pytest.raises(KeyError), clock.part("loading"):
        raise KeyError
    with clock.part("forward"):
        pass
    assert set(clock.seconds) == {"other", "loading", "forward"}
