"""Write what follows from the options and the schema: ``python docs/make_pipeline.py``. A test
fails where they differ.

- The groups of ``nextflow_schema.json`` that are a stage's options come from the stage's config
  (`scale_toolkit.config`); its other groups are written by hand in that file only.
- ``conf/parameters.config`` (every parameter's default) and ``conf/arguments.config`` (a stage's
  words on the command line) come from the schema, and so does the table of parameters in
  ``docs/pipeline.md``.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from scale_toolkit import config

ROOT = Path(__file__).resolve().parents[1]
SCHEMA, PARAMETERS, ARGUMENTS = (
    ROOT / "nextflow_schema.json",
    ROOT / "conf/parameters.config",
    ROOT / "conf/arguments.config",
)
PAGE = ROOT / "docs/pipeline.md"
BEGIN, END = "<!-- parameters: python docs/make_pipeline.py -->\n", "<!-- end of parameters -->\n"

#: The stages in the pipeline's order, and the configs whose options they take.
STAGES: dict[str, tuple[type[config.Config], ...]] = {
    "prepare": (config.PrepareConfig, config.FragmentsConfig),
    "select_peaks": (config.SelectPeaksConfig,),
    "train": (config.TrainConfig,),
    "cluster": (config.ClusterConfig,),
    "embed": (config.EmbedConfig,),
    "impute": (config.ImputeConfig,),
}
#: Steps that run only if they are asked for, and their configs.
OPTIONAL: dict[str, tuple[type[config.Config], ...]] = {
    "map": (config.MapConfig,),
    "doublets": (config.DoubletsConfig,),
    "markers": (config.MarkersConfig,),
    "annotate": (config.AnnotateConfig,),
    "genes": (config.GenesConfig,),
}
#: Fields that the pipeline sets for all stages alike: --seed, --threads, --use_gpu, --k.
SHARED = ("seed", "n_threads", "device", "n_components")
#: A text goes into the script between single quotes.
TEXT, NUMBERS = "^[^'\\\\]*$", "^[0-9]+(,[0-9]+)*$"
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string"}


def fields(stage: str) -> list[tuple[dataclasses.Field, type, bool]]:
    """Return a stage's options: the field, the type of its value or of its items, and whether it
    holds many.
    """
    options = []
    for kind in (STAGES | OPTIONAL)[stage]:
        hints = typing.get_type_hints(kind)
        for spec in dataclasses.fields(kind):
            if spec.name not in SHARED:
                parts = [hints[spec.name], *typing.get_args(hints[spec.name])]
                many = next((kind for kind in parts if typing.get_origin(kind) is tuple), None)
                item = (
                    typing.get_args(many)[0]
                    if many
                    else next(kind for kind in parts if kind in KINDS)
                )
                options.append((spec, item, many is not None))
    return options


def property_of(spec: dataclasses.Field, item: type, *, many: bool) -> dict[str, Any]:
    """Return one option as a property of the JSON schema."""
    rule = spec.metadata
    parameter: dict[str, Any] = {
        "type": "string" if many else KINDS[item],
        "description": rule["help"],
    }
    if many:
        parameter["pattern"] = NUMBERS if item is int else TEXT
        if spec.default:
            parameter["default"] = ",".join(map(str, spec.default))
        return parameter
    # nf-core's lint wants a false left out
    if spec.default is not None and spec.default is not False:
        parameter["default"] = spec.default
    if rule["choices"]:
        parameter["enum"] = list(rule["choices"])
    elif item is str:
        parameter["pattern"] = TEXT
    for bound in ("minimum", "maximum"):
        if rule[bound] is not None:
            parameter[bound] = rule[bound]
    return parameter


def schema() -> dict[str, Any]:
    """Return the schema: its hand-written groups as they are, the stages' groups from their
    configs.
    """
    content = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for stage in (*STAGES, *OPTIONAL):
        content["$defs"][f"{stage}_options"] = {
            "title": f"Options of {stage}",
            "type": "object",
            "description": f"As the options of `scale {stage.replace('_', '-')}`.",
            "properties": {
                f"{stage}_{spec.name}": property_of(spec, item, many=many)
                for spec, item, many in fields(stage)
            },
        }
    content["allOf"] = [{"$ref": f"#/$defs/{group}"} for group in content["$defs"]]
    return content


def parameters(made: dict[str, Any]) -> str:
    """Return the defaults as Nextflow's configuration."""
    lines = ["// Made from nextflow_schema.json by `python docs/make_pipeline.py`.", "params {"]
    for group in made["$defs"].values():
        lines += ["", f"    // {group['title']}"]
        lines += [
            f"    {name} = {groovy(default_of(spec))}" for name, spec in group["properties"].items()
        ]
    return "\n".join([*lines, "}", ""])


