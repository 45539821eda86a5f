"""The key figures of a run: one registry, what there is something to show for, drawn and saved.

A row of `data/figures.tsv` has the name of a figure, the function of `crs_sc.pl` that draws it,
the tables that it needs (`cells`: the cohort), its place and words on the page; one function here
says what it is drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from crs_sc import genesets, keys, plotting
from crs_sc.comparison import trajectories
from crs_sc.core.checks import sample_table
from crs_sc.core.parallel import start_map
from crs_sc.io import atomic_path
from crs_sc.report.answers import RESPONSES, headline_genes, main_sources, ordered_arms

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from crs_sc.comparison import Contrast

__all__ = ["FIGURES", "FigureSpec", "KeyFigure", "key_figures", "write_figures"]


@dataclass(frozen=True)
class FigureSpec:
    """One kind of figure, a row of `data/figures.tsv`."""

    name: str
    # What of `crs_sc.pl` draws it, and the tables with rows that it needs; `cells`: the cohort.
    function: str
    needs: frozenset[str]
    section: str
    title: str
    caption: str
    is_half: bool


# In the order of the page.
FIGURES = {
    row["figure"]: FigureSpec(
        row["figure"], row["function"], frozenset(row["needs"].split(",")),
        row["section"], row["title"], row["caption"], row["half"] == "yes",
    )
    for row in keys.rows("figures")
}  # fmt: skip


@dataclass(frozen=True)
class KeyFigure:
    """One figure that there is something to show for.

    Attributes
    ----------
    name
        File name without its suffix: the name of its kind, `--` and which one where there are more.
    draw
        Makes the figure (or axes).
    """

    name: str
    draw: Callable[[], Any]


@dataclass(frozen=True)
class _Study:
    """What the figures are drawn from: tables with rows, and the cohort where it is there."""

    tables: Mapping[str, pd.DataFrame]
    adata: AnnData | None
    arms: list[str] | None
    signatures: tuple[str, ...] | None

    @property
    def cells(self) -> AnnData:
        if self.adata is None:
            msg = "No cohort to draw cells of."
            raise ValueError(msg)
        return self.adata

    @property
    def has(self) -> set[str]:
        return set(self.tables) | ({"cells"} if self.adata is not None else set())

    def sources(self, most: int = 3) -> list[str]:
        """Rank populations by their share in the headline cytokines."""
        shares = self.tables.get("ledger_by_condition")
        if shares is None:
            return []
        return main_sources(shares, headline_genes(shares), most=most)


# Which of its kind, the table or the cells that are drawn, and the settings.
type _Drawn = Iterator[tuple[str, Any, Mapping[str, Any]]]
_MAKERS: dict[str, Callable[[_Study], _Drawn]] = {}


def _draws(*names: str) -> Callable[[Callable[..., _Drawn]], Callable[..., _Drawn]]:
    """Enter a function that gives what the figures of these kinds are drawn from."""

    def enter(function: Callable[..., _Drawn]) -> Callable[..., _Drawn]:
        for name in names:
            _MAKERS[name] = function if len(names) == 1 else partial(function, name=name)
        return function

    return enter


def write_figures(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
    *,
    contrasts: Sequence[Contrast] = (),
    signatures: Collection[str] | None = None,
    dpi: int = 150,
    n_jobs: int = 1,
) -> list[Path]:
    """Draw every key figure that has something to show, as PNG and as SVG.

    The same input gives the same files, byte for byte, on one machine.

    Parameters
    ----------
    adata
        The cohort after annotation; None: only the figures that need no cells.
    tables
        Tables of the contract by name; those that are missing or empty are passed over.
    folder
        Where to write.
    contrasts
        What was compared: gives the order of the arms.
    signatures
        Names of the sets whose scores by subject may be shown; all of the table `scores` if None.
    dpi
        Dots per inch of the PNG and of what is rasterised inside the SVG.
    n_jobs
        Processes: the others draw the figures of the tables while those of the cells are drawn
        here. No file depends on it.

    Returns
    -------
    Paths of the files in the order of the report, the PNG of each figure before its SVG.

    Raises
    ------
    InputError
        If the folder cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = crs.report.write_figures(None, {}, Path(folder))
    >>> files
    []
    """
    study = _study(adata, tables, contrasts, signatures)
    # The longest table does not travel; its figures are drawn here.
    light = {name: table for name, table in study.tables.items() if name != "expression"}
    shared = replace(study, adata=None, tables=light)
    sent = [item.name for item in _figures(shared)] if n_jobs > 1 else []
    drawn = start_map(
        _save_of_tables, [(shared, name, folder, dpi) for name in sent], n_jobs=n_jobs
    )
    items = _figures(study)
    paths = {item.name: _save(item, folder, dpi=dpi) for item in items if item.name not in sent}
    paths.update(zip(sent, drawn, strict=True))
    return [path for item in items for path in paths[item.name]]


def key_figures(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    *,
    contrasts: Sequence[Contrast] = (),
    signatures: Collection[str] | None = None,
) -> list[KeyFigure]:
    """Decide from what exists which figures to draw, in the order of the report.

    Parameters
    ----------
    adata, tables, contrasts, signatures
        As in `write_figures`.

    Returns
    -------
    Figures that are drawn when their `draw` is called.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> [figure.name for figure in crs.report.key_figures(adata, {})][-1]
    'markers'
    """
    return _figures(_study(adata, tables, contrasts, signatures))


def _study(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    contrasts: Sequence[Contrast],
    signatures: Collection[str] | None,
) -> _Study:
    cells = adata if adata is not None and adata.n_obs else None
    filled = {name: table for name, table in tables.items() if not table.empty}
    arms = None
    # Without contrasts there is no order, so that no arm is painted as the reference.
    if contrasts:
        known = [filled[name]["condition"] for name in ("qc", "ledger") if name in filled]
        if cells is not None and keys.CONDITION in cells.obs.columns:
            known.append(cells.obs[keys.CONDITION])
        arms = ordered_arms(contrasts, [arm for values in known for arm in values.unique()])
    return _Study(filled, cells, arms, None if signatures is None else tuple(signatures))


def _figures(study: _Study) -> list[KeyFigure]:
    return [
        KeyFigure(
            f"{name}--{which}" if which else name,
            partial(getattr(plotting, spec.function), drawn, **settings),
        )
        for name, spec in FIGURES.items()
        if spec.needs <= study.has
        for which, drawn, settings in _MAKERS[name](study)
    ]


def _save_of_tables(study: _Study, name: str, folder: Path, dpi: int) -> list[Path]:
    """Draw one of the figures that need no cells, in whatever process."""
    item = next(item for item in _figures(study) if item.name == name)
    return _save(item, folder, dpi=dpi)


def _save(item: KeyFigure, folder: Path, *, dpi: int) -> list[Path]:
    """Draw a figure, lay it out once, write PNG and SVG without a date in them, and close it."""
    from matplotlib import pyplot as plt

    drawn = item.draw()
    figure: Figure = getattr(drawn, "figure", drawn)
    paths = []
    with plotting.style():
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
            # Not "none", for whose placeholder each `savefig` draws the figure once more.
            figure.set_layout_engine(None)
        box = figure.get_tightbbox().padded(0.08)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            path = folder / f"{item.name}{suffix}"
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=dpi, metadata=metadata, bbox_inches=box)
            paths.append(path)
    plt.close(figure)
    return paths


def _slug(name: str) -> str:
    """Make a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


