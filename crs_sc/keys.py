"""Every AnnData slot and every table column that the package writes, named once.

Science packages meet only through these names. `ALL_KEYS` feeds the README and `crs-sc keys`;
`TABLES` is the contract of the files in `OUT/tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Slot = Literal["X", "layers", "obs", "var", "obsm", "varm", "obsp", "uns"]


@dataclass(frozen=True)
class KeySpec:
    """One slot of the AnnData.

    Attributes
    ----------
    slot, name
        Where it is.
    dtype, shape, unit
        What it holds.
    producer
        Function or stage that writes it.
    meaning
        One line for a reader.
    """

    slot: Slot
    name: str
    dtype: str
    shape: str
    unit: str
    producer: str
    meaning: str


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name, dtype
        As written to disk; `dtype` is one of `str`, `int`, `float`, `bool`.
    meaning
        One line for a reader, with the unit where there is one.
    """

    name: str
    dtype: Literal["str", "int", "float", "bool"]
    meaning: str


@dataclass(frozen=True)
class TableSpec:
    """One table of `OUT/tables`: its columns in order and those that identify a row.

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
    """

    name: str
    columns: tuple[Column, ...]
    index: tuple[str, ...]
    meaning: str

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

ALL_KEYS: tuple[KeySpec, ...] = (
    KeySpec(
        "layers",
        COUNTS,
        "float32 integers, CSR",
        "(n_cells, n_genes)",
        "UMI",
        "read",
        "Raw counts; never changed.",
    ),
    KeySpec(
        "X",
        "X",
        "float32, CSR",
        "(n_cells, n_genes)",
        "log1p(CP10k)",
        "pp.normalize",
        "Log-normalised expression.",
    ),
    KeySpec("obs", SAMPLE, "category", "(n_cells,)", "", "read", "One library."),
    KeySpec(
        "obs",
        SUBJECT,
        "category",
        "(n_cells,)",
        "",
        "read",
        "Animal or patient: the unit of replication.",
    ),
    KeySpec("obs", CONDITION, "category", "(n_cells,)", "", "read", "Arm of the study."),
    KeySpec("obs", TIMEPOINT, "category", "(n_cells,)", "", "read", "Time point, if mapped."),
    KeySpec("obs", BATCH, "category", "(n_cells,)", "", "read", "Batch, if mapped."),
    KeySpec(
        "obs", LABEL, "category", "(n_cells,)", "", "read", "The user's own cell types, if mapped."
    ),
    KeySpec(
        "obs",
        SAMPLING_WEIGHT,
        "float64",
        "(n_cells,)",
        "cells",
        "read or tl.weigh_cells",
        "Cells of the specimen that one sequenced cell stands for; per microlitre with counts.",
    ),
    KeySpec(
        "obs", SPECIES, "category", "(n_cells,)", "", "pp.call_species", "human, mouse or mixed."
    ),
    KeySpec(
        "obs",
        SPECIES_FRACTION,
        "float64",
        "(n_cells,)",
        "share of UMI",
        "pp.call_species",
        "UMI of the analysed genome over all UMI of the cell.",
    ),
    KeySpec(
        "obs",
        N_UMI,
        "int64",
        "(n_cells,)",
        "UMI",
        "pp.quality_control",
        "UMI of the analysed genome.",
    ),
    KeySpec(
        "obs",
        N_GENES,
        "int64",
        "(n_cells,)",
        "genes",
        "pp.quality_control",
        "Genes with at least one UMI.",
    ),
    KeySpec(
        "obs",
        MT_FRACTION,
        "float64",
        "(n_cells,)",
        "share of UMI",
        "pp.quality_control",
        "Mitochondrial UMI over all UMI.",
    ),
    KeySpec(
        "obs",
        DOUBLET_SCORE,
        "float64",
        "(n_cells,)",
        "",
        "pp.call_doublets",
        "Scrublet score; missing where the sample was too small.",
    ),
    KeySpec(
        "obs",
        QC_STATUS,
        "category",
        "(n_cells,)",
        "",
        "pp.quality_control",
        "pass, or the first reason for leaving the cell out.",
    ),
    KeySpec(
        "obs",
        CLUSTER,
        "category",
        "(n_cells,)",
        "",
        "tl.cluster",
        "Leiden cluster at the chosen resolution; 0 is the largest.",
    ),
    KeySpec(
        "obs",
        SUBCLUSTER,
        "category",
        "(n_cells,)",
        "",
        "tl.subcluster",
        "Cluster among the myeloid cells on their own genes; missing elsewhere.",
    ),
    KeySpec("obs", POPULATION, "category", "(n_cells,)", "", "tl.annotate", "Cell type."),
    KeySpec(
        "obs", LINEAGE, "category", "(n_cells,)", "", "tl.annotate", "Lineage of the cell type."
    ),
    KeySpec(
        "obs",
        CONFIDENCE,
        "float64",
        "(n_cells,)",
        "0 to 1",
        "tl.annotate",
        "Confidence of the cluster's cell type.",
    ),
    KeySpec(
        "obs",
        MYELOID_STATE,
        "category",
        "(n_cells,)",
        "",
        "tl.annotate",
        "State of a monocyte or macrophage; missing elsewhere.",
    ),
    KeySpec(
        "obs",
        CHANCE_SCORE,
        "float64",
        "(n_cells,)",
        "0 to 1",
        "tl.score_signatures",
        "Score expected of a gene set without meaning in this cell.",
    ),
    KeySpec(
        "obs",
        TRANSGENE,
        "category",
        "(n_cells,)",
        "",
        "tl.call_transgene",
        "detected or not_detected, above the sample's ambient RNA.",
    ),
    KeySpec("var", GENE_ID, "str", "(n_genes,)", "", "read", "Ensembl id where the file has it."),
    KeySpec("var", ORIGINAL_NAME, "str", "(n_genes,)", "", "read", "Name of the gene in the file."),
    KeySpec(
        "var",
        GENOME,
        "category",
        "(n_genes,)",
        "",
        "read",
        "human or mouse, where the file has both.",
    ),
    KeySpec(
        "var",
        SYMBOL,
        "str",
        "(n_genes,)",
        "",
        "read",
        "Symbol without prefix, where the file has two genomes.",
    ),
    KeySpec(
        "var",
        HIGHLY_VARIABLE,
        "bool",
        "(n_genes,)",
        "",
        "pp.select_genes",
        "Used for the embedding.",
    ),
    KeySpec(
        "varm",
        AMBIENT_PROFILE,
        "float64, DataFrame",
        "(n_genes, n_samples)",
        "share of UMI",
        "pp.estimate_ambient",
        "Share of each gene in ambient RNA of each sample.",
    ),
    KeySpec("obsm", PCA, "float32", "(n_cells, n_comps)", "", "tl.embed", "Principal components."),
    KeySpec(
        "obsm",
        HARMONY,
        "float32",
        "(n_cells, n_comps)",
        "",
        "tl.embed",
        "Principal components after harmony, if asked for.",
    ),
    KeySpec("obsm", UMAP, "float32", "(n_cells, 2)", "", "tl.embed", "For pictures only."),
    KeySpec(
        "obsm",
        SIGNATURE_SCORES,
        "float32, DataFrame",
        "(n_cells, n_signatures)",
        "0 to 1",
        "tl.score_signatures",
        "Rank-based score per cell; for pictures.",
    ),
    KeySpec(
        "obsm",
        OPINIONS,
        "category, DataFrame",
        "(n_cells, n_opinions)",
        "",
        "tl.add_opinion",
        "What others say of each cell, in their own words: a classifier, a reference, the markers.",
    ),
    KeySpec(
        "obsm",
        PRODUCER_STATE,
        "category, DataFrame",
        "(n_cells, n_genes)",
        "",
        "tl.call_producers",
        "producer, ambient_compatible, undetermined or negative per cytokine.",
    ),
    KeySpec(
        "uns",
        UNS,
        "dict",
        "",
        "",
        "every function",
        "qc, contamination, species_soup, droplets, clustering, populations, transgene, coverage "
        "(tables), matrix, organism, notes.",
    ),
)


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
    OK,
    ABSENT_IN_REFERENCE,
    ABSENT_IN_TREATED,
    TOO_FEW_CELLS,
    TOO_FEW_SUBJECTS,
    CONFOUNDED,
    NOT_MEASURED,
    NOT_DETECTED,
    TOO_FEW_GENES,
)
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


