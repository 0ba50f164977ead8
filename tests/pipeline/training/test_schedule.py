from __future__ import annotations

import pytest

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.schedule import ScheduleConfig, learning_rate


def test_warm_up_rises_in_a_line_to_the_peak() -> None:
    config = ScheduleConfig(epochs=10, warmup=2)
    rates = [learning_rate(config, 1.0, step, 100) for step in range(20)]
    assert rates[:3] == pytest.approx([0.05, 0.10, 0.15])
    assert rates[18] == pytest.approx(0.95)
    assert rates[19] == pytest.approx(1.0)


def test_cosine_passes_half_way_and_ends_at_the_floor() -> None:
    config = ScheduleConfig(epochs=10, warmup=2, floor=0.01)
    assert learning_rate(config, 1.0, 59, 100) == pytest.approx((1.0 + 0.01) / 2)
    assert learning_rate(config, 1.0, 99, 100) == pytest.approx(0.01)


def test_clevr_recipe_drops_by_a_fifth_after_epochs_20_and_22() -> None:
    config = ScheduleConfig(kind="step", epochs=23, warmup=3)
    steps = 23 * 50

    def rate(epoch: float) -> float:
        return learning_rate(config, 1e-4, int(epoch * 50), steps)

    assert rate(19.9) == pytest.approx(1e-4)
    assert rate(20.1) == pytest.approx(2e-5)
    assert rate(21.9) == pytest.approx(2e-5)
    assert rate(22.1) == pytest.approx(4e-6)


def test_a_drop_within_the_warm_up_counts_from_its_end_on() -> None:
    config = ScheduleConfig(kind="step", epochs=4, warmup=2, drops=(1.0,), factor=0.25)
    assert [learning_rate(config, 1.0, step, 8) for step in range(8)] == [0.25, 0.5, 0.75, *[0.25] * 5]


def test_no_warm_up_starts_near_the_peak() -> None:
    assert learning_rate(ScheduleConfig(epochs=1, warmup=0), 1.0, 0, 1000) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"warmup": 25}, {"warmup": -1}])
def test_lengths_that_make_no_run_are_refused(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"^schedule\.{key}: {value}:"):
        ScheduleConfig(**wrong)  # type: ignore[arg-type]


def test_the_defaults_are_those_of_the_papers_recipe() -> None:
    found = ScheduleConfig()
    assert (found.kind, found.epochs, found.warmup, found.floor) == ("cosine", 25.0, 3.0, 1e-6)
    assert (found.drops, found.factor) == ((20.0, 22.0), 0.2)


def test_the_last_step_of_an_epoch_is_taken_before_the_drop_and_the_next_one_after_it() -> None:
    config = ScheduleConfig(kind="step", epochs=4, warmup=1, drops=(2.0, 3.0), factor=0.25)
    rates = [learning_rate(config, 1.0, step, 16) for step in range(16)]
    assert rates == [0.25, 0.5, 0.75, 1.0, *[1.0] * 4, *[0.25] * 4, *[0.0625] * 4]
