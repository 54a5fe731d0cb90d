import pytest

from optimization.quantize.cpu import IntegerTypes, fastest_types


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2", "avx512_vnni"}, IntegerTypes("uint8", reduce_range=False)),
        ("x86_64", {"avx2", "avx_vnni"}, IntegerTypes("uint8", reduce_range=False)),
        ("AMD64", {"amx_int8"}, IntegerTypes("uint8", reduce_range=False)),
        ("x86_64", {"avx2", "avx512f"}, IntegerTypes("uint8", reduce_range=True)),
        ("aarch64", {"asimddp"}, IntegerTypes("int8", reduce_range=False)),
        ("arm64", set(), IntegerTypes("int8", reduce_range=False)),
    ],
)
def test_types_follow_the_instructions(machine: str, flags: set[str], expected: IntegerTypes) -> None:
    assert fastest_types(machine, frozenset(flags)) == expected


def test_this_machine_has_an_answer() -> None:
    assert fastest_types().activations in ("uint8", "int8")
