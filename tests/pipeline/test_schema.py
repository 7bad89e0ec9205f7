"""The schema, the command line, the configuration and the docs say the same. No engine is needed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re

import pytest
import typer

from scale_toolkit.cli.app import app

from .conftest import ROOT, STAGES

SCHEMA = json.loads((ROOT / "nextflow_schema.json").read_text(encoding="utf-8"))
PROPERTIES = {name: spec for group in SCHEMA["$defs"].values() for name, spec in group["properties"].items()}
COMMANDS = typer.main.get_command(app).commands


def maker():
    spec = importlib.util.spec_from_file_location("make_pipeline", ROOT / "docs" / "make_pipeline.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_made_from_the_schema_is_up_to_date():
    for path, text in maker().files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python docs/make_pipeline.py"


#: Steps that run only if they are asked for.
OPTIONAL = ("map", "doublets", "markers", "annotate", "genes")


@pytest.mark.parametrize("stage", [*STAGES, *OPTIONAL])
def test_every_option_of_a_stage_reaches_it(stage):
    """Each option of the command is a parameter, or one of those that the pipeline gives by itself."""
    module = maker()
    by_pipeline = {
        "prepare": {"--batch-names", "--blacklist", "--fragments", "--peaks"},
        "train": {"--model", "--pretrain", "--gpu", "--device", "--devices", "--n-components"},
        "embed": {"--figure"},
        "map": {"--figure", "--reference"},
        "doublets": {"--figure"},
        "markers": {"--gtf", "--table"},
        "annotate": {"--gtf", "--markers"},
        "genes": {"--gtf"},
    }.get(stage, set()) | {"--output", "--seed", "--n-threads", "--memory", "--quiet", "--json-logs", "--debug"}
    options = {flag for p in COMMANDS[stage.replace("_", "-")].params for flag in p.opts if flag.startswith("--")}
    parameters = {f"--{spec.name.replace('_', '-')}" for spec, *_ in module.fields(stage)}
    # a part of the values, their files and going on from a checkpoint are for the command line; -resume repeats a whole task
    by_hand = {
        "prepare": {"--modality", "--barcodes", "--gtf", "--metadata"},
        # --covariate is another spelling of --covariates
        "train": {"--checkpoint", "--every", "--pretrain-peaks", "--dry-run", "--covariate"},
        # --groupby is another spelling of --cluster-by
        "markers": {"--bed-dir", "--genome", "--motifs", "--motif-table", "--groupby"},
        # a file for each sample
        "doublets": {"--fragments"},
        "impute": {"--peaks", "--cells", "--group-dir", "--chrom-sizes", "--assembly", "--model", "--validate-dir", "--dry-run"},
    }.get(stage, set())
    assert options == parameters | (by_pipeline & options) | by_hand
    script = (ROOT / "modules" / "local" / stage / "main.nf").read_text()
    for flag in by_pipeline & options - {"--output", "--memory", "--quiet", "--json-logs", "--debug", "--gpu"}:
        assert f"{flag} " in script, f"{flag} is not given by {stage}/main.nf"


@pytest.mark.parametrize("stage", [*STAGES, *OPTIONAL])
def test_types_ranges_choices_and_defaults_are_the_options_own(stage):
    for spec, kind, many in maker().fields(stage):
        made, rule = PROPERTIES[f"{stage}_{spec.name}"], spec.metadata
        assert made["description"] == rule["help"]
        assert made.get("enum", []) == list(rule["choices"])
        assert made.get("default") == (spec.default or None if many or kind is bool else spec.default)
        expected = "string" if many else {bool: "boolean", int: "integer", float: "number", str: "string"}[kind]
        assert made["type"] == expected
        if not many:
            assert (made.get("minimum"), made.get("maximum")) == (rule["minimum"], rule["maximum"])


def test_every_config_of_a_stage_is_in():
    from scale_toolkit import config

    assert tuple(maker().OPTIONAL) == OPTIONAL
    kinds = {kind for many in (maker().STAGES | maker().OPTIONAL).values() for kind in many}
    everything = {one for one in vars(config).values() if isinstance(one, type) and issubclass(one, config.Config)}
    for_the_command_line = {config.Config, config.SimulateConfig, config.ChooseKConfig}
    assert everything - kinds == for_the_command_line
    assert all(dataclasses.is_dataclass(kind) for kind in kinds)


def test_the_stages_are_the_same_everywhere():
    for name in ("start_from", "stop_after"):
        assert PROPERTIES[name]["enum"] == list(STAGES)
    functions = (ROOT / "subworkflows" / "local" / "parameters.nf").read_text()
    assert re.search(r"return (\['prepare'.*\])", functions)[1] == str(list(STAGES))


def test_one_version():
    from scale_toolkit._version import VERSION

    assert f"version         = '{VERSION}'" in (ROOT / "nextflow.config").read_text()
    assert PROPERTIES["container"]["default"] == f"scale-toolkit:{VERSION}"
    assert f"ARG VERSION={VERSION}\n" in (ROOT / "Dockerfile").read_text()


def test_the_readme_names_the_image_and_the_command_that_builds_it():
    readme = (ROOT / "README.md").read_text()
    assert f"docker build -t {PROPERTIES['container']['default']} ." in readme
    assert "nextflow run main.nf -with-docker" in readme
