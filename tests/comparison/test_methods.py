"""Which results are seeds of one method is decided by what they record, and said."""

import json

import pytest

from laid.comparison.methods import find_method, read_methods

ANSWERS = {5: [True] * 6 + [False] * 4}


def labels(paths):
    return [(method.label, method.seeds) for method in read_methods(paths)[0]]


def test_runs_of_one_name_and_settings_are_seeds_of_a_method_whatever_their_folders(made):
    paths = [
        made(folder, ANSWERS, training=made.training("laid", seed, kl=0.3))
        for folder, seed in (("laid-2", 1), ("laid", 0), ("laid-3", 2))
    ]
    assert labels([made("base", ANSWERS), *paths]) == [("base", (None,)), ("laid", (0, 1, 2))]


def test_other_settings_are_another_method_and_the_difference_is_named(made):
    paths = [
        made("laid", ANSWERS, training=made.training("laid", 0, model={"kl": 0.3})),
        made("laid-2", ANSWERS, training=made.training("laid", 1, model={"kl": 0.0})),
    ]
    methods, notes = read_methods(paths)
    assert [m.label for m in methods] == ["laid", "laid-2"]
    assert [note for note in notes if "model.kl" in note and "laid-2" in note]


def test_the_settings_of_terms_that_are_not_built_make_no_other_method(made):
    """So a version's new loss term, of weight 0, does not part the seeds before it from those
    after it."""
    kl, absent = {"weight": 0.3}, {"weight": 0.0, "reach": 150}
    objectives = {"kl": kl}, {"kl": kl, "new": absent}, {"kl": kl, "new": {**absent, "reach": 9}}
    paths = [
        made(f"laid-{n}", ANSWERS, training=made.training("laid", n, model={"objective": terms}))
        for n, terms in enumerate([*objectives, {"kl": kl, "new": {**absent, "weight": 1.0}}])
    ]
    assert labels(paths[:3]) == [("laid", (0, 1, 2))]
    assert [seeds for _, seeds in labels(paths)] == [(0, 1, 2), (3,)]


def test_one_run_tested_in_two_ways_is_two_methods(made):
    training = made.training("laid", 0)
    paths = [
        made("laid", ANSWERS, training=training),
        made("laid-bf16", ANSWERS, training=training, identity={"precision": "bf16"}),
    ]
    assert [label for label, _ in labels(paths)] == ["laid", "laid-bf16"]


def test_seeds_of_models_not_trained_by_laid_are_known_by_their_names(made):
    paths = [made(name, ANSWERS) for name in ("sft-seed3", "sft-seed1", "yarn")]
    assert labels(paths) == [("sft", (1, 3)), ("yarn", (None,))]


def test_seeds_with_a_window_extension_are_a_method_of_their_own(made):
    window = {"window": {"extension": "self-extend", "group": 4}}
    paths = []
    for seed in (0, 1):
        training = made.training("laid", seed)
        paths.append(made(f"laid-seed{seed}", ANSWERS, training=training))
        paths.append(
            made(f"laid-seed{seed}-self-extend", ANSWERS, training=training, identity=window)
        )
        # and as `laid fit --name laid` numbers its folders
        folder = f"kd-{seed + 1}-self-extend"
        training = made.training("kd", seed)
        paths.append(made(folder, ANSWERS, training=training, identity=window))
    expected = ["laid", "laid-self-extend", "kd-self-extend"]
    assert labels(paths) == [(label, (0, 1)) for label in expected]


def test_results_of_versions_that_did_not_record_training_are_read_too(made):
    path = made("old", ANSWERS)
    file = made.root / "old" / "results.json"
    content = json.loads(file.read_text())
    del content["training"]
    file.write_text(json.dumps(content))
    assert labels([path]) == [("old", (None,))]


def test_a_seed_given_twice_from_two_folders_is_refused(made):
    paths = [
        made(folder, ANSWERS, training=made.training("laid", 4)) for folder in ("laid", "copy")
    ]
    with pytest.raises(ValueError, match="both seed 4 of 'laid'"):
        read_methods(paths)


def test_one_file_given_twice_counts_once_and_this_is_said(made):
    path = made("base", ANSWERS)
    methods, notes = read_methods([path, f"{path}/results.json"])
    assert len(methods) == 1
    assert "counts once" in notes[0]


def test_two_results_of_one_name_go_by_their_folders(made):
    paths = [made(folder, ANSWERS, name="base") for folder in ("3b-base", "7b-base")]
    assert [label for label, _ in labels(paths)] == ["3b-base", "7b-base"]


def test_accuracy_is_the_mean_over_seeds(made):
    paths = [
        made("laid-seed0", {5: [True] * 10, 10: [True] * 4}),
        made("laid-seed1", {5: [True] * 5 + [False] * 5, 10: [False] * 4}),
    ]
    (method,), _ = read_methods(paths)
    assert method.accuracy() == {5: 0.75, 10: 0.5}
    assert method.title == "laid (2 seeds)"


def test_without_records_a_result_has_no_answers_and_seeds_are_not_pooled(made):
    one, other = (made(f"laid-seed{seed}", ANSWERS) for seed in range(2))
    (made.root / "laid-seed1" / "records.jsonl").unlink()
    (method,), notes = read_methods([other])
    assert method.answers is None
    assert "no tests" in notes[0]
    with pytest.raises(ValueError, match=r"pooled entry by entry, but there is no .*records.jsonl"):
        read_methods([one, other])


def test_records_of_another_test_are_not_used(made):
    path = made("a", ANSWERS)
    made("b", ANSWERS, entries="0ther")
    (made.root / "b" / "records.jsonl").replace(made.root / "a" / "records.jsonl")
    (method,), notes = read_methods([path])
    assert method.answers is None
    assert "records of another test" in notes[0]


def test_results_that_are_not_the_summary_of_their_records_are_not_paired(made):
    path = made("a", ANSWERS)
    with (made.root / "a" / "records.jsonl").open("rb+") as file:
        lines = file.readlines()
        file.truncate(sum(map(len, lines[:-1])))
    (method,), notes = read_methods([path])
    assert method.answers is None
    assert "not the summary" in notes[0]


def test_seeds_that_did_not_answer_the_same_entries_are_refused(made):
    paths = [made("laid-seed0", ANSWERS), made("laid-seed1", {5: [True] * 9})]
    with pytest.raises(ValueError, match="did not answer the same entries"):
        read_methods(paths)


def test_an_unknown_name_lists_those_that_there_are(made):
    methods, _ = read_methods([made("base", ANSWERS), made("laid", ANSWERS)])
    assert find_method(methods, "laid", "--base") is methods[1]
    with pytest.raises(ValueError, match=r"--base 'bsae'.*'base', 'laid'"):
        find_method(methods, "bsae", "--base")
