from __future__ import annotations

import pytest

from laconvnet.launch.supervision.goodput import Goodput


def test_only_the_time_of_new_steps_counts() -> None:
    goodput = Goodput(0.0)
    goodput.begin(0.0)
    for second in range(10, 21):  # ten seconds to start with, then a step a second
        goodput.reached(second - 9, float(second))
    assert goodput.share == pytest.approx(10 / 20)  # of steps 2 to 11; the first one ends the start
    goodput.begin(25.0)  # a rank was lost, and found
    goodput.reached(8, 30.0)  # goes on from 7
    goodput.reached(11, 33.0)  # three steps again
    assert goodput.share == pytest.approx(10 / 33)
    goodput.reached(13, 35.0)
    assert goodput.share == pytest.approx(12 / 35)
    goodput.begin(40.0)
    goodput.reached(12, 45.0)
    goodput.reached(16, 49.0)  # four steps in a look, three of them new
    assert goodput.share == pytest.approx(15 / 49)
    assert goodput.seconds == 49
