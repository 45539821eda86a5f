"""The settings of a run: `RunConfig`, read from YAML, every default taken from a signature.

A section of the config bears the name of the function that it feeds, its fields are that
function's parameters, and their defaults are those of its signature.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from crs_sc import annotation, clustering, comparison, genesets, preprocessing, sources
from crs_sc.comparison import Contrast
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STAGE_FUNCTIONS", "Columns", "RunConfig", "load_config", "parameter_help"]

# The functions of each stage that have settings, in the order of their use.
STAGE_FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "qc": (
        preprocessing.call_species,
        preprocessing.quality_control,
        preprocessing.call_doublets,
        preprocessing.estimate_ambient,
    ),
    "cluster": (
        preprocessing.normalize,
        preprocessing.select_genes,
        clustering.embed,
        clustering.cluster,
    ),
    "annotate": (
        annotation.score_signatures,
        annotation.annotate,
        annotation.call_transgene,
        annotation.call_myeloid_states,
        clustering.subcluster,
        annotation.transfer_labels,
        annotation.celltypist_labels,
    ),
    "sources": (
        sources.call_producers,
        sources.production,
        sources.ledger,
        sources.ledger_by_condition,
        sources.receivers,
        sources.il1_tone,
    ),
    "compare": (
        comparison.shifts,
        comparison.arm_by_time,
        comparison.onset,
        comparison.decompose,
        comparison.reversal,
        comparison.composition,
        comparison.expression,
        comparison.enrichment,
    ),
}

# Parameters that the run itself supplies.
_SUPPLIED = frozenset(
    {
        "sample_key", "subject_key", "condition_key", "batch_key", "label_key", "weight_key",
        "population_key", "cluster_key", "group_key", "timepoint_key", "key_added", "layer",
        "random_state", "n_jobs", "organism", "transgene", "genes", "signatures", "gene_sets",
        "contrasts", "samples", "columns", "exclude", "empty_profiles", "opinion",
    }
)  # fmt: skip

# Settings that name a file, of which the content counts.
FILES = ("gene_sets", "absolute_counts", "label_reference", "celltypist_model", "label_names")

# What each stage depends on beside its own sections of the config.
STAGE_READS = {
    "qc": ("columns", "organism", "transgene", "seed"),
    "cluster": ("genes", "transgene", "seed"),
    "annotate": (
        "columns",
        "organism",
        "transgene",
        "signatures",
        "gene_sets",
        "seed",
        "genes",
        "label_reference",
        "celltypist_model",
        "label_names",
    ),
    "sources": ("columns", "genes", "organism", "absolute_counts", "seed"),
    "compare": ("columns", "contrasts", "genes", "signatures", "gene_sets", "seed"),
    "report": ("columns", "organism", "contrasts", "signatures", "gene_sets", "truth"),
}

# First line of the settings that a run leaves, which tells them from a config of the user.
RESOLVED = "# Every setting of this run, as crs_sc resolved it.\n"

_STRICT = ConfigDict(frozen=True, extra="forbid")


def settings_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Keyword parameters of `function` that a config can set."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and parameter.default is not inspect.Parameter.empty
        and name not in _SUPPLIED
    }


def parameter_help(function: Callable[..., Any]) -> dict[str, str]:
    """Read the description of each parameter from the numpydoc docstring, on one line."""
    document = inspect.getdoc(function) or ""
    _, _, body = document.partition("Parameters\n----------\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in body.splitlines():
        if line.startswith("---"):
            break
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.split(",")]
        elif line.strip():
            for name in names:
                found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


class _Settings(BaseModel):
    model_config = _STRICT

    @field_validator("*")
    @classmethod
    def _without_lists(cls, value: Any) -> Any:
        """YAML has lists where signatures have tuples; the same settings must be equal."""
        return tuple(value) if isinstance(value, list) else value


def _section(function: Callable[..., Any]) -> type[BaseModel]:
    """Model whose fields, types and defaults are those of the function's settings."""
    names = {**vars(typing), **vars(collections.abc), **function.__globals__}
    help_of = parameter_help(function)
    definitions: dict[str, Any] = {
        # The annotations are this package's own source code.
        name: (
            eval(str(parameter.annotation), names),
            Field(default=parameter.default, description=help_of.get(name)),
        )
        for name, parameter in settings_of(function).items()
    }
    return create_model(
        f"{function.__name__}_settings", __base__=_Settings, __doc__=None, **definitions
    )


class Columns(BaseModel):
    """The user's own names of the columns of `obs`."""

    model_config = _STRICT

    sample: str | None = Field(default=None, description="One library.")
    subject: str | None = Field(
        default=None, description="Animal or patient: the unit of replication."
    )
    condition: str | None = Field(default=None, description="Arm of the study.")
    batch: str | None = Field(default=None, description="Batch: a block of the tests.")
    timepoint: str | None = Field(default=None, description="Time point.")
    label: str | None = Field(default=None, description="Your own cell types, taken as they are.")
    sampling_weight: str | None = Field(
        default=None, description="Cells of the specimen that one sequenced cell stands for."
    )

    def mapping(self) -> dict[str, str | None]:
        """Canonical name and the user's, for `read`; what is optional is only used if mapped."""
        needed = ("sample", "subject", "condition")
        return {name: column for name, column in self if column or name not in needed}


def _known_fields(value: object) -> object:
    """Refuse a contrast with an unknown field; dataclasses would drop it silently."""
    known = [field.name for field in fields(Contrast)]
    if isinstance(value, dict):
        # YAML reads 1, 2.5 and true as numbers; a condition is a name.
        names = ("name", "treated", "reference", "baseline")
        value = {k: str(v) if k in names and v is not None else v for k, v in value.items()}
        if unknown := [name for name in value if name not in known]:
            msg = f"unknown field {listing(unknown)}; a contrast has {listing(known)}"
            raise ValueError(msg)
        if value.get("name") == "":
            msg = "a contrast needs a name that is not empty"
            raise ValueError(msg)
    return value


