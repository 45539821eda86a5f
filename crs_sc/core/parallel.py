"""Work on independent parts, shared out to processes or to a dask cluster by joblib."""

from __future__ import annotations

import warnings
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crs_sc.core.threads import one_thread
from crs_sc.errors import CrsError, CrsWarning, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["is_parallel", "over_dask", "parallel_map", "start_map", "started"]


def parallel_map(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, n_jobs: int
) -> list[Any]:
    """Call a function on each tuple of arguments; results in the order of these.

    Each call has one thread, of the linear algebra too, so that no result depends on how the
    calls were shared out.

    Parameters
    ----------
    function
        Of a module, so that other processes find it.
    arguments
        Positional arguments of each call.
    n_jobs
        Processes. With 1 the calls are made here, unless the caller has chosen otherwise with
        `joblib.parallel_config`, for instance a dask cluster.

    Raises
    ------
    CrsError
        If a process was ended from outside.
    """
    return list(start_map(function, arguments, n_jobs=n_jobs))


def start_map(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, n_jobs: int
) -> Iterator[Any]:
    """Start what `parallel_map` does, and go on; results as they are asked for, in order.

    Parameters
    ----------
    function, arguments, n_jobs
        As in `parallel_map`. The other processes begin at once.
    """
    from joblib import Parallel, delayed

    elsewhere = is_parallel(n_jobs)
    call = delayed(_elsewhere if elsewhere else _alone)
    # Whole arguments, not maps of files that a function could not write into.
    where: dict[str, Any] = {"n_jobs": n_jobs, "backend": "loky"} if n_jobs > 1 else {}
    results = Parallel(return_as="generator", batch_size=1, max_nbytes=None, **where)(
        call(function, *one) for one in arguments
    )
    return _received(results) if elsewhere else results


def _received(results: Iterator[Any]) -> Iterator[Any]:
    """Results of other processes, and what they warned of."""
    try:
        for result, texts in results:
            for text in texts:
                warnings.warn(text, CrsWarning, stacklevel=2)
            yield result
    except BrokenExecutor as error:
        msg = (
            "Another process of this run was ended from outside, most likely for want of memory. "
            "Start it again with fewer processes (-j), or with more memory."
        )
        raise CrsError(msg) from error


@contextmanager
def started(modules: Sequence[str], *, n_jobs: int) -> Iterator[None]:
    """Start the processes of `parallel_map` ahead of the work; they end with this context.

    Parameters
    ----------
    modules
        What each of them imports while this process goes on.
    n_jobs
        As in `parallel_map`.
    """
    if n_jobs == 1:
        yield
        return
    from joblib.externals.loky import get_reusable_executor

    ahead = start_map(_import, [(modules,)] * n_jobs, n_jobs=n_jobs)
    try:
        yield
        list(ahead)
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def is_parallel(n_jobs: int) -> bool:
    """Whether `parallel_map` would make calls elsewhere than here."""
    from joblib import effective_n_jobs

    return n_jobs > 1 or bool(effective_n_jobs(None) > 1)


@contextmanager
def over_dask(scheduler: str) -> Iterator[None]:
    """Within this context `parallel_map` sends its calls to a dask cluster.

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


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    with one_thread():
        return function(*arguments)


def _elsewhere(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    """Call a function in another process; what it returns and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CrsWarning)
        result = _alone(function, *arguments)
    return result, [str(w.message) for w in caught if issubclass(w.category, CrsWarning)]


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        import_module(name)
