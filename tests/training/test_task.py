import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from tests.toys import IMAGES, images, texts
from training import task as task_module
from training.task import SPLIT_NAMES, Source, Split, Task, assign_splits, cut, load_task

SHARES = {"train": 0.6, "val": 0.1, "calibration": 0.1, "gate": 0.1, "report": 0.1}


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


def test_samples_are_cut_by_their_shares() -> None:
    assigned = assign_splits((str(i).encode() for i in range(20_000)), SHARES)
    for name, share in SHARES.items():
        assert (assigned == name).mean() == pytest.approx(share, abs=0.012)


def test_a_sample_keeps_its_split_when_the_set_grows_or_is_shuffled() -> None:
    samples = [str(i).encode() for i in range(500)]
    before = dict(zip(samples, assign_splits(samples, SHARES), strict=True))
    grown = [f"new {i}".encode() for i in range(500)] + samples[::-1]
    after = dict(zip(grown, assign_splits(grown, SHARES), strict=True))
    assert all(after[sample] == before[sample] for sample in samples)


def test_duplicates_never_lie_in_two_splits() -> None:
    rows = np.random.default_rng(0).integers(0, 4, (400, 1, 2, 1)).astype(np.uint8)
    splits = cut(rows, np.zeros(400, np.int64), SHARES)
    held = {name: {row.tobytes() for row in split.inputs} for name, split in splits.items()}
    for one in SHARES:
        for other in SHARES:
            assert one == other or not held[one] & held[other]
    assert sum(len(split) for split in splits.values()) == 400


def test_rows_stay_with_their_labels() -> None:
    rows = np.arange(200, dtype=np.uint8).reshape(200, 1)
    for split in cut(rows, np.arange(200, dtype=np.int64), SHARES).values():
        assert (split.inputs[:, 0] == split.labels).all()


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sum to 0\.9, not 1"):
        assign_splits([b"a"], {"train": 0.5, "val": 0.4})


def test_a_split_needs_a_label_a_row() -> None:
    with pytest.raises(ValueError, match="3 inputs but 2 labels"):
        Split(np.zeros((3, 1)), np.zeros(2, np.int64))


@pytest.mark.parametrize("labels", [np.zeros(3, np.int32), np.zeros(3), np.zeros((3, 1), np.int64)])
def test_labels_are_class_numbers(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"give class numbers, int64 \[N\]"):
        Split(np.zeros((3, 1)), labels)


@pytest.mark.parametrize("name", SPLIT_NAMES)
def test_a_task_needs_every_split(toy: Task, name: str) -> None:
    with pytest.raises(ValueError, match=f"splits {name} are missing or empty"):
        Task("t", IMAGES, {key: split for key, split in toy.splits.items() if key != name})


@pytest.mark.parametrize(
    ("inputs", "what"), [(np.zeros((2, 1, 4, 4), np.float32), "float32"), (np.zeros((2, 1, 4, 5), np.uint8), "4, 5")]
)
def test_inputs_must_be_what_the_encoding_makes(toy: Task, inputs: np.ndarray, what: str) -> None:
    with pytest.raises(ValueError, match=f"split gate: inputs are .*{what}.*its Encoding makes uint8"):
        dataclasses.replace(toy, splits={**toy.splits, "gate": Split(inputs, np.zeros(2, np.int64))})


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_must_have_a_class(toy: Task, label: int) -> None:
    bad = Split(np.zeros((2, 1, 4, 4), np.uint8), np.array([0, label]))
    with pytest.raises(ValueError, match=r"with 3 classes they must lie in 0\.\.2"):
        dataclasses.replace(toy, splits={**toy.splits, "val": bad})


def test_a_text_task_needs_its_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"lack the tokenizer 'tokenizer\.json'"):
        dataclasses.replace(texts(Source()), files={})


