"""`python -m apps.pin serve_config.yaml --out FILE`: the configuration with each alias as the number it stands for.

Ray Serve builds an application anew only when its configuration has changed, so `serve deploy` of an unchanged file
would go on serving the Release that `champion` meant when it was first deployed. A pinned file changes with the alias,
says exactly what is served, and can be kept and deployed again.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from apps.args import AppArgs, ModelArgs
from apps.plan import resolve_plans
from apps.serve_config import check
from training.registry import Registry


def pin(config: Any, registry: Registry) -> dict[str, Any]:
    """`config` with each Release's `ref` as a number; raises ServeConfigError, and PlanError where one is missing."""
    check(config)
    pinned = []
    for application in config["applications"]:
        raw = application.get("args") or {}
        args = AppArgs.model_validate(raw)
        more = [
            {**item, "releases": _numbers(model, registry)}
            for item, model in zip(raw.get("more_models", []), args.more_models, strict=True)
        ]
        exact = {**raw, "releases": _numbers(args, registry), **({"more_models": more} if more else {})}
        pinned.append({**application, "args": exact})
    return {**config, "applications": pinned}


def _numbers(args: ModelArgs, registry: Registry) -> list[dict[str, Any]]:
    plans = resolve_plans(args, registry)
    return [{"ref": str(plan.number), "weight": item.weight} for plan, item in zip(plans, args.releases, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="apps.pin", description="Write a Serve config with its aliases resolved.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    try:
        pinned = pin(yaml.safe_load(arguments.config.read_text()), Registry())
    except (OSError, yaml.YAMLError, ValueError) as error:
        sys.exit(f"apps.pin: {arguments.config}: {error}")
    arguments.out.write_text(yaml.safe_dump(pinned, sort_keys=False))
    for application in pinned["applications"]:
        args = AppArgs.model_validate(application["args"])
        served = "; ".join(f"{item.model} {', '.join(each.ref for each in item.releases)}" for item in args.models)
        print(f"{application.get('name', 'default')}: Release {served}; deploy it with: serve deploy {arguments.out}")


if __name__ == "__main__":
    main()
