"""AotInductorRunner: a PyTorch module compiled ahead of time on the host that runs it, without Python in its calls.

The package is built from a "torch" Artifact by torch.export and AOTInductor, and kept in a NativeCache: it is native
code, so none is ever taken from a registry.
"""

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optimization.export import ExportError, export_torch_program, quiet
from optimization.runners.contract import BackendUnavailableError, RunnerError, batch_check, require_precision
from optimization.runners.device import DeviceKind, this_cpu, this_gpu
from optimization.runners.eager import module_precision, require_torch_cuda
from optimization.runners.native_cache import BuildInputs, NativeCache, cache_key
from training.artifact import Artifact
from training.encoding import Array, TensorSpec, TextEncoding
from training.module import load_module

if TYPE_CHECKING:
    from torch import nn

PACKAGE_FILE = "model.pt2"
COMPILERS = ("g++", "clang++", "c++")
# Other sums in other orders: more than this between module and package is no rounding.
MAX_DIFFERENCE = 1e-3
EXAMPLE_LENGTH = 4


class AotInductorRunner:
    """`threads` is compiled into the CPU's code. Any batch size runs: the package has no shape profile.

    Concurrent calls take turns, and PyTorch holds Python's lock while one runs: no other Python of the process goes on
    meanwhile. So this is for scoring and for a process of the model's own, not for a replica that also reads requests.

    Raises RunnerError where the module cannot be exported (an LSTM of any length cannot) or the package does not answer
    as the module, and BackendUnavailableError without a C++ compiler, or without a GPU.
    """

    def __init__(
        self, artifact: Artifact, threads: int = 1, device: DeviceKind = "cpu", cache: NativeCache | None = None
    ) -> None:
        import torch
        from torch._inductor import aoti_load_package

        require_compiler()
        if device == "cuda":
            require_torch_cuda()
        torch.set_num_threads(threads)
        self.input_spec = artifact.manifest.input
        self.output_spec = artifact.manifest.output
        self.precision: str = artifact.manifest.precision
        self.device: str = device
        self._check = batch_check(self.input_spec)
        machine = this_gpu() if device == "cuda" else this_cpu()
        settings = _settings(threads, device)
        options = tuple((name, str(value)) for name, value in sorted(settings.items()))
        inputs = BuildInputs(artifact.digest, "aot-inductor", torch.__version__, machine, None, self.precision, options)
        folder = (cache or NativeCache()).get_or_build(
            cache_key(inputs), lambda target: _build(artifact, target / PACKAGE_FILE, settings, device)
        )
        # Its __call__ parses the call's shape anew each time; one tensor in and one out needs none of that.
        self._run = aoti_load_package(str(folder / PACKAGE_FILE)).loader.boxed_run
        # PyTorch's loader waits for its one instance with Python's own lock in hand: two threads would wait for ever.
        self._turn = threading.Lock()

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        import torch

        self._check(batch)
        with torch.inference_mode():
            inputs = torch.from_numpy(np.array(batch)).to(self.device)
            with self._turn:
                (logits_BC,) = self._run([inputs])
            logits: NDArray[np.float32] = logits_BC.float().cpu().numpy()
        return logits


def require_compiler() -> None:
    """Raises BackendUnavailableError where there is no C++ compiler for AOTInductor to call."""
    if not any(shutil.which(name) for name in COMPILERS):
        raise BackendUnavailableError(
            f"AOTInductor compiles on this machine and finds none of {', '.join(COMPILERS)}: install one (on Debian: "
            "apt install g++)"
        )


def _settings(threads: int, device: DeviceKind) -> dict[str, Any]:
    """Inductor's settings for a build; they are part of its key."""
    return {
        # Folds batch normalization, and lays weights out as the convolutions want them.
        "freezing": True,
        # A pool of compiling processes would outlive the build in each replica.
        "compile_threads": 1,
        **({"cpp.threads": threads} if device == "cpu" else {}),
    }


def _build(artifact: Artifact, package: Path, settings: dict[str, Any], device: DeviceKind) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package, aoti_load_package, config

    manifest = artifact.manifest
    module = load_module(artifact).to(device)
    require_precision(module_precision(module), manifest.precision, str(artifact.model_path))
    padding = manifest.encoding.pad_id if isinstance(manifest.encoding, TextEncoding) else None
    try:
        program = export_torch_program(module, _example(manifest.input, 4, padding), manifest.input)
    except ExportError as error:
        raise RunnerError(f"AOTInductor cannot compile {manifest.name} ({manifest.variant}): {error}") from error
    try:
        with quiet(), torch.no_grad(), config.patch(settings):
            aoti_compile_and_package(program, package_path=str(package))
        run = aoti_load_package(str(package)).loader.boxed_run
    except Exception as error:  # whatever Inductor, the C++ compiler or the loader raise
        raise RunnerError(f"AOTInductor cannot compile {manifest.name} ({manifest.variant}): {error}") from error
    _require_parity(module, run, manifest.input, padding)


def _require_parity(module: "nn.Module", run: object, spec: TensorSpec, padding: int | None) -> None:
    """A wrong size guard or a miscompiled kernel shows at sizes other than the example's."""
    import torch

    assert callable(run)
    device = next(module.parameters()).device
    for rows in (1, 3):
        batch = torch.from_numpy(_example(spec, rows, padding)).to(device)
        with torch.inference_mode():
            difference = float((run([batch])[0].float() - module(batch).float()).abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise RunnerError(
                f"AOTInductor's package answers {rows} rows with logits {difference:.2g} away from the module's, "
                f"where {MAX_DIFFERENCE} is rounding: use the torch backend"
            )


def _example(spec: TensorSpec, rows: int, padding: int | None) -> Array:
    """Rows that the module accepts: pixels at random, or a token that is no padding."""
    shape = [size if size != -1 else (rows if axis == 0 else EXAMPLE_LENGTH) for axis, size in enumerate(spec.shape)]
    if padding is not None:
        return np.full(shape, 1 if padding == 0 else 0, spec.dtype)
    return np.random.default_rng(0).integers(0, 256, shape).astype(spec.dtype)
