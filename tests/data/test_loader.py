"""Prefetching returns the same batches in the same order, and ends with its context."""

import threading

import pytest
import torch

from fromnoise.data.loader import feed, prefetch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def square(step):
    return (torch.tensor([step]), torch.tensor([step**2]))


def names_of_threads():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("images")}


@pytest.mark.parametrize("steps", [[0, 1, 2, 3], [5, 6, 7], [2, 3, 9, 10, 4], [4, 4, 4]])
def test_every_step_gets_its_own_whatever_was_begun(steps):
    with prefetch(square) as of:
        drawn = [tuple(each.item() for each in of(step)) for step in steps]
    assert drawn == [(step, step**2) for step in steps]


def test_in_a_row_each_step_is_drawn_once_and_one_more_at_the_end():
    asked = []

    def draw(step):
        asked.append(step)
        return square(step)

    with prefetch(draw) as of:
        for step in range(3, 8):
            of(step)
    assert asked == [3, 4, 5, 6, 7, 8]


def test_the_next_step_is_drawn_while_this_one_is_used():
    begun = threading.Event()

    def draw(step):
        if step == 1:
            begun.set()
        return square(step)

    with prefetch(draw) as of:
        of(0)
        assert begun.wait(timeout=60)  # nobody has asked for step 1


def test_it_is_drawn_in_one_other_thread_which_ends_with_the_block():
    threads = set()

    def draw(step):
        threads.add(threading.current_thread().name)
        return square(step)

    with prefetch(draw) as of:
        for step in range(20):
            of(step)
    assert len(threads) == 1
    assert threading.current_thread().name not in threads
    assert not names_of_threads()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_when_the_block_is_left_by_an_exception(stop):
    def leave():
        with prefetch(square) as of:
            of(0)
            raise stop

    with pytest.raises(stop):
        leave()
    assert not names_of_threads()


def test_what_drawing_raises_is_raised_where_that_step_is_asked_for():
    def draw(step):
        if step == 2:
            raise OSError("the disk is gone")
        return square(step)

    with prefetch(draw) as of:
        of(0)
        assert of(1)[1] == 1  # step 2 has failed by now, or will
        with pytest.raises(OSError, match="the disk is gone"):
            of(2)
    assert not names_of_threads()


def test_an_error_in_a_step_that_nobody_asks_for_is_none():
    def draw(step):
        if step > 4:
            raise IndexError(step)
        return square(step)

    with prefetch(draw) as of:
        assert of(4)[0] == 4


def test_it_is_pinned_where_asked_for(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self), self)[1])
    with prefetch(square, pin=True) as of:
        of(1)
    assert [int(each) for each in pinned] == [1, 1, 2, 4]


def test_a_cpu_draws_when_it_needs_to_and_a_gpu_ahead(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    with feed(square, CPU) as of:
        assert of is square
    with feed(square, GPU) as of:
        of(0)
        assert names_of_threads()
