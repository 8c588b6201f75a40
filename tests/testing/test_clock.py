"""Time belongs to an exchange, and costs nothing when it is virtual."""

from __future__ import annotations

import threading
from math import inf

import pytest

from aivvm_testing.clock import SystemClock, VirtualClock


def test_virtual_time_passes_only_by_being_waited_for():
    clock = VirtualClock()
    with clock.exchange() as timer:
        assert timer.elapsed() == 0
        timer.wait_until(3600)
        timer.wait_until(60)
    assert timer.elapsed() == 3600
    assert clock.furthest == 3600


def test_two_exchanges_have_each_their_own_time():
    clock = VirtualClock()
    with clock.exchange() as one:
        pass
    with clock.exchange() as other:
        pass
    one.wait_until(60)
    assert other.elapsed() == 0


@pytest.mark.parametrize("make", [VirtualClock, SystemClock])
def test_an_exchange_that_begins_within_another_shares_its_time(make):
    clock = make()
    with clock.exchange() as outer, clock.exchange() as inner:
        assert inner is outer
    with clock.exchange() as outer:
        assert clock.timer() is outer
    assert clock.timer() is not outer


def test_threads_do_not_share_time():
    clock = VirtualClock()
    seen = []

    def begin():
        with clock.exchange() as timer:
            seen.append(timer)

    with clock.exchange() as mine:
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
    assert seen[0] is not mine


def test_an_exchange_that_fails_to_begin_leaves_no_time_behind():
    clock = VirtualClock()
    with pytest.raises(OSError, match="refused"), clock.exchange() as failed:
        raise OSError("refused")
    with clock.exchange() as timer:
        assert timer is not failed


def test_virtual_time_never_reaches_infinity():
    with VirtualClock().exchange() as timer, pytest.raises(ValueError, match="never reaches infinity"):
        timer.wait_until(inf)


def test_system_time_moves_and_a_wait_lasts():
    with SystemClock().exchange() as timer:
        timer.wait_until(0.002)
        assert timer.elapsed() >= 0.002
