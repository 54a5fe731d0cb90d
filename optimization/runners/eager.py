"""TorchRunner: PyTorch in eager mode; weights from safetensors, the module from the manifest's architecture."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optimization.runners.contract import BackendUnavailableError, batch_check, require_precision
from optimization.runners.device import DeviceKind
from training.artifact import Artifact
from training.encoding import Array
from training.module import load_module

if TYPE_CHECKING:
    from torch import nn


class TorchRunner:
    """Raises RunnerError where the weights are not of the manifest's precision, and BackendUnavailableError where
    `device` is "cuda" and PyTorch sees no GPU.
    """

    def __init__(self, artifact: Artifact, threads: int = 1, device: DeviceKind = "cpu") -> None:
        import torch

        if device == "cuda":
            require_torch_cuda()
        torch.set_num_threads(threads)
        self._module = load_module(artifact).to(device)
        self.precision = module_precision(self._module)
        require_precision(self.precision, artifact.manifest.precision, str(artifact.model_path))
        self.input_spec = artifact.manifest.input
        self.output_spec = artifact.manifest.output
        self.device: str = device
        self._check = batch_check(self.input_spec)

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        import torch

        self._check(batch)
        with torch.inference_mode():
            # Tensors made from request bytes are read-only, which torch warns about: it gets a copy of its own.
            inputs = torch.from_numpy(np.array(batch)).to(self.device)
            logits: NDArray[np.float32] = self._module(inputs).float().cpu().numpy()
        return logits


def require_torch_cuda() -> None:
    """Raises BackendUnavailableError without a GPU that PyTorch sees; else FP32 is FP32 from here on, not TF32."""
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"PyTorch {torch.__version__} sees no CUDA device: it needs an NVIDIA GPU with its driver, and the CUDA "
            "build of torch"
        )
    # cuDNN multiplies FP32 in TF32 unless it is told not to: a Runner that says fp32 must not.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def module_precision(module: "nn.Module") -> str:
    """The float format that most of a module's weights have: "fp32", "fp16", "bf16" or "fp64"; "fp32" without any."""
    import torch

    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
    held = dict.fromkeys(names.values(), 0)
    for weight in module.parameters():
        if weight.dtype in names:
            held[names[weight.dtype]] += weight.numel()
    return max(held, key=lambda name: held[name])
