"""Peak memory and time of a decoder's prefill by length: SelfExtend, stock sdpa, stock eager.

    python benchmarks/self_extend_memory.py [--lengths 1024 2048 4096 8192 16384] [--eager_to 4096]

One layer of Qwen2.5-VL's decoder with random weights, 4 query heads and 1 KV head, head_dim 128,
float32, one thread; the prompt is images of 20 x 14 visual tokens. Every cell is a process of its
own (forked, so Linux or macOS), which measures how far its peak resident memory grows during the
prompt. Prints a table and the same results as JSON.
"""

import argparse
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.common.tables import NONE, Table, text
from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_processor
from laid.vlm.self_extend import set_self_extend
from laid.vlm.window_extension import SelfExtendArgs

_KINDS = ("self-extend", "sdpa", "eager")


def measure(kind: str, length: int, args: SelfExtendArgs, out: Connection) -> None:
    """One prefill in this process; sends seconds and the growth of the peak in MiB."""
    torch.manual_seed(0)
    tokenizer = tiny_processor(corpus()).tokenizer
    config = tiny_config(tokenizer, layers=1, heads=4, kv_heads=1, head_dim=128)
    stock = "eager" if kind == "eager" else "sdpa"
    hf = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=stock).eval()
    if kind == "self-extend":
        set_self_extend(hf, args)
    decoder = hf.model.language_model

    height, width = torch.meshgrid(torch.arange(14), torch.arange(20), indexing="ij")
    image_3V = torch.stack([torch.zeros(280, dtype=torch.long), height.flatten(), width.flatten()])
    images = [image_3V + 20 * at for at in range(length // 280 + 1)]
    positions_3BL = torch.cat(images, dim=1)[:, None, :length]
    embedded = torch.randn(1, length, config.text_config.hidden_size)

    def run(tokens: int) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            decoder(
                inputs_embeds=embedded[:, :tokens],
                position_ids=positions_3BL[..., :tokens],
                use_cache=False,
            )
        return time.perf_counter() - start

    run(64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = run(length)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    out.send({"seconds": round(seconds, 2), "mib": round(grown)})


def main() -> None:
    """Every kind at every length, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384], help="in tokens"
    )
    parser.add_argument("--eager_to", type=int, default=4096, help="longest for eager attention")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--group", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = SelfExtendArgs(group=args.group, window=args.window)
    forking = multiprocessing.get_context("fork")
    report: dict[str, object] = {"window": args.window, "group": args.group}
    rows = []
    for length in args.lengths:
        row = {}
        for kind in _KINDS:
            if kind == "eager" and length > args.eager_to:
                continue
            receive, send = forking.Pipe(duplex=False)
            process = forking.Process(target=measure, args=(kind, length, settings, send))
            process.start()
            row[kind] = receive.recv()
            process.join()
        report[str(length)] = row
        measured = [
            str(row[k][key]) if k in row else NONE for k in _KINDS for key in ("mib", "seconds")
        ]
        rows.append([str(length), *measured])
    header = ["tokens", *(f"{kind} {key}" for kind in _KINDS for key in ("MiB", "s"))]
    print(text(Table("memory", "Attention of one layer", header, rows)))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
