"""What a run keeps on disk between stages, and how it knows that it is complete and current.

A stage writes its files atomically and then a stamp: the digest of everything the result depends
on, and the size and digest of each file. A stage is done if its stamp says so and the files are
still those. Without the stamp nothing is trusted, so a run may be killed at any instant.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crs_sc.io import write_json
from crs_sc.run.config import FILES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Workspace",
    "digest",
    "file_digest",
    "library_versions",
    "package_version",
    "setting_digests",
]

_BLOCK = 1 << 22
_LIBRARIES = (
    "anndata", "faiss-cpu", "gseapy", "harmonypy", "igraph", "leidenalg", "matplotlib", "numba",
    "numpy", "pandas", "pydeseq2", "pynndescent", "scanpy", "scikit-learn", "scipy", "umap-learn",
)  # fmt: skip


def package_version() -> str:
    """Version of this package as installed."""
    return version("crs_sc")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def digest(*parts: Any) -> str:
    """SHA-256 of values that JSON can hold, independent of the order of dictionary keys."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names."""
    if path.is_dir():
        return digest([(p.name, file_digest(p)) for p in sorted(path.iterdir()) if p.is_file()])
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def setting_digests(settings: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that settings name, by setting."""
    return {name: file_digest(Path(settings[name])) for name in FILES if settings.get(name)}


@dataclass(frozen=True)
class Workspace:
    """The output folder of a run.

    Attributes
    ----------
    out
        The folder.
    """

    out: Path

    @property
    def cohort(self) -> Path:
        """The cohort with everything in it."""
        return self.out / "cohort.h5ad"

    def table(self, name: str) -> Path:
        """Path of a table of `keys.TABLES`."""
        return self.out / "tables" / f"{name}.tsv"

    def sample(self, name: str) -> Path:
        """Cells of one sample after QC."""
        return self.out / "work" / "qc" / f"{_file_name(name)}.h5ad"

    def stage(self, name: str) -> Path:
        """Return where a stage keeps what it added to the cohort, without the matrix."""
        return self.out / "work" / f"{name}.h5ad"

    def stamp(self, name: str) -> Path:
        """Stamp of a stage; that of one sample's QC is named `qc/SAMPLE`."""
        folder, _, last = name.rpartition("/")
        return self.out / "work" / folder / f"{_file_name(last)}.json"

    def input_digest(self, path: Path) -> str:
        """Digest of a file of the user; it is read again only if the file was touched since.

        Every job of a workflow asks, and a cohort of a million cells takes a minute to read.
        """
        state = path.stat()
        seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        note = self.out / "work" / "inputs" / f"{digest(str(path.resolve()))[:16]}.json"
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["state"] == seen:
                return str(known["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            known = {}
        found = file_digest(path)
        write_json(known | {"path": str(path), "state": seen, "sha256": found}, note)
        return found

    def read_stamp(self, name: str) -> dict[str, Any] | None:
        """Return the stamp of a stage, None if there is no readable one."""
        try:
            content = json.loads(self.stamp(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def is_current(self, name: str, key: str) -> bool:
        """Whether the stage was finished with this key and its files are still those."""
        stamp = self.read_stamp(name)
        if stamp is None or stamp.get("key") != key:
            return False
        for file, known in stamp["files"].items():
            path = self.out / file
            if not path.is_file() or path.stat().st_size != known["size"]:
                return False
            if file_digest(path) != known["sha256"]:
                return False
        return True

    def finish(self, name: str, key: str, files: Iterable[Path], **facts: Any) -> None:
        """Stamp a stage as done.

        Parameters
        ----------
        name
            The stage.
        key
            Digest of all that the result depends on.
        files
            What the stage wrote, already complete.
        **facts
            What else the stamp should say, such as the seconds it took.
        """
        known = {
            str(path.relative_to(self.out)): {
                "size": path.stat().st_size,
                "sha256": file_digest(path),
            }
            for path in files
        }
        write_json({"stage": name, "key": key, "files": known, **facts}, self.stamp(name))


def _file_name(name: str) -> str:
    """Name of a sample as a file name, distinct for distinct names."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return safe if safe == name and not name.startswith(".") else f"{safe}-{digest(name)[:8]}"
