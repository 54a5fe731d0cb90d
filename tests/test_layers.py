"""The house: imports point down only, each dependency has one door, and light modules stay light."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("loadtests", "apps", "optimization", "training")
# Programs that run as processes beside the product, in environments of their own: other servers, compared with ours.
COMPARED = "loadtests/peers/servers/"
# What each package may import of ours: only what lies below it.
BELOW = {
    "loadtests": set(),
    "apps": {"optimization", "training"},
    "optimization": {"training"},
    "training": set(),
}
# Module prefix -> files that may import it. A test fails here before a second door is cut.
DOORS = {
    "mlflow": {"training/registry.py", "training/run.py"},
    "ray.train": {"training/launch/on_ray.py"},
    "ray.tune": {"training/tuning/trials.py", "training/tuning/search.py", "optimization/search/on_tune.py"},
    "optuna": {"training/tuning/study.py"},
    "ray.data": {"training/data/ingest.py", "apps/batch.py"},
    "onnxruntime": {
        "optimization/runners/onnx_runtime.py",
        "optimization/quantize/onnxruntime_door.py",
        "optimization/export.py",
    },
    "tensorrt": {"optimization/runners/tensorrt_engine.py"},
    "coremltools": {"optimization/export.py"},
    "modelopt": {"optimization/quantize/modelopt_door.py"},
    "torchvision": {"training/models/torchvision_door.py"},
    "torch_pruning": {"optimization/prune/dependencies.py"},
    "timm": {"training/models/imagenet.py"},
    "transformers": {"training/models/language.py"},
    "huggingface_hub": {"training/models/tokenizer.py"},
}
DOORS_BY_FOLDER = {
    "ray.serve": ("apps/",),
    "fastapi": ("apps/",),
    "locust": ("loadtests/",),
    "torch": ("training/", "optimization/"),
}
# Doors that stand in the plan of the house and are not cut yet.
PLANNED: tuple[str, ...] = ()
HEAVY = (
    *("torch", "torchvision", "timm", "transformers", "tokenizers", "huggingface_hub"),
    *("ray", "mlflow", "onnx", "onnxruntime", "sklearn", "matplotlib", "scipy", "pandas", "pyarrow", "optuna"),
)
# Read by servers and commands at every start, so nothing heavy may come in with them.
LIGHT = (
    "training/encoding.py",
    "training/task.py",
    "training/find.py",
    "training/artifact.py",
    "training/recipe.py",
    "training/recipes.py",
    "training/registry.py",
    "training/champion.py",
    "training/loop/order.py",
    "training/loop/draws.py",
    "training/checkpoint/store.py",
    "training/checkpoint/ledger.py",
    "training/launch/job.py",
    "training/parallel/plan.py",
    "training/launch/run_folder.py",
    "training/observe/breakdown.py",
    "training/module.py",
    "training/evaluation/scores.py",
    "training/evaluation/plots.py",
    "training/evaluation/closing.py",
    "training/evaluation/report.py",
    "training/evaluate.py",
    "training/data/tokenizer.py",
    "training/data/ingest.py",
    "training/models/architecture.py",
    "training/models/tokenizer.py",
    "training/models/torchvision_door.py",
    "training/tasks/digits.py",
    "training/tasks/image_folder.py",
    "training/tasks/image_table.py",
    "training/tasks/text_table.py",
    "training/tuning/space.py",
    "training/tuning/preflight.py",
    "training/tuning/cluster.py",
    "training/tuning/ledger.py",
    "training/tuning/trial.py",
    "training/tuning/plots.py",
    "training/tuning/sweep.py",
    "optimization/release.py",
    "optimization/runners/open.py",
    "optimization/graphs/check.py",
    "optimization/graphs/strong_types.py",
    "optimization/measure/latency.py",
    "optimization/measure/measurement.py",
    "optimization/measure/exclusive.py",
    "optimization/measure/footprint.py",
    "optimization/gate.py",
    "optimization/quantize/choice.py",
    "optimization/quantize/sensitivity_plot.py",
    "optimization/pair.py",
    "optimization/cascade/calibration.py",
    "optimization/cascade/resplits.py",
    "optimization/export.py",
    "optimization/plots.py",
    "optimization/prune/settings.py",
    "apps/up.py",
)
MAX_LINES = 330
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc", "tools", "shared", "core"}


@cache
def _modules() -> dict[str, ast.Module]:
    """Path from the root -> syntax tree, of every module of ours."""
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path)) for path in files}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(tree: ast.AST) -> set[str]:
    """Every dotted name that is imported anywhere below `tree`, but for type checking alone."""
    names: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}: name the module in full"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif _is_type_checking(node):
            continue
        pending.extend(ast.iter_child_nodes(node))
    return names


def _imported_on_load(tree: ast.Module) -> set[str]:
    """What is imported when the module is, outside of any function."""
    names: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_type_checking(node):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= _imported(node)
        pending.extend(ast.iter_child_nodes(node))
    return names


def _is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _users(prefix: str) -> set[str]:
    return {
        path
        for path, tree in _modules().items()
        if not path.startswith(COMPARED) and any(_is_within(name, prefix) for name in _imported(tree))
    }


def _loaded_with(path: str, seen: set[str] | None = None) -> dict[str, str]:
    """Heavy package -> the module of ours that brings it in when `path` is imported."""
    seen = set() if seen is None else seen
    seen.add(path)
    found = {}
    for name in _imported_on_load(_modules()[path]):
        top = name.split(".")[0]
        if top in HEAVY:
            found[top] = path
        if top in PACKAGES:
            for candidate in (f"{name.replace('.', '/')}.py", f"{name.rpartition('.')[0].replace('.', '/')}.py"):
                if candidate in _modules() and candidate not in seen:
                    # What a module imports itself is said of it, whatever the order in which a set is walked.
                    found = _loaded_with(candidate, seen) | found
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down_only(package: str) -> None:
    allowed = BELOW[package] | {package}
    for path, tree in _modules().items():
        if path.startswith(f"{package}/"):
            ours = {name.split(".")[0] for name in _imported(tree)} & set(PACKAGES)
            assert ours <= allowed, f"{path} imports {', '.join(sorted(ours - allowed))}"


def test_no_product_code_imports_tests() -> None:
    assert not _users("tests")


@pytest.mark.parametrize("dependency", DOORS)
def test_a_dependency_has_one_door(dependency: str) -> None:
    assert _users(dependency) <= DOORS[dependency]


@pytest.mark.parametrize("dependency", DOORS_BY_FOLDER)
def test_a_dependency_stays_in_its_folder(dependency: str) -> None:
    assert not [path for path in _users(dependency) if not path.startswith(DOORS_BY_FOLDER[dependency])]


@pytest.mark.parametrize("dependency", [prefix for prefix in DOORS if prefix not in PLANNED])
def test_a_door_is_used(dependency: str) -> None:
    """Else the rule above would hold of a name that nobody writes so."""
    assert _users(dependency)


@pytest.mark.parametrize("path", LIGHT)
def test_a_light_module_loads_nothing_heavy(path: str) -> None:
    assert _loaded_with(path) == {}


def test_what_is_heavy_is_found_however_deep_it_comes_in() -> None:
    assert _loaded_with("training/loop/fit.py")["torch"] == "training/loop/fit.py"
    assert "torch" in _loaded_with("optimization/build.py")


def test_package_files_are_empty() -> None:
    packages = [path for path in _modules() if path.endswith("__init__.py")]
    assert {f"{package}/__init__.py" for package in PACKAGES} <= set(packages)
    assert not [path for path in packages if (ROOT / path).read_text()]


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.rpartition("/")[0] for path in _modules()}
    assert not [folder for folder in folders if f"{folder}/__init__.py" not in _modules()]


@pytest.mark.parametrize("path", _modules())
def test_a_file_is_short_and_named_by_what_it_holds(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES
    assert Path(path).stem not in VAGUE


def test_no_pickle_is_read_outside_of_training() -> None:
    """What a server loads is safetensors, ONNX, tokenizers and JSON."""
    for prefix in ("pickle", "cloudpickle", "joblib", "dill"):
        assert not [path for path in _users(prefix) if not path.startswith("training/")]
