"""What a Version says of its making, as tags: enough to load its task again and to walk its lineage."""

import json
from collections.abc import Mapping
from typing import Any

from training.address import absolute_location
from training.artifact import Artifact
from training.registry import Version
from training.task import Source, Task


def version_tags(
    reference: str, params: Mapping[str, Any], source: Source, task: Task, artifact: Artifact
) -> dict[str, str]:
    """What a Version says of its making: enough to load its task again and to walk its lineage.

    `reference` is its recipe's, empty where it was not trained here; `params` are the task's.
    """
    return {
        "tandem.variant": artifact.manifest.variant,
        "tandem.recipe": reference,
        "tandem.task": artifact.manifest.task,
        "tandem.task_params": json.dumps(dict(params)),
        "tandem.data_dir": absolute_location(str(source.location)) if source.location else "",
        "tandem.data_hash": task.data_hash,
        "tandem.parent": artifact.manifest.parent or "",
    }


def task_params(version: Version) -> dict[str, Any]:
    """The parameters of the task that `version` was made for, as `version_tags` wrote them."""
    params: dict[str, Any] = json.loads(version.tags.get("tandem.task_params", "{}"))
    return params
