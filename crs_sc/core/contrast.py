"""What is compared with what, as the config of a run and every comparison name it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Contrast"]


@dataclass(frozen=True)
class Contrast:
    """Two arms to compare.

    Attributes
    ----------
    name
        Name in the tables.
    treated, reference
        Values of `condition`; estimates are treated less reference.
    paired
        Every subject was seen in both arms; only complete pairs are used.
    within
        "timepoint": one comparison a time point, named NAME@TIME.
    baseline
        A third condition; the contrast is then also reported as a reversal towards it.
    covariates
        Columns of the samples that are in the model beside batch and pairs: numbers as a slope,
        anything else as a factor. They adjust shifts, composition and expression.
    """

    name: str
    treated: str
    reference: str
    paired: bool = False
    within: str | None = None
    baseline: str | None = None
    covariates: tuple[str, ...] = ()
