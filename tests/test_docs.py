"""The pages say what is there: functions beside equations, the release's options, links, citation, hooks."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: Every option of SCALE.py 1.1.2.
RELEASE = [
    "-d", "--data_list", "-k", "--n_centroids", "-o", "--outdir", "--verbose", "--pretrain", "--lr", "-b", "--batch_size",
    "-g", "--gpu", "--seed", "--encode_dim", "--decode_dim", "-l", "--latent", "--min_peaks", "--min_cells", "--n_feature",
    "--log_transform", "-i", "--max_iter", "--weight_decay", "--impute", "--binary", "--embed", "--reference",
    "--cluster_method",
]  # fmt: skip


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    constants = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return constants | {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_each_equation_names_a_function_that_is_there():
    page = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    found = 0
    for row in re.findall(r"^\|.*\| (.*`\w+/?\w*\.py`.*) \|$", page, re.M):
        file = None
        for word in re.findall(r"`([^`]+)`", row):
            if word.endswith(".py"):
                file = ROOT / "scale_toolkit" / word
                assert file.is_file(), word
            else:
                assert word in names_in(file), f"{word} is not in {file}"
                found += 1
    assert found > 40


def test_every_option_of_the_release_is_mapped_and_still_taken():
    import typer

    from scale_toolkit.cli.app import app, spelling

    page = (DOCS / "from-scale.md").read_text(encoding="utf-8")
    first_columns = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    taken = {flag for p in typer.main.get_command(app).commands["run"].params for flag in p.opts}
    for option in RELEASE:
        assert f"`{option}`" in first_columns, option
        assert (spelling(option) if option.startswith("--") else option) in taken, option


@pytest.mark.parametrize(
    "page", sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]), ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        if name.startswith("pages/"):
            continue  # made when the site is built, whose links tests/test_site.py checks
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_the_citation_is_of_this_version_and_of_the_paper():
    yaml = pytest.importorskip("yaml")
    from scale_toolkit._version import VERSION

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    assert citation["license"] == "MIT"
    assert citation["preferred-citation"]["doi"] == "10.1038/s41467-019-12630-7"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_hooks_call_what_the_environment_has():
    yaml = pytest.importorskip("yaml")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    declared = (ROOT / "pyproject.toml").read_text()
    for hook in hooks[0]["hooks"]:
        program = hook["entry"].split()[0]
        assert hook["language"] == "system"
        package = {"lint-imports": "import-linter"}.get(program, program)
        assert program == "python" or f'"{package}>=' in declared, program


def test_the_shell_completes_commands_and_options():
    bash = shutil.which("bash")
    assert bash is not None
    for words, at, expected in (
        ("scale tra", 1, "train"),
        ("scale train --max-", 2, "--max-iter"),
        ("scale clus", 1, "cluster"),
    ):
        environment = os.environ | {"_SCALE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        result = subprocess.run(
            [sys.executable, "-m", "scale_toolkit"], capture_output=True, text=True, check=True, env=environment
        )
        assert expected in result.stdout.split()
    # a shell is found by looking at the parent processes, which in CI are none
    script = subprocess.run(
        [sys.executable, "-m", "scale_toolkit", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    ).stdout
    subprocess.run([bash, "-n"], input=script, text=True, check=True)
    assert script.rstrip().endswith(" scale")
