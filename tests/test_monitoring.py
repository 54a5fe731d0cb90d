"""What monitoring/ asks for is what the endpoint counts."""

import json
import re
from pathlib import Path

import pytest
import yaml

from apps.observe.meter import ServeMeter
from apps.observe.tally import Counts, Distributions

FOLDER = Path(__file__).resolve().parents[1] / "monitoring"


def exported():
    """Every series name that Prometheus gets, with the labels that it has."""
    names = {}
    for family in ServeMeter("digits").families:
        labels = {"model", *family.labels}
        if isinstance(family, Distributions):
            names |= {f"ray_{family.name}_{end}": labels for end in ("sum", "count")}
            names[f"ray_{family.name}_bucket"] = {*labels, "le"}
        else:
            names[f"ray_{family.name}{'_total' if isinstance(family, Counts) else ''}"] = labels
    return names


def rules():
    (group,) = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule["expr"] for rule in group["rules"]]


def dashboard():
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("read", [rules, dashboard])
def test_every_series_and_label_that_is_asked_for_is_exported(read):
    known = exported()
    asked = [found for expr in read() for found in re.findall(r"(ray_tandem_\w+)(?:\{([^}]*)\})?", expr)]
    assert asked
    for name, selector in asked:
        assert name in known
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= known[name]


def test_the_readme_names_every_metric():
    text = (FOLDER / "README.md").read_text()
    for family in ServeMeter("digits").families:
        name = f"{family.name}_total" if isinstance(family, Counts) else family.name
        assert f"`{name}`" in text, name


def test_the_panels_of_the_dashboard_do_not_overlap():
    board = json.loads((FOLDER / "grafana.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
