"""Which of the two modules with the loops over voxels is used."""

from functools import cache
from types import ModuleType


@cache
def backend() -> ModuleType:
    """``kernels``, compiled by numba, or ``fallback`` where numba is not installed."""
    try:
        from mist_core.metrics import kernels  # noqa: PLC0415 (half a second)
    except ImportError:
        from mist_core.metrics import fallback  # noqa: PLC0415

        return fallback
    return kernels
