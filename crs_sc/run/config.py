"""The settings of a run: `RunConfig`, read from YAML.

A section bears the name of the function that it feeds; its fields and defaults are those of the
function's signature. They are declared here, so that a config is read without the science.
"""

from __future__ import annotations

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
    model_validator,
)

from crs_sc.core.contrast import Contrast
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import KeysView

__all__ = ["SETTINGS_OF", "Columns", "RunConfig", "config_schema", "load_config", "sections_of"]

# What each stage reads of the config: settings of the cohort, then the sections of the functions
# that it calls, in the order of their use.
SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "qc": (
        "columns", "organism", "transgene", "seed",
        "call_species", "quality_control", "call_doublets", "estimate_ambient",
    ),
    "cluster": (
        "genes", "transgene", "seed",
        "normalize", "select_genes", "embed", "cluster",
    ),
    "annotate": (
        "columns", "organism", "transgene", "signatures", "gene_sets", "seed", "genes",
        "label_reference", "celltypist_model", "label_names",
        "score_signatures", "annotate", "call_transgene", "call_myeloid_states", "subcluster",
        "transfer_labels", "celltypist_labels",
    ),
    "sources": (
        "columns", "genes", "organism", "absolute_counts", "seed",
        "call_producers", "production", "ledger", "ledger_by_condition", "receivers", "il1_tone",
    ),
    "compare": (
        "columns", "contrasts", "genes", "signatures", "gene_sets", "seed",
        "shifts", "arm_by_time", "onset", "decompose", "reversal", "composition", "expression",
        "enrichment",
    ),
    "report": ("columns", "organism", "contrasts", "signatures", "gene_sets", "truth"),
}  # fmt: skip

# Settings that name a file, of which the content counts.
FILES = ("gene_sets", "absolute_counts", "label_reference", "celltypist_model", "label_names")

# First line of the settings that a run leaves, which tells them from a config of the user.
RESOLVED = "# Every setting of this run, as crs_sc resolved it.\n"

# Fields of a contrast that are names, of which YAML makes 1, 2.5 and true what they look like.
_NAMES = ("name", "treated", "reference")

_STRICT = ConfigDict(frozen=True, extra="forbid")


def setting(default: object, about: str) -> Any:
    """Field of a section with its default, and the comment that `crs-sc init` writes."""
    return Field(default, description=about)


class Columns(BaseModel):
    """The user's own names of the columns of `obs`."""

    model_config = _STRICT

    sample: str | None = setting(None, "One library.")
    subject: str | None = setting(None, "Animal or patient: the unit of replication.")
    condition: str | None = setting(None, "Arm of the study.")
    batch: str | None = setting(None, "Batch: a block of the tests.")
    timepoint: str | None = setting(None, "Time point.")
    label: str | None = setting(None, "Your own cell types, taken as they are.")
    sampling_weight: str | None = setting(
        None, "Cells of the specimen that one sequenced cell stands for."
    )

    def mapping(self) -> dict[str, str | None]:
        """Canonical name and the user's, for `read`; what is optional is only used if mapped."""
        needed = ("sample", "subject", "condition")
        return {name: column for name, column in self if column or name not in needed}


class _Section(BaseModel):
    """Settings of one function, which `**section` hands to it."""

    model_config = _STRICT

    def keys(self) -> KeysView[str]:
        """Names of the settings."""
        return type(self).model_fields.keys()

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class CallSpecies(_Section):
    """Cells of two genomes: which species a barcode is."""

    min_fraction: float = setting(
        0.9, "Share of UMI from which a barcode belongs to one species, above 0.5."
    )
    min_umi: int = setting(50, "Barcodes with fewer UMI over both genomes are not called.")


