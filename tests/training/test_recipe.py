import dataclasses

import pytest

from tests.toys import image_recipe
from training.models.architecture import Architecture
from training.recipe import Augmentation, Optimizer, Recipe, Schedule, flatten, override


def test_a_setting_is_read_as_its_fields_type() -> None:
    recipe = override(
        image_recipe(), ["epochs=7", "optimizer.lr=0.5", "optimizer.name=sgd", "augmentation.flip=true", "task=a:b"]
    )
    assert recipe.epochs == 7
    assert recipe.optimizer == Optimizer("sgd", lr=0.5)
    assert recipe.augmentation.flip is True
    assert recipe.task == "a:b"


def test_a_setting_reaches_the_architectures_parameters() -> None:
    recipe = override(
        image_recipe(),
        ["architecture.params.widths=4,8,16", "architecture.name=resnet", "architecture.params.widths=9"],
    )
    assert recipe.architecture.name == "resnet"
    assert recipe.architecture.params == {"widths": [9]}


@pytest.mark.parametrize("text", ["4,8,16", "[4, 8, 16]", "4, 8,16"])
def test_a_list_may_be_written_with_brackets_and_without(text: str) -> None:
    recipe = override(image_recipe(), [f"architecture.params.widths={text}"])
    assert recipe.architecture.params == {"widths": [4, 8, 16]}
    assert override(image_recipe(), ["schedule.drops=[0.3,0.9]"]).schedule.drops == (0.3, 0.9)


def test_another_architecture_starts_from_its_own_defaults() -> None:
    settings = ["architecture=lstm", "architecture.params.hidden=32", "architecture.params.cell=gru"]
    recipe = override(image_recipe(), settings)
    assert recipe.architecture == Architecture("lstm", {"hidden": 32, "cell": "gru"})


def test_blocks_may_be_left_out_by_name() -> None:
    recipe = override(image_recipe(), ["architecture=resnet20", "architecture.dropped=layer1.1,layer1.2"])
    assert recipe.architecture == Architecture("resnet20", dropped=("layer1.1", "layer1.2"))


def test_a_list_of_shares_is_read_as_numbers() -> None:
    assert override(image_recipe(), ["schedule.drops=0.3,0.9"]).schedule.drops == (0.3, 0.9)


def test_overriding_leaves_the_recipe_as_it_was() -> None:
    recipe = image_recipe()
    override(recipe, ["architecture.params.widths=4", "optimizer.lr=0.5"])
    assert recipe == image_recipe()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "'epochs' is not of the form field=value"),
        ("epoch=3", "unknown setting 'epoch'; there is: task, architecture, epochs"),
        ("optimizer.rate=3", "unknown setting 'optimizer.rate'; there is: name, lr, weight_decay, momentum"),
        ("epochs.first=3", "unknown setting 'epochs.first': epochs has no fields"),
        ("architecture.params.widths.0=3", "unknown setting 'architecture.params.widths.0'; there is: widths"),
        ("epochs=many", "epochs is 'many', which is no int"),
        ("epochs=1.5", "epochs is '1.5', which is no int"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast', which is no float"),
        ("optimizer.name=adam", "optimizer.name is 'adam'; it is one of sgd, adamw, muon"),
        ("augmentation.flip=yes", "augmentation.flip is 'yes'; write true or false"),
        *(
            (f"architecture.params.widths={bad}", f"widths is '{bad}', which is no list")
            for bad in ("4,wide", "4,true", "")
        ),
        ("schedule.drops=soon", "schedule.drops is 'soon', which is no tuple"),
        ("optimizer=sgd", "optimizer has fields of its own: set one of them"),
        ("architecture.params=3", "architecture.params has fields of its own: set one of them"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_with_what_there_is(setting: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        override(image_recipe(), [setting])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "epochs=0",
        "batch_size=0",
        "optimizer.lr=0",
        "optimizer.lr=nan",
        "schedule.warmup=1",
        "label_smoothing=1",
        "clip_norm=0",
        "ema_decay=1",
        "ema_decay=-0.1",
        "seed=-1",
        "micro_batch=-1",
        "early_stopping=-1",
        "focal_gamma=-1",
        "augmentation.erase=2",
        "augmentation.crop=1.5",
        "augmentation.crop=-0.1",
    ],
)
def test_a_value_out_of_range_is_refused_with_its_field(setting: str) -> None:
    field, value = setting.split("=")
    with pytest.raises(ValueError, match=rf"{field} is {float(value):g}"):
        override(image_recipe(), [setting])


def test_a_pruned_model_is_another_than_the_whole_one() -> None:
    sizes = {"1.0": (1, 5), "1.1": (5, 5), "2.0": (5, 16)}
    recipe = image_recipe()
    pruned = dataclasses.replace(recipe, architecture=dataclasses.replace(recipe.architecture, sizes=sizes))
    assert flatten(pruned) == {
        **flatten(recipe),
        **{f"architecture.sizes.{name}": size for name, size in sizes.items()},
    }
    assert override(pruned, ["architecture=resnet"]).architecture == Architecture("resnet")
    shorter = dataclasses.replace(recipe, architecture=dataclasses.replace(recipe.architecture, dropped=("2",)))
    assert flatten(shorter) == {**flatten(recipe), "architecture.dropped": ("2",)}
    assert not [name for name in flatten(recipe) if "dropped" in name or "sizes" in name]


def test_the_parameters_of_a_run_are_every_choice_by_its_dotted_name() -> None:
    flat = flatten(image_recipe())
    assert flat["optimizer.lr"] == 1e-2
    assert flat["architecture.name"] == "convnet"
    assert flat["architecture.params.widths"] == [8, 16]
    fields = {f.name for f in dataclasses.fields(Recipe)}
    assert {name.split(".")[0] for name in flat} == fields - {"task_params"}  # it has none
    for part, kind in (("optimizer", Optimizer), ("schedule", Schedule), ("augmentation", Augmentation)):
        assert {name for name in flat if name.startswith(f"{part}.")} == {
            f"{part}.{f.name}" for f in dataclasses.fields(kind)
        }