# --- what each is drawn from ------------------------------------------------------------------


@_draws("composition", "ambient_expected", "reversal", "enrichment", "qc_overview")
def _of_one_table(study: _Study, name: str) -> _Drawn:
    """Draw the table that is needed, where its chief column has a number."""
    (need,) = FIGURES[name].needs
    table, by_arm = study.tables[need], name in {"composition", "qc_overview"}
    column = {"reversal": "reversal", "enrichment": "nes"}.get(name)
    if column is None or table[column].notna().any():
        yield "", table, {"conditions": study.arms} if by_arm else {}


@_draws("barnyard")
def _barnyard(study: _Study) -> _Drawn:
    """Both genomes of all droplets, or of the kept cells where nothing else is known."""
    stored, obs = study.cells.uns.get(keys.UNS, {}), study.cells.obs
    call, droplets = stored.get(keys.SPECIES_CALL, {}), stored.get(keys.DROPLETS)
    settings = {n: float(call[n]) for n in ("min_fraction",) if n in call}
    if droplets is not None and len(droplets):
        yield "", droplets, settings
    elif {keys.SPECIES_FRACTION, keys.N_UMI, keys.SPECIES} <= set(obs.columns) and (
        obs[keys.SPECIES_FRACTION].to_numpy(dtype=float) < 1
    ).any():
        yield "", study.cells, settings


@_draws("umap_population", "umap_condition", "umap_sample", "umap_species")
def _umap(study: _Study, name: str) -> _Drawn:
    """Color a map by population always, by anything else where there are several of it."""
    column, obs = name.removeprefix("umap_"), study.cells.obs
    if keys.UMAP not in study.cells.obsm or column not in obs.columns:
        return
    if column == keys.POPULATION or obs[column].astype(str).nunique() > 1:
        yield "", study.cells, {"color": column, "conditions": study.arms}


@_draws("markers")
def _markers(study: _Study) -> _Drawn:
    adata = study.cells
    if keys.POPULATION in adata.obs.columns:
        # As the reader wrote it down: the first of two.
        organism: Any = str(adata.uns.get(keys.UNS, {}).get(keys.ORGANISM, "human"))
        panels = genesets.cell_type_panels(organism=organism.partition("+")[0])
        present = set(adata.obs[keys.POPULATION].astype(str))
        if any(one in present and adata.var_names.isin(panels[one]).any() for one in panels):
            yield "", adata, {"markers": panels}


@_draws("cluster_stability")
def _cluster_stability(study: _Study) -> _Drawn:
    yield "", study.tables["clusters"], {"clustering": study.tables["clustering"]}


