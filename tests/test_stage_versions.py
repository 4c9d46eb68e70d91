"""A stage's output is reused by its version: when what makes it changes, someone has to say whether results change.

If they do, raise the stage's version. If they don't, or after that: python tests/test_stage_versions.py

What makes it: the stage's own module, all that it imports from the library, from there on too, and the templates, prompts and other
texts in their packages. An import statement tells of code; what a module looks up in a registry is all that the library has there. That
nothing else is imported by a name in text is tested here too.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from flows.align import StageName
from moslim_core.baselines import OWN, ours
from moslim_core.registered_names import declared
from moslim_core.registry import KINDS
from tasks.stage_list import COMPARED, STAGES, module_of, names, stage_named

ROOT = Path(__file__).parents[1]
LIBRARY = "moslim_core"
# A file a stage: branches that change different stages merge.
RECORD = Path(__file__).with_name("stage_versions")
MODULE_OF = {stage: module_of(stage) for stage in names()}
REGISTRY = f"{LIBRARY}.registry"
# What of a registry tells of names, and gives no code.
NAMES_ALONE = ("names", "listed", "also", "plugged")


class Content(NamedTuple):
    """Of a module: the digest of its code without comments and docstrings, what it may import, kinds that it looks up in registries,
    folders that it builds paths of."""

    digest: str
    imports: frozenset[str]
    kinds: frozenset[str]
    folders: frozenset[str]


@cache
def content_of(source: str) -> Content:
    tree = ast.parse(source)
    imports, folders = set(), set()
    kinds = looked_up(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "joinpath":
            folders |= {given.value for given in node.args if isinstance(given, ast.Constant)}
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            folders.add(node.right.value)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    found = (name for name in imports if name.split(".")[0] == LIBRARY)
    return Content(
        hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
        frozenset(found),
        frozenset(kinds),
        frozenset(f for f in folders if isinstance(f, str)),
    )


def looked_up(tree: ast.Module) -> set[str]:
    """Kinds whose registry a module uses for more than @kind(...), which registers, NameOf(kind), what a setting takes, and names."""
    imported = [a for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == REGISTRY for a in n.names]
    assert all(alias.asname is None for alias in imported), "import a registry by its own name: this test looks for it"
    own = {alias.name for alias in imported}
    told = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for part in (node.func, *(node.args if node.func.id == "NameOf" else ()))
    } | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in NAMES_ALONE}
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in own and id(node) not in told}
    found |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "registry" and id(node) not in told
    }
    return found & KINDS.keys()


def modules_of(kind: str, stage: str, root: Path) -> Iterator[str]:
    """Where the library has the things of a kind; a compared system's stage runs no other."""
    home = KINDS[kind].home
    file = file_of(home, root)
    assert file is not None
    for module in sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]:
        names = declared(module.read_text(encoding="utf-8"), kind)
        if names and (kind != "baseline" or method_of(stage) in names):
            yield home if module == file else f"{home}.{module.stem}"


