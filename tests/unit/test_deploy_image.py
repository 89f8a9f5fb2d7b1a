"""The image holds what the processes need, in locked versions, and nothing else."""

import ast
import re
import shlex
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.deployment import DEPLOY, IMAGE_ENVIRONMENT, PROCESSES, ROOT, SETTINGS, commands, default_port, fields


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def test_the_image_runs_the_command_as_a_user_without_rights() -> None:
    stage = dict(final_stage())
    assert stage["ENTRYPOINT"] == '["chat-sessions"]'
    user, group = stage["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    # Probes are the orchestrator's.
    assert "HEALTHCHECK" not in stage


def test_the_base_is_one_pinned_python_that_the_project_supports() -> None:
    found = instructions()
    assert found[0][0] == "ARG"
    base = re.fullmatch(r"BASE=python:3\.(\d+)-slim-\w+", found[0][1])
    assert base is not None
    assert int(base[1]) >= 11
    assert [value.split()[0] for name, value in found if name == "FROM"] == ["${BASE}", "${BASE}"]


def test_every_copied_file_exists_and_reaches_the_builder() -> None:
    sent = {
        line.removeprefix("!")
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [
        source
        for name, value in instructions()
        if name == "COPY" and not value.startswith("--from")
        for source in shlex.split(value)[:-1]
    ]
    assert set(copied) == sent
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_listens_to_the_world_and_names_its_ports() -> None:
    stage = final_stage()
    environment = dict(pair.split("=", 1) for name, value in stage if name == "ENV" for pair in shlex.split(value))
    ours = {name for name in environment if not name.startswith("PYTHON")} - {"PATH"}
    assert ours == IMAGE_ENVIRONMENT
    assert ours <= set().union(*map(fields, SETTINGS))
    assert {environment[name] for name in ours} == {"0.0.0.0"}
    ports = next(value for name, value in stage if name == "EXPOSE").split()
    assert [int(port) for port in ports] == [default_port(command) for command in PROCESSES]


def test_all_deployed_commands_exist() -> None:
    assert set(SETTINGS) <= commands()


def test_the_lock_satisfies_what_the_image_installs() -> None:
    # The image is installed from the lock's files alone: what the lock misses would break its build.
    locked = {
        canonicalize_name(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
        )
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [Requirement(text) for text in (*project["project"]["dependencies"], *project["build-system"]["requires"])]
    problems = [
        str(requirement)
        for requirement in needed
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"), prereleases=True)
        or canonicalize_name(requirement.name) not in locked
    ]
    assert problems == [], "run `make lock`"


def test_what_the_image_imports_is_installed_there() -> None:
    # The development environment has more: there an import that nobody declared goes unnoticed.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    inside: set[str] = set()
    for text in project["dependencies"]:
        add_with_dependencies(Requirement(text), inside)
    distributions = packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / "services").rglob("*.py")
        if "local" not in path.relative_to(ROOT).parts
        for module in imported(ast.parse(path.read_text()))
        if module not in sys.stdlib_module_names | {"services"}
        and not inside & {canonicalize_name(name) for name in distributions.get(module, [])}
    }
    assert missing == set()


def add_with_dependencies(requirement: Requirement, found: set[str]) -> None:
    """Add a distribution and, as its installed release tells, all that comes with it."""
    name = canonicalize_name(requirement.name)
    if name in found and not requirement.extras:
        return
    found.add(name)
    try:
        needed = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:  # of another platform
        return
    for inner in needed:
        if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}):
            add_with_dependencies(inner, found)


def imported(tree: ast.Module) -> set[str]:
    """The top-level names of what a module imports, also inside functions."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None}
    return {name.split(".")[0] for name in names}
