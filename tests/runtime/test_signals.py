"""Stops wait for the end of a block, with the handlers that the process has."""

import os
import signal
import threading

import pytest
from dassl.engine.signals import STOPS, PutOff


@pytest.fixture
def came():
    """Signals that the process's own handler has got; it does nothing else."""
    came = []
    before = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in STOPS}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_waits_for_the_end(came, number):
    before = {each: signal.getsignal(each) for each in STOPS}
    with PutOff() as stop:
        send(number)
        assert stop.waiting == number
        assert came == []
    assert came == [number]
    assert {each: signal.getsignal(each) for each in STOPS} == before


def test_it_is_delivered_once_and_when_asked(came):
    with PutOff() as stop:
        stop.deliver()
        send(signal.SIGTERM)
        stop.deliver()
        assert came == [signal.SIGTERM]
        assert stop.waiting is None
    assert came == [signal.SIGTERM]


def test_the_same_a_second_time_acts_at_once(came):
    with PutOff() as stop:
        send(signal.SIGTERM)
        send(signal.SIGINT)  # another one adds nothing
        assert came == []
        send(signal.SIGTERM)
        assert came == [signal.SIGTERM]
        assert stop.waiting == signal.SIGTERM


def test_ctrl_c_raises_at_the_end_and_not_over_an_error():
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def fail():
        send(signal.SIGINT)
        raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt), PutOff():
        send(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), PutOff():
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_that_a_handler_sets_stay(came):
    def ignore(number, frame):
        pass

    def stop(number, frame):
        signal.signal(signal.SIGHUP, ignore)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with pytest.raises(KeyboardInterrupt), PutOff():
        send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is ignore
    assert signal.getsignal(signal.SIGTERM) is stop


def test_a_signal_without_handler_is_the_systems(came):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with PutOff() as stop:
        send(signal.SIGUSR1)
        assert stop.waiting is None


def test_in_another_thread_nothing_is_put_off(came):
    def work():
        with PutOff():
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