# Which files there are stays as it is while this runs; what is in them does not.
@cache
def file_of(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def texts(file: Path, folders: frozenset[str], library: Path) -> tuple[Path, ...]:
    """Files that are no code beside a module, and below the folders of the library that it builds paths of."""
    beside = file.parent.iterdir() if library in file.parent.parents else ()
    named = (path for folder in folders if re.fullmatch(r"\w+", folder) for path in (library / folder).rglob("*"))
    return tuple(p for p in (*beside, *named) if p.is_file() and not p.name.startswith(".") and p.suffix not in (".py", ".pyc"))


def closure(stage: str, root: Path = ROOT) -> dict[str, str]:
    """{file: digest} of what makes a stage's result. Other stages' plumbing makes none."""
    digests: dict[str, str] = {}
    waiting = [MODULE_OF[stage]]
    while waiting:
        module = waiting.pop()
        file = file_of(module, root)
        if file is None or (name := file.relative_to(root).as_posix()) in digests:
            continue
        source = file.read_text(encoding="utf-8")
        found = content_of(source)
        digests[name] = found.digest
        waiting += (of for kind in sorted(found.kinds) for of in modules_of(kind, stage, root))
        waiting += found.imports
        for text in texts(file, found.folders, root / LIBRARY):
            digests[text.relative_to(root).as_posix()] = hashlib.sha256(text.read_bytes()).hexdigest()
    return digests


def method_of(stage: str) -> str:
    """What a compared system is registered as."""
    name = stage.removeprefix(COMPARED)
    return OWN if name in ours() else name


def current(stage: str, root: Path = ROOT) -> dict[str, str | int]:
    """What the record of a stage has to say."""
    return {
        "version": stage_named(stage).version,
        "code": hashlib.sha256(json.dumps(closure(stage, root), sort_keys=True).encode()).hexdigest(),
    }


def record_of(stage: str) -> Path:
    return RECORD / f"{stage}.json"


@pytest.mark.parametrize("stage", MODULE_OF)
def test_changed_code_has_a_new_version_or_a_word_that_results_are_the_same(stage: str) -> None:
    assert current(stage) == json.loads(record_of(stage).read_text()), (
        f"the code behind stage {stage} changed: raise its version in {MODULE_OF[stage]} if results change, "
        "then run python tests/test_stage_versions.py"
    )


def test_the_list_has_the_stages_under_their_names_in_the_order_of_a_run() -> None:
    assert [stage_named(name).name for name in names()] == names()
    assert [name for name in STAGES if name != "train_judge"] == list(get_args(StageName))


def test_every_record_is_of_a_stage() -> None:
    assert {file.stem for file in RECORD.iterdir()} == set(MODULE_OF)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library and the stages, to be changed."""
    root = tmp_path_factory.mktemp("tree")
    for package in (LIBRARY, "tasks"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def unchanged(copy: Path) -> dict[str, dict[str, str | int]]:
    return {stage: current(stage, copy) for stage in MODULE_OF}


EVALUATING = {"evaluate", *(stage for stage in MODULE_OF if stage.startswith(COMPARED))}
# They train by the policy's own optimisers. This project's policies have a stage of their own for that.
TRAINED = {
    "train_policy",
    *(
        f"compared_{name}"
        for name in ("morlhf", "morlhf_normalised", "rewarded_soups", "bone_soups", "rlphf", "mo_odpo", "modpo", "clp", "steerlm2")
    ),
}
APART = {"label", "train_reward", "train_judge", "report", "compared_prompt_only"}


@pytest.mark.parametrize(
    ("file", "old", "new", "changes", "leaves"),
    [
        ("policy/optimisers/ppo.py", "token_loss(", "-token_loss(", TRAINED, APART),
        ("policy/optimisers/__init__.py", "- self.beta * left", "+ self.beta * left", TRAINED, APART),
        ("policy/optimisers/online_dpo.py", "/ batch.rows", "/ batch.tokens", TRAINED, APART),
        ("policy/engines/vllm.py", '"top_p": 1.0', '"top_p": 0.5', TRAINED, APART),
        ("baselines/cpo.py", "-abs(", "abs(", {"compared_cpo"}, EVALUATING - {"compared_cpo"}),
        ("baselines/morlhf.py", "Standardisation", "Standard", {"compared_morlhf", "compared_morlhf_normalised"}, {"compared_cpo"}),
        ("baselines/moslim.py", "Cost(", "Cost(**{},", {f"compared_{name}" for name in ours()}, {"compared_cpo", "evaluate"}),
        ("baselines/prompt_only.py", "Cost(", "Cost(**{},", {"compared_prompt_only", "compared_best_of_n"}, {"compared_cpo"}),
        ("baselines/measure.py", "SUITABILITY = ", "SUITABILITY = 1 and ", EVALUATING - {"evaluate"}, {"evaluate", "train_policy"}),
        ("evaluation/benchmarks/hackaprompt.py", "strip()", "lstrip()", EVALUATING, {"train_policy"}),
        ("data/catalogue.py", "int(text)", "float(text)", {"label"}, TRAINED),
        ("preferences/measures.py", "len(text.split())", "len(text)", {"label", *EVALUATING}, set()),
        ("reward/heads.py", "1e-12", "1e-13", {"train_reward", *EVALUATING, *TRAINED}, set()),
        ("reward/mapping.py", "1e-6", "1e-7", TRAINED | {"compared_best_of_n"}, {"train_reward"}),
        ("data/starter/prompts.txt", "a", "b", {"label"}, TRAINED),
        ("judging/prompts/levels-1.user.txt", "e", "a", {"label", *EVALUATING}, {"train_reward"}),
        ("evaluation/judge_prompts/turn-1.system.txt", "e", "a", EVALUATING, {"train_reward"}),
        ("evaluation/benchmarks/refusal_examples.jsonl", "a", "b", EVALUATING, {"train_reward"}),
        ("report/page.css", "{", "{ ", {"report", "label"}, TRAINED),
        ("report/page.html.j2", "{{", "{{ ", {"report"}, TRAINED),
        ("data/card.html.j2", "{{", "{{ ", {"label"}, set()),
        ("models/chat.py", "= tokenizer.eos_token", "= tokenizer.bos_token", {"label", "train_reward", *EVALUATING, *TRAINED}, set()),
    ],
)
def test_what_makes_a_result_is_seen_however_it_is_reached(
    file: str, old: str, new: str, changes: set[str], leaves: set[str], copy: Path, unchanged: dict[str, dict[str, str | int]]
) -> None:
    path, looked_at = copy / LIBRARY / file, changes | leaves
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    after = {stage: current(stage, copy) for stage in looked_at}
    path.write_text(text)
    assert {stage for stage in looked_at if after[stage] != unchanged[stage]} == changes


def test_words_about_code_make_no_results(copy: Path, unchanged: dict[str, dict[str, str | int]]) -> None:
    path = copy / LIBRARY / "policy" / "optimisers" / "ppo.py"
    text = path.read_text()
    path.write_text(f'"""Said better."""\n# And here.\n{text.split(chr(34) * 3, 2)[2]}')
    after = current("train_policy", copy)
    path.write_text(text)
    assert after == unchanged["train_policy"]


def test_no_module_of_the_library_is_imported_by_a_name_in_text() -> None:
    loads = re.compile(r"import_module\(|__import__|run_module|exec\(")
    found = [f.name for f in sorted((ROOT / LIBRARY).rglob("*.py")) if loads.search(f.read_text())]
    assert found == ["registry.py"], "write an import statement, in a function if it costs: the guard above sees it"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_looked_up_where_the_guard_sees_it(kind: str) -> None:
    """And what registers none, or only says what a setting takes, looks up none."""
    files = [f for f in sorted((ROOT / LIBRARY).rglob("*.py")) if f.name not in ("registry.py", "plugins.py")]
    seen = [f for f in files if kind in content_of(f.read_text()).kinds]
    assert seen and not {"settings.py", "schema.py", "settings_section.py"} & {f.name for f in seen}


if __name__ == "__main__":
    RECORD.mkdir(exist_ok=True)
    for stage in MODULE_OF:
        record_of(stage).write_text(json.dumps(current(stage), indent=1) + "\n")
