"""`python -m optimization.benchmark.precisions ARCHITECTURE...`: networks in every precision that a device computes in.

PyTorch itself, eager and compiled, with inputs that lie on the device already: latency, images a second, and which part
of the device's peak that is. The networks are untrained and their rows noise; time does not depend on either. What the
device cannot do is told with the reason. (Graphs in other runtimes: `optimization.benchmark.backends`.)
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from optimization.measure.exclusive import exclusive
from optimization.measure.latency import Latency, measure_latency
from optimization.prune.counts import count
from training.benchmark.machine import command_line, describe, machine, write_report
from training.encoding import ImageEncoding
from training.models.architecture import Architecture, build
from training.options import absolute_path

# Dense, 10^12 operations a second (a multiply-accumulate is two), by the start of the device's name: NVIDIA's data
# sheets of the H100 and H200 (SXM) and of the A100.
PEAKS = {
    "NVIDIA H200": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
    "NVIDIA H100": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
    "NVIDIA A100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "fp16": 312.0},
}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPARED_ROWS = 32


@dataclass(frozen=True)
class Way:
    """How a network is run. `graphed` captures its kernels as a CUDA graph, which is launched as one."""

    precision: str
    channels_last: bool = False
    compiled: bool = False
    graphed: bool = False

    @property
    def name(self) -> str:
        more = {"channels-last": self.channels_last, "compiled": self.compiled, "CUDA graph": self.graphed}
        return ", ".join([self.precision, *(name for name, chosen in more.items() if chosen)])


WAYS = (
    Way("fp32"),
    Way("tf32"),
    Way("bf16"),
    Way("fp16"),
    *(Way(precision, channels_last=True) for precision in ("bf16", "fp16")),
    *(Way(precision, True, graphed=True) for precision in ("bf16", "fp16")),
    *(Way(precision, True, compiled=True) for precision in ("fp32", "bf16", "fp16")),
    *(Way(precision, True, True, True) for precision in ("bf16", "fp16")),
)


@dataclass(frozen=True)
class Entry:
    """One network in one way; `latency` is None where it does not run, or of the sizes before the one at which it no
    longer did, for the `reason` given.

    `largest_difference` is that of its logits to those in fp32, as a share of the largest of those; None without those.
    """

    architecture: str
    way: Way
    macs: int
    reason: str | None = None
    latency: Latency | None = None
    largest_difference: float | None = None

    def share_of_peak(self, batch_size: int, peaks: dict[str, float]) -> float | None:
        peak = peaks.get(self.way.precision)
        if self.latency is None or peak is None:
            return None
        return 2 * self.macs * batch_size / (self.latency.at(batch_size).p50_ms / 1e3) / (peak * 1e12)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "latency": None if self.latency is None else self.latency.to_json()}


def compare(
    architecture: Architecture,
    ways: Sequence[Way],
    size: int,
    device: torch.device,
    batches: Sequence[int],
    rounds: int,
) -> list[Entry]:
    """Each way by itself, one after the other: what a way sets for the process would change the others."""
    labels = tuple(map(str, range(1000)))
    encoding = ImageEncoding(height=size, width=size, channels=3, labels=labels)
    torch.manual_seed(0)
    module = build(architecture, encoding).eval()
    pixels = torch.randint(0, 256, (max(batches), 3, size, size), dtype=torch.uint8)
    macs = count(module, pixels[:1]).macs
    exact: Tensor | None = None
    entries = []
    for way in ways:
        entry = Entry(architecture.name, way, macs, why_not(way, device))
        if entry.reason is None:
            with _computing(way), exclusive(f"timing {architecture.name} in {way.name}"):
                latency, logits, reason = _time(module, way, pixels, device, batches, rounds)
            exact = logits if way == WAYS[0] else exact
            entry = replace(entry, reason=reason, latency=latency, largest_difference=_gap(exact, logits))
        entries.append(entry)
        print(f"{architecture.name}, {way.name}: {_told(entry)}", flush=True)
    return entries


def why_not(way: Way, device: torch.device) -> str | None:
    """Why `device` cannot run it; None where it can."""
    on_gpu = device.type == "cuda"
    if way.graphed and not on_gpu:
        return "CUDA graphs need a GPU"
    if way.precision == "tf32" and not (on_gpu and torch.cuda.get_device_capability(device) >= (8, 0)):
        return "TF32 needs a GPU of compute capability 8.0"
    return None


def _gap(exact: Tensor | None, logits: Tensor | None) -> float | None:
    """Over the rows that both have: one of them may have failed at fewer."""
    if exact is None or logits is None:
        return None
    rows = min(len(exact), len(logits))
    return float((logits[:rows] - exact[:rows]).abs().max() / exact[:rows].abs().max())


def _time(
    module: nn.Module, way: Way, pixels: Tensor, device: torch.device, batches: Sequence[int], rounds: int
) -> tuple[Latency | None, Tensor | None, str | None]:
    """Latency of the batch sizes up to one that fails, some logits, and why that one failed."""
    found, logits, size = [], None, min(batches)
    try:
        run, there = _prepared(module.to(device), way), pixels.to(device)

        def timed(batch: Any) -> Any:
            answer = run(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return answer

        for size in sorted(batches):
            if size <= COMPARED_ROWS or logits is None:
                logits = timed(there[:size]).float().cpu()
            found.append(measure_latency({"": timed}, lambda rows: there[:rows], (size,), rounds)[""].at(size))  # type: ignore[arg-type, return-value]
    except (RuntimeError, ValueError) as error:  # out of memory, an operator that the precision lacks
        said = (str(error) or type(error).__name__).splitlines()[0]
        return Latency(tuple(found)) if found else None, logits, f"from batch {size} on: {said}"
    return Latency(tuple(found)), logits, None


def _prepared(module: nn.Module, way: Way) -> Callable[[Tensor], Tensor]:
    """A copy of the module with weights in the precision; autocast brings the pixels there, which come as uint8."""
    dtype = DTYPES[way.precision]
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    module = copy.deepcopy(module).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    called: Any = torch.compile(module, dynamic=False) if way.compiled else module

    def run(batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
            logits: Tensor = called(batch)
            return logits

    return _Graphed(run) if way.graphed else run


class _Graphed:
    """A CUDA graph for each number of rows, captured when it is first asked for."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self._run = run
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, batch: Tensor) -> Tensor:
        if len(batch) not in self._captured:
            self._captured[len(batch)] = self._capture(batch)
        graph, given, made = self._captured[len(batch)]
        given.copy_(batch)
        graph.replay()
        return made

    def _capture(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = batch.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is chosen or compiled at first must not be captured
            for _ in range(3):
                self._run(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self._run(given)
        return graph, given, made


@contextmanager
def _computing(way: Way) -> Iterator[None]:
    """TF32 for this way alone."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = way.precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        torch.compiler.reset()


def page(entries: Sequence[Entry], batches: Sequence[int], peaks: dict[str, float], command: str) -> str:
    lines = [
        "# Networks by precision",
        "",
        f"{describe(machine())}. PyTorch, weights and inputs on the device in the precision named (pixels come as "
        "uint8); p50 and, behind it, images a second"
        + (" and the share of the device's peak in that precision by its data sheet." if peaks else "."),
        "",
        "| network | way | logits differ by |" + "".join(f" batch {size} |" for size in batches),
        "|---|---|---|" + "---|" * len(batches),
    ]
    for entry in entries:
        if entry.latency is None:
            continue
        times, cells = {batch.batch_size: batch.p50_ms for batch in entry.latency.batches}, []
        for size in batches:
            share = entry.share_of_peak(size, peaks) if size in times else None
            of_peak = "" if share is None else f", {share:.1%}"
            cells.append(f"{times[size]:.3f} ms, {1000 * size / times[size]:,.0f}{of_peak}" if size in times else "")
        gap = "" if entry.largest_difference is None else f"{entry.largest_difference:.2g}"
        lines.append(f"| {entry.architecture} | {entry.way.name} | {gap} | {' | '.join(cells)} |")
    absent: dict[str, list[str]] = {}
    for entry in entries:
        if entry.reason is not None:
            absent.setdefault(entry.reason, []).append(f"{entry.architecture} ({entry.way.name})")
    told = [f"- Not run: {', '.join(names)}: {reason}" for reason, names in absent.items()]
    return "\n".join([*lines, "", *told, *([""] if told else []), f"Measured by `{command}`.", ""])


def _told(entry: Entry) -> str:
    batches = entry.latency.batches if entry.latency else ()
    measured = [f"{batch.p50_ms:.3f} ms at {batch.batch_size}" for batch in batches]
    return ", ".join([*measured, *([f"not run: {entry.reason}"] if entry.reason else [])])


def peaks_of(device: torch.device) -> dict[str, float]:
    """10^12 operations a second by precision; empty for a device whose data sheet is not known here."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if "PCIe" in name or "NVL" in name:  # slower cards of the same name
        return {}
    return next((peaks for start, peaks in PEAKS.items() if name.startswith(start)), {})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="optimization.benchmark.precisions", description="Networks in every precision that a device computes in."
    )
    parser.add_argument("architectures", nargs="+", help="such as torchvision/resnet50 torchvision/vit_b_16")
    parser.add_argument("--size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 256], help="(%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--eager", action="store_true", help="leave out what has to be compiled, which takes minutes")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="of 15 calls (%(default)s)")
    parser.add_argument("--out", type=absolute_path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ways = [way for way in WAYS if not (arguments.eager and way.compiled)]
    entries: list[Entry] = []
    try:
        device = torch.device(arguments.device)
        for name in arguments.architectures:
            entries += compare(Architecture(name), ways, arguments.size, device, arguments.batches, arguments.rounds)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"optimization.benchmark.precisions: {error}")
    command = command_line("optimization.benchmark.precisions")
    told = page(entries, arguments.batches, peaks_of(device), command)
    write_report(arguments.out, "precisions", told, {"entries": [entry.to_json() for entry in entries]})
    print(told)


if __name__ == "__main__":
    main()
