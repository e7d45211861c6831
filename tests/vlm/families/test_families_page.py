"""The support matrix of docs/families.md says what the code says."""

from pathlib import Path

from laid.miniature.packaged_models import CONFIGS
from laid.vlm.families.registry import FAMILIES

PAGE = Path(__file__).parents[3] / "docs" / "families.md"


def rows():
    """The cells of the support matrix: by feature, then by family."""
    table = PAGE.read_text("utf-8").split("## Support")[1].strip().split("\n\n")[0]
    split = [[cell.strip(" `") for cell in line[1:-1].split("|")] for line in table.splitlines()]
    (_, *families), _, *features = split
    return {name: dict(zip(families, cells, strict=True)) for name, *cells in features}


def test_the_matrix_has_every_family_and_what_each_refuses():
    matrix = rows()
    expected = {
        "model.rope_gain": lambda family: family.qk_layout == "flat",
        "YaRN": lambda family: "yarn" not in family.not_extended,
        "SelfExtend": lambda family: "self-extend" not in family.not_extended,
        "packed micro-batches (`data.pack_tokens`)": lambda family: family.packs,
        "laid pretrain tiny": lambda family: family.model_type in CONFIGS,
    }
    for feature, has in expected.items():
        said = {name: "tested" if has(family) else "refused" for name, family in FAMILIES.items()}
        assert matrix[feature] == said, feature
    for feature, cells in matrix.items():
        assert set(cells) == set(FAMILIES), feature
        if feature not in expected and feature not in ("models", "a configuration"):
            assert set(cells.values()) <= {"tested", "not tested"}, feature
