"""There is one door to destruction: the source is walked for every other way, and a new one is found."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"
DOOR = "runctl.safety.destroy"
SERVICES = ("ec2", "s3", "autoscaling")
VERBS = re.compile(r"(terminate|stop|delete|deregister|cancel|release)_")
ALSO = {"modify_instance_attribute", "reset_instance_attribute", "modify_image_attribute"}
NAMES = (ast.Attribute, ast.Name)
RECEIVERS = {"door", "_door", "Door"}
STORAGE = "runctl.storage."
STORES = re.compile("store|bucket|staging")
ALLOWED = {
    "runctl.storage.plans:_delete": "`--delete` of uploads: its plan was shown, and a job's objects stay",
    "runctl.resources.leg_run:_delete": "`--delete` of a transfer between two places, under the same plan",
    "runctl.resources.leg_run:_remove_arrived": "its own parcels in staging, once they have arrived",
    "runctl.resources.composing:put_together": "its own parcels, and an object that it made wrongly",
    "runctl.resources.sides:look": "what was staged for one reader, once it was read",
    "runctl.resources.carrying:clear": "the staging prefix of one transfer, which nobody else has",
}
"""Where objects of S3 are deleted beside the door, by module and function, each with its reason."""


@cache
def destructive_operations() -> frozenset[str]:
    """Every operation of the cloud's own models that takes something away."""
    import botocore.session
    from botocore import xform_name

    session = botocore.session.get_session()
    names = {
        xform_name(name)
        for service in SERVICES
        for name in session.get_service_model(service).operation_names
    }
    return frozenset({name for name in names if VERBS.match(name)} | (ALSO & names))


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def modules(tree: Path) -> dict[str, ast.Module]:
    found: dict[str, ast.Module] = {}
    for path in sorted((tree / "runctl").rglob("*.py")):
        name = ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith("runctl.sandbox"):
            found[name] = parse(path.read_text(encoding="utf-8"))
    return found