# --- tables -----------------------------------------------------------------------------------

_CONTRAST = Column("contrast", "str", "Name of the contrast; NAME@TIME within a time point.")
_POPULATION = Column("population", "str", "Cell type.")
_GENE = Column("gene", "str", "Gene symbol.")
_SAMPLE = (
    Column("sample", "str", "One library."),
    Column("subject", "str", "Animal or patient."),
    Column("condition", "str", "Arm."),
)
_N_CELLS = Column("n_cells", "int", "Cells that passed QC.")
_ESTIMATE = (
    Column("ci_low", "float", "Lower end of the 95 % interval."),
    Column("ci_high", "float", "Upper end of the 95 % interval."),
)
_TEST = (
    Column("pvalue", "float", "Model p, moderated across the tests."),
    Column("padj", "float", "Benjamini-Hochberg over the whole table."),
    Column("pvalue_permutation", "float", "Permutation p of subjects within blocks."),
    Column("pvalue_floor", "float", "The smallest permutation p that this design can reach."),
    Column("n_reference", "int", "Subjects of the reference arm that were used."),
    Column("n_treated", "int", "Subjects of the treated arm that were used."),
    Column("loo_low", "float", "Smallest estimate when one subject is left out."),
    Column("loo_high", "float", "Largest estimate when one subject is left out."),
)
_STATUS = Column("status", "str", "ok, or why there is no p or no estimate.")

