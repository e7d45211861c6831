"""Writes the tiny teacher in another basis of queries and keys: the same function.

python benchmarks/scrambled_teacher.py FOLDER
"""

import sys
from pathlib import Path

from laid.miniature.scrambled_basis import scramble_qk
from laid.vlm.hf_folder import write_model, write_processor
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.processor import ProcessorArgs, load_processor


def main(out: Path) -> None:
    """Scrambles with seed 0."""
    args = ModelArgs("tiny/teacher")
    model = load_model(args)
    scramble_qk(model, seed=0)
    out.mkdir(parents=True, exist_ok=True)
    write_processor(out, load_processor(ProcessorArgs(args.path)))
    write_model(out, args, model.state_dict(), None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
