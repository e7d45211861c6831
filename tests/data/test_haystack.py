"""Haystack entries: what each holds, that nothing but looking answers it, and determinism."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from laid.data.coco_index import CocoIndex
from laid.data.coco_names import COCO_NAMES
from laid.data.entries import FEATURES, ask, parse_question
from laid.data.haystack_builder import build_entries, build_training_entries

SIZES = (2, 5, 20, 50, 100)


@pytest.fixture(scope="module")
def single(index):
    return build_entries(index, "test", (1, *SIZES), 40)


@pytest.fixture(scope="module")
def several(index):
    return build_entries(index, "test", (3, 4, 5, 20, 50), 60, needles=(2, 3))


@pytest.fixture(scope="module")
def photographs(coco_mini):
    """Every size that 79 photographs allow."""
    return CocoIndex.load(coco_mini, "val2017")


def rows_of(index, entry):
    where = {name: k for k, name in enumerate(index.files.tolist())}
    return np.array([where[name] for name in entry["images"]])


def column(index, category):
    return index.categories.index(category)


def targets_in(index, entry):
    return int(index.clear[rows_of(index, entry), column(index, entry["target"])].sum())


def accuracy_by(entries, features):
    """The best that a classifier can do on these very entries which sees only ``features``.

    ``features`` has one value an entry. The classifier is told, for each value, the more frequent
    answer: no rule that looks at nothing else does better on these entries or, but for chance, on
    others.
    """
    answers = defaultdict(Counter)
    for feature, answer in zip(features, entries["answer"], strict=True):
        answers[feature][answer] += 1
    return sum(max(count.values()) for count in answers.values()) / len(entries)


def check_contents(index, entries):
    """An entry is what its columns say."""
    for entry in entries:
        rows = rows_of(index, entry)
        assert len(rows) == len(set(rows)) == entry["size"]
        anchor, target = column(index, entry["anchor"]), column(index, entry["target"])
        needle = np.isin(np.arange(entry["size"]), entry["needles"])
        assert entry["needles"] == np.flatnonzero(needle).tolist()
        assert (index.clear[rows, anchor] == needle).all()
        assert (index.present[rows, anchor] == needle).all(), "not even a speck in a distractor"
        assert (index.present[rows, target] == index.clear[rows, target]).all(), "no doubtful one"
        hits = index.clear[rows[needle], target]
        truth = hits.any() if entry["mode"] == "any" else hits.all()
        assert entry["answer"] == ("yes" if truth else "no")
        assert entry["question"] == ask(entry["anchor"], entry["target"], entry["mode"])
        assert (entry["mode"] == "single") == (needle.sum() == 1)


def check_blind(index, entries):
    """Half right, exactly, for whoever does not find the needle."""
    frequency = dict(zip(index.categories, index.clear.sum(axis=0).tolist(), strict=True))
    for size in sorted(set(entries["size"])):
        some = entries.filter(lambda entry, size=size: entry["size"] == size)
        questions, targets = some["question"][:], [targets_in(index, entry) for entry in some]
        needles = [len(at) for at in some["needles"]]
        for features in (
            questions,
            zip(some["anchor"], some["target"], strict=True),
            targets,
            [count > 0 for count in targets],
            [frequency[target] for target in some["target"]],
            zip(questions, targets, needles, strict=True),
        ):
            assert accuracy_by(some, features) == 0.5


def test_a_single_needle_entry_is_what_it_says(index, single):
    check_contents(index, single)
    assert single.features == FEATURES
    assert Counter(single["size"]) == dict.fromkeys((1, *SIZES), 40)
    assert set(single["mode"]) == {"single"}


def test_a_multi_needle_entry_is_what_it_says(index, several):
    check_contents(index, several)
    assert set(several["mode"]) == {"all", "any"}
    assert {len(needles) for needles in several["needles"]} == {2, 3}


def test_single_needle_entries_cannot_be_answered_blindly(index, single):
    check_blind(index, single.filter(lambda e: e["size"] > 1))


def test_multi_needle_entries_cannot_be_answered_blindly(index, several):
    check_blind(index, several.filter(lambda e: e["size"] > len(e["needles"])))


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20])
def test_photographs_cannot_be_answered_blindly(photographs, size):
    entries = build_entries(photographs, "test", [size], 60)
    check_contents(photographs, entries)
    check_blind(photographs, entries)


def test_photographs_with_several_needles_cannot_be_answered_blindly(photographs):
    entries = build_entries(photographs, "test", [4, 10], 40, needles=(2, 3))
    check_contents(photographs, entries)
    check_blind(photographs, entries)


def test_only_the_oracle_shows_its_answer_in_the_number_of_targets(index, single):
    oracle = single.filter(lambda e: e["size"] == 1)
    assert accuracy_by(oracle, [targets_in(index, entry) for entry in oracle]) == 1.0


def test_a_training_set_teaches_no_rule_about_the_counts(drawn):
    index = CocoIndex.load(drawn, "train2017")
    entries = build_training_entries(index, 400)
    check_contents(index, entries)
    check_blind(index, entries)
    counts = Counter(entries["size"])
    assert set(counts) == set(range(2, 21))
    assert max(counts.values()) < 3 * min(counts.values()) + 20, "sizes are drawn evenly"


def test_distractors_hold_the_target_about_as_often_as_images_do(index):
    entries = build_entries(index, "test", [50], 400).filter(lambda e: e["answer"] == "yes")
    shares, rates = [], []
    for entry in entries:
        anchor, target = column(index, entry["anchor"]), column(index, entry["target"])
        free = ~index.present[:, anchor]
        rates.append(index.clear[free, target].mean())
        shares.append((targets_in(index, entry) - 1) / 49)
    # 200 x 49 distractors at a rate near 0.1: 12 percent are four standard errors.
    assert np.mean(shares) == pytest.approx(np.mean(rates), rel=0.12)


def test_the_needle_may_be_anywhere(index):
    entries = build_entries(index, "test", [4], 400)
    places = Counter(needle for (needle,) in entries["needles"])
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > 60


def test_every_object_is_asked_about(index):
    entries = build_entries(index, "test", [5], 1000)
    assert set(entries["anchor"]) == set(entries["target"]) == set(index.categories)


def test_an_entry_does_not_depend_on_how_many_are_asked_for(index, single):
    fewer = build_entries(index, "test", [20, 5], 10)
    assert fewer[:10] == single.filter(lambda e: e["size"] == 20)[:10]
    assert fewer[10:20] == single.filter(lambda e: e["size"] == 5)[:10]
    long, short = (build_training_entries(index, n) for n in (60, 20))
    assert long[:20] == short[:]


def test_seed_and_role_change_the_entries_and_nothing_else_does(index, single):
    again = build_entries(index, "test", SIZES[:1], 40, seed=0)
    assert again[:] == single.filter(lambda e: e["size"] == SIZES[0])[:]
    for other in (
        build_entries(index, "test", SIZES[:1], 40, seed=1),
        build_entries(index, "validate", SIZES[:1], 40, seed=0),
    ):
        assert all(a != b for a, b in zip(other["images"], again["images"], strict=True))


def test_training_and_test_share_no_image(drawn, single):
    train = build_training_entries(CocoIndex.load(drawn, "train2017"), 100)
    used = [{name for entry in d["images"] for name in entry} for d in (train, single)]
    assert used[0]
    assert not used[0] & used[1]


def test_categories_can_be_chosen_in_any_order(index):
    some = build_entries(index, "test", [3], 100, categories=("cat", "dog", "boat"))
    assert {*some["anchor"], *some["target"]} == {"boat", "cat", "dog"}
    assert some[:] == build_entries(index, "test", [3], 100, categories=("dog", "boat", "cat"))[:]


def test_questions_carry_the_right_article():
    names = " ".join(ask(name, name, "single") for name in COCO_NAMES)
    for an in ("an apple", "an airplane", "an elephant", "an orange", "an oven", "an umbrella"):
        assert f"with {an}," in names
    assert names.count(" an ") == 2 * 6
    assert ask("cat", "orange", "single") == "For the image with a cat, is there an orange?"
    assert (
        ask("oven", "traffic light", "all")
        == "For all images with an oven, do all of them contain a traffic light?"
    )
    assert ask("cat", "dog", "any") == "For all images with a cat, do any of them contain a dog?"


@pytest.mark.parametrize("mode", ["single", "all", "any"])
def test_a_question_can_be_taken_apart(mode):
    for anchor in COCO_NAMES:
        assert parse_question(ask(anchor, "hot dog", mode)) == (anchor, "hot dog", mode)
    assert parse_question("How many dogs are there?") == ("", "", "")


def test_an_impossible_size_says_how_far_one_can_go(index):
    with pytest.raises(ValueError, match=r"Ask for at most (\d+)") as caught:
        build_entries(index, "test", [5000], 2)
    assert "600 images" in str(caught.value)
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    check_contents(index, build_entries(index, "test", [largest], 2))
    with pytest.raises(ValueError, match=f"at most {largest}"):
        build_entries(index, "test", [largest + 1], 2)


def test_objects_never_seen_together_are_named_as_the_reason(write_coco, instances):
    index = CocoIndex.load(write_coco(instances), "val2017")
    with pytest.raises(ValueError, match="found together"):
        build_entries(index, "test", [2], 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_size": 3}, "even"),
        ({"per_size": 0}, "even"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [5, 5]}, "sizes"),
        ({"sizes": [0]}, "cannot hold 1 needles"),
        ({"sizes": [2], "needles": (2, 3)}, "cannot hold 3 needles"),
        ({"needles": ()}, "needles"),
        ({"needles": (0,)}, "needles"),
        ({"categories": ("cat", "unicorn")}, "unicorn"),
        ({"categories": ("cat",)}, "two or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(index, settings, message):
    given = {"role": "test", "sizes": [5], "per_size": 2} | settings
    with pytest.raises(ValueError, match=message):
        build_entries(index, **given)
    with pytest.raises(ValueError, match="min_size"):
        build_training_entries(index, 2, min_size=5, max_size=4)
