"""Time and peak memory of the COCO index on a file as large as instances_train2017.json.

    python benchmarks/coco_index.py [--images 118287] [--annotations 860001] [--seed 0]

Writes a synthetic annotation file (seeded; as many images, annotations and bytes as COCO's) to a
temporary folder, then loads the index twice, each time in a fresh process: the first parses the
JSON, the second finds the compact index in the cache. A third process builds 5,000 training
entries and a fourth reads them back from the cache. Prints a table and the same numbers as JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from laid.common.tables import Table, text

_STEPS = {
    "first load": "index",
    "second load": "index",
    "5,000 entries, built": "entries",
    "5,000 entries, cached": "entries",
}


def write_annotations(path: Path, images: int, annotations: int, seed: int) -> None:
    """Write a COCO instance file with ``images`` images of 640 x 480 and polygons of COCO's length.

    Categories follow a power law, as COCO's do; one annotation in a hundred is a crowd. Polygons
    are taken from a pool, so that writing does not take longer than the reading we measure.
    """
    rng = np.random.default_rng(seed)
    corners = np.clip(rng.lognormal(3.0, 0.6, 4096), 4, 400).astype(int)
    polygons = [json.dumps([np.round(rng.uniform(0, 640, 2 * n), 2).tolist()]) for n in corners]
    weights = 1 / np.arange(1, 81)
    with open(path, "w") as file:
        file.write('{"info": {"description": "synthetic"}, "licenses": [], "images": [')
        for i in range(images):
            file.write(
                f'{", " if i else ""}{{"license": 3, "file_name": "{i:012d}.jpg", "coco_url": '
                f'"http://images.cocodataset.org/train2017/{i:012d}.jpg", "height": 480, '
                f'"width": 640, "date_captured": "2013-11-14 11:18:45", "flickr_url": '
                f'"http://farm9.staticflickr.com/8186/{i:012d}_z.jpg", "id": {i}}}'
            )
        file.write('], "annotations": [')
        image = rng.integers(0, images, annotations)
        category = rng.choice(80, annotations, p=weights / weights.sum())
        polygon = rng.integers(0, len(polygons), annotations)
        area = np.round(np.minimum(rng.lognormal(8, 2, annotations), 300_000), 4)
        crowd = rng.random(annotations) < 0.01
        for i in range(annotations):
            file.write(
                f'{", " if i else ""}{{"segmentation": {polygons[polygon[i]]}, "area": {area[i]}, '
                f'"iscrowd": {int(crowd[i])}, "image_id": {image[i]}, '
                f'"bbox": [199.84, 200.46, 77.71, 70.88], "category_id": {category[i] + 1}, '
                f'"id": {i}}}'
            )
        names = [{"supercategory": "thing", "id": c + 1, "name": f"thing{c}"} for c in range(80)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def measure(step: str, root: Path, cache: Path) -> None:
    """Run one step in this process; print seconds (imports not counted) and peak RSS as JSON."""
    from laid.data.coco_index import CocoIndex
    from laid.data.haystack_builder import build_training_entries, cached_entries

    os.environ["LAID_CACHE"] = str(cache)
    start = time.perf_counter()
    index = CocoIndex.load(root, "train2017")
    if step == "entries":
        start = time.perf_counter()
        cached_entries(build_training_entries, index, n=5000, seed=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak)}))


def main() -> None:
    """Generate, run every step in its own process, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        measure(args.step[0], Path(args.step[1]), Path(args.step[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "coco"), Path(folder, "cache")
        for name in ("annotations", "train2017"):
            (root / name).mkdir(parents=True)
        path = root / "annotations" / "instances_train2017.json"
        write_annotations(path, args.images, args.annotations, args.seed)
        report: dict[str, object] = {"file_mib": path.stat().st_size >> 20, **vars(args)}
        report.pop("step")
        rows = []
        for name, step in _STEPS.items():
            command = [sys.executable, __file__, "--step", step, str(root), str(cache)]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(ran.stdout)
            report[name] = row
            rows.append([name, str(row["seconds"]), str(row["peak_mib"])])
    print(text(Table("coco", "COCO index", ["step", "seconds", "peak MiB"], rows)))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
