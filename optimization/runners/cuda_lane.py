"""CudaLane: batches through a TensorRT engine, with pinned host memory and one CUDA graph a batch size.

Copies from pinned memory run beside the host; a CUDA graph launches copy, network and copy with one call of the driver.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optimization.runners.contract import RunnerError
from optimization.runners.profile import ShapeProfile
from training.encoding import Array, TensorSpec

# Each has an execution context with working memory of its own; a batcher pads to few sizes.
MAX_GRAPHS = 8


class CudaLane:
    """Not thread-safe: all calls share one set of buffers, as large as the profile's largest batch.

    Models whose length varies too run without graphs, since almost every batch would need one of its own.
    """

    def __init__(self, engine: Any, input_spec: TensorSpec, output_spec: TensorSpec, profile: ShapeProfile) -> None:
        self._engine = engine
        self._input, self._output = input_spec.name, output_spec.name
        self._classes = output_spec.shape[1]
        self._captures = input_spec.shape.count(-1) <= 1
        element = torch.from_numpy(np.empty(0, input_spec.dtype)).dtype
        volume, rows = int(np.prod(profile.max_shape)), profile.max_shape[0]
        self._host_in = torch.empty(volume, dtype=element, pin_memory=True)
        self._host_out = torch.empty(rows * self._classes, dtype=torch.float32, pin_memory=True)
        self._device_in = torch.empty(volume, dtype=element, device="cuda")
        self._device_out = torch.empty(rows * self._classes, dtype=torch.float32, device="cuda")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._context = engine.create_execution_context()
        self._graphs: OrderedDict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Any]] = OrderedDict()

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        np.copyto(self._host_in[: batch.size].numpy().reshape(batch.shape), batch)
        if self._captures:
            self._graph(batch.shape).replay()
        else:
            self._run(self._context, batch.shape)
        self._stream.synchronize()
        # The next call writes over the buffer: the answer is the caller's own.
        logits = self._host_out[: batch.shape[0] * self._classes].numpy()
        return logits.reshape(batch.shape[0], self._classes).copy()

    def _graph(self, shape: tuple[int, ...]) -> torch.cuda.CUDAGraph:
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
            return self._graphs[shape][0]
        if len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
        context = self._engine.create_execution_context()
        # A context settles what a new shape needs in its first run, which no graph may hold.
        self._run(context, shape)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue(context, shape)
        self._graphs[shape] = (graph, context)
        return graph

    def _run(self, context: Any, shape: tuple[int, ...]) -> None:
        if not context.set_input_shape(self._input, shape):
            raise RunnerError(f"TensorRT refuses a batch of shape {list(shape)}")
        context.set_tensor_address(self._input, self._device_in.data_ptr())
        context.set_tensor_address(self._output, self._device_out.data_ptr())
        with torch.cuda.stream(self._stream):
            self._enqueue(context, shape)

    def _enqueue(self, context: Any, shape: tuple[int, ...]) -> None:
        volume, answers = int(np.prod(shape)), shape[0] * self._classes
        self._device_in[:volume].copy_(self._host_in[:volume], non_blocking=True)
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise RunnerError(f"TensorRT failed on a batch of shape {list(shape)}")
        self._host_out[:answers].copy_(self._device_out[:answers], non_blocking=True)
