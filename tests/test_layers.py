"""The shape of the library: imports point up, stages are strangers, torch is not for all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mist_core

HOME = Path(mist_core.__file__).parent
LAYERS = (
    ("errors", "geometry", "files", "sources", "lease", "own"),
    (
        *("io", "dataset", "demo", "config", "plan", "folds", "chunks", "nnunet", "topology"),
        *("distance", "metrics"),
    ),
    (
        "labels",
        "intensity",
        "resample",
        "phantom",
        "ensemble",
        "convert",
        "verify",
        "shapes",
        "observations",
        "regions",
        "pictures",
        "inputs",
        "quality",
        "transforms",
        "ranking",
        "results",
        "search",
    ),
    (
        *("device", "parallel", "augment", "patches", "losses", "models", "optimizers"),
        *("criterion", "modelfile", "transfer", "loading", "checkpoint", "validation", "records"),
        *("contact_sheet", "sliding", "restore", "onnxfile"),
    ),
    (
        *("analyze", "describe", "preprocess", "train", "predict", "postprocess", "evaluate"),
        *("choose", "rank", "report"),
    ),
    ("cli",),
    ("commands", "progress"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
STAGES = LAYERS[4]
MODULES = sorted(path for path in HOME.rglob("*.py") if path != HOME / "__init__.py")
WITH_TORCH = {*LAYERS[3], "train", "predict"}
WITHOUT_TORCH = [name for name in LAYER if name not in WITH_TORCH]


def name_of(path):
    """The part of the library that a file belongs to: all of models/ is ``models``."""
    return path.relative_to(HOME).parts[0].removesuffix(".py")


def imported(source):
    """Parts of the library that a source imports, at its head or anywhere else."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        names |= {p.split(".")[1] for p in paths if p.startswith("mist_core.")}
    return names - {"__version__"}


@pytest.mark.parametrize(
    "source",
    [
        "from mist_core.train import train",
        "from mist_core import train",
        "from mist_core import train as t, geometry",
        "import mist_core.train",
        "import os, mist_core.train as t",
        "def f():\n    from mist_core.train import x as y",
        "if True:\n    import mist_core.train.part",
    ],
)
def test_every_way_to_import_is_seen(source):
    assert "train" in imported(source)


def test_what_is_not_of_the_library_is_not_seen():
    assert imported("import train, mist_core\nfrom mist_core import __version__") == set()


def test_every_module_has_its_layer():
    assert {name_of(path) for path in MODULES} == set(LAYER)
    assert sum(map(len, LAYERS)) == len(LAYER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOME)))
def test_imports_point_up_and_stages_never_import_each_other(path):
    name = name_of(path)
    for other in imported(path.read_text(encoding="utf-8")) - {name}:
        assert LAYER[other] <= LAYER[name], f"{name} must not import {other}"
        # A new image is preprocessed on its way, without files.
        allowed = {name, other} == {"predict", "preprocess"}
        pair = {name, other} <= set(STAGES)
        assert allowed or not pair, f"stage {name} must not import stage {other}"


def test_no_module_imports_itself_through_others():
    graph = {name: set() for name in LAYER}
    for path in MODULES:
        graph[name_of(path)] |= imported(path.read_text(encoding="utf-8")) - {name_of(path)}
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_the_package_itself_imports_nothing():
    tree = ast.parse((HOME / "__init__.py").read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_what_needs_no_torch_never_loads_it():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(f'mist_core.{name}')\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} loads torch')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *WITHOUT_TORCH],
        cwd=HOME.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"analyze", "preprocess", "postprocess", "evaluate", "rank", "report", "cli"} < set(
        WITHOUT_TORCH
    )
