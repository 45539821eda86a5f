"""Kill a run at random instants and restart it: are the tables those of a run left alone.

`python benchmarks/restart.py --kills 20` prints one line a kill, and fails if any table differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crs_sc.datasets import simulate_cohort, write_cohort


def command(config: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "crs_sc", "-q", "run", str(config), "-o", str(out)]


def finish(config: Path, out: Path) -> None:
    subprocess.run(command(config, out), check=True, stdout=subprocess.DEVNULL)


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "tables").iterdir())}


def killed_after(config: Path, out: Path, seconds: float) -> bool:
    """Start a run and kill it with its children; False if it ended before."""
    process = subprocess.Popen(
        command(config, out), start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = simulate_cohort(
            arms=("vehicle", "CART"), n_subjects_per_arm=3, cells_per_sample=150,
            n_background_genes=200, random_state=1,
        )  # fmt: skip
        config = write_cohort(cohort, folder / "cohort")
        start = time.perf_counter()
        finish(config, folder / "whole")
        whole = time.perf_counter() - start
        expected = tables(folder / "whole")
        print(f"a run left alone takes {whole:.1f} s and leaves {len(expected)} tables")
        wrong = 0
        for i in range(arguments.kills):
            out = folder / f"killed{i}"
            seconds = rng.uniform(0, whole)
            was_killed = killed_after(config, out, seconds)
            left = len(list((out / "work").rglob("*.json"))) if out.exists() else 0
            finish(config, out)
            same = tables(out) == expected
            wrong += not same
            state = "killed" if was_killed else "ended before"
            print(
                f"{i + 1:3d}  {state} at {seconds:5.1f} s, {left:2d} stages done:",
                "tables equal" if same else "TABLES DIFFER",
                flush=True,
            )
    print(f"{arguments.kills} kills, {wrong} with other tables")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