class QualityControl(_Section):
    """Limits of each sample, found from its own cells between these."""

    n_mads: float = setting(4.0, "Scaled median absolute deviations from the median.")
    min_umi: int = setting(300, "Floor; lower in a file with fewer than 2,000 genes.")
    min_genes: int = setting(150, "Floor; lower in a file with fewer than 2,000 genes.")
    max_mt_fraction: float = setting(0.2, "Highest limit on the mitochondrial share.")
    mt_floor: float = setting(
        0.08, "Lowest limit on the mitochondrial share: nothing below it is damaged."
    )


class CallDoublets(_Section):
    """Doublets of each sample."""

    min_cells: int = setting(100, "Samples with fewer passing cells are skipped.")
    expected_rate: float = setting(
        0.05, "Expected share (10x: about 0.008 per 1,000 cells recovered)."
    )
    max_excess: float = setting(
        3.0, "Largest accepted share of calls, in units of `expected_rate`."
    )
    n_comps: int = setting(30, "Principal components.")


class EstimateAmbient(_Section):
    """Ambient RNA and contamination fraction of each sample."""

    corrected: bool = setting(
        default=False,
        about="The counts were corrected before (CellBender, SoupX): nothing is taken off twice.",
    )
    assumed_fraction: float = setting(
        0.1, "Contamination of a sample without enough evidence, on the high side."
    )
    max_fraction: float = setting(0.5, "Largest contamination considered.")
    min_exposure: float = setting(
        100.0, "A panel is used from this many UMI expected at a contamination of 1."
    )


class Normalize(_Section):
    """Log-normalised expression."""

    target_sum: float = setting(1e4, "Counts per cell after scaling.")


class SelectGenes(_Section):
    """Genes of the embedding."""

    n_genes: int = setting(2000, "How many to mark; all candidates if there are fewer.")
    min_batch_cells: int = setting(30, "Batches with fewer cells have no say.")


class Embed(_Section):
    """Principal components, integration, neighbours and layout."""

    n_comps: int = setting(30, "Principal components; fewer in a small cohort.")
    n_neighbors: int = setting(15, "Neighbours of each cell, itself among them.")
    integrate: bool | None = setting(
        None, "Correct for the batch; by default where a batch has both conditions."
    )


class Cluster(_Section):
    """Clusters of all cells, and how stable they are."""

    resolutions: tuple[float, ...] = setting(
        (0.25, 0.5, 1.0, 1.5, 2.0), "Each > 0; larger gives more clusters."
    )
    min_stability: float = setting(0.9, "Mean adjusted Rand index with the subsamples, 0 to 1.")
    n_subsamples: int = setting(5, "Subsamples, at least 2.")
    subsample: float = setting(0.8, "Share of the cells in a subsample, inside (0, 1).")
    max_cells: int = setting(10000, "Cells that the subsamples are drawn from at most.")
    flavor: Literal["igraph", "leidenalg"] = setting("igraph", "Implementation of Leiden.")


class ScoreSignatures(_Section):
    """Signature scores of the cells."""

    max_rank: int = setting(1500, "Genes of a cell that are ranked.")


class Annotate(_Section):
    """Cell types."""

    min_markers: int = setting(3, "Types with fewer markers in the data are not called.")
    min_expression: float = setting(
        0.3, "Mean log-normalised expression that counts as clearly there."
    )
    min_score: float = setting(0.3, "Smallest score of the lineage of a whole cluster, -1 to 1.")
    min_confidence: float = setting(
        0.5, "Smallest share of the belief, and of the resamplings, for a lineage."
    )
    neighbour_weight: float = setting(
        0.8, "Weight of a cell's neighbours in the belief about it, inside [0, 1)."
    )
    n_resamples: int = setting(200, "Resamplings of the markers.")


class CallTransgene(_Section):
    """Cells that carry the CAR construct."""

    before: tuple[str, ...] = setting(
        (), "Conditions or time points without the product: the false positives."
    )
    alpha: float = setting(0.05, "False discovery rate against ambient RNA.")


