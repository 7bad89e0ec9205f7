"""docs/commands.md is what the app says."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scale_toolkit import config, output_config
from scale_toolkit.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"


def maker():
    spec = importlib.util.spec_from_file_location("make_commands", DOCS / "make_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS = dict(maker().commands(typer.main.get_command(app)))


def test_the_page_is_what_the_app_says():
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == maker().page(), "run: python docs/make_commands.py"


def test_every_command_of_the_design_is_there():
    assert set(COMMANDS) == {
        "run", "demo", "prepare", "select-peaks", "train", "impute", "embed", "cluster", "markers", "simulate", "verify",
        "plot embedding", "plot heatmap", "plot confusion", "plot correlation", "plot specificity", "plot loss", "plot qc",
        "plot contrast", "plot locus",
        "report", "export", "plan", "choose-k",
        "doublets", "annotate", "map", "genes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "config_class"),
    [
        ("prepare", config.PrepareConfig),
        ("prepare", config.FragmentsConfig),
        ("select-peaks", config.SelectPeaksConfig),
        ("train", config.TrainConfig),
        ("impute", config.ImputeConfig),
        ("embed", config.EmbedConfig),
        ("cluster", config.ClusterConfig),
        ("markers", config.MarkersConfig),
        ("choose-k", config.ChooseKConfig),
        ("doublets", config.DoubletsConfig),
        ("annotate", config.AnnotateConfig),
        ("map", config.MapConfig),
        ("genes", config.GenesConfig),
        ("simulate", config.SimulateConfig),
        ("plot embedding", output_config.PlotEmbeddingConfig),
        ("plot heatmap", output_config.PlotHeatmapConfig),
        ("plot confusion", output_config.PlotConfusionConfig),
        ("plot contrast", output_config.PlotContrastConfig),
        ("plot correlation", output_config.PlotCorrelationConfig),
        ("plot specificity", output_config.PlotSpecificityConfig),
        ("plot locus", output_config.PlotLocusConfig),
        ("plot loss", output_config.PlotLossConfig),
        ("plot qc", output_config.PlotQcConfig),
        ("export", output_config.ExportConfig),
    ],
)
def test_help_lists_every_field(command, config_class):
    shown = {flag: parameter.help for parameter in COMMANDS[command].params for flag in parameter.opts}
    for spec in dataclasses.fields(config_class):
        for flag in ("--" + spec.name.replace("_", "-"), *spec.metadata["flags"]):
            assert shown[flag] == spec.metadata["help"]


def test_every_config_belongs_to_a_command():
    """A new stage's config fails here until `test_help_lists_every_field` has a case for it."""
    cases = test_help_lists_every_field.pytestmark[0].args[1]
    values = [*vars(config).values(), *vars(output_config).values()]
    configs = {value for value in values if isinstance(value, type) and issubclass(value, config.Config)}
    assert {case[1] for case in cases} == configs - {config.Config}


@pytest.mark.parametrize(("name", "command"), COMMANDS.items(), ids=COMMANDS)
def test_every_command_has_an_example_whose_options_exist(name, command):
    words = shlex.split(command.epilog.removeprefix("Example: "))
    assert words[: 1 + len(name.split())] == ["scale", *name.split()]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in words if re.match("--?[a-z]", word)} <= flags


@pytest.mark.parametrize("words", [[], ["run"], ["plot", "heatmap"]])
def test_switches_show_no_type(words):
    text = CliRunner().invoke(app, [*words, "--help"]).output
    assert "--help" in text
    assert "bool" not in text.lower()
