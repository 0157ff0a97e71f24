"""The one exception whose message is written for the user."""

from collections.abc import Sequence


class DataError(Exception):
    """Something the user can fix: a file, a header, a value in the config.

    The message names the file or key, what was expected, what was found and what to do.
    """


def raise_all(problems: Sequence[str], heading: str) -> None:
    """Raise one DataError that lists every problem; do nothing when there is none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{heading}: {count}\n" + "\n".join(f"  {line}" for line in problems))