@_draws("myeloid_states")
def _myeloid_states(study: _Study) -> _Drawn:
    obs = study.cells.obs
    if keys.MYELOID_STATE in obs.columns and obs[keys.MYELOID_STATE].notna().any():
        yield "", study.cells, {"conditions": study.arms}


@_draws("source_shares", "source_shares_all")
def _source_shares(study: _Study, name: str) -> _Drawn:
    ledger = study.tables["ledger"]
    genes = headline_genes(ledger)
    if name == "source_shares_all":
        genes = [gene for gene in dict.fromkeys(ledger["gene"]) if gene not in genes]
    if genes:
        yield "", ledger, {"genes": genes, "conditions": study.arms}


@_draws("producers")
def _producers(study: _Study) -> _Drawn:
    production = study.tables.get("production")
    yield "", study.tables["producers"], {"production": production, "conditions": study.arms}


@_draws("stress_vs_cytokine")
def _stress_vs_cytokine(study: _Study) -> _Drawn:
    adata, ledger = study.cells, study.tables["ledger"]
    scores = adata.obsm.get(keys.SIGNATURE_SCORES)
    if scores is None or "dissociation_stress" not in scores:
        return
    if adata.obs[keys.LINEAGE].isin(keys.MYELOID_LINEAGES).any():
        gene = headline_genes(ledger)[0]
        yield "", adata, {"ledger": ledger, "gene": gene, "conditions": study.arms}


@_draws("receivers")
def _receivers(study: _Study) -> _Drawn:
    """One figure for each headline cytokine that has receptors in the data."""
    receivers, shares = study.tables["receivers"], study.tables["ledger_by_condition"]
    given = {
        "ledger_by_condition": shares,
        "production": study.tables.get("production"),
        "conditions": study.arms,
    }
    for cytokine in headline_genes(shares):
        if cytokine in set(receivers["cytokine"]):
            yield _slug(cytokine), receivers, {"cytokine": cytokine, **given}


@_draws("signature_points")
def _signature_points(study: _Study) -> _Drawn:
    """Responses of the main sources, one point a subject; without them the first four sets."""
    scores = study.tables["scores"]
    scores = scores.loc[scores["population"].isin(study.sources())]
    known = list(dict.fromkeys(scores["feature"]))
    if study.signatures is not None:
        known = [one for one in known if one in study.signatures]
    features = [one for one in RESPONSES if one in known] or known[:4]
    if features:
        present = set(scores.loc[scores["feature"].isin(features), "population"])
        shown = {
            "features": features,
            "populations": [one for one in study.sources() if one in present],
        }
        given = {"conditions": study.arms, "shifts": study.tables.get("shifts")}
        yield "", scores, {**shown, **given}


@_draws("shifts_signatures", "shifts_genes")
def _shifts(study: _Study, name: str) -> _Drawn:
    shifts, kind = study.tables["shifts"], name.removeprefix("shifts_").removesuffix("s")
    if shifts.loc[shifts["kind"] == kind, "estimate"].notna().any():
        yield "", shifts, {"kind": kind}


@_draws("stress_adjustment")
def _stress_adjustment(study: _Study) -> _Drawn:
    """Responses of the main sources as they are and at equal handling stress."""
    shifts, populations = study.tables["shifts"], study.sources()
    rows = shifts.loc[
        shifts["feature"].isin(RESPONSES)
        & shifts["population"].isin(populations)
        & shifts["estimate_stress_adjusted"].notna()
    ]
    if len(rows):
        features = [one for one in RESPONSES if one in set(rows["feature"])]
        shown = [one for one in populations if one in set(rows["population"])]
        yield "", rows, {"features": features, "populations": shown}


@_draws("trajectories")
def _trajectories(study: _Study) -> _Drawn:
    """Output of the headline cytokines over time, where there are time points."""
    obs, ledger = study.cells.obs, study.tables["ledger"]
    if keys.TIMEPOINT in obs and obs[keys.TIMEPOINT].nunique() > 1:
        genes = headline_genes(ledger)
        courses = trajectories(ledger, samples=sample_table(study.cells), genes=genes)
        yield "", courses, {"genes": genes, "conditions": study.arms}


@_draws("decomposition", "waterfall")
def _decomposition(study: _Study, name: str) -> _Drawn:  # noqa: ARG001
    """Parts of the change by population, or step by step to the total."""
    table = study.tables["decomposition"]
    if table["total"].abs().sum() > 0:
        yield "", table, {"genes": headline_genes(table)}


@_draws("volcano")
def _volcano(study: _Study) -> _Drawn:
    """Of each contrast the tested population that is the largest source."""
    table = study.tables["expression"]
    tested = table.loc[table["pvalue"].notna(), ["contrast", "population"]].drop_duplicates()
    ranked = study.sources(most=len(tested) + len(study.tables.get("ledger_by_condition", ())))
    for contrast, rows in tested.groupby("contrast", sort=False, observed=True):
        names = sorted(rows["population"].astype(str))
        best = next((one for one in ranked if one in names), names[0])
        yield _slug(str(contrast)), table, {"contrast": str(contrast), "population": best}
