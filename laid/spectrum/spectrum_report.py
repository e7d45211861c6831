"""``spectrum.json``, and the tables that are made of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from laid.common.tables import NONE, Cell, Table, Value, decimal
from laid.spectrum.low_frequency import (
    MEASURES,
    Share,
    Shares,
    differences,
    low_pairs,
    low_shares,
    with_intervals,
)
from laid.spectrum.spectrum_measurement import Floats, MeasuredSpectrum

ByHead = list[list[list[float]]]
"""By layer, query head and rotary pair."""


@dataclass(frozen=True)
class ModelSpectrum:
    """One model's.

    Attributes:
        what: the path or checkpoint that was named.
        section: what turns each rotary pair: temporal, height, width.
        wavelength: of each pair, in positions.
        low: whether the pair counts as low-frequency.
        usage, mean, variance: docs/spectrum.md has the formulas.
        shares: of low-frequency pairs.
        less_base: the shares less those of the base model; None for itself.
    """

    name: str
    what: str
    section: list[str]
    wavelength: list[float]
    low: list[bool]
    usage: ByHead
    mean: ByHead
    variance: ByHead
    shares: Shares
    less_base: Shares | None


@dataclass(frozen=True)
class MixedSpectrum:
    """Queries of a student's layer beside the mixtures of the teacher's heads that they are aligned
    with (Eq. 6): by student head and pair.

    Attributes:
        model: name of the student.
        teacher: path of its teacher.
        overlap: mean over heads of the sum over pairs of the smaller of the two; 1 if they
            are equal.
    """

    model: str
    teacher: str
    student_layer: int
    teacher_layer: int
    overlap: float
    student: list[list[float]]
    mixed: list[list[float]]


@dataclass(frozen=True)
class SpectrumReport:
    """``spectrum.json``.

    Attributes:
        haystacks: how many there were, by size.
        low_wavelength: positions; pairs of longer wavelengths are low-frequency.
        base: the model that others are compared with.
        notes: what a reader must know.
    """

    FORMAT: ClassVar = {"laid_spectrum": 1}

    command: str
    laid_version: str
    created: str
    haystacks: dict[int, int]
    low_wavelength: float
    base: str
    models: list[ModelSpectrum]
    mixed: list[MixedSpectrum]
    notes: list[str] = field(default_factory=list)


def summarised(
    name: str,
    what: str,
    measured: MeasuredSpectrum,
    low_wavelength: float,
    base: MeasuredSpectrum | None = None,
) -> ModelSpectrum:
    """A model's part of the report; ``base``, measured on the same haystacks, is what it is
    compared with."""
    shares = low_shares(measured, low_wavelength)
    less_base = None
    if base is not None:
        changed = differences(shares, low_shares(base, low_wavelength))
        less_base = with_intervals(changed, measured.sizes)
    return ModelSpectrum(
        name=name,
        what=what,
        section=list(measured.pairs.section),
        wavelength=[float(f"{x:.6g}") for x in measured.pairs.wavelength],
        low=low_pairs(measured.pairs, low_wavelength).tolist(),
        usage=nested(measured.usage_NHF),
        mean=nested(measured.mean_NHF),
        variance=nested(measured.variance_NHF),
        shares=with_intervals(shares, measured.sizes),
        less_base=less_base,
    )


def nested(x: Floats) -> list:
    """As nested lists, with six significant digits."""
    return [nested(part) if part.ndim else float(f"{part:.6g}") for part in x]


def share_tables(report: SpectrumReport) -> list[Table]:
    """The low-frequency shares of usage and of variance, in percent, with what they changed."""
    names = share_names(report.models)
    count = ", ".join(f"{n} of {size} images" for size, n in report.haystacks.items())
    of_pairs = ", ".join(f"{sum(m.low)} of {len(m.low)} of {m.name}" for m in report.models)
    note = (
        f"Low-frequency: pairs with a wavelength of more than {report.low_wavelength:g} positions "
        f"({of_pairs}). Sections are parts of all. In brackets: 95% bootstrap intervals over "
        f"haystacks ({count}), those of differences paired."
    )
    tables = []
    for measure in MEASURES:
        rows: list[list[Cell | str]] = []
        rows += [[m.name, *_cells(m.shares[measure], names)] for m in report.models]
        rows += [
            [f"{m.name} − {report.base}", *_cells(m.less_base[measure], names, sign="+")]
            for m in report.models
            if m.less_base is not None
        ]
        title = f"low-frequency share of {measure}, %"
        notes = [note] if measure == MEASURES[-1] else []
        tables.append(Table(measure, title, [title, *names], rows, notes))
    return tables


def share_names(models: Sequence[ModelSpectrum]) -> list[str]:
    """All, and the sections that have low-frequency pairs in some model."""
    return list(dict.fromkeys(name for model in models for name in model.shares[MEASURES[0]]))


def mixed_table(report: SpectrumReport) -> Table:
    """How alike the spectra of aligned queries and of their mixtures are."""
    rows: list[list[Cell | str]] = [
        [m.model, str(m.student_layer), str(m.teacher_layer), Cell(f"{m.overlap:.3f}", m.overlap)]
        for m in report.mixed
    ]
    title = "queries and their mixtures of teacher heads"
    note = "Overlap: 1 if a student head uses each pair as much as its mixture does."
    return Table("mixed", title, [title, "student layer", "teacher layer", "overlap"], rows, [note])


def pair_table(report: SpectrumReport) -> Table:
    """``spectrum.csv``: a row for each model, layer, head and pair."""
    header = ["model", "layer", "head", "pair", "section", "wavelength", "low"]
    header += ["usage", "mean", "variance"]
    rows = [row for model in report.models for row in _rows(model)]
    return Table("spectrum", "Attention logits by rotary pair", header, rows)


def _rows(model: ModelSpectrum) -> Iterator[list[Cell | str]]:
    for layer, heads in enumerate(model.usage):
        for head, pairs in enumerate(heads):
            for pair, usage in enumerate(pairs):
                at = layer, head, pair, model.section[pair], model.wavelength[pair]
                of = model.mean[layer][head][pair], model.variance[layer][head][pair]
                values: list[Value] = [model.name, *at, int(model.low[pair]), usage, *of]
                yield [Cell(str(value), value) for value in values]


def _cells(
    shares: dict[str, Share], names: list[str], sign: Literal["", "+"] = ""
) -> list[Cell | str]:
    def cell(share: Share) -> Cell:
        numbers = share.value, *share.interval
        value, low, high = (decimal(100 * number, sign) for number in numbers)
        return Cell(f"{value} [{low}, {high}]", numbers)

    return [cell(shares[name]) if name in shares else NONE for name in names]
