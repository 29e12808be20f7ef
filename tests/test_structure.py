"""The shape of the code base: import direction, sizes of files, annotations."""

import ast
import inspect
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT

MODULES = sorted((ROOT / "modules").rglob("*.py"))
CODE = [*MODULES, *ROOT.glob("*.py"), *(ROOT / "scripts").rglob("*.py"), *ROOT.glob("tests/*.py")]
TOP_LEVEL = {"Trainer", "Tester", "dataloader", "scripts", "benchmark", "toy", "video"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The modules that a file imports, packages given as they stand."""
    package = name_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


GRAPH = {name_of(path): imports(path) for path in MODULES}
GRAPH = {name: used & GRAPH.keys() - {name} for name, used in GRAPH.items()}


def test_no_module_imports_a_script():
    used = {name_of(path): {x.split(".")[0] for x in imports(path)} for path in MODULES}
    assert {name: tops & TOP_LEVEL for name, tops in used.items() if tops & TOP_LEVEL} == {}


def test_imports_between_modules_have_no_cycle():
    # a package is imported before its modules, but needs none of them by itself
    graph = {a: {b for b in used if not a.startswith(f"{b}.")} for a, used in GRAPH.items()}
    TopologicalSorter(graph).prepare()  # its error names the cycle


def test_imports_between_packages_have_no_cycle():
    def package(name):
        return "".join(name.split(".")[1:2])

    edges = {(package(a), package(b)) for a, used in GRAPH.items() for b in used}
    edges = {(a, b) for a, b in edges if a != b and a and b}
    sorter = TopologicalSorter()
    for a, b in edges:
        sorter.add(a, b)
    sorter.prepare()


def test_nets_know_no_settings_files_or_data():
    allowed = {"modules", "modules.nets"}
    used = set().union(*(GRAPH[name] for name in GRAPH if name.startswith("modules.nets")))
    assert {name for name in used if not name.startswith("modules.nets.")} <= allowed


def test_a_lab_is_asked_for_by_name_in_the_registries_only():
    for path in [*MODULES, *ROOT.glob("*.py")]:
        assert not re.search(r"\blab\b\)? (==|!=) [\"']", path.read_text()), path


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_documents_are_short_and_their_prose_has_the_codes_line_width(name):
    text = (ROOT / name).read_text()
    assert len(text.splitlines()) <= 200
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    assert [x for x in prose if len(x) > 100 and not x.startswith(("|", "!["))] == []


def files_of(row: str):
    """What a row of the table names: a path without a folder lies in that of the path before."""
    folder = ROOT
    for name in re.findall(r"`(.+?)`", row):
        folder = (ROOT / name).parent if "/" in name.rstrip("/") else folder
        paths = [*folder.glob(Path(name).name)]
        assert paths, f"{name} does not exist"
        for path in paths:
            yield from [path] if path.is_file() else path.rglob("*.*")


def test_the_table_of_files_names_every_file_and_no_other():
    text = (ROOT / "docs/contributing.md").read_text()
    named = {path for row in re.findall(r"^\| (`.+?) \|", text, re.M) for path in files_of(row)}
    patterns = "*.py", "modules/**/*.*", "scripts/**/*.*"
    files = {path for pattern in patterns for path in ROOT.glob(pattern)}
    lacking = {str(path.relative_to(ROOT)) for path in files - named if path.is_file()}
    assert [x for x in lacking if not x.endswith((".pyc", "/__init__.py"))] == []


def test_everything_public_has_type_annotations():
    lacking = []
    for path in [*MODULES, ROOT / "Trainer.py", ROOT / "Tester.py"]:
        for node in ast.parse(path.read_text()).body:
            public = [node] if not isinstance(node, ast.ClassDef) else node.body
            for item in public:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    given = [a for a in item.args.args if a.arg not in ("self", "cls")]
                    whole = item.returns is not None and all(a.annotation for a in given)
                    overrides = item.name in ("forward", "contradiction")
                    if not whole and not (isinstance(node, ast.ClassDef) and overrides):
                        lacking.append(f"{path.relative_to(ROOT)}:{item.lineno} {item.name}")
    assert lacking == []


def test_the_derivation_names_code_that_exists():
    places = re.findall(r"`([\w/]+\.py): (\w+)`", (ROOT / "docs/derivation.md").read_text())
    assert len(places) > 10
    for path, name in places:
        nodes = ast.walk(ast.parse((ROOT / path).read_text()))
        assert name in {getattr(node, "name", None) for node in nodes}, f"{path}: {name}"


def test_published_names_are_where_they_were():
    import dataloader
    import modules
    import Trainer

    nets = "Generator RGB_Encoder Label_Encoder Gaussian_Predictor Decoder_Fusion".split()
    assert all(hasattr(modules, name) for name in nets)
    assert hasattr(dataloader, "Dataset_Dance") and hasattr(dataloader, "Dataset_Robot")
    for name in "kl_annealing kl_criterion Generate_PSNR VAE_Model".split():
        assert hasattr(Trainer, name)
    methods = "training_stage training_one_step val_one_step teacher_forcing_ratio_update".split()
    assert all(inspect.isfunction(getattr(Trainer.Trainer, name)) for name in methods)
    for name in ("update", "get_beta", "frange_cycle_linear"):
        assert hasattr(Trainer.kl_annealing, name)


def test_the_list_of_numerical_tests_names_tests_that_exist():
    for line in (ROOT / "tests/numerical.txt").read_text().splitlines():
        file, _, name = line.partition("::")
        assert f"def {name}" in (ROOT / file).read_text() if name else (ROOT / file).is_file(), line
