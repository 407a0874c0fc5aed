"""Makes the next items of a loop in threads while the loop works on the current one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def made_ahead[S, T](items: Iterable[S], make: Callable[[S], T], threads: int) -> Iterator[T]:
    """Yield `make(item)` of each item in order.

    Args:
        items: What to make something of.
        make: Called once for each item.
        threads: Threads that call it, each at most one item ahead; 0 calls it when its turn comes.
    """
    if threads == 0:
        yield from map(make, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(make, item) for item in itertools.islice(waiting, threads))
        while pending:
            made = pending.popleft().result()
            pending.extend(pool.submit(make, item) for item in itertools.islice(waiting, 1))
            yield made
