"""Which myeloid cells make IL-1 and IL-6 after CAR T exposure, and does a treatment shift it.

`import crs_sc as crs`, then `crs.read`, `crs.pp` (preprocessing), `crs.tl` (clustering,
annotation, sources, comparison), `crs.pl` (plots), `crs.datasets`, `crs.report`. Importing the
package loads nothing else; each part is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crs_sc import datasets, errors, genesets, io, keys, report, tl
    from crs_sc import plotting as pl
    from crs_sc import preprocessing as pp
    from crs_sc.comparison import Contrast
    from crs_sc.io import read, write_h5ad, write_table
    from crs_sc.run.config import RunConfig, load_config
    from crs_sc.run.runner import Run

__all__ = [
    "Contrast",
    "Run",
    "RunConfig",
    "datasets",
    "errors",
    "genesets",
    "io",
    "keys",
    "load_config",
    "pl",
    "pp",
    "read",
    "report",
    "tl",
    "write_h5ad",
    "write_table",
]

_MODULES = {
    "datasets": "crs_sc.datasets",
    "errors": "crs_sc.errors",
    "genesets": "crs_sc.genesets",
    "io": "crs_sc.io",
    "keys": "crs_sc.keys",
    "pl": "crs_sc.plotting",
    "pp": "crs_sc.preprocessing",
    "report": "crs_sc.report",
    "tl": "crs_sc.tl",
}
_OBJECTS = {
    "Contrast": "crs_sc.comparison",
    "Run": "crs_sc.run.runner",
    "RunConfig": "crs_sc.run.config",
    "load_config": "crs_sc.run.config",
    "read": "crs_sc.io",
    "write_h5ad": "crs_sc.io",
    "write_table": "crs_sc.io",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("crs_sc")
    msg = f"module 'crs_sc' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