def named_operations(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a destructive operation is named below a node: as text, as an attribute, as a name."""
    for found in ast.walk(node):
        name = None
        if isinstance(found, ast.Constant) and isinstance(found.value, str):
            name = found.value
        elif isinstance(found, ast.Attribute) and last_name(found.value) not in RECEIVERS:
            name = found.attr
        if name in destructive_operations():
            yield found.lineno, name


def last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def wrappers(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Functions of providers that make a destructive call: defined there, used by the door."""
    found: dict[str, set[str]] = {}
    for module, tree in trees.items():
        if module.startswith("runctl.providers."):
            for node in tree.body:
                if isinstance(node, ast.FunctionDef) and any(named_operations(node)):
                    found.setdefault(module, set()).add(node.name)
    return found


def names_in(module: str, tree: ast.Module) -> dict[str, str]:
    """What local names mean: the full names of what was imported or defined."""
    names = {node.name: f"{module}.{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def full_name(node: ast.Attribute | ast.Name, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    return f"{full_name(node.value, names)}.{node.attr}" if isinstance(node.value, NAMES) else ""


def other_doors(tree: Path) -> list[str]:
    """Every destructive call that does not stand in the door, as `module:line what`."""
    trees = modules(tree)
    allowed = wrappers(trees)
    guarded = frozenset(f"{module}.{name}" for module, names in allowed.items() for name in names)
    deleting = frozenset(deleting_methods(trees))
    calls = [found for module, parsed in trees.items() for found in other_doors_of(module, parsed, guarded)]
    objects = [
        f"{module}:{line} {what}"
        for module, parsed in trees.items()
        for function, line, what in deletions(module, parsed, deleting)
        if f"{module}:{function}" not in ALLOWED
    ]
    return calls + objects


@cache
def other_doors_of(module: str, tree: ast.Module, guarded: frozenset[str]) -> tuple[str, ...]:
    if module == DOOR:
        return ()
    found: list[tuple[int, str]] = []
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and f"{module}.{node.name}" in guarded):
            found += named_operations(node)
    found += uses(module, tree, guarded)
    return tuple(f"{module}:{line} {name}" for line, name in found)


def uses(module: str, tree: ast.Module, guarded: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Where a guarded function is used, called or handed on."""
    names = names_in(module, tree)
    harmless = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and keeps(node)}
    for node in ast.walk(tree):
        if not isinstance(node, NAMES) or not isinstance(node.ctx, ast.Load) or id(node) in harmless:
            continue
        if full_name(node, names) in guarded:
            yield node.lineno, ast.unparse(node)


# Objects of S3


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods, not those within them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            yield from functions(node)


def attributes(node: ast.AST) -> Iterator[ast.Attribute]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Load))


def of_obstore(node: ast.Attribute) -> bool:
    return last_name(node.value) == "obstore" and node.attr.startswith("delete")


def deleting_methods(trees: dict[str, ast.Module]) -> set[str]:
    """Names by which our own stores delete objects, those through others of them included."""
    methods = [
        (function.name, list(attributes(function)))
        for module, tree in trees.items()
        if module.startswith(STORAGE)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.ClassDef)
        for function in functions(outer)
    ]
    found: set[str] = set()
    while (
        more := {
            name
            for name, used in methods
            if any(of_obstore(one) or (last_name(one.value) == "self" and one.attr in found) for one in used)
        }
        - found
    ):
        found |= more
    return found


@cache
def deletions(module: str, tree: ast.Module, deleting: frozenset[str]) -> tuple[tuple[str, int, str], ...]:
    """Where objects are deleted: the function, the line, and how. A store's own methods are not meant.

    Whatever such a method is called of is taken for a store: no type says what a name stands for.
    """
    if module == DOOR:
        return ()
    names = names_in(module, tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    within = {id(one): function.name for function in functions(tree) for one in attributes(function)}

    def deletes(one: ast.Attribute) -> bool:
        if of_obstore(one):
            return True
        of_a_store = STORES.search(last_name(one.value)) is not None
        return one.attr in deleting and (id(one) in called or of_a_store)

    return tuple(
        (function, one.lineno, ast.unparse(one))
        for one in attributes(tree)
        if deletes(one)
        and not ((function := within.get(id(one), "")) in deleting and module.startswith(STORAGE))
        and not full_name(one, names).startswith("runctl.providers.")
    )


def keeps(call: ast.Call) -> bool:
    """To set a volume to outlive its instance harms nobody."""
    return last_name(call.func) == "set_delete_on_termination" and any(
        keyword.arg == "delete" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        for keyword in call.keywords
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("tree")
    shutil.copytree(SOURCE, copied, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "data"))
    return copied


def test_nothing_is_destroyed_but_through_the_door() -> None:
    assert other_doors(SOURCE) == []


def test_the_walk_knows_what_it_looks_for() -> None:
    assert {
        "terminate_instances",
        "stop_instances",
        "delete_volume",
        "delete_snapshot",
        "deregister_image",
        "delete_object",
        "delete_objects",
        "delete_bucket",
        "cancel_spot_instance_requests",
        "modify_instance_attribute",
    } <= destructive_operations()
    found = wrappers(modules(SOURCE))
    assert {"terminate", "stop", "set_delete_on_termination"} <= found["runctl.providers.aws.instances"]
    assert "delete" in found["runctl.providers.aws.volumes"]
    assert "delete" in found["runctl.providers.aws.snapshots"]


def test_each_exception_is_used_and_has_its_reason() -> None:
    trees = modules(SOURCE)
    deleting = frozenset(deleting_methods(trees))
    assert {"delete", "remove", "empty"} <= deleting
    used = {
        f"{module}:{function}"
        for module, tree in trees.items()
        for function, _, _ in deletions(module, tree, deleting)
    }
    assert used == set(ALLOWED)
    assert all(len(reason) > 20 for reason in ALLOWED.values())


INSERTED = [
    ("jobs/launch.py", 'def f(s): s.call("ec2", "terminate_instances", InstanceIds=["i-1"])'),
    ("resources/volumes.py", 'def f(s): list(s.pages("s3", "delete_objects", "Deleted"))'),
    ("cli/tx.py", 'OPERATION = "delete_" + "x"\nNAME = "cancel_spot_instance_requests"'),
    ("jobs/closing.py", "def f(c): c.client('ec2').deregister_image(ImageId='ami-1')"),
    ("providers/aws/market.py", "class M:\n    def f(self, c): c.delete_snapshot(SnapshotId='snap-1')"),
    (
        "jobs/launch.py",
        "def f(s):\n    from runctl.providers.aws import volumes\n    volumes.delete(s, 'vol-1')",
    ),
    ("jobs/launch.py", "from runctl.providers.aws import instances as ec2\nSTOP = ec2.stop"),
    (
        "cli/tx.py",
        "from runctl.providers.aws.instances import terminate as end\ndef f(s): end(s, 'i-1')",
    ),
    ("cli/tx.py", "import runctl.providers.aws.snapshots\nX = runctl.providers.aws.snapshots.delete"),
    ("providers/aws/volumes.py", "def f(s): delete(s, 'vol-1')"),
    ("resources/volumes.py", "def f(place): place.store.delete('key')"),
    ("jobs/closing.py", "def f(ends): ends.side.store('root').remove(['key'])"),
    ("resources/legs.py", "def f(staging): staging.empty()"),
    ("resources/legs.py", "def f(bucket): return bucket.remove"),
    ("cli/s3.py", "def _delete(plan): plan.store.remove(['key'])"),
    ("storage/sync.py", "def f(self): self.remove(['key'])"),
    ("storage/transfer.py", "import obstore\ndef f(client): obstore.delete_async(client, 'key')"),
    (
        "storage/staging.py",
        "class T(SigningStore):\n    def purge(self): self.empty()\nclass U:\n    def f(self, t): t.purge()",
    ),
    (
        "resources/volumes.py",
        "import runctl.providers.aws.instances as ec2\nX = ec2.set_delete_on_termination",
    ),
    ("safety/saga.py", "def f(s): getattr(s.client('ec2'), 'delete_volume')(VolumeId='vol-1')"),
]


@pytest.mark.parametrize(("path", "sample"), INSERTED)
def test_another_door_is_found(tree: Path, path: str, sample: str) -> None:
    target = tree / "runctl" / path
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    already = other_doors(tree)
    try:
        target.write_text(f"{before}\n{sample}\n", encoding="utf-8")
        assert len(other_doors(tree)) == len(already) + 1
    finally:
        target.write_text(before, encoding="utf-8")


def test_the_door_and_harmless_changes_are_no_other_door(tree: Path) -> None:
    target = tree / "runctl" / "jobs" / "new.py"
    target.write_text(
        "from runctl.providers.aws import instances\n"
        "def f(operation, s):\n"
        "    operation.door.delete_volume('vol-1', None)\n"
        "    instances.set_delete_on_termination(s, 'i-1', '/dev/sdf', delete=False)\n"
    )
    assert [found for found in other_doors(tree) if found.startswith("runctl.jobs.new")] == []
    target.unlink()
