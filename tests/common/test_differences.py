"""Differences of nested settings, key by key."""

from laid.common.differences import ABSENT, differences

BEFORE = {"a": 1, "b": {"c": [1], "d": {"e": None}}, "old": 0, "deep": {"x": 1}}
AFTER = {"a": 1, "b": {"c": [2], "d": {"e": 0}}, "new": {}, "deep": 5}


def test_keys_are_dotted_and_in_order_and_a_missing_value_is_absent():
    assert list(differences(BEFORE, AFTER).items()) == [
        ("b.c", ([1], [2])),
        ("b.d.e", (None, 0)),
        ("old", (0, ABSENT)),
        ("deep", ({"x": 1}, 5)),
        ("new", (ABSENT, {})),
    ]


def test_keys_of_one_side_can_be_left_out_at_every_depth():
    found = differences(BEFORE | {"b": {"c": [1], "only": 1}}, AFTER, one_sided=False)
    assert found == {"b.c": ([1], [2]), "deep": ({"x": 1}, 5)}


def test_equal_settings_do_not_differ():
    assert differences(BEFORE, BEFORE) == {}
