"""Layers worked on side by side: most of what a solver does to one takes a single thread, however many there are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST = 4
"""Layers at once: each takes the memory of its statistics, in float64 and several times over."""


def at_once(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`work` of every item, in order; PyTorch's threads are shared out among those that run at once.

    What one raises is raised in its turn. Work runs a few items ahead of what is taken, so that no result waits long,
    and not on when that stops.
    """
    threads = torch.get_num_threads()
    workers = min(threads, MOST)
    left = iter(items)
    with ThreadPoolExecutor(workers, "layer", torch.set_num_threads, (threads // workers,)) as pool:
        waiting = deque(pool.submit(work, item) for item in islice(left, 2 * workers))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(left, 1))
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)  # threads that start later take the number that was last set in any