def arguments(made: dict[str, Any]) -> str:
    """Return the options' way to the command line: one closure a process, one line an option."""
    lines = ["// Made from nextflow_schema.json by `python docs/make_pipeline.py`.", "process {"]
    for stage in (*STAGES, *OPTIONAL):
        lines += [f"    withName: '{stage.upper()}' {{", "        ext.args = {", "            ["]
        for name, spec in made["$defs"][f"{stage}_options"]["properties"].items():
            flag = "--" + name.removeprefix(f"{stage}_").replace("_", "-")
            if spec["type"] == "boolean":
                lines.append(f"                params.{name} ? '{flag}' : '',")
            else:
                value = (
                    f"'${{params.{name}}}'" if spec["type"] == "string" else f"${{params.{name}}}"
                )
                lines.append(f"                params.{name} != null ? \"{flag} {value}\" : '',")
        lines += ["            ].findAll { word -> word }.join(' ')", "        }", "    }"]
    return "\n".join([*lines, "}", ""])


def default_of(spec: dict[str, Any]) -> Any:
    """Return a parameter's default; a switch is False."""
    return spec.get("default", False if spec["type"] == "boolean" else None)


def groovy(value: Any) -> str:
    """Return a value as Groovy writes it."""
    return (
        "null" if value is None else f"'{value}'" if isinstance(value, str) else json.dumps(value)
    )


def table(made: dict[str, Any]) -> str:
    """Return the parameters as Markdown."""
    lines = []
    for group in made["$defs"].values():
        lines += [
            f"### {group['title']}",
            "",
            group["description"],
            "",
            "| parameter | value | default | |",
            "|---|---|---|---|",
        ]
        for name, spec in group["properties"].items():
            if not spec.get("hidden"):
                default = spec.get("default", "")
                description = " ".join(spec["description"].split()).replace("|", "\\|")
                lines.append(f"| `--{name}` | {value_of(spec)} | {default} | {description} |")
        lines.append("")
    return "\n".join(lines)


def value_of(spec: dict[str, Any]) -> str:
    """Say what a parameter takes."""
    if "enum" in spec:
        return "`" + "\\|".join(map(str, spec["enum"])) + "`"
    low, high = spec.get("minimum"), spec.get("maximum")
    limits = (
        f" {low}..{high}"
        if low is not None and high is not None
        else f" ≥ {low}"
        if low is not None
        else ""
    )
    return spec["type"] + limits


def page(made: dict[str, Any]) -> str:
    """Return docs/pipeline.md with its table renewed."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, tail = text.partition(BEGIN)
    return head + BEGIN + "\n" + table(made) + "\n" + END + tail.partition(END)[2]


def files() -> dict[Path, str]:
    """Return every file that is made here, with its text."""
    content = schema()
    return {
        SCHEMA: json.dumps(content, indent=2, ensure_ascii=False) + "\n",
        PARAMETERS: parameters(content),
        ARGUMENTS: arguments(content),
        PAGE: page(content),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
