"""Prefetching returns the same batches in the same order, and ends with its context."""

import threading

import pytest
import torch

from fromnoise.data.loader import feed

CPU, GPU, MPS = map(torch.device, ("cpu", "cuda", "mps"))


def square(step):
    return (torch.tensor([step]), torch.tensor([step**2]))


def names_of_threads():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("images")}


@pytest.mark.parametrize("steps", [[0, 1, 2, 3], [5, 6, 7], [2, 3, 9, 10, 4], [4, 4, 4]])
def test_every_step_gets_its_own_batch_in_any_order(steps):
    with feed(square, MPS) as get:
        batches = [tuple(each.item() for each in get(step)) for step in steps]
    assert batches == [(step, step**2) for step in steps]


def test_consecutive_steps_are_loaded_once_and_one_more_at_the_end():
    calls = []

    def load(step):
        calls.append(step)
        return square(step)

    with feed(load, MPS) as get:
        for step in range(3, 8):
            get(step)
    assert calls == [3, 4, 5, 6, 7, 8]


def test_the_next_step_is_loaded_while_this_one_is_used():
    begun = threading.Event()

    def load(step):
        if step == 1:
            begun.set()
        return square(step)

    with feed(load, MPS) as get:
        get(0)
        assert begun.wait(timeout=60)  # step 1 was not requested


def test_batches_are_loaded_in_one_thread_which_ends_with_the_context():
    threads = set()

    def load(step):
        threads.add(threading.current_thread().name)
        return square(step)

    with feed(load, MPS) as get:
        for step in range(20):
            get(step)
    assert len(threads) == 1
    assert threading.current_thread().name not in threads
    assert not names_of_threads()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_when_the_context_exits_by_an_exception(stop):
    def leave():
        with feed(square, MPS) as get:
            get(0)
            raise stop

    with pytest.raises(stop):
        leave()
    assert not names_of_threads()


def test_an_exception_is_raised_by_the_call_for_its_step():
    def load(step):
        if step == 2:
            raise OSError("the disk is gone")
        return square(step)

    with feed(load, MPS) as get:
        get(0)
        assert get(1)[1] == 1  # step 2 has failed, or will
        with pytest.raises(OSError, match="the disk is gone"):
            get(2)
    assert not names_of_threads()


def test_an_exception_in_an_unused_step_is_ignored():
    def load(step):
        if step > 4:
            raise IndexError(step)
        return square(step)

    with feed(load, MPS) as get:
        assert get(4)[0] == 4


def test_batches_are_pinned_on_request(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self), self)[1])
    with feed(square, GPU) as get:
        get(1)
    assert [int(each) for each in pinned] == [1, 1, 2, 4]


def test_batches_are_prefetched_for_a_gpu_only(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    with feed(square, CPU) as get:
        assert get is square
    with feed(square, GPU) as get:
        get(0)
        assert names_of_threads()
