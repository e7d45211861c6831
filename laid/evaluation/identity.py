"""What laid reads of the identity of a test; all else in it is compared and not looked into."""

from dataclasses import dataclass, fields

from laid.common.json_codec import Json, from_json

_OF_ONE_SEED = ("path", "revision", "seed")


@dataclass(frozen=True)
class Tested:
    """The parts of an identity that results are grouped and paired by, by the identity's own keys.

    Attributes:
        checkpoint: the checkpoint's ``id`` and ``step``; None for a base model.
        student: how the model is loaded.
        weights: fingerprint of a base model's weights.
        window: the window extension (``extension`` and its settings); None without one.
        entries: hash of what was asked and shown; None where the test did not say.
    """

    checkpoint: Json | None = None
    student: Json | None = None
    weights: str | None = None
    window: Json | None = None
    entries: str | None = None

    @classmethod
    def of(cls, identity: Json) -> "Tested":
        """Raises ``UserError`` where one of the parts has another type."""
        names = [field.name for field in fields(cls) if field.name in identity]
        return from_json(cls, {name: identity[name] for name in names}, "identity")


def shared_by_seeds(identity: Json) -> Json:
    """What of an identity is the same for all training seeds of one method."""
    shared = {k: v for k, v in identity.items() if k not in ("checkpoint", "weights")}
    if student := Tested.of(identity).student:
        shared["student"] = {k: v for k, v in student.items() if k not in _OF_ONE_SEED}
    return shared
