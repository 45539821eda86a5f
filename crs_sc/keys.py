"""Every AnnData slot and every table column that the package writes, named once.

Science packages meet only through these names. What each of them holds is data: `data/slots.tsv`
(`ALL_KEYS`), `data/tables.tsv` and `data/columns.tsv` (`TABLES`, the contract of the files in
`OUT/tables`). They feed `crs-sc keys`, the checks of tables, the report and the README.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

Dtype = Literal["str", "int", "float", "bool"]


@dataclass(frozen=True)
class KeySpec:
    """One slot of the AnnData, a row of `data/slots.tsv`.

    Attributes
    ----------
    slot, name
        Where it is.
    constant
        Name of the constant of this module that holds `name`; empty for `X`.
    dtype, shape, unit
        What it holds.
    producer
        Function or stage that writes it.
    meaning
        One line for a reader.
    """

    slot: str
    name: str
    constant: str
    dtype: str
    shape: str
    unit: str
    producer: str
    meaning: str


@dataclass(frozen=True)
class Column:
    """One column of a table, a row of `data/columns.tsv`.

    Attributes
    ----------
    name, dtype
        As written to disk.
    meaning
        One line for a reader, with the unit where there is one.
    unit
        The unit alone; empty without one.
    """

    name: str
    dtype: Dtype
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class TableSpec:
    """One table of `OUT/tables` and its place in the report, a row of `data/tables.tsv`.

    Attributes
    ----------
    name
        File name without `.tsv`.
    columns
        In the order of the file.
    index
        Names of the columns that together identify a row.
    meaning
        One line for a reader.
    section, place
        Section of the report that shows it, and its rank there; empty and 0 if none does.
    title
        Its heading in the report.
    most
        Rows that the report shows at the most.
    shown
        Names of the columns that the report shows, in its order.
    """

    name: str
    columns: tuple[Column, ...]
    index: tuple[str, ...]
    meaning: str
    section: str = ""
    place: int = 0
    title: str = ""
    most: int = 0
    shown: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Column names in the order of the file."""
        return [column.name for column in self.columns]


# --- the cohort -------------------------------------------------------------------------------

UNS = "crs_sc"
COUNTS = "counts"

SAMPLE = "sample"
SUBJECT = "subject"
CONDITION = "condition"
TIMEPOINT = "timepoint"
BATCH = "batch"
LABEL = "label"
# Column of a sample sheet: the raw 10x matrix of the sample, for its empty droplets.
RAW_PATH = "raw_path"
SAMPLING_WEIGHT = "sampling_weight"
# Column of a table of absolute counts beside sample and population.
CELLS_PER_UL = "cells_per_ul"

SPECIES = "species"
SPECIES_FRACTION = "species_fraction"
N_UMI = "n_umi"
N_GENES = "n_genes"
MT_FRACTION = "mt_fraction"
DOUBLET_SCORE = "doublet_score"
QC_STATUS = "qc_status"
CLUSTER = "cluster"
SUBCLUSTER = "myeloid_cluster"
POPULATION = "population"
LINEAGE = "lineage"
CONFIDENCE = "population_confidence"
MYELOID_STATE = "myeloid_state"
TRANSGENE = "transgene"

GENE_ID = "gene_id"
GENOME = "genome"
ORIGINAL_NAME = "original_name"
SYMBOL = "symbol"
HIGHLY_VARIABLE = "highly_variable"

PCA = "X_pca"
HARMONY = "X_pca_harmony"
UMAP = "X_umap"
CHANCE_SCORE = "chance_score"
SIGNATURE_SCORES = "signature_scores"
PRODUCER_STATE = "producer_state"
OPINIONS = "opinions"
# The opinion of the markers, where the populations are labels of the user.
MARKERS = "markers"
AMBIENT_PROFILE = "ambient_profile"

# A pseudobulk: AnnData of units x populations, see comparison.pseudobulk.
AMBIENT = "ambient"
N_CELLS = "n_cells"
N_CELLS_TOTAL = "n_cells_total"
WEIGHT = "weight"
WEIGHT_TOTAL = "weight_total"
CELL_SHARE = "cell_share"

# Entries of uns["crs_sc"].
QC = "qc"
NOTES = "notes"
MATRIX = "matrix"
CONTAMINATION = "contamination"
CLUSTERING = "clustering"
CLUSTERS = "clusters"
SUBCLUSTERS = "subclusters"
POPULATIONS = "populations"
PRODUCER_CALLS = "producer_calls"
COVERAGE = "coverage"
ORGANISM = "organism"
SPECIES_CALL = "species_call"
SPECIES_AMBIENT = "species_soup"
DROPLETS = "droplets"
# Of a pseudobulk: rows that are too small to stand for a subject.
EXCLUSIONS = "exclusions"

# --- vocabularies -----------------------------------------------------------------------------

PASS = "pass"
OTHER_SPECIES = "other_species"
CROSS_SPECIES = "cross_species"
LOW_COUNTS = "low_counts"
LOW_GENES = "low_genes"
HIGH_MT = "high_mt"
DOUBLET = "doublet"
QC_REASONS = (PASS, OTHER_SPECIES, CROSS_SPECIES, LOW_COUNTS, LOW_GENES, HIGH_MT, DOUBLET)

PRODUCER = "producer"
AMBIENT_COMPATIBLE = "ambient_compatible"
UNDETERMINED = "undetermined"
NEGATIVE = "negative"
PRODUCER_STATES = (PRODUCER, AMBIENT_COMPATIBLE, UNDETERMINED, NEGATIVE)

