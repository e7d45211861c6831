"""The page of ``laid look`` for a conversation."""

from PIL import Image

from laid.data.entries import HaystackEntry, Turn
from laid.look.look_page import look_page
from laid.look.look_report import LookReport, ModelLook, turns_of

TURNS = (
    Turn("system", "Be brief."),
    Turn("user", "First <image>,\nthen <image>: a < b?"),
    Turn("assistant", "Yes."),
    Turn("user", "And <image>?"),
)
ENTRY = HaystackEntry(
    id="my-000001", question="And ?", answer="No.", size=3, images=("a", "b", "c"), turns=TURNS
)


def test_a_conversation_is_shown_with_all_its_turns_and_its_images_by_number():
    *earlier, (_, question) = turns_of(ENTRY)
    assert earlier[1] == ["user", "First [image 1],\nthen [image 2]: a < b?"]
    assert question == "And [image 3]?"
    model = ModelLook("base", "x", "No", [0.1] * 3, [0.1] * 3, [[0.1] * 3], [[0, 0]])
    report = LookReport(
        "laid look",
        "1",
        "today",
        "my-000001",
        question,
        earlier,
        "No.",
        ["a"] * 3,
        [],
        1,
        [model],
        [],
    )
    page = look_page(report, [Image.new("RGB", (8, 8))] * 3, b"")
    places = [
        page.index(said)
        for said in ("<b>system</b>: Be brief.", "then [image 2]: a &lt; b?", "<h1>And [image 3]?")
    ]
    assert places == sorted(places)


def test_a_haystack_has_its_question_alone():
    entry = HaystackEntry(id="a", question="Why?", size=0, images=())
    assert turns_of(entry) == [["user", "Why?"]]
