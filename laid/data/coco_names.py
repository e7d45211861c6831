"""The 80 object names of COCO, in the order of their category ids."""

from importlib.resources import files

COCO_NAMES = tuple((files("laid.data") / "coco_names.txt").read_text("utf-8").splitlines())
