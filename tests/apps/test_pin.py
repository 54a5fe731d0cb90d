"""A configuration whose aliases are pinned says exactly what it serves, and keeps all else."""

import pytest
import yaml

from apps.launcher.local import ROOT
from apps.pin import pin
from apps.plan import PlanError
from apps.serve_config import ServeConfigError


def test_aliases_become_numbers_and_the_rest_stays(shelf):
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["releases"] = [
        {"ref": "champion", "weight": 3},
        {"ref": "digits.endpoint@candidate"},
    ]
    pinned = pin(config, shelf)
    (application,), (before,) = pinned["applications"], config["applications"]
    assert application["args"]["releases"] == [{"ref": "7", "weight": 3.0}, {"ref": "8", "weight": 1.0}]
    assert application["deployments"] == before["deployments"]
    assert application["args"]["deadline_ms"] == before["args"]["deadline_ms"]
    assert pinned["http_options"] == config["http_options"]
    assert pin(pinned, shelf) == pinned


def test_a_moved_alias_changes_the_pinned_file(shelf):
    config = {"applications": [{"import_path": "apps.graph:build", "args": {"model": "digits"}}]}
    before = pin(config, shelf)
    shelf.versions["digits.endpoint@champion"] = shelf.versions["digits.endpoint@8"]
    assert pin(config, shelf) != before


@pytest.mark.parametrize("config", [None, [], {}, {"applications": []}, {"applications": [{"args": {"modle": "x"}}]}])
def test_what_is_no_config_of_this_application_is_refused(config, shelf):
    with pytest.raises(ServeConfigError):
        pin(config, shelf)


def test_a_release_that_is_missing_is_named(shelf):
    with pytest.raises(PlanError, match="previous"):
        args = {"releases": [{"ref": "previous"}]}
        pin({"applications": [{"import_path": "apps.graph:build", "args": args}]}, shelf)