class CallMyeloidStates(_Section):
    """States of myeloid cells."""

    min_interferon: float = setting(
        0.25, "Score of the type I response that makes `interferon_stimulated`."
    )
    min_inflammatory: float = setting(
        0.15, "Mean of the three inflammatory scores that makes `inflammatory`."
    )
    min_hla_dr_low: float = setting(
        0.25, "S100A-high score less that of HLA-DR that makes `hla_dr_low`."
    )


class Subcluster(_Section):
    """Clusters within the myeloid compartment."""

    groups: tuple[str, ...] = setting(
        ("Monocyte", "Macrophage", "DC", "pDC", "Neutrophil", "Mast cell"),
        "Lineages that make up the compartment.",
    )
    n_genes: int = setting(2000, "Genes that vary most within it.")
    min_cells: int = setting(100, "With fewer cells nothing is clustered.")
    n_comps: int = setting(20, "Principal components; fewer with few genes or cells.")
    n_neighbors: int = setting(15, "Neighbours of each cell, itself among them.")
    resolutions: tuple[float, ...] = setting((0.25, 0.5, 1.0, 1.5, 2.0), "As in `cluster`.")
    flavor: Literal["igraph", "leidenalg"] = setting("igraph", "As in `cluster`.")


class TransferLabels(_Section):
    """Labels of `label_reference`."""

    reference_key: str = setting("label", "Column of the reference with the labels.")
    n_label_genes: int = setting(500, "Genes that are used.")
    max_reference_cells: int = setting(
        2000, "Cells of each label that are used, drawn at random if there are more."
    )
    min_probability: float = setting(0.5, "Smallest probability of the best label.")


class CelltypistLabels(_Section):
    """Labels of `celltypist_model`."""

    min_probability: float = setting(0.5, "A cell whose best label has less is `Unknown`.")


class CallProducers(_Section):
    """Producing cells, against ambient RNA."""

    alpha: float = setting(0.05, "False discovery rate of the calls.")
    max_missed: float = setting(
        0.05, "Largest probability that a producer shows no UMI in a negative cell."
    )
    typical_rate: float = setting(
        2e-4, "UMI of the cytokine per UMI of a producer, where too few show it."
    )


class Production(_Section):
    """Populations that make a cytokine."""

    alpha: float = setting(0.05, "False discovery rate.")


class Ledger(_Section):
    """Share of each population in a cytokine, by sample."""

    alpha: float = setting(0.05, "False discovery rate of the sources.")
    n_draws: int = setting(1000, "Draws for the interval of the share.")


class LedgerByCondition(_Section):
    """Share of each population in a cytokine, by condition."""

    n_bootstrap: int = setting(2000, "Resamplings of the subjects.")


class Receivers(_Section):
    """Populations that can respond to a cytokine."""

    cytokines: tuple[str, ...] | None = setting(
        None, "Symbols in order; all with known receptors if left out."
    )
    min_cells: int = setting(10, "Cells of a population that a subject needs.")
    alpha: float = setting(
        0.05, "False discovery rate, of cells above ambient RNA and of populations."
    )


class Il1Tone(_Section):
    """IL-1 against its natural inhibitors."""

    min_cells: int = setting(10, "With fewer cells of a population a sample has no ratio.")
    level: float = setting(0.95, "Confidence level of the interval over the cells.")


class Shifts(_Section):
    """Change of signatures and genes in each population."""

    min_cells: int = setting(10, "Cells of a population that a replicate needs.")
    min_count: int = setting(
        10, "UMI beyond ambient RNA that a gene needs, in as many units as an arm has."
    )
    min_genes: int = setting(3, "Genes that must count for a signature to be tested.")
    margin: float = setting(
        0.5, "Largest shift that is no relevant change, log2; choose before looking."
    )
    min_coverage: float = setting(
        0.5, "Share of a signature that must count before it can be equivalent."
    )
    stress: str = setting(
        "dissociation_stress", "The signature that measures the stress of handling."
    )


