"""`python -m optimization.benchmark.quantization`: one trained image model, quantized in every way, side by side.

Accuracy is of the gate split, with what was won and lost against the float graph row by row; latency of interleaved
rounds. Ranges and sensitivities come from the calibration split; the report split is not read.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from optimization.export import export_onnx
from optimization.measure.host import describe_host
from optimization.measure.latency import Latency, Speedup, measure_latency, speedup
from optimization.measure.paired import PairedDifference, flip_rate, paired_difference
from optimization.quantize.choice import NoQuantization, PostTraining, quantize
from optimization.quantize.cpu import IntegerType, fastest_types
from optimization.quantize.low_precision import LowPrecision, cpu_support
from optimization.quantize.mixed import Mixed, MixedPrecision, quantize_mixed
from optimization.quantize.sensitivity_plot import sensitivity_plot
from optimization.quantize.static import StaticInt8
from optimization.runners.onnx_runtime import onnx_session
from optimization.table import size_text
from optimization.variants import range_split
from training.benchmark.machine import write_report
from training.encoding import Array, TensorSpec, output_spec
from training.evaluation.scores import predict_in_batches
from training.models.architecture import Architecture, build
from training.models.weights import load_weights
from training.options import add_source_arguments, read_source
from training.task import Task, load_task

BATCH_SIZES = (1, 8)
THREADS = 1
FLOAT = "FP32"


@dataclass(frozen=True)
class Row:
    """One way to quantize; `paired` and `speedups` are against the float graph."""

    name: str
    size_bytes: int
    accuracy: float
    paired: PairedDifference
    flips: float
    p50_ms: tuple[float, ...]
    speedups: tuple[Speedup, ...]


def choices(keep: int) -> dict[str, PostTraining]:
    """The ways that are compared, by name; `keep` layers stay in float in the mixed one."""
    other: IntegerType = "int8" if fastest_types().activations == "uint8" else "uint8"
    return {
        FLOAT: NoQuantization(),
        "INT8 min-max": StaticInt8("minmax"),
        "INT8 entropy": StaticInt8("entropy"),
        "INT8 percentile 99.99": StaticInt8("percentile", percentile=99.99),
        "INT8 percentile 99.9": StaticInt8("percentile", percentile=99.9),
        "INT8 min-max, one scale a weight": StaticInt8("minmax", per_channel=False),
        f"INT8 min-max, {other} activations": StaticInt8("minmax", activations=other, reduce_range=False),
        f"INT8 min-max, {keep} layers in float": MixedPrecision(StaticInt8("minmax"), keep=keep),
        "FP16": LowPrecision("fp16"),
    }


def float_graph(architecture: Architecture, weights: Path, task: Task) -> bytes:
    module = build(architecture, task.encoding).eval()
    print(load_weights(module, weights), flush=True)
    example = task.splits["calibration"].inputs[:4]
    return export_onnx(module, example, task.encoding.input_spec, output_spec(task.encoding))


def measure(graphs: Mapping[str, bytes], task: Task, rounds: int) -> list[Row]:
    gate, spec = task.splits["gate"], task.encoding.input_spec
    runners = {name: _runner(content, spec) for name, content in graphs.items()}
    latency = measure_latency(runners, lambda rows: gate.inputs[:rows], BATCH_SIZES, rounds)
    answers = {}
    for name, runner in runners.items():
        answers[name] = predict_in_batches(runner, gate.inputs).argmax(axis=1)
        print(f"{name}: {(answers[name] == gate.labels).mean():.4f}", flush=True)
    right = answers[FLOAT] == gate.labels
    return [
        Row(
            name,
            len(content),
            float((answers[name] == gate.labels).mean()),
            paired_difference(right, answers[name] == gate.labels),
            flip_rate(answers[FLOAT], answers[name]),
            _p50_ms(latency[name]),
            tuple(speedup(latency[FLOAT], latency[name], size) for size in BATCH_SIZES),
        )
        for name, content in graphs.items()
    ]


def _runner(content: bytes, spec: TensorSpec) -> Callable[[Array], Array]:
    session = onnx_session(content, THREADS)

    def run(batch: Array) -> Array:
        logits: Array = session.run(None, {spec.name: batch})[0]
        return logits

    return run


def _p50_ms(latency: Latency) -> tuple[float, ...]:
    return tuple(latency.at(size).p50_ms for size in BATCH_SIZES)


def page(title: str, rows: list[Row], mixed: Mixed, calibration_rows: int, fp16: str) -> str:
    host = describe_host(THREADS)
    libraries = ", ".join(f"{name} {version}" for name, version in host.libraries)
    lines = [
        f"# {title}, quantized",
        "",
        f"{host.cpu} ({', '.join(host.instructions)}), {THREADS} thread, {libraries}. Accuracy on the "
        f"{rows[0].paired.rows} rows of the gate split, ranges from {calibration_rows} rows of the calibration split. "
        "Difference to FP32 in points, with its one-sided 95 % bound (Tango); speed-up as the median of rounds, with "
        "its 95 % interval.",
        "",
        "| | accuracy | difference | flips | size | ms at 1 | speed-up | ms at 8 | speed-up |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        f"In float in the mixed graph: {', '.join(layer.weight for layer in mixed.kept)}; its divergence from the "
        f"float answers {mixed.error:.2g} nats, {mixed.all_int8_error:.2g} with all in INT8.",
        f"FP16 on this CPU: {fp16}.",
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    speeds = [
        f"{p50_ms:.3f} | {ratio.ratio:.2f} ({ratio.lower:.2f}-{ratio.upper:.2f})"
        for p50_ms, ratio in zip(row.p50_ms, row.speedups, strict=True)
    ]
    difference = f"{row.paired.difference * 100:+.2f} (at least {row.paired.lower * 100:+.2f})"
    if row.name == FLOAT:
        difference, speeds = "", [f"{p50_ms:.3f} | " for p50_ms in row.p50_ms]
    shown = [row.name, f"{row.accuracy:.2%}", difference, f"{row.flips:.2%}", size_text(row.size_bytes), *speeds]
    return f"| {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="optimization.benchmark.quantization", description=__doc__.split("\n")[0])
    parser.add_argument("architecture", help="a model by name, such as resnet20")
    parser.add_argument("--params", type=json.loads, default={}, metavar="JSON", help="its parameters")
    parser.add_argument("--weights", type=Path, required=True, help="a file of its weights")
    parser.add_argument("--task", default="cifar10")
    parser.add_argument("--keep", type=int, default=3, help="layers in float in the mixed graph (default 3)")
    parser.add_argument("--rounds", type=int, default=12, help="of measuring latency (default 12)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    add_source_arguments(parser)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(THREADS)
    try:
        task = load_task(arguments.task, read_source(arguments, arguments.data_dir))
        content = float_graph(Architecture(arguments.architecture, arguments.params), arguments.weights, task)
        ranges, spec = range_split(task).inputs, task.encoding.input_spec
        graphs: dict[str, bytes] = {}
        for name, choice in choices(arguments.keep).items():
            if isinstance(choice, MixedPrecision):
                mixed = quantize_mixed(content, ranges, spec, choice)
                graphs[name] = mixed.content
            else:
                graphs[name] = quantize(content, choice, ranges, spec)
            print(f"made {name}, {size_text(len(graphs[name]))}", flush=True)
    except ValueError as error:
        sys.exit(f"optimization.benchmark.quantization: {error}")
    rows = measure(graphs, task, arguments.rounds)
    support = cpu_support(graphs["FP16"])
    fp16 = "computed natively" if support.native else support.reason
    name = f"quantization-{arguments.architecture.replace('/', '-')}"
    told = page(f"{arguments.architecture} on {task.name}", rows, mixed, len(ranges), fp16)
    figures = {
        "host": describe_host(THREADS).to_json(),
        "rows": [asdict(row) for row in rows],
        "mixed": {key: value for key, value in asdict(mixed).items() if key != "content"},
    }
    write_report(arguments.out, name, told, figures)
    figure = sensitivity_plot(mixed.sensitivities, mixed.kept, mixed.all_int8_error, "kl", "only")
    figure.savefig(arguments.out / f"{name}.png")
    print(told)


if __name__ == "__main__":
    main()
