"""How many threads are started, whatever number an option or a receipt asks for."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from scale_toolkit.lazy import in_order
from scale_toolkit.threads import MOST_THREADS, available_cores, limited_threads


@pytest.mark.parametrize("n_threads", [1, 2, 100_000])
def test_the_libraries_threads_are_bounded_and_restored(n_threads):
    before = torch.get_num_threads()
    with limited_threads(n_threads) as threads:
        assert threads == min(n_threads, max(MOST_THREADS, available_cores()))
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before


def test_zero_is_one_thread_a_core():
    with limited_threads(0) as threads:
        assert threads == available_cores()


@pytest.mark.parametrize("n_threads", [0, 1, 1000])
def test_blocks_are_made_by_at_most_one_thread_a_core_and_not_far_ahead(n_threads):
    made, used, furthest = [], 0, 0

    def make(number):
        made.append(threading.get_ident())
        time.sleep(0.001)
        return number

    for number in in_order(make, range(60), n_threads):
        assert number == used
        furthest, used = max(furthest, len(made) - used), used + 1
    assert used == 60
    assert len(set(made)) <= available_cores()
    assert furthest <= available_cores() + 2