def test_the_data_hash_tells_any_change_of_the_data(toy: Task) -> None:
    again = images(Source())
    assert again.data_hash == toy.data_hash

    pixels = toy.splits["report"].inputs.copy()
    pixels[-1, 0, 3, 3] ^= 1
    labels = toy.splits["report"].labels.copy()
    labels[0] = (labels[0] + 1) % 3
    swapped = {**toy.splits, "val": toy.splits["gate"], "gate": toy.splits["val"]}
    changes = (
        {**toy.splits, "report": Split(pixels, toy.splits["report"].labels)},
        {**toy.splits, "report": Split(toy.splits["report"].inputs, labels)},
        swapped,
    )
    hashes = {dataclasses.replace(toy, splits=splits).data_hash for splits in changes}
    assert len(hashes | {toy.data_hash}) == 4


def test_a_task_of_ones_own_is_loaded_by_module_and_callable() -> None:
    assert load_task("tests.toys:images", Source()).name == "toy_images"


@pytest.mark.parametrize("reference", ["no_such_task", "no_such_module:load", "tests.toys:no_such", "../digits"])
def test_an_unknown_task_is_named_in_the_error(reference: str) -> None:
    with pytest.raises(ValueError, match=f"'{reference}' names neither a part of training.tasks nor a module:callable"):
        load_task(reference, Source())


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'tests.toys:image_recipe_of' returned a str, not a Task"):
        sys.modules["tests.toys"].image_recipe_of = lambda source: "recipe"  # type: ignore[attr-defined]
        try:
            load_task("tests.toys:image_recipe_of", Source())
        finally:
            del sys.modules["tests.toys"].image_recipe_of  # type: ignore[attr-defined]


def _with_params(
    source: Source, unsaid: object = None, *, side: int = 4, names: Sequence[str] = (), share: float | None = None
) -> Task:
    seen.append((side, tuple(names), share))
    return images(source)


seen: list[tuple[int, tuple[str, ...], float | None]] = []


@pytest.fixture
def own_task(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys.modules["tests.toys"], "with_params", _with_params, raising=False)
    seen.clear()
    return "tests.toys:with_params"


def test_parameters_become_the_loaders_arguments(own_task: str) -> None:
    load_task(own_task, Source(), {"side": 8, "names": ["a", 2], "share": 1})
    load_task(own_task, Source())
    assert seen == [(8, ("a", "2"), 1.0), (4, (), None)]


@pytest.mark.parametrize("name", ["sides", "unsaid", "source"])
def test_an_unknown_parameter_is_refused_with_those_there_are(own_task: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"has no parameter '{name}'; there is: side, names, share"):
        load_task(own_task, Source(), {name: 1})
    with pytest.raises(ValueError, match=f"'digits' has no parameter '{name}'; there is: none"):
        load_task("digits", Source(), {name: 1})


@pytest.mark.parametrize(("name", "value"), [("side", "wide"), ("side", 1.5), ("names", "abc"), ("share", [1])])
def test_a_parameter_of_another_type_is_refused(own_task: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"parameter {name} is .*: (Input should be|'str' instances)"):
        load_task(own_task, Source(), {name: value})


def test_the_command_reads_parameters_as_a_recipe_does(own_task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["task", own_task, "--set", "side=9", "--set", 'names=["x","y"]'])
    task_module.main()
    assert seen == [(9, ("x", "y"), None)]


def test_the_command_answers_a_mistake_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["task", "fashion_mnist", "--save", str(tmp_path / "report.npz")])
    with pytest.raises(SystemExit, match=r"^training\.task: Fashion-MNIST is read from files: pass --data-dir DIR"):
        task_module.main()


def test_the_command_writes_one_split(tmp_path, monkeypatch, capsys) -> None:
    target = tmp_path / "gate.npz"
    monkeypatch.setattr(sys, "argv", ["task", "tests.toys:images", "--split", "gate", "--save", str(target)])
    task_module.main()
    with np.load(target) as written:
        expected = images(Source()).splits["gate"]
        assert (written["inputs"] == expected.inputs).all()
        assert (written["labels"] == expected.labels).all()
    assert "60 rows of tests.toys:images's gate split" in capsys.readouterr().out