QC_TABLE = TableSpec(
    "qc",
    (
        *_SAMPLE,
        Column("n_cells_in", "int", "Barcodes in the file."),
        Column("n_cells_out", "int", "Cells that passed every filter."),
        Column("median_umi", "float", "Median UMI of the cells that passed."),
        Column("median_genes", "float", "Median genes of the cells that passed."),
        Column(
            "median_mt_fraction",
            "float",
            "Median mitochondrial share of UMI; empty without mitochondrial genes.",
        ),
        Column("n_low_counts", "int", "Left out: too few UMI."),
        Column("n_low_genes", "int", "Left out: too few genes."),
        Column("n_high_mt", "int", "Left out: too large a mitochondrial share."),
        Column(
            "n_doublets",
            "int",
            "Left out: doublets; empty where the sample was too small to call them.",
        ),
        Column("n_other_species", "int", "Left out: cells of the other species."),
        Column("n_cross_species", "int", "Left out: droplets with cells of both species."),
        Column("ambient_fraction", "float", "Share of a cell's UMI that came from ambient RNA."),
        Column("ambient_upper", "float", "Upper 95 % bound of ambient_fraction."),
        Column("ambient_source", "str", "Where profile and fraction come from."),
        Column("min_umi", "float", "Threshold that was used."),
        Column("min_genes", "float", "Threshold that was used."),
        Column("max_mt_fraction", "float", "Threshold that was used; empty: the filter is off."),
        Column("max_doublet_score", "float", "Threshold that was used; empty: not called."),
        Column("note", "str", "What could not be done in this sample, and why."),
        Column("ambient_lower", "float", "Lower 95 % bound of ambient_fraction."),
    ),
    ("sample",),
    "Quality control by sample, each threshold and each reason.",
)
POPULATIONS_TABLE = TableSpec(
    "populations",
    (
        Column("cluster", "str", "Leiden cluster; parts of one are numbered (3-1, 3-2)."),
        _POPULATION,
        Column("lineage", "str", "Lineage of the population."),
        Column(
            "confidence",
            "float",
            "Share of marker resamplings that agree, times the mean belief of the cells, 0 to 1.",
        ),
        Column("runner_up", "str", "Second best cell type."),
        Column("margin", "float", "Score of the best type less that of the runner-up."),
        _N_CELLS,
        Column("markers", "str", "Markers that speak most for the type, and those against it."),
        Column("doublet_score", "float", "Mean doublet score; missing where none was made."),
        Column("stress", "float", "Mean score of dissociation stress; missing without it."),
        Column(
            "mixed_share",
            "float",
            "Share of the cells of the whole cluster with the markers of two compartments.",
        ),
    ),
    ("cluster",),
    "Cell type of each cluster, how sure, what speaks for it, and what else it could be.",
)
CLUSTERING_TABLE = TableSpec(
    "clustering",
    (
        Column("resolution", "float", "Resolution of Leiden; larger gives more clusters."),
        Column("n_clusters", "int", "Clusters at this resolution."),
        Column("stability", "float", "Mean adjusted Rand index with subsamples of the cells."),
        Column("chosen", "bool", "Whether the clusters are those of this resolution."),
        Column("stability_low", "float", "Smallest adjusted Rand index with a subsample."),
        Column("n_cells", "int", "Cells that the subsamples were drawn from."),
        Column(
            "stability_whole",
            "float",
            "Mean adjusted Rand index of the clusters of all cells; empty where not needed.",
        ),
    ),
    ("resolution",),
    "Resolutions that were tried, how well subsamples agree, and the choice.",
)
CLUSTERS_TABLE = TableSpec(
    "clusters",
    (
        Column("cluster", "str", "Leiden cluster; 0 is the largest."),
        Column("population", "str", "Cell type of most of its cells."),
        Column("population_share", "float", "Share of its cells that have this type."),
        _N_CELLS,
        Column(
            "stability",
            "float",
            "Mean over subsamples of the Jaccard coefficient with the best match.",
        ),
        Column("stability_low", "float", "Smallest of these coefficients."),
        Column(
            "state",
            "str",
            "stable (0.75 and above), doubtful (0.6 and above), unstable, or undetermined (too few "
            "cells).",
        ),
        Column("joins", "str", "Cluster with which its cells are found most; empty if none."),
        Column("joins_population", "str", "Cell type of most cells of that cluster."),
    ),
    ("cluster",),
    "Is each cluster found again in subsamples of the cells, and what is it found with.",
)
SUBCLUSTERS_TABLE = TableSpec(
    "subclusters",
    (
        Column("cluster", "str", "Cluster among the myeloid cells alone; s0 is the largest."),
        Column("population", "str", "Cell type of most of its cells."),
        Column("population_share", "float", "Share of its cells that have this type."),
        Column("myeloid_state", "str", "State of most of its cells; empty where it has none."),
        Column("myeloid_state_share", "float", "Share of its cells that have this state."),
        _N_CELLS,
        Column("n_subjects", "int", "Subjects with cells in it."),
        Column("subject", "str", "Subject of most of its cells."),
        Column("subject_share", "float", "Share of its cells that are of this subject."),
        Column("condition", "str", "Arm of most of its cells."),
        Column("condition_share", "float", "Share of its cells that are of this arm."),
        Column(
            "stability",
            "float",
            "Mean over subsamples of the Jaccard coefficient with the best match.",
        ),
        Column("stability_low", "float", "Smallest of these coefficients."),
        Column("state", "str", "stable, doubtful, unstable or undetermined, as in clusters."),
        Column("joins", "str", "Cluster with which its cells are found most; empty if none."),
        Column("joins_population", "str", "Cell type of most cells of that cluster."),
        Column("joins_state", "str", "Myeloid state of most cells of that cluster."),
    ),
    ("cluster",),
    "The myeloid cells clustered again on the genes that vary among them.",
)
INTEGRATION_TABLE = TableSpec(
    "integration",
    (
        Column("batch", "str", "Batch, and All: the mean over their cells."),
        Column("conditions", "str", "Arms with cells of the batch, comma-separated."),
        Column("n_cells", "int", "Cells that were looked at."),
        Column(
            "mixing_before",
            "float",
            "Neighbours from other batches, of those in a random mixture; before integration.",
        ),
        Column("mixing_after", "float", "The same after integration; empty without one."),
        Column(
            "conservation_before",
            "float",
            "Share of a cell's neighbours in its batch that have its label; before integration.",
        ),
        Column("conservation_after", "float", "The same after integration; empty without one."),
        Column("status", "str", "ok, or confounded: each batch has cells of one arm only."),
    ),
    ("batch",),
    "Batches before and after harmony: how mixed, and what is kept of their own groups.",
)
CIRCULARITY_TABLE = TableSpec(
    "circularity",
    (
        Column("population", "str", "Cell type, and All."),
        Column("n_cells", "int", "Cells that were clustered with and without the target genes."),
        Column(
            "agreement",
            "float",
            "Element-centric similarity of the clusters with and without the target genes, 0 to 1.",
        ),
        Column(
            "agreement_control",
            "float",
            "The same with as many other genes of like expression instead of the target genes.",
        ),
        Column("ari", "float", "Adjusted Rand index with and without the target genes; in All."),
        Column("ari_control", "float", "The same with the other genes instead; in All."),
        Column("agreement_control_low", "float", "Smallest agreement with a set of other genes."),
    ),
    ("population",),
    "Do the clusters follow the cytokines: clustered with and without them.",
)
GENE_OVERLAP_TABLE = TableSpec(
    "gene_overlap",
    (
        Column("gene_set", "str", "Signature, or target_cytokines."),
        _GENE,
        Column("is_target", "bool", "Whether it is a cytokine of the ledger."),
        Column("is_selected", "bool", "Whether the embedding used it."),
        Column("marker_of", "str", "Cell types that it is a marker of, comma-separated."),
    ),
    ("gene_set", "gene"),
    "Genes of the signatures that also found or named the populations.",
)
OPINIONS_TABLE = TableSpec(
    "opinions",
    (
        Column("opinion", "str", "Who says it: markers, celltypist, reference or another."),
        Column("population", "str", "Cell type or label in the data; All is every cell."),
        _N_CELLS,
        Column("n_compared", "int", "Cells of which both sides name a type that can be compared."),
        Column("agreement", "float", "Share of them with the same type, where both name a type."),
        Column("lineage_agreement", "float", "Share of them with the same lineage."),
        Column("other_label", "str", "What the opinion says most often instead."),
        Column("other_share", "float", "Share of the cells of which it says that."),
        Column("margin", "float", "Share with the same name less other_share."),
        Column("verdict", "str", "agrees, lineage_agrees, disagrees or cannot_tell."),
        Column("kappa", "float", "Cohen's kappa of the types; only for All."),
        Column("kappa_lineage", "float", "Cohen's kappa of the lineages; only for All."),
    ),
    ("opinion", "population"),
    "Do others say the same of the cells: classifier, reference, or the markers of your labels.",
)
COVERAGE_TABLE = TableSpec(
    "coverage",
    (
        Column("gene_set", "str", "Marker panel or signature."),
        Column("n_genes", "int", "Genes in the set."),
        Column("n_found", "int", "Genes of the set in the data."),
        Column("missing", "str", "Genes of the set that are not in the data, comma-separated."),
    ),
    ("gene_set",),
    "How much of each gene set the data can see.",
)
PRODUCERS_TABLE = TableSpec(
    "producers",
    (
        _GENE,
        _POPULATION,
        *_SAMPLE,
        _N_CELLS,
        Column("n_producers", "int", "Cells with more UMI than ambient RNA explains."),
        Column("n_ambient_compatible", "int", "Cells with UMI that ambient RNA can explain."),
        Column("n_undetermined", "int", "Cells without UMI, too shallow to exclude a producer."),
        Column("producer_fraction", "float", "n_producers over n_cells."),
        *_ESTIMATE,
        Column("umi", "int", "UMI of the gene in the population."),
        Column("expected_ambient_umi", "float", "UMI that ambient RNA is expected to add."),
        Column("power", "float", "Probability that a typical producer would have been called."),
        Column("n_producers_upper", "float", "Upper 95 % bound of the producers, missed ones too."),
        Column("largest_ambient_umi", "float", "Ambient RNA at the contamination's upper bound."),
    ),
    ("gene", "population", "sample"),
    "Cells that make a cytokine, by population and sample; the interval is Wilson's.",
)
PRODUCTION_TABLE = TableSpec(
    "production",
    (
        _GENE,
        _POPULATION,
        Column("condition", "str", "Arm."),
        Column("n_subjects", "int", "Subjects with cells of the population."),
        _N_CELLS,
        Column("n_producers", "int", "Cells with more UMI than ambient RNA explains."),
        Column("umi", "int", "UMI of the gene in the population."),
        Column("expected_ambient_umi", "float", "UMI that ambient RNA is expected to add."),
        Column("largest_ambient_umi", "float", "The same at the contamination's upper bound."),
        Column("pvalue", "float", "Poisson p of the UMI under the largest ambient RNA."),
        Column("padj", "float", "Benjamini-Hochberg over the whole table."),
        Column("power", "float", "Probability that a typical producer would have been called."),
        Column("state", "str", "producer, ambient_compatible, undetermined or negative."),
    ),
    ("gene", "population", "condition"),
    "Is there any production beyond ambient RNA, over the samples of an arm.",
)
LEDGER_TABLE = TableSpec(
    "ledger",
    (
        _GENE,
        _POPULATION,
        *_SAMPLE,
        _N_CELLS,
        Column("umi", "int", "UMI of the gene in the population."),
        Column(
            "ambient_umi",
            "float",
            "Ambient UMI: what is expected, or all if it can explain the arm's.",
        ),
        Column("corrected_umi", "float", "max(0, umi - ambient_umi)."),
        Column(
            "share", "float", "Share of the sample's corrected UMI; empty where there are none."
        ),
        Column("cell_share", "float", "Share of the sample's cells."),
        Column("enrichment", "float", "share over cell_share."),
        *_ESTIMATE,
    ),
    ("gene", "population", "sample"),
    "Who makes the cytokine: source shares by sample.",
)
LEDGER_BY_CONDITION_TABLE = TableSpec(
    "ledger_by_condition",
    (
        _GENE,
        _POPULATION,
        Column("condition", "str", "Arm."),
        Column("n_subjects", "int", "Subjects with any corrected UMI of the gene."),
        Column("share", "float", "Mean share over subjects."),
        *_ESTIMATE,
        Column("cell_share", "float", "Mean share of cells over the same subjects."),
        Column("enrichment", "float", "share over cell_share."),
    ),
    ("gene", "population", "condition"),
    "Source shares by arm; the interval is a bootstrap over subjects.",
)
IL1_TONE_TABLE = TableSpec(
    "il1_tone",
    (
        _POPULATION,
        *_SAMPLE,
        _N_CELLS,
        Column("agonist_umi", "float", "UMI of IL1A and IL1B beyond ambient RNA."),
        Column("antagonist_umi", "float", "UMI of IL1RN and IL1R2 beyond ambient RNA."),
        Column("log2_ratio", "float", "log2 of agonist_umi over antagonist_umi."),
        Column("ci_low", "float", "Lower end of its 95 % interval; empty where there is none."),
        Column("ci_high", "float", "Upper end of its 95 % interval; empty where there is none."),
        Column(
            "release", "float", "Mean log2(CPM + 1) of NLRP3, CASP1 and GSDMD, ambient-corrected."
        ),
        Column("n_release", "int", "How many of these three are in the data."),
        Column(
            "status",
            "str",
            "ok, agonist_only, antagonist_only, not_detected or too_few_cells.",
        ),
    ),
    ("population", "sample"),
    "IL-1 tone: what drives IL-1 signalling over what holds it back, in transcripts.",
)
RECEIVERS_TABLE = TableSpec(
    "receivers",
    (
        Column("cytokine", "str", "Cytokine that is heard."),
        Column("gene", "str", "Gene of its receptor side."),
        Column("role", "str", "receptor, co-receptor, decoy or antagonist."),
        _POPULATION,
        Column("condition", "str", "Arm."),
        Column("n_subjects", "int", "Subjects with enough cells of the population."),
        _N_CELLS,
        Column("umi", "int", "UMI of the gene in the population."),
        Column("corrected_umi", "float", "max(0, umi less what ambient RNA is expected to add)."),
        Column("fraction", "float", "Cells above ambient RNA over all cells, mean over subjects."),
        Column("cpm", "float", "Ambient RNA-corrected UMI per million, mean over subjects."),
        *_ESTIMATE,
        Column(
            "padj",
            "float",
            "UMI beyond the largest ambient RNA; Benjamini-Hochberg over the table.",
        ),
        Column(
            "state", "str", "above_soup, ambient_compatible, not_detected, too_few_cells or empty."
        ),
    ),
    ("cytokine", "gene", "population", "condition"),
    "Who can hear the cytokine: its receptors by population and arm; the interval is that of cpm.",
)
SHIFTS_TABLE = TableSpec(
    "shifts",
    (
        _CONTRAST,
        Column("kind", "str", "signature or gene."),
        Column("feature", "str", "Name of the signature or gene."),
        _POPULATION,
        Column("estimate", "float", "Treated less reference, log2 units."),
        *_ESTIMATE,
        Column("hedges_g", "float", "Estimate over the residual spread, small-sample corrected."),
        *_TEST,
        _STATUS,
        Column("pvalue_equivalence", "float", "Two one-sided tests: the shift is within margin."),
        Column("padj_equivalence", "float", "Benjamini-Hochberg over the whole table."),
        Column("margin", "float", "Largest shift that is not relevant, log2 units."),
        Column(
            "verdict",
            "str",
            "changed, changed_within_margin, equivalent or inconclusive; empty without a test.",
        ),
        Column("detectable_effect", "float", "Smallest shift found with 80 % power, log2 units."),
        Column("estimate_stress_adjusted", "float", "Estimate at equal handling stress."),
        Column("ci_low_stress_adjusted", "float", "Lower end of its 95 % interval."),
        Column("ci_high_stress_adjusted", "float", "Upper end of its 95 % interval."),
        Column("pvalue_stress_adjusted", "float", "Its model p, moderated across the tests."),
        Column("padj_stress_adjusted", "float", "Benjamini-Hochberg over the whole table."),
        Column("n_genes", "int", "Genes of the feature that the population expresses."),
    ),
    ("contrast", "kind", "feature", "population"),
    "Does the treatment shift it, population by population; subjects are the replicates.",
)
ARM_BY_TIME_TABLE = TableSpec(
    "arm_by_time",
    (
        _CONTRAST,
        Column("timepoint", "str", "The later time point."),
        Column("reference_timepoint", "str", "The first time point at which both arms were seen."),
        Column("kind", "str", "signature or gene."),
        Column("feature", "str", "Name of the signature or gene."),
        _POPULATION,
        Column(
            "estimate",
            "float",
            "Treated less reference at timepoint less that at reference_timepoint, log2 units.",
        ),
        *_ESTIMATE,
        *_TEST,
        Column("subjects", "str", "followed: the same at both times; independent: others."),
        Column("n_genes", "int", "Genes of the feature that the population expresses."),
        _STATUS,
    ),
    ("contrast", "timepoint", "kind", "feature", "population"),
    "Does the shift grow or fade: arm by time; subjects are the replicates.",
)
ONSET_TABLE = TableSpec(
    "onset",
    (
        Column("condition", "str", "Arm."),
        Column("first", "str", "Cytokine that is asked to come first; several are added up."),
        Column("second", "str", "Cytokine that is asked to come second."),
        Column("subject", "str", "Animal or patient."),
        Column("onset_first", "str", "Time point of onset of the first; empty without one."),
        Column("onset_second", "str", "Time point of onset of the second."),
        Column("state_first", "str", "reached, at_first_sampling, always, never or not_followed."),
        Column("state_second", "str", "The same of the second."),
        Column("order", "str", "first, second, tied or unknown."),
        Column("n_first", "int", "Subjects of the arm in which the first came first."),
        Column("n_second", "int", "Subjects of the arm in which the second came first."),
        Column("n_tied", "int", "Subjects with both at the same time point."),
        Column("n_unknown", "int", "Subjects in which the order cannot be known."),
        Column("pvalue", "float", "Exact two-sided sign test over the subjects with an order."),
        Column("pvalue_floor", "float", "The smallest p that this many subjects can reach."),
    ),
    ("condition", "first", "second", "subject"),
    "Which cytokine comes first, subject by subject, and a sign test by arm.",
)
DECOMPOSITION_TABLE = TableSpec(
    "decomposition",
    (
        _CONTRAST,
        _GENE,
        _POPULATION,
        Column("total", "float", "Change of corrected UMI per sampled cell."),
        Column("composition", "float", "Part of the change from more or fewer cells."),
        Column("producer_fraction", "float", "Part from more or fewer producers among the cells."),
        Column("intensity", "float", "Part from more or less per producer."),
        *(
            Column(f"{part}_{end}", "float", f"95 % bootstrap interval of {part}.")
            for part in ("total", "composition", "producer_fraction", "intensity")
            for end in ("ci_low", "ci_high")
        ),
        _STATUS,
    ),
    ("contrast", "gene", "population"),
    "More cells, more producers, or more per producer: the parts add up to the change.",
)
REVERSAL_TABLE = TableSpec(
    "reversal",
    (
        _CONTRAST,
        Column("feature", "str", "Signature or gene."),
        _POPULATION,
        Column("reversal", "float", "0: the drug does nothing; 1: back to baseline."),
        *_ESTIMATE,
        _STATUS,
    ),
    ("contrast", "feature", "population"),
    "How far a drug brings a response back to baseline.",
)
COMPOSITION_TABLE = TableSpec(
    "composition",
    (
        _CONTRAST,
        _POPULATION,
        Column("share_reference", "float", "Mean share of cells, reference arm."),
        Column("share_treated", "float", "Mean share of cells, treated arm."),
        Column("estimate", "float", "Difference of the logit of the share."),
        *_ESTIMATE,
        *_TEST,
        _STATUS,
    ),
    ("contrast", "population"),
    "More or fewer cells of a population.",
)
EXPRESSION_TABLE = TableSpec(
    "expression",
    (
        _CONTRAST,
        _POPULATION,
        _GENE,
        Column("base_mean", "float", "Mean of normalised counts over the samples."),
        Column("log2fc", "float", "log2 fold change, treated over reference."),
        Column("lfc_se", "float", "Standard error of log2fc."),
        Column("statistic", "float", "Wald statistic."),
        Column("pvalue", "float", "Quasi-likelihood p, moderated across the genes."),
        Column("padj", "float", "Benjamini-Hochberg over the whole table."),
        Column("n_reference", "int", "Subjects of the reference arm that were used."),
        Column("n_treated", "int", "Subjects of the treated arm that were used."),
        _STATUS,
        Column("pvalue_wald", "float", "PyDESeq2's own p: too small in the tail at few subjects."),
    ),
    ("contrast", "population", "gene"),
    "Differential expression of pseudobulks: PyDESeq2, with a p that holds at few subjects.",
)
ENRICHMENT_TABLE = TableSpec(
    "enrichment",
    (
        _CONTRAST,
        _POPULATION,
        Column("gene_set", "str", "Signature or user's set."),
        Column("n_genes", "int", "Genes of the set among the ranked genes."),
        Column("es", "float", "Enrichment score."),
        Column("nes", "float", "Normalised enrichment score."),
        Column("pvalue", "float", "Gene-set permutation p; never below 1 / permutations."),
        Column("padj", "float", "Benjamini-Hochberg over the whole table."),
        Column("leading_edge", "str", "Genes that drive the score, comma-separated."),
        _STATUS,
    ),
    ("contrast", "population", "gene_set"),
    "Gene sets along the ranking of the Wald statistic, gseapy prerank.",
)
EXCLUSIONS_TABLE = TableSpec(
    "exclusions",
    (
        _CONTRAST,
        _POPULATION,
        Column("subject", "str", "Animal or patient."),
        Column("condition", "str", "Arm."),
        _N_CELLS,
        Column(
            "reason",
            "str",
            "no_cells, too_few_cells, incomplete_pair, or not_tested: see the status of the test.",
        ),
    ),
    ("contrast", "population", "subject", "condition"),
    "Units that a contrast leaves out, population by population, and why.",
)

TABLES: dict[str, TableSpec] = {
    table.name: table
    for table in (
        QC_TABLE,
        POPULATIONS_TABLE,
        COVERAGE_TABLE,
        PRODUCERS_TABLE,
        PRODUCTION_TABLE,
        LEDGER_TABLE,
        LEDGER_BY_CONDITION_TABLE,
        SHIFTS_TABLE,
        DECOMPOSITION_TABLE,
        REVERSAL_TABLE,
        COMPOSITION_TABLE,
        EXPRESSION_TABLE,
        ENRICHMENT_TABLE,
        RECEIVERS_TABLE,
        ARM_BY_TIME_TABLE,
        ONSET_TABLE,
        EXCLUSIONS_TABLE,
        OPINIONS_TABLE,
        IL1_TONE_TABLE,
        CLUSTERING_TABLE,
        CLUSTERS_TABLE,
        SUBCLUSTERS_TABLE,
        INTEGRATION_TABLE,
        CIRCULARITY_TABLE,
        GENE_OVERLAP_TABLE,
    )
}
