"""How many files may be open at a time."""

from __future__ import annotations

import resource

from crs_sc.errors import InputError

__all__ = ["allow_open_files"]

# What a run has open beside its samples: libraries, pipes to other processes, tables.
_OTHERS = 256


def allow_open_files(n_files: int) -> None:
    """Let this process have so many files open; the usual limit is 1,024.

    Parameters
    ----------
    n_files
        Files that are open at a time, beside the usual ones.

    Raises
    ------
    InputError
        If the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_files + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        msg = (
            f"{n_files} samples are read at a time, and this process may have {hard} files open. "
            f"Raise the limit to {needed} or more (`ulimit -n`, LimitNOFILE of the job), or put "
            "libraries together in fewer samples."
        )
        raise InputError(msg)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
