"""Tables of small runs, to be compared byte for byte before and after a change.

`python benchmarks/golden.py OUT` analyses four small cohorts (the demo, Kang's PBMC, a mouse
cohort, a cohort of two genomes with time points) into OUT; `--against BEFORE` then names every
table that differs from that of an earlier call, with the number of lines that do. Kang is left
out where `../shared/data` (or `$CRS_SC_DATA`) is absent.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

SIMULATED = {
    "demo": {},
    "mouse": {
        "arms": ["vehicle", "CART"],
        "myeloid_species": "mouse",
        "n_subjects_per_arm": 3,
        "cells_per_sample": 200,
        "random_state": 1,
    },
    "days": {
        "arms": ["vehicle", "CART", "CART_anakinra"],
        "n_subjects_per_arm": 3,
        "timepoints": ["d0", "d3"],
        "cells_per_sample": 150,
        "n_empty_droplets": 300,
        "random_state": 2,
    },
}
KANG = {
    "columns": {"sample": "sample", "subject": "donor", "condition": "condition"},
    "contrasts": [{"name": "ifnb", "treated": "stim", "reference": "ctrl", "paired": True}],
    "genes": ["IL1B", "IL6", "CXCL8", "IL1RN"],
}


def run(*arguments: str | Path) -> None:
    """Run one command of crs-sc."""
    command = [str(Path(sys.executable).with_name("crs-sc")), "-q", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def configs(out: Path) -> dict[str, Path]:
    """Write the cohorts; the config of each."""
    found = {}
    for name, settings in SIMULATED.items():
        folder = out / "cohorts" / name
        found[name] = folder / "config.yaml"
        if not found[name].is_file():
            folder.mkdir(parents=True, exist_ok=True)
            chosen = folder / "settings.yaml"
            chosen.write_text(yaml.safe_dump(settings), encoding="utf-8")
            run("simulate", "-o", folder, "--settings", chosen)
    data = Path(os.environ.get("CRS_SC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    kang = data / "kang_ifnb_3800.h5ad"
    if kang.is_file():
        found["kang"] = out / "cohorts" / "kang.yaml"
        content = {"input": str(kang.resolve()), **KANG}
        found["kang"].write_text(yaml.safe_dump(content), encoding="utf-8")
    return found


def differences(before: Path, after: Path) -> list[str]:
    """Name the tables that are not the same bytes."""
    lines = []
    names = {p.relative_to(folder) for folder in (before, after) for p in folder.glob("*/tables/*")}
    for name in sorted(names):
        old, new = (
            (f / name).read_bytes() if (f / name).is_file() else b"" for f in (before, after)
        )
        if old != new:
            rows = list(zip(old.splitlines(), new.splitlines(), strict=False))
            changed = sum(a != b for a, b in rows) + abs(old.count(b"\n") - new.count(b"\n"))
            lines.append(f"{name}: {changed} of {max(old.count(b'\n'), 1)} lines")
    return lines


def main() -> None:
    """Run the cohorts, and compare them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="OUT of an earlier call.")
    parser.add_argument("--only", default="", help="Cohorts, separated by commas.")
    arguments = parser.parse_args()
    for name, config in configs(arguments.out).items():
        if not arguments.only or name in arguments.only.split(","):
            run("run", config, "-o", arguments.out / name, "-j", "2")
    if arguments.against:
        lines = differences(arguments.against, arguments.out)
        print("\n".join(lines) if lines else "every table is the same, byte for byte")


if __name__ == "__main__":
    main()
