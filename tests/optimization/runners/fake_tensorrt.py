"""A stand-in for the `tensorrt` package: what Tandem calls of its documented API, which records what it is told.

An engine is the ONNX graph itself, run by ONNX Runtime; what TensorRT would compute or refuse is not imitated.
"""

from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from optimization.runners.onnx_runtime import onnx_session
from optimization.runners.profile import ShapeProfile
from training.encoding import Array, TensorSpec


class Flag(IntEnum):
    STRONGLY_TYPED = 1
    TF32 = 7


class Logger:
    ERROR = 1

    def __init__(self, level: int) -> None:
        self.level = level


class ParserError:
    def desc(self) -> str:
        return "no importer for Warp"


class Parser:
    def __init__(self, network: dict[str, Any], log: Logger) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, content: bytes) -> bool:
        self._network["content"] = content
        self.num_errors = sum(node.op_type == "Elu" for node in onnx.load_from_string(content).graph.node)
        return self.num_errors == 0

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class Shapes:
    def __init__(self) -> None:
        self.set: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, low: tuple[int, ...], usual: tuple[int, ...], high: tuple[int, ...]) -> None:
        self.set[name] = (low, usual, high)


class Config:
    def __init__(self) -> None:
        self.cleared: list[int] = []
        self.profiles: list[Shapes] = []

    def clear_flag(self, flag: int) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, shapes: Shapes) -> None:
        self.profiles.append(shapes)


class Builder:
    made: list["Builder"]
    gives_up = False

    def __init__(self, log: Logger) -> None:
        self.flags, self.config = 0, Config()
        self.made.append(self)

    def create_network(self, flags: int) -> dict[str, Any]:
        self.flags = flags
        return {}

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Shapes:
        return Shapes()

    def build_serialized_network(self, network: dict[str, Any], config: Config) -> bytes | None:
        return None if self.gives_up else b"plan:" + network["content"]


class Runtime:
    def __init__(self, log: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> bytes | None:
        return plan.removeprefix(b"plan:") if plan.startswith(b"plan:") else None


class Lane:
    """CudaLane's place: the engine's graph on the CPU, through one buffer that every call writes over."""

    def __init__(self, engine: bytes, input_spec: TensorSpec, output_spec: TensorSpec, profile: ShapeProfile) -> None:
        self._session, self._names = onnx_session(engine), (input_spec.name, output_spec.name)
        self._buffer = np.zeros(profile.max_shape, input_spec.dtype)
        self.running = 0

    def __call__(self, batch: Array) -> NDArray[np.float32]:
        self.running += 1
        assert self.running == 1, "two calls share the buffer"
        self._buffer[: len(batch)] = batch
        logits: NDArray[np.float32] = self._session.run([self._names[1]], {self._names[0]: self._buffer[: len(batch)]})[
            0
        ]
        self.running -= 1
        return logits


def make(version: str = "10.14.1") -> Any:
    """The module, as new."""
    fake: Any = ModuleType("tensorrt")
    fake.__version__ = version
    fake.Logger, fake.OnnxParser, fake.Runtime = Logger, Parser, Runtime
    fake.Builder = type("Builder", (Builder,), {"made": []})
    fake.NetworkDefinitionCreationFlag = fake.BuilderFlag = Flag
    return fake