class ArmByTime(_Section):
    """Change of the change between time points."""

    min_cells: int = setting(10, "Cells of a population that a replicate needs.")
    min_count: int = setting(10, "As in `shifts`, over the units of both times.")
    min_genes: int = setting(3, "As in `shifts`.")


class Onset(_Section):
    """Which of two cytokines rises first."""

    first: tuple[str, ...] = setting(("IL1A", "IL1B"), "Genes; their UMI are added up.")
    second: tuple[str, ...] = setting(("IL6",), "Genes; their UMI are added up.")
    fraction: float = setting(0.5, "Of the highest output.")
    min_count: int = setting(
        10, "The highest output must rest on this many UMI beyond ambient RNA."
    )


class Decompose(_Section):
    """A change in output as composition, frequency of producing cells and intensity."""

    n_bootstrap: int = setting(2000, "Bootstrap samples of subjects for the intervals.")


class Reversal(_Section):
    """How far a drug brings a response back."""

    min_cells: int = setting(10, "Cells of a population that a replicate needs.")
    min_count: int = setting(
        10, "UMI beyond ambient RNA that a gene needs, in as many units as an arm has."
    )
    min_genes: int = setting(3, "As in `shifts`; with fewer there is no interval.")


class Composition(_Section):
    """Change in the shares of the populations."""

    min_cells: int = setting(5, "Cells of a population, and others, that a replicate should have.")


class Expression(_Section):
    """Change of each gene."""

    min_cells: int = setting(10, "Cells of a population that a replicate needs.")
    min_count: int = setting(10, "UMI that a gene needs, in as many units as an arm has.")


class Enrichment(_Section):
    """Gene sets among the changed genes."""

    n_permutations: int = setting(1000, "Random gene sets for p and normalised score.")
    min_genes: int = setting(5, "A set with fewer genes in a ranking is not tested.")


def _known_fields(value: object) -> object:
    """Refuse a contrast with an unknown field; dataclasses would drop it silently."""
    known = [field.name for field in fields(Contrast)]
    if isinstance(value, dict):
        names = (*_NAMES, "baseline")
        value = {k: str(v) if k in names and v is not None else v for k, v in value.items()}
        if unknown := [name for name in value if name not in known]:
            msg = f"unknown field {listing(unknown)}; a contrast has {listing(known)}"
            raise ValueError(msg)
        if value.get("name") == "":
            msg = "a contrast needs a name that is not empty"
            raise ValueError(msg)
    return value


