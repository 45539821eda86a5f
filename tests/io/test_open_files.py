"""A cohort of many samples has as many files open."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
from crs_sc.errors import InputError
from crs_sc.io import allow_open_files

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1000))
allow_open_files(600)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
allow_open_files(10)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
try:
    allow_open_files(2000)
except InputError as error:
    print(error)
"""


def test_limit_is_raised_where_the_system_allows_it() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    raised, same, message = done.stdout.splitlines()
    assert int(raised) == int(same) == 600 + 256
    assert "2000 samples" in message
    assert "1000 files" in message
    assert "ulimit -n" in message
