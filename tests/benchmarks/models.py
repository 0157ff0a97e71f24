"""Parameters, time and memory of a training step of every network, compiled and not.

    python tests/benchmarks/models.py --edge 64
    python tests/benchmarks/models.py --edge 128 --device cuda --models nnunet mednext-base

A step is a forward and a backward pass of a batch in bfloat16 with its loss. Each network has a
process of its own, so that peaks are its own; compiled and not take turns. Linux only.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from mist_core.device import MEMORY_FORMAT
from mist_core.losses import LOSSES, deep_supervision
from mist_core.models import build
from mist_core.topology import ARCHITECTURES

SPACING = (1.0, 1.0, 1.0)
USUAL_PATCH = (128, 128, 128)
REFERENCE = {  # MIST 2.3.0, one channel, two classes, the usual patch
    "nnunet": 31_420_198,
    "nnunet-pocket": 767_974,
    "fmgnet": 3_170_694,
    "wnet": 5_856_134,
    "mednext-small": 5_552_842,
    "mednext-base": 10_512_778,
    "mednext-medium": 17_535_434,
    "mednext-large": 61_728_682,
    "swinunetr-small": 18_346_844,
    "swinunetr-base": 72_762_068,
    "swinunetr-large": 290_390_852,
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--models", nargs="+", default=list(ARCHITECTURES))
    p.add_argument("--edge", type=int, default=64, help="of the cubic patch")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--device", default="cpu")
    p.add_argument("--steps", type=int, default=3, help="that are timed, after two that are not")
    p.add_argument("--compile", choices=("no", "yes", "both"), default="both")
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--limit", type=int, default=900, help="seconds for one network")
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(measured(args)) + "\n")
        return
    variants = {"no": ["no"], "yes": ["yes"], "both": ["no", "yes"]}[args.compile]
    sys.stdout.write(
        "| model | parameters | MIST's | compiled | first step, s | step, s | peak, GB |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    for model in args.models:
        for variant in variants:
            sys.stdout.write(row(model, variant, in_a_process(args, model, variant)))
            sys.stdout.flush()


def in_a_process(args: argparse.Namespace, model: str, variant: str) -> Mapping[str, Any]:
    """What a process of its own measures, or why there is nothing."""
    command = [sys.executable, __file__, "--one", model, "--compile", variant]
    for name in ("edge", "batch", "device", "steps"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--checkpointing"] * args.checkpointing
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=args.limit
        )
    except subprocess.TimeoutExpired:
        return {"why": f"more than {args.limit} s"}
    if done.returncode:
        return {"why": done.stderr.strip().splitlines()[-1][:80]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row(model: str, variant: str, found: Mapping[str, Any]) -> str:
    reference = f"{REFERENCE[model]:,}" if model in REFERENCE else ""
    if "why" in found:
        return f"| {model} | | {reference} | {variant} | {found['why']} | | |\n"
    return (
        f"| {model} | {found['parameters']:,} | {reference} | {variant} | {found['first']:.1f} | "
        f"{found['step']:.3g} | {found['peak']:.2f} |\n"
    )


def measured(args: argparse.Namespace) -> dict[str, float]:
    """Parameters, seconds and GB of one network."""
    device = torch.device(args.device)
    size = (args.edge,) * 3
    params = {"gradient_checkpointing": True} if args.checkpointing else {}
    torch.manual_seed(0)
    network = build(
        args.one, in_channels=1, out_channels=2, patch_size=size, spacing=SPACING, **params
    )
    network.to(device, memory_format=MEMORY_FORMAT)
    model = torch.compile(network) if args.compile == "yes" else network
    images = torch.randn(args.batch, 1, *size, device=device)
    images = images.to(memory_format=MEMORY_FORMAT)
    labels = torch.randint(2, (args.batch, *size), device=device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            outputs = model(images)
        loss = deep_supervision(LOSSES["dice_ce"], outputs, labels)
        network.zero_grad(set_to_none=True)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first = step()
    step()
    seconds = statistics.median(step() for _ in range(args.steps))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    if callable(ARCHITECTURES[args.one].levels):  # as many as the patch has: counted for the usual
        with torch.device("meta"):
            network = build(
                args.one, in_channels=1, out_channels=2, patch_size=USUAL_PATCH, spacing=SPACING
            )
    count = sum(p.numel() for p in network.parameters())
    return {"parameters": count, "first": first, "step": seconds, "peak": peak}


if __name__ == "__main__":
    main()
