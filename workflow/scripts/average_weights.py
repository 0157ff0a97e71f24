"""Average the weights of several models of one architecture into one model file."""

from pathlib import Path

from mist_core import cli
from mist_core.errors import DataError


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--weights", type=Path, nargs="+", required=True, help="two model files or more")
    p.add_argument("--output", type=Path, required=True, help="the model file to write")
    args = p.parse_args()
    if len(args.weights) < 2:
        raise DataError(f"--weights: expected two files or more, found {len(args.weights)}.")

    import torch

    from mist_core.modelfile import read_state, write_state

    states = [read_state(path) for path in args.weights]
    first = states[0]["weights"]
    for path, state in zip(args.weights, states, strict=True):
        shapes = {name: value.shape for name, value in state["weights"].items()}
        if shapes != {name: value.shape for name, value in first.items()}:
            raise DataError(
                f"{path}: expected the architecture of {args.weights[0]}, found another. Average "
                "models of one architecture only."
            )
    averaged = {
        # Counters are not averaged: half a step is none.
        name: torch.stack([s["weights"][name] for s in states]).mean(0)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }
    write_state(args.output, states[0] | {"weights": averaged, "fold": None})


if __name__ == "__main__":
    cli.run(main)
