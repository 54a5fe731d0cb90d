"""`python -m apps.launcher.serve_onnx STUDENT.onnx`: any ONNX image classifier behind Tandem's endpoint.

The file is registered as a Release in an MLflow of its own, and served by a cluster of its own on loopback; both end
with this command. Without `--teacher` the same file stands for the teacher, and the student answers everything.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apps.launcher.deploy import DeployError, deploy_command, grpc_port, wait_until_running, write_config
from apps.launcher.local import ROOT, LocalCluster
from apps.launcher.ports import LOOPBACK, find_holder, is_free
from apps.launcher.process import ProcessError

if TYPE_CHECKING:
    from training.artifact import Artifact
    from training.encoding import TensorSpec
    from training.registry import Registry

_DEPLOY_TIMEOUT_S = 120.0
FAILED = 1


class ModelError(ValueError):
    """An ONNX file that is no image classifier as the endpoint reads them."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.launcher.serve_onnx", description=__doc__)
    parser.add_argument("model", type=Path, help="reads uint8 [batch, channels, height, width], answers float32 logits")
    parser.add_argument("--teacher", type=Path, help="a second file that answers what the first is not sure of")
    parser.add_argument(
        "--threshold", type=float, help="the student answers from this probability on (0, and 0.8 beside a teacher)"
    )
    parser.add_argument("--name", default="model", help="the model's name in the endpoint's paths (%(default)s)")
    parser.add_argument("--labels", type=Path, help="a text file with one class name a line")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--config", type=Path, default=ROOT / "serve_config.yaml", help="replicas and their resources")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; 0 then, 1 where it could not be served."""
    options = parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        serve(options)
    except KeyboardInterrupt:
        return 0
    except (ModelError, DeployError, ProcessError) as error:
        print(f"serve_onnx: {error}", file=sys.stderr)
    return FAILED


def serve(options: argparse.Namespace) -> None:
    """Raises ModelError, DeployError or ProcessError; otherwise it ends by KeyboardInterrupt alone."""
    if not is_free(options.port):
        raise DeployError(f"port {options.port} is taken by {find_holder(options.port)}: choose another with --port")
    with tempfile.TemporaryDirectory(prefix="tandem-onnx-") as scratch:
        folder = Path(scratch)
        student = pack(options.model, folder / "student", "student", options.name, options.labels)
        teacher = pack(options.teacher or options.model, folder / "teacher", "teacher", options.name, options.labels)
        threshold = options.threshold
        if threshold is None:
            threshold = 0.8 if options.teacher else 0.0
        with LocalCluster(folder / "state") as cluster:
            from training.registry import Registry

            publish(Registry(cluster.tracking_uri), student, teacher, threshold)
            url = _deploy(cluster, options, folder / "serve_config.yaml")
            print(f"{options.name} is served at {url}/v2/models/{options.name}/infer; Ctrl-C stops it", flush=True)
            while (ended := cluster.ended_process()) is None:
                time.sleep(0.5)
            raise ended.describe_failure(f"ended by itself with status {ended.returncode}")


def pack(model: Path, folder: Path, variant: str, name: str, labels: Path | None = None) -> "Artifact":
    """The Artifact of an ONNX file; raises ModelError where the graph is no classifier of uint8 images."""
    from training.artifact import write_artifact
    from training.encoding import ImageEncoding

    image, logits = read_tensors(model)
    _, channels, height, width = image.shape
    named = tuple(labels.read_text().split("\n")) if labels else ()
    named = tuple(label.strip() for label in named if label.strip()) or tuple(str(i) for i in range(logits.shape[1]))
    if len(named) != logits.shape[1]:
        raise ModelError(f"{labels} names {len(named)} classes; {model} answers {logits.shape[1]}")
    return write_artifact(
        folder,
        {"model.onnx": model.read_bytes()},
        name=name,
        variant=variant,
        task=name,
        format="onnx",
        precision="fp32",
        encoding=ImageEncoding(height, width, channels, named),
        input=image,
        output=logits,
        architecture=None,
        parent=None,
    )


def read_tensors(model: Path) -> "tuple[TensorSpec, TensorSpec]":
    """Input and output of the graph; raises ModelError where they are not uint8 images and float32 logits."""
    import onnx

    from training.encoding import TensorSpec

    try:
        graph = onnx.load(str(model), load_external_data=False).graph
    except Exception as error:  # protobuf's errors and the file system's have no root in common
        raise ModelError(f"{model} cannot be read as ONNX: {error}") from error
    made = {value.name for value in graph.initializer}
    inputs, outputs = [value for value in graph.input if value.name not in made], list(graph.output)
    shapes = [tuple(size.dim_value or -1 for size in value.type.tensor_type.shape.dim) for value in (*inputs, *outputs)]
    types = [value.type.tensor_type.elem_type for value in (*inputs, *outputs)]
    fits = (
        types == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]
        and [len(shape) for shape in shapes] == [4, 2]
        and [shape[0] for shape in shapes] == [-1, -1]
        and shapes[0][1] in (1, 3)
        and min(*shapes[0][1:], shapes[1][1]) > 0
    )
    if not fits:
        said = ", ".join(
            f"{value.name} {onnx.TensorProto.DataType.Name(kind)} {list(shape)}"
            for value, kind, shape in zip((*inputs, *outputs), types, shapes, strict=True)
        )
        raise ModelError(
            f"{model} has {said}: it must read one UINT8 [batch, 1 or 3, height, width] and answer one FLOAT "
            "[batch, classes], with a batch of any size; put the scaling of pixels into the graph"
        )
    return TensorSpec(inputs[0].name, "UINT8", shapes[0]), TensorSpec(outputs[0].name, "FP32", shapes[1])


def publish(registry: "Registry", student: "Artifact", teacher: "Artifact", threshold: float) -> None:
    """Register both as a Release and make it the champion."""
    from optimization.release import Guarantee, Release, VersionRef, publish_release

    name = student.manifest.name
    with registry.start_run(name, "serve_onnx", {}) as run:
        versions = [registry.publish(name, artifact.folder, run, {}) for artifact in (teacher, student)]
        parts = [VersionRef(name, version.number, version.digest) for version in versions]
        guarantee = Guarantee("none", 0.0, None, 0, "no promise: the threshold was given by hand")
        publish_release(registry, Release(name, parts[0], parts[1], 1.0, threshold, guarantee), run, "champion")


def _deploy(cluster: LocalCluster, options: argparse.Namespace, config: Path) -> str:
    """Deploy `options.config` with this model alone; returns the endpoint's URL."""
    args = {"model": options.name, "cache_dir": str(cluster.cache_dir)}
    application = write_config(options.config, config, port=options.port, args=args)
    url = f"http://{LOOPBACK}:{options.port}"
    command = deploy_command(config, cluster.ray.dashboard_url)
    done = subprocess.run(command, env=cluster.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeployError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    wait_until_running(
        cluster.ray.dashboard_url,
        application,
        url,
        timeout_s=_DEPLOY_TIMEOUT_S,
        note=lambda state: None,
        grpc_port=grpc_port(config),
    )
    return url


if __name__ == "__main__":
    sys.exit(main())