class _Base(BaseModel):
    model_config = _STRICT

    input: tuple[Path, ...] = Field(
        description="A file, a list of files, or a sample sheet (TSV with a column `path`)."
    )
    columns: Columns = Field(default=Columns(), description="Your names of the columns.")
    contrasts: tuple[Annotated[Contrast, BeforeValidator(_known_fields)], ...] = Field(
        (), description="What is compared with what."
    )
    genes: tuple[str, ...] = Field(
        genesets.TARGET_CYTOKINES, min_length=1, description="Cytokines of the ledger."
    )
    organism: Literal["human", "mouse", "human+mouse", "mouse+human"] = Field(
        "human", description="Organism; of two genomes, the first is analysed."
    )
    transgene: tuple[str, ...] = Field((), description="Features of the CAR construct.")
    signatures: tuple[str, ...] | None = Field(
        None, description="Packaged signatures to use; all of them if left out."
    )
    gene_sets: Path | None = Field(default=None, description="Your own signatures (GMT or TSV).")
    label_reference: Path | None = Field(
        None, description="Labelled cells (h5ad with counts): another opinion about the cell types."
    )
    celltypist_model: Path | None = Field(
        None, description="CellTypist model file: another opinion about the cell types."
    )
    label_names: Path | None = Field(
        None, description="What labels mean: TSV with label, population."
    )
    absolute_counts: Path | None = Field(
        None, description="Cells per microlitre: TSV with sample, population, cells_per_ul."
    )
    truth: Path | None = Field(
        None, description="Folder with the planted truth of a simulated cohort."
    )
    memory_limit: float | None = Field(
        None, gt=0, description="Memory in GB that a run may use; all there is if left out."
    )
    seed: int = Field(0, ge=0, description="Seed of everything random.")

    @model_validator(mode="after")
    def _weighted_once(self) -> Self:
        if self.absolute_counts is not None and self.columns.sampling_weight is not None:
            msg = (
                "both `absolute_counts` and `columns: sampling_weight` say how many cells of the "
                "specimen a sequenced cell stands for; leave one of them out"
            )
            raise ValueError(msg)
        return self


if TYPE_CHECKING:

    class RunConfig(_Base):
        """Settings of a run; see the fields for their meaning."""

        def __getattr__(self, name: str) -> Any: ...  # noqa: D105

else:
    RunConfig = create_model(
        "RunConfig",
        __base__=_Base,
        __doc__="Settings of a run; see the fields for their meaning.",
        **{
            function.__name__: (model, Field(default_factory=model))
            for functions in STAGE_FUNCTIONS.values()
            for function in functions
            for model in (_section(function),)
        },
    )


def settings_for(config: RunConfig, function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments of `function` as the config sets them."""
    section: BaseModel = getattr(config, function.__name__)
    return {name: getattr(section, name) for name in type(section).model_fields}


def load_config(path: Path) -> RunConfig:
    """Read and check a config; paths in it are relative to its folder.

    Parameters
    ----------
    path
        YAML file.

    Raises
    ------
    InputError
        If the file is not there, is not YAML, or a setting is unknown or out of range.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        msg = f"There is no config '{path}'. `crs-sc init FILE.h5ad` writes one."
        raise InputError(msg) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"'{path}' cannot be read as YAML: {' '.join(str(error).split())}"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"'{path}' is not a config: it must hold `input:` and other settings."
        raise InputError(msg)
    return parse_config(content, folder=path.parent, name=str(path))


def parse_config(content: dict[str, Any], *, folder: Path, name: str) -> RunConfig:
    """Check the settings of a config that was read from `name` in `folder`."""
    content = dict(content)
    files = content.get("input")
    if isinstance(files, str | Path):
        files = [files]
    if isinstance(files, list):
        content["input"] = [str(folder / str(file)) for file in files]
    for key in (*FILES, "truth"):
        if isinstance(content.get(key), str):
            content[key] = str(folder / content[key])
    # An empty section in YAML is None; it means "all defaults".
    content = {key: value for key, value in content.items() if value is not None}
    _require_there(content, name=name)
    try:
        return RunConfig(**content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}".removeprefix(": ")
            # What is wrong with all settings together has no place, and no value to show.
            + ("" if item["type"] == "missing" or not item["loc"] else f" (got {item['input']!r})")
            for item in error.errors()
        )
        msg = f"'{name}' has settings that cannot be used: {problems}."
        raise InputError(msg) from None


def _require_there(content: dict[str, Any], *, name: str) -> None:
    """Raise now, not after an hour, if a file or folder that is named is not there."""
    for key, is_there in (*((name, Path.is_file) for name in FILES), ("truth", Path.is_dir)):
        if isinstance(content.get(key), str) and not is_there(Path(content[key])):
            msg = f"'{name}': {key} names '{content[key]}', which is not there."
            raise InputError(msg)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a repeated key, of which only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = [key for i, key in enumerate(names) if key in names[:i]]
        if twice:
            msg = f"'{twice[0]}' is there twice (line {node.start_mark.line + 1} and after)"
            raise yaml.YAMLError(msg)
        return super().construct_mapping(node, deep=deep)


def dump_config(config: RunConfig) -> str:
    """All settings as YAML, defaults included, below `RESOLVED`."""
    content = config.model_dump(mode="json")
    if len(content["input"]) == 1:
        content["input"] = content["input"][0]
    return RESOLVED + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def is_of_the_user(path: Path) -> bool:
    """Whether there is a config that no run has written."""
    return path.is_file() and not path.read_text(encoding="utf-8").startswith(RESOLVED)
