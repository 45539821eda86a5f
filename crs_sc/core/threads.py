"""How many threads a computation may use."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["one_thread", "processor_count", "thread_count"]

_alone: ContextVar[bool] = ContextVar("_alone", default=False)


def processor_count() -> int:
    """Processors that this process may use, in its container or job."""
    from loky import cpu_count

    return int(cpu_count(only_physical_cores=False))


def thread_count() -> int:
    """Threads that this process may use.

    One within `one_thread`; else `OMP_NUM_THREADS`, else the processors given to the process.
    """
    if _alone.get():
        return 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return processor_count()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within this context one thread is used, by linear algebra too."""
    token = _alone.set(True)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        _alone.reset(token)