class RunConfig(BaseModel):
    """Settings of a run; see the fields for their meaning."""

    model_config = _STRICT

    input: tuple[Path, ...] = Field(
        description="A file, a list of files, or a sample sheet (TSV with a column `path`)."
    )
    columns: Columns = Field(default=Columns(), description="Your names of the columns.")
    contrasts: tuple[Annotated[Contrast, BeforeValidator(_known_fields)], ...] = setting(
        (), "What is compared with what."
    )
    genes: tuple[str, ...] = Field(
        ("IL1A", "IL1B", "IL6", "TNF", "CXCL8", "CCL2", "IL18", "IL1RN", "CSF2", "IFNG"),
        min_length=1,
        description="Cytokines of the ledger.",
    )
    organism: Literal["human", "mouse", "human+mouse", "mouse+human"] = setting(
        "human", "Organism; of two genomes, the first is analysed."
    )
    transgene: tuple[str, ...] = setting((), "Features of the CAR construct.")
    signatures: tuple[str, ...] | None = setting(
        None, "Packaged signatures to use; all of them if left out."
    )
    gene_sets: Path | None = setting(None, "Your own signatures (GMT or TSV).")
    label_reference: Path | None = setting(
        None, "Labelled cells (h5ad with counts): a cross-check of the cell types."
    )
    celltypist_model: Path | None = setting(
        None, "CellTypist model file: a cross-check of the cell types."
    )
    label_names: Path | None = setting(None, "What labels mean: TSV with label, population.")
    absolute_counts: Path | None = setting(
        None, "Cells per microlitre: TSV with sample, population, cells_per_ul."
    )
    truth: Path | None = setting(None, "Folder with the planted truth of a simulated cohort.")
    memory_limit: float | None = Field(
        None, gt=0, description="Memory in GB that a run may use; all there is if left out."
    )
    seed: int = Field(0, ge=0, description="Seed of everything random.")

    call_species: CallSpecies = CallSpecies()
    quality_control: QualityControl = QualityControl()
    call_doublets: CallDoublets = CallDoublets()
    estimate_ambient: EstimateAmbient = EstimateAmbient()
    normalize: Normalize = Normalize()
    select_genes: SelectGenes = SelectGenes()
    embed: Embed = Embed()
    cluster: Cluster = Cluster()
    score_signatures: ScoreSignatures = ScoreSignatures()
    annotate: Annotate = Annotate()
    call_transgene: CallTransgene = CallTransgene()
    call_myeloid_states: CallMyeloidStates = CallMyeloidStates()
    subcluster: Subcluster = Subcluster()
    transfer_labels: TransferLabels = TransferLabels()
    celltypist_labels: CelltypistLabels = CelltypistLabels()
    call_producers: CallProducers = CallProducers()
    production: Production = Production()
    ledger: Ledger = Ledger()
    ledger_by_condition: LedgerByCondition = LedgerByCondition()
    receivers: Receivers = Receivers()
    il1_tone: Il1Tone = Il1Tone()
    shifts: Shifts = Shifts()
    arm_by_time: ArmByTime = ArmByTime()
    onset: Onset = Onset()
    decompose: Decompose = Decompose()
    reversal: Reversal = Reversal()
    composition: Composition = Composition()
    expression: Expression = Expression()
    enrichment: Enrichment = Enrichment()

    @model_validator(mode="after")
    def _weighted_once(self) -> Self:
        if self.absolute_counts is not None and self.columns.sampling_weight is not None:
            msg = (
                "both `absolute_counts` and `columns: sampling_weight` say how many cells of the "
                "specimen a sequenced cell stands for; leave one of them out"
            )
            raise ValueError(msg)
        return self


def sections_of(stage: str) -> dict[str, type[BaseModel]]:
    """Sections of the functions of a stage by name, in the order of their use."""
    models = {name: RunConfig.model_fields[name].annotation for name in SETTINGS_OF[stage]}
    return {
        name: model
        for name, model in models.items()
        if isinstance(model, type) and issubclass(model, _Section)
    }


def load_config(path: Path) -> RunConfig:
    """Read and check a config; paths in it are relative to its folder.

    Parameters
    ----------
    path
        YAML file.

    Returns
    -------
    Frozen settings; each one that the file leaves out has its default.

    Raises
    ------
    InputError
        If the file is not there, is not YAML, or a setting is unknown or out of range.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import crs_sc as crs
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "config.yaml")
    ...     n_characters = path.write_text("input: cells.h5ad")
    ...     config = crs.load_config(path)
    >>> config.seed
    0
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


def config_schema() -> dict[str, Any]:
    """JSON schema of the YAML of a config.

    It says what `load_config` accepts, for editors that complete and check YAML; what depends on
    several settings, or on files, `load_config` alone can say.

    Returns
    -------
    Draft 2020-12 schema: the model's own, with a single file as `input`, empty settings (which
    mean the default) and names that YAML reads as numbers.
    """
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Config of a crs-sc run"
    properties = schema["properties"]
    files = properties["input"]
    properties["input"] = {
        "description": files["description"],
        "anyOf": [{"type": "string"}, {key: files[key] for key in ("type", "items")}],
    }
    for name in set(properties) - set(schema["required"]):
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    name_or_number = {"type": ["string", "number", "boolean"]}
    contrast = schema["$defs"]["Contrast"]["properties"]
    contrast.update(dict.fromkeys(_NAMES, name_or_number))
    contrast["baseline"] = {"anyOf": [name_or_number, {"type": "null"}]}
    return schema
