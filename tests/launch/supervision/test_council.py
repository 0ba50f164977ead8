"""When all ranks start again, when the job ends, and whose end is told."""

from __future__ import annotations

import signal

import pytest

from laconvnet.launch.outcomes import INTERRUPTED
from laconvnet.launch.supervision.council import (
    GRACE_SECONDS,
    PATIENCE_SECONDS,
    STOP_SECONDS,
    Begin,
    Clear,
    Council,
    Leave,
)
from laconvnet.launch.supervision.ends import End, by_signal, cause

KILLED = End(1, "node7", by_signal(signal.SIGKILL))
PEER = End(0, "node6", "Connection closed by peer", code=1, fault="net")
OWN = End(1, "node7", "ValueError: no such expression", code=1)
NODE = End(1, "node7", "uncorrectable ECC error", code=1, fault="gpu", of_node=True)
LATE = GRACE_SECONDS + 1


def begun(restarts: int = 2) -> Council:
    council = Council(2, restarts, 0.0)
    council.ready(0)
    assert council.decide(0.0) is None  # not all have come
    council.ready(1)
    assert council.decide(0.0) == Begin(0)
    return council


def again(council: Council, round: int) -> None:
    for rank in (0, 1):
        council.ready(rank)
    assert council.decide(0.0) == Begin(round)


def test_all_start_again_once_all_are_gone() -> None:
    council = begun()
    council.ended(1, 0, KILLED, 10.0)
    assert council.decide(10.1) is None  # who is at fault may be the last to be seen
    assert council.decide(10.0 + LATE) == Clear(0)
    assert council.decide(10.0 + LATE) is None
    council.ready(1)
    assert council.decide(10.0 + LATE) is None  # rank 0 is not gone yet
    council.ready(0)
    assert council.decide(10.0 + LATE) == Begin(1)
    assert council.last == KILLED


def test_nobody_waits_once_all_have_ended() -> None:
    council = begun()
    council.ended(0, 0, PEER, 10.0)
    council.ended(1, 0, KILLED, 10.0)
    assert council.decide(10.0) == Clear(0)
    assert council.last == KILLED


def test_a_word_of_an_earlier_round_comes_too_late() -> None:
    council = begun()
    council.ended(1, 0, KILLED, 0.0)
    assert council.decide(LATE) == Clear(0)
    again(council, 1)
    council.ended(0, 0, PEER, LATE)
    assert council.decide(3 * LATE) is None


def test_it_is_over_when_all_have_done_their_work() -> None:
    council = begun()
    council.ended(0, 0, End(0, "node6", "", 0), 0.0)
    assert council.decide(LATE) is None
    council.ended(1, 0, End(1, "node7", "", INTERRUPTED), 0.0)
    assert council.decide(LATE) == Leave()


def test_nobody_waits_for_ever_for_who_was_told_to_stop_before_it_could_agree() -> None:
    council = begun()
    council.ended(1, 0, End(1, "node7", "", INTERRUPTED), 10.0)
    assert council.decide(10.0 + STOP_SECONDS - 1) is None  # rank 0 may still save
    assert council.decide(10.0 + STOP_SECONDS + 1) == Leave()
    council = begun()
    council.ended(1, 0, End(1, "node7", "", 0), 10.0)
    assert council.decide(10.0 + STOP_SECONDS + 1) is None  # rank 0 may have more to do


@pytest.mark.parametrize("end", [OWN, NODE])
def test_what_starting_again_would_not_mend_ends_the_job(end: End) -> None:
    council = begun()
    council.ended(1, 0, end, 0.0)
    assert council.decide(LATE) == Leave(end)


def test_who_was_told_to_stop_is_not_started_again() -> None:
    council = begun()
    council.stopping = True
    council.ended(1, 0, KILLED, 0.0)
    assert council.decide(LATE) == Leave(KILLED)


def test_rounds_without_a_new_step_are_counted_and_a_new_step_forgives_them() -> None:
    council = begun(restarts=2)

    def lose(round: int) -> object:
        council.ended(1, round, KILLED, 0.0)
        return council.decide(LATE)

    assert lose(0) == Clear(0)
    again(council, 1)
    council.reached(5)
    assert lose(1) == Clear(1)
    again(council, 2)
    council.reached(5)  # no new one
    assert lose(2) == Clear(2)
    again(council, 3)
    assert lose(3) == Leave(KILLED, repeats=True)


def test_who_does_not_come_or_does_not_go_ends_the_job() -> None:
    council = Council(3, 1, 0.0)
    council.ready(0)
    council.ready(2)
    assert council.decide(PATIENCE_SECONDS - 1) is None
    late = council.decide(PATIENCE_SECONDS + 1)
    assert isinstance(late, Leave)
    assert late.because is not None
    assert (late.because.rank, late.because.may_pass) == (1, False)


def test_the_cause_is_who_was_ended_from_outside_then_who_failed_then_who_lost_a_peer() -> None:
    aborted = End(0, "node6", by_signal(signal.SIGABRT))  # as gloo and NCCL end who lost one
    assert cause([aborted, PEER, OWN, KILLED]) == KILLED
    assert cause([aborted, PEER, OWN]) == OWN
    assert cause([aborted, PEER]) == PEER
    assert cause([aborted]) == aborted
    assert cause([End(0, "node6", "", 0), End(1, "node7", "", INTERRUPTED)]) is None


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert "40" in by_signal(40)
    assert "memory" in by_signal(signal.SIGKILL)


def test_an_end_comes_through_the_wire_as_it_was() -> None:
    assert End.unpacked(NODE.packed()) == NODE
