"""Work on independent parts, spread over processes or over a dask cluster."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["begin", "dealt", "is_spread", "over_dask", "spread"]


def spread(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, n_jobs: int
) -> list[Any]:
    """Call a function on each tuple of arguments; results in the order of these.

    Each call has one thread of the linear algebra, so that no result depends on how the calls
    were spread.

    Parameters
    ----------
    function
        Of a module, so that other processes find it.
    arguments
        Positional arguments of each call.
    n_jobs
        Processes. With 1 the calls are made here, unless the caller has chosen otherwise with
        `joblib.parallel_config`, for instance a dask cluster.
    """
    return list(begin(function, arguments, n_jobs=n_jobs))


def begin(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, n_jobs: int
) -> Iterator[Any]:
    """Start what `spread` does, and go on; results as they are asked for, in order.

    Parameters
    ----------
    function, arguments, n_jobs
        As in `spread`. With 1 the calls are made when their results are asked for.
    """
    from joblib import Parallel, delayed

    calls = [delayed(_on_one_thread)(function, *one) for one in arguments]
    # No more processes are started than there are calls.
    workers = Parallel(n_jobs=_chosen(min(n_jobs, len(calls))), return_as="generator")
    found: Iterator[Any] = workers(calls)
    return found


def dealt(parts: Sequence[str], *, n_jobs: int) -> list[list[str]]:
    """Deal parts out, as cards, to the processes of `spread`, or one by one to those of a cluster.

    Parameters
    ----------
    parts
        The largest first.
    n_jobs
        As in `spread`.
    """
    n_hands = len(parts) if n_jobs == 1 else min(n_jobs, len(parts))
    return [list(parts[i::n_hands]) for i in range(n_hands)]


def is_spread(n_jobs: int) -> bool:
    """Whether `spread` would make calls elsewhere than here."""
    from joblib import effective_n_jobs

    return bool(effective_n_jobs(_chosen(n_jobs)) > 1)


@contextmanager
def over_dask(scheduler: str) -> Iterator[None]:
    """Within this context `spread` sends its calls to a dask cluster.

    Parameters
    ----------
    scheduler
        Address of the scheduler (`tcp://host:8786`) or its file (`scheduler.json`). The workers
        must see the same files under the same paths.

    Raises
    ------
    InputError
        If dask is not installed, or no scheduler answers.
    """
    from joblib import parallel_config

    try:
        from distributed import Client
    except ImportError:
        msg = 'A dask cluster needs dask itself: pip install "crs_sc[dask]".'
        raise InputError(msg) from None
    where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        client = Client(**where, timeout=10)
    except (OSError, ValueError) as error:
        msg = f"No dask scheduler answers at '{scheduler}' ({error}). Start one, then try again."
        raise InputError(msg) from error
    with client, parallel_config(backend="dask", client=client, n_jobs=-1):
        yield


def _chosen(n_jobs: int) -> int | None:
    """Leave the choice to the surrounding `parallel_config` where only one job is asked for."""
    return n_jobs if n_jobs > 1 else None


def _on_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    with threadpool_limits(limits=1):
        return function(*arguments)
