"""Work on independent parts, spread over processes or over a dask cluster."""

from __future__ import annotations

import warnings
from collections import deque
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any

from crs_sc.core.threads import one_thread
from crs_sc.errors import CrsError, CrsWarning, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["is_parallel", "over_dask", "parallel_map", "start_map", "started"]

# Seconds after which an idle process ends.
_PATIENCE = 300


def parallel_map(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, n_jobs: int
) -> list[Any]:
    """Call a function on each tuple of arguments; results in the order of these.

    Each call has one thread, of the linear algebra too, so that no result depends on how the
    calls were spread.

    Parameters
    ----------
    function
        Of a module, so that other processes find it.
    arguments
        Positional arguments of each call.
    n_jobs
        Processes, this one among them. With 1 the calls are made here, unless the caller has
        chosen otherwise with `joblib.parallel_config`, for instance a dask cluster.
    """
    return list(start_map(function, arguments, n_jobs=n_jobs))


def start_map(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, n_jobs: int
) -> Iterator[Any]:
    """Start what `parallel_map` does, and go on; results as they are asked for, in order.

    Parameters
    ----------
    function, arguments, n_jobs
        As in `parallel_map`. The other processes begin at once; what they have not begun when the
        first result is asked for is shared with this one.
    """
    if n_jobs > 1:
        return _Shared(function, arguments, n_others=n_jobs - 1).results()
    from joblib import Parallel, delayed

    calls = (delayed(_alone)(function, *one) for one in arguments)
    found: Iterator[Any] = Parallel(return_as="generator")(calls)
    return found


class _Shared:
    """Calls that other processes take from the front, and this one from the back."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        *,
        n_others: int,
    ) -> None:
        self._function = function
        self._left = deque(enumerate(arguments))
        self._n = len(self._left)
        self._sent: dict[int, Future[Any]] = {}
        self._others = _processes(n_others)
        self._lock = Lock()
        for _ in range(n_others):
            self._send()

    def _send(self, done: Future[Any] | None = None) -> None:
        """Send the next call, if any is left; called again as soon as one is done."""
        with self._lock:
            if done is not None and (done.cancelled() or done.exception() is not None):
                # Nothing else is begun.
                self._left.clear()
            if not self._left:
                return
            i, arguments = self._left.popleft()
            try:
                sent = self._others.submit(_elsewhere, self._function, *arguments)
            except RuntimeError as error:
                # The other processes are gone; whoever asks for the result is told.
                sent = Future()
                sent.set_exception(error)
            self._sent[i] = sent
        sent.add_done_callback(self._send)

    def _take(self) -> tuple[int, tuple[Any, ...]] | None:
        """Take the last call that was not sent."""
        with self._lock:
            return self._left.pop() if self._left else None

    def results(self) -> Iterator[Any]:
        """Do what is left beside the others; results in the order of the calls."""
        here: dict[int, Any] = {}
        try:
            while own := self._take():
                here[own[0]] = _alone(self._function, *own[1])
            for i in range(self._n):
                yield here.pop(i) if i in here else self._received(i)
        finally:
            self._left.clear()

    def _received(self, i: int) -> Any:
        """Wait for the result of a call that was sent, and say what it warned of."""
        try:
            result, warned = self._sent.pop(i).result()
        except BrokenExecutor as error:
            msg = (
                "Another process of this run was ended from outside, most likely for want of "
                "memory. Start it again with fewer processes (-j), or with more memory."
            )
            raise CrsError(msg) from error
        for text in warned:
            warnings.warn(text, CrsWarning, stacklevel=2)
        return result


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
    others = _processes(n_jobs - 1)
    for _ in range(n_jobs - 1):
        others.submit(_import, modules)
    try:
        yield
    finally:
        others.shutdown(wait=False, kill_workers=True)


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


def _processes(n: int) -> Any:
    """Other processes; those of the last time, if they are still there."""
    from loky import get_reusable_executor

    return get_reusable_executor(n, timeout=_PATIENCE, env={"OMP_NUM_THREADS": "1"})


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
