"""IL-1 tone: what drives IL-1 signalling against what holds it back, by population and sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.ambient import take_counts
from crs_sc.core.checks import check_obs, gene_positions, sample_table
from crs_sc.errors import InputError
from crs_sc.sources._receptor_kernels import native_cpm
from crs_sc.sources._tone_kernels import corrected_output, log2_ratio

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.core.ambient import CellCounts
    from crs_sc.sources._tone_kernels import Output

__all__ = ["il1_tone", "tone_genes"]

AGONISTS = ("IL1A", "IL1B")
ANTAGONISTS = ("IL1RN", "IL1R2")
RELEASE = ("NLRP3", "CASP1", "GSDMD")


def il1_tone(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    min_cells: int = 10,
    level: float = 0.95,
    population_key: str = keys.POPULATION,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    layer: str = keys.COUNTS,
) -> pd.DataFrame:
    """Compare the agonists of IL-1 with its antagonists, in UMI that ambient RNA does not explain.

    Agonists are IL1A and IL1B, antagonists IL1RN (the receptor antagonist) and IL1R2 (the decoy).
    The ratio of their transcripts does not depend on depth or on the number of cells. Beside it
    stands what it takes to release IL-1 beta: NLRP3, CASP1 and GSDMD. Target cytokines are in no
    signature, so this is no signature score, and it is a matter of transcripts: IL1B mRNA is a
    promise of protein, and recombinant antagonist is not transcribed.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    organism
        `human` or `mouse`.
    min_cells
        With fewer cells of a population a sample has no ratio.
    level
        Confidence level of the interval, which holds for the cells that were sampled: between
        subjects, compare samples.
    population_key, sample_key, subject_key, condition_key
        Columns of `obs`.
    layer
        Layer with raw counts.

    Returns
    -------
    DataFrame with the columns of `keys.IL1_TONE_TABLE`: every population and sample that has cells
    of it. A side counts as detected if its UMI are beyond the largest ambient RNA by more than
    chance (the lower end of its interval is above 0); with one side, `agonist_only` or
    `antagonist_only`, the interval has one end, and with neither there is no ratio. If the data
    lack every agonist or every antagonist, there are no rows.

    Raises
    ------
    MissingKeyError
        If ambient RNA is not known, or a column is absent.
    InputError
        If a setting makes no sense.
    """
    if min_cells < 1 or not 0 < level < 1:
        msg = f"min_cells must be at least 1 and level inside (0, 1), got {min_cells}, {level}."
        raise InputError(msg)
    check_obs(adata, population_key=population_key)
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    agonists, antagonists, release = (
        list(gene_positions(adata, _symbols(genes, organism)))
        for genes in (AGONISTS, ANTAGONISTS, RELEASE)
    )
    if not (agonists and antagonists):
        return pd.DataFrame(columns=keys.IL1_TONE_TABLE.names)
    cells = take_counts(
        adata, [*agonists, *antagonists, *release], sample_key=sample_key, layer=layer
    )
    codes, populations = pd.factorize(adata.obs[population_key].astype(str), sort=True)
    sums = _Sums(cells, codes, len(populations))
    agonist, antagonist = (sums.output(side, level=level) for side in (agonists, antagonists))
    ratio = log2_ratio(agonist, antagonist)
    rows = pd.MultiIndex.from_product([populations, samples.index], names=["population", "sample"])
    table = rows.to_frame(index=False)
    table["n_cells"] = sums.n_cells.ravel().astype(np.int64)
    table["agonist_umi"], table["antagonist_umi"] = agonist.value.ravel(), antagonist.value.ravel()
    enough = sums.n_cells >= min_cells
    status = np.where(enough, _status(agonist, antagonist), keys.TOO_FEW_CELLS)
    is_told = ~np.isin(status, [keys.TOO_FEW_CELLS, keys.NOT_DETECTED])
    for name, values in zip(("log2_ratio", "ci_low", "ci_high"), ratio, strict=True):
        table[name] = np.where(is_told, values, np.nan).ravel()
    table["release"] = np.where(enough, sums.level(release), np.nan).ravel()
    table["n_release"] = len(release)
    table["status"] = status.ravel()
    for name in ("subject", "condition"):
        table[name] = samples[name].loc[table["sample"]].to_numpy()
    table = table[table["n_cells"] > 0]
    return table[keys.IL1_TONE_TABLE.names].reset_index(drop=True)


def tone_genes(*, organism: Literal["human", "mouse"] = "human") -> list[str]:
    """Symbols of all genes that `il1_tone` looks at."""
    return _symbols((*AGONISTS, *ANTAGONISTS, *RELEASE), organism)


def _symbols(genes: tuple[str, ...], organism: str) -> list[str]:
    """Symbols of the organism."""
    if organism == "human":
        return list(genes)
    pairs = genesets.orthologs().set_index("human")["mouse"]
    return [str(pairs[gene]) for gene in genes if pairs[gene]]


def _status(agonist: Output, antagonist: Output) -> NDArray[np.str_]:
    """Say which sides have UMI that ambient RNA cannot explain."""
    has = (agonist.low > 0, antagonist.low > 0)
    return np.select(
        [has[0] & has[1], has[0], has[1]],
        [keys.OK, keys.AGONIST_ONLY, keys.ANTAGONIST_ONLY],
        keys.NOT_DETECTED,
    )


class _Sums:
    """Sums over the cells of each population and sample, shape `(n_populations, n_samples)`."""

    def __init__(self, cells: CellCounts, codes: NDArray[np.intp], n_populations: int) -> None:
        self._cells = cells
        self._shape = (n_populations, len(cells.fraction))
        self._unit = codes * self._shape[1] + cells.sample_codes
        self.n_cells = self._sum(np.ones(len(codes)))
        self.depth = self._sum(cells.depth)
        self._umi = {
            gene: self._sum(np.asarray(cells.counts[:, i].todense(), dtype=np.float64).ravel())
            for i, gene in enumerate(cells.genes)
        }

    def _sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        length = self._shape[0] * self._shape[1]
        return np.bincount(self._unit, weights=values, minlength=length).reshape(self._shape)

    def _ambient(self, gene: str) -> NDArray[np.float64]:
        """UMI that would be the gene's if all of the depth were ambient RNA."""
        return self.depth * self._cells.share[:, self._cells.genes.index(gene)]

    def output(self, genes: list[str], *, level: float) -> Output:
        """UMI of some genes together beyond ambient RNA."""
        soup = sum((self._ambient(gene) for gene in genes), np.zeros(self._shape))
        umi = sum((self._umi[gene] for gene in genes), np.zeros(self._shape))
        fraction, upper = self._cells.fraction, self._cells.upper
        return corrected_output(umi, fraction * soup, upper * soup, level=level)

    def level(self, genes: list[str]) -> NDArray[np.float64]:
        """Mean over the genes of log2(CPM + 1) without ambient RNA; NaN without any of them."""
        if not genes:
            return np.full(self._shape, np.nan)
        native = self.depth * (1 - self._cells.fraction)
        cpm = [
            native_cpm(self._umi[gene], self._cells.fraction * self._ambient(gene), native)
            for gene in genes
        ]
        return np.asarray(np.mean([np.log2(np.maximum(0.0, one) + 1) for one in cpm], axis=0))