UNKNOWN = "Unknown"
# In a cohort of a few genes: the UMI of all its other genes together.
OTHER_GENES = "all other genes"
# In tables that add up over populations: the sum over all of them.
ALL_POPULATIONS = "All"
ALL_BATCHES = "All"
# In the table of overlaps: the cytokines that are asked about, as a set of their own.
TARGET_GENES = "target_cytokines"
CAR_T = "CAR T"
MYELOID_LINEAGES = ("Monocyte", "Macrophage", "DC", "pDC", "Neutrophil", "Mast cell")

OK = "ok"
ABSENT_IN_REFERENCE = "absent_in_reference"
ABSENT_IN_TREATED = "absent_in_treated"
ABSENT_IN_BASELINE = "absent_in_baseline"
TOO_FEW_CELLS = "too_few_cells"
TOO_FEW_SUBJECTS = "too_few_subjects"
CONFOUNDED = "confounded"
NOT_MEASURED = "not_measured"
NOT_DETECTED = "not_detected"
TOO_FEW_GENES = "too_few_genes"
ABOVE_AMBIENT = "above_soup"
STABLE = "stable"
DOUBTFUL = "doubtful"
UNSTABLE = "unstable"
CLUSTER_STATES = (STABLE, DOUBTFUL, UNSTABLE, UNDETERMINED)
SHIFT_STATUSES = (
    OK, ABSENT_IN_REFERENCE, ABSENT_IN_TREATED, TOO_FEW_CELLS, TOO_FEW_SUBJECTS, CONFOUNDED,
    NOT_MEASURED, NOT_DETECTED, TOO_FEW_GENES,
)  # fmt: skip
CHANGED = "changed"
CHANGED_WITHIN_MARGIN = "changed_within_margin"
EQUIVALENT = "equivalent"
INCONCLUSIVE = "inconclusive"
VERDICTS = (CHANGED, CHANGED_WITHIN_MARGIN, EQUIVALENT, INCONCLUSIVE)
AGONIST_ONLY = "agonist_only"
ANTAGONIST_ONLY = "antagonist_only"
REACHED = "reached"
AT_FIRST_SAMPLING = "at_first_sampling"
ALWAYS = "always"
NEVER = "never"
NOT_FOLLOWED = "not_followed"
AGREES = "agrees"
LINEAGE_AGREES = "lineage_agrees"
DISAGREES = "disagrees"
CANNOT_TELL = "cannot_tell"
OPINION_VERDICTS = (AGREES, LINEAGE_AGREES, DISAGREES, CANNOT_TELL)
ONSET_STATES = (REACHED, AT_FIRST_SAMPLING, ALWAYS, NEVER, NOT_FOLLOWED)
COUNT_OUTLIER = "count_outlier"
INTENSITY_NOT_IDENTIFIED = "intensity_not_identified"
NO_PRODUCERS = "no_producers"
ONLY_POPULATION = "only_population"
NO_CELLS = "no_cells"
INCOMPLETE_PAIR = "incomplete_pair"
NOT_TESTED = "not_tested"
NO_SHIFT_TO_REVERSE = "no_shift_to_reverse"


# --- what they hold ---------------------------------------------------------------------------


def rows(name: str) -> list[dict[str, str]]:
    """Rows of `data/NAME.tsv`, by column."""
    path = Path(__file__).with_name("data") / f"{name}.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _table(row: dict[str, str], columns: list[dict[str, str]]) -> TableSpec:
    made = tuple(
        Column(one["column"], cast("Dtype", one["dtype"]), one["meaning"], one["unit"])
        for one in columns
        if one["table"] == row["table"]
    )
    shown = [one.name for one in made] if row["shown"] == "*" else row["shown"].split(",")
    shown = [name for name in shown if name]
    index, most, place = row["index"].split(","), int(row["most"] or 0), int(row["place"] or 0)
    return TableSpec(
        row["table"], made, tuple(index), row["meaning"],
        row["section"], place, row["title"], most, tuple(shown),
    )  # fmt: skip


ALL_KEYS: tuple[KeySpec, ...] = tuple(KeySpec(**row) for row in rows("slots"))
_COLUMNS = rows("columns")
TABLES: dict[str, TableSpec] = {row["table"]: _table(row, _COLUMNS) for row in rows("tables")}

QC_TABLE = TABLES["qc"]
POPULATIONS_TABLE = TABLES["populations"]
CLUSTERING_TABLE = TABLES["clustering"]
CLUSTERS_TABLE = TABLES["clusters"]
SUBCLUSTERS_TABLE = TABLES["subclusters"]
INTEGRATION_TABLE = TABLES["integration"]
CIRCULARITY_TABLE = TABLES["circularity"]
GENE_OVERLAP_TABLE = TABLES["gene_overlap"]
OPINIONS_TABLE = TABLES["opinions"]
COVERAGE_TABLE = TABLES["coverage"]
PRODUCERS_TABLE = TABLES["producers"]
PRODUCTION_TABLE = TABLES["production"]
LEDGER_TABLE = TABLES["ledger"]
LEDGER_BY_CONDITION_TABLE = TABLES["ledger_by_condition"]
IL1_TONE_TABLE = TABLES["il1_tone"]
RECEIVERS_TABLE = TABLES["receivers"]
SHIFTS_TABLE = TABLES["shifts"]
ARM_BY_TIME_TABLE = TABLES["arm_by_time"]
ONSET_TABLE = TABLES["onset"]
DECOMPOSITION_TABLE = TABLES["decomposition"]
REVERSAL_TABLE = TABLES["reversal"]
COMPOSITION_TABLE = TABLES["composition"]
EXPRESSION_TABLE = TABLES["expression"]
ENRICHMENT_TABLE = TABLES["enrichment"]
EXCLUSIONS_TABLE = TABLES["exclusions"]
SCORES_TABLE = TABLES["scores"]
