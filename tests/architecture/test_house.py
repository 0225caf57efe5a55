"""The house rules, by reading the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from raypo import config, errors

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "raypo").rglob("*.py"))
PURE = [path for path in MODULES if path.parts[-2] == "objective" or path.stem in ("dispersion", "logprobs")]
ALLOWED = {"__future__", "collections", "dataclasses", "difflib", "math", "raypo", "torch", "typing"}
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
    assert text.count("\n") <= 540, "a module this long holds two ideas"


def tracked() -> list[Path]:
    """Files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines()]


def test_no_file_holds_a_path_of_one_machine_or_a_registry() -> None:
    """The words are put together here, so that this file does not hold them."""
    words = ["/" + "work/", "/" + "root/", "find-" + "links", "index-" + "url"]
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        assert [word for word in words if word in text] == [], path


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RaypoError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[errors.RaypoError]) -> None:
    """Ray carries them between processes."""
    copy = pickle.loads(pickle.dumps(kind("got", "expected", "remedy")))
    assert (type(copy), copy.got, copy.expected, copy.remedy) == (kind, "got", "expected", "remedy")


def sections() -> list[type[BaseModel]]:
    """All parts of the config tree."""
    found = [kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, config.Section)]
    return [kind for kind in found if kind is not config.Section]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_says_what_it_means_and_is_read_somewhere(section: type[BaseModel]) -> None:
    """A knob that nobody reads lies."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in MODULES if path.name != "config.py")
    for name, field in section.model_fields.items():
        part = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if part or name == "type":  # a section says what it is itself
            continue
        assert field.description, f"{section.__name__}.{name} has no docstring"
        if name != "trust_remote_code":
            assert f".{name}" in sources, f"{section.__name__}.{name} is read nowhere"


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
