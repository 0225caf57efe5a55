"""The house rules, by reading the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from raypo import config, errors
from raypo.objective.presets import TABLE, hyperparameters

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "raypo").rglob("*.py"))
PURE = [path for path in MODULES if path.parts[-2] in ("objective", "dispersion") or path.stem == "logprobs"]
ALLOWED = {"__future__", "collections", "dataclasses", "difflib", "functools", "itertools", "math", "raypo", "torch"}
ALLOWED |= {"typing"}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "core", "base", "misc", "managers"}


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_the_mathematics_imports_torch_and_nothing_else(path: Path) -> None:
    assert imported(path) <= ALLOWED


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_in_ascii_and_is_not_a_drawer(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    assert ast.get_docstring(ast.parse(text))
    assert not FORBIDDEN_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


def test_no_module_and_no_function_is_too_long_to_read() -> None:
    """A module has one subject: 350 lines hold one. A function: 60, its docstring not counted. The worst are named."""
    modules = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    functions = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                told = len((ast.get_docstring(node, clean=False) or "").splitlines())
                functions[f"{path.relative_to(ROOT)}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1 - told
    for lengths, most in ((modules, 350), (functions, 60)):
        assert {name: count for name, count in lengths.items() if count > most} == {}


def test_every_dependency_is_imported_somewhere() -> None:
    """Of the project and of its tests; tools that run beside them are named here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = {"import-linter", "mypy", "pytest-timeout", "pytest-xdist", "ruff", "types-pyyaml"}
    modules = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
    places = {
        "dependencies": (project["project"]["dependencies"], ("raypo",)),
        "dev": (project["dependency-groups"]["dev"], ("tests", "jobs")),
    }
    for kind, (listed, folders) in places.items():
        found = set().union(*(imported(path) for folder in folders for path in (ROOT / folder).rglob("*.py")))
        names = {re.split(r"[\[<>=~! ;]", one)[0] for one in listed} - tools
        assert {name for name in names if modules.get(name, name) not in found} == set(), kind


def tracked() -> list[Path]:
    """Files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines()]


def test_no_file_holds_a_path_of_one_machine_or_a_registry() -> None:
    """The words are put together here, so that this file does not hold them."""
    words = ["/" + "work/", "/" + "root/", "/" + "home/", "find-" + "links", "index-" + "url"]
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        assert [word for word in words if word in text] == [], path


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RaypoError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[errors.RaypoError]) -> None:
    """Ray carries them between processes."""
    copy = pickle.loads(pickle.dumps(kind("got", "expected", "remedy")))
    assert (type(copy), copy.got, copy.expected, copy.remedy) == (kind, "got", "expected", "remedy")


def sections() -> dict[type[BaseModel], str]:
    """All parts of the config tree, with the name under which the tree holds them ("" for what a list holds)."""
    kinds = [kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, config.Section)]
    fields = [item for kind in kinds for item in kind.model_fields.items()]
    names = {one: name for name, field in fields for one in (field.annotation, *get_args(field.annotation))}
    return {kind: names.get(kind, "") for kind in kinds if kind is not config.Section}


def reads(path: Path, section: type[BaseModel], name: str) -> set[str]:
    """Attributes that a module takes from a section.

    These are x.field where x ends in the section's name in the tree or was assigned from it; and every x.field of a
    module that names the section's class, since there x is often kept as `self._config`.
    """
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    if section.__name__ in {last_name(node) for node in nodes}:
        return {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    known = {name} - {""}
    for node in nodes:
        if isinstance(node, ast.NamedExpr) and last_name(node.value) in known:
            known |= {node.target.id}
        if isinstance(node, ast.Assign):
            targets, values = node.targets[0], node.value
            pairs = zip(targets.elts, values.elts, strict=True) if paired(targets, values) else [(targets, values)]
            known |= {
                target.id for target, value in pairs if isinstance(target, ast.Name) and last_name(value) in known
            }
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and last_name(node.value) in known}


def paired(targets: ast.expr, values: ast.expr) -> bool:
    """Whether an assignment is `a, b = x, y`."""
    return isinstance(targets, ast.Tuple) and isinstance(values, ast.Tuple) and len(targets.elts) == len(values.elts)


def last_name(node: ast.AST) -> str | None:
    """`c` of `a.b.c` or of `c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


CANNOT_BE_READ = {
    "type",  # tells a reward source's class apart
    "trust_remote_code",  # has one value
    "placement",  # the refusal of its second value is what reads it
}


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_says_what_it_means_and_is_read_somewhere(section: type[BaseModel]) -> None:
    """A knob that nobody reads lies."""
    code = [path for path in MODULES if path.parent.name != "config"]
    taken = set().union(*(reads(path, section, sections()[section]) for path in code))
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue  # a section says what it is itself
        if name != "type":
            assert field.description, f"{section.__name__}.{name} has no docstring"
        assert name in taken | CANNOT_BE_READ, f"{section.__name__}.{name} is read nowhere"


def test_every_hyperparameter_of_a_preset_has_a_default_in_the_config() -> None:
    """And no default is for a name that no preset takes."""
    taken = {key for name in TABLE for key in hyperparameters(name)}
    assert taken == set(config.HYPERPARAMETER_DEFAULTS)


def test_help_and_plan_import_neither_torch_nor_ray(tmp_path: Path) -> None:
    """In a fresh interpreter."""
    (tmp_path / "run.yaml").write_text("policy: {path: nowhere}\nprompts: {path: nowhere}\n")
    for arguments in (["--help"], ["plan", str(tmp_path / "run.yaml")], ["presets"]):
        code = (
            "import sys; from raypo.cli import main\n"
            f"sys.argv = ['raypo', *{arguments!r}]\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "heavy = {'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["step", "checkpoint"])
def test_the_training_core_imports_without_ray_and_vllm(name: str) -> None:
    code = f"import sys; import raypo.training.{name}; assert not {{'ray', 'vllm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_room_can_be_imported() -> None:
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith("raypo.sampling.host"):  # imports vllm, which only engine processes do
            importlib.import_module(name)
