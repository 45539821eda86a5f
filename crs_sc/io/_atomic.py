"""Files that are either whole or not there: write beside, force to disk, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["atomic_path", "check_space", "write_json", "write_text"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full_disk_error(path: Path, error: OSError) -> InputError:
    """Return the error for a disk or quota that filled up while `path` was written."""
    free = shutil.disk_usage(path.parent).free
    return InputError(
        f"No space left for '{path}' ({error.strerror}; {free / 1e9:.2f} GB free on the disk). "
        "Nothing was left under that name. Make room, or write to another disk."
    )


def check_space(path: Path, *, needed: float) -> None:
    """Raise if the disk of `path` has less than `needed` bytes free.

    Parameters
    ----------
    path
        File that is about to be written; its folder exists.
    needed
        Estimated size in bytes.

    Raises
    ------
    InputError
        If there is less space than that.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        msg = (
            f"'{path}' needs about {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB "
            "free. Make room, or write to another disk."
        )
        raise InputError(msg)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it is never seen half-written under its own name.

    The body writes to a hidden temporary path in the same folder, with the same suffix. When the
    body ends, the file is forced to disk and renamed; when it raises, the temporary file is
    removed and what was there before stays. The folder is made if it is not there. A process that
    is killed can leave the hidden temporary file behind (`.STEM.tmp-*`), never the final one.

    Parameters
    ----------
    path
        The final path.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    InputError
        If the folder cannot be written to, or if the disk is full.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.stem}.tmp-{secrets.token_hex(6)}{final.suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk_error(final, error) from error
        msg = (
            f"Cannot write '{final}': {error.strerror}. "
            "Choose an output folder that you may write to."
        )
        raise InputError(msg) from error
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
        _sync(final.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk_error(final, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    r"""Write text as UTF-8 with `\n`, atomically.

    Parameters
    ----------
    text
        What to write.
    path
        The final path.

    Raises
    ------
    InputError
        If the folder cannot be written to, or if the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a value as indented JSON, keys in their own order, atomically.

    Parameters
    ----------
    value
        Dicts, lists, strings, numbers, booleans and None.
    path
        The final path.

    Raises
    ------
    InputError
        If the folder cannot be written to, or if the disk is full.
    """
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)
