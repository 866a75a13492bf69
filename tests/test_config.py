import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.config import ENGINES, PRESETS, Data, Train, field_types, from_dict, parse
from medjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Model:
    """A model."""

    width: int = 8
    """Channels."""
    blocks: tuple[int, ...] = (1, 1)
    """Blocks in each stage."""
    dropout: float = 0.1
    """Rate."""
    bias: bool = False
    """Whether."""
    name: str | None = None
    """A name, or none."""


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment."""

    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    engine: ENGINES = "auto"
    preset: PRESETS = "fast"


FAST = Config(train=Train(steps=7, batch_size=5))
FULL = Config(model=Model(width=64, blocks=(3, 4)), train=Train(steps=900))


def read(*args, preset="fast"):
    return parse({"fast": FAST, "full": FULL}, args, preset=preset, program="medjax train toy")


def refused(*args):
    with pytest.raises(InputError) as caught:
        read(*args)
    assert caught.value.usage
    lines = str(caught.value).splitlines()
    assert len(lines) <= 2
    return str(caught.value)


def test_no_arguments_give_the_preset():
    assert read() == dataclasses.replace(FAST, preset="fast")
    assert read(preset="full") == dataclasses.replace(FULL, preset="full")


@pytest.mark.parametrize("args", [("--preset", "full"), ("--preset=full",), ("--preset", "fast", "--preset", "full")])
def test_a_named_preset_wins(args):
    assert read(*args) == dataclasses.replace(FULL, preset="full")


def test_overrides_win_over_the_preset_wherever_they_stand():
    for args in (("--train.steps", "3", "--preset", "full"), ("--preset", "full", "--train.steps", "3")):
        config = read(*args)
        assert config.train.steps == 3
        assert config.train.batch_size == FULL.train.batch_size
        assert config.model.width == 64
        assert config.preset == "full"


def same(*ways):
    found = {read(*way) for way in ways}
    assert len(found) == 1
    return found.pop()


def test_ways_to_write_a_setting():
    config = same(
        ("--train.batch_size", "9"), ("--train.batch_size=9",), ("--train.batch-size", "9"), ("--train.batch-size=9",)
    )
    assert config == dataclasses.replace(FAST, train=dataclasses.replace(FAST.train, batch_size=9))


def test_values_of_each_type():
    numbers = "--model.blocks 2 3 4 --model.dropout 1e-2 --model.bias True --data.fractions 0.5 0.25 0.25 --train.seed 3"
    words = ["--engine", "pmap", "--data.path", "my data/in = here", "--model.name=a=b", "--data.classes", "no", "yes"]
    config = read(*numbers.split(), *words)
    assert config.model == Model(width=8, blocks=(2, 3, 4), dropout=0.01, bias=True, name="a=b")
    assert config.data == Data(path="my data/in = here", fractions=(0.5, 0.25, 0.25), classes=("no", "yes"))
    assert config.engine == "pmap"
    assert config.train.seed == 3
    assert read("--data.path", "None").data.path is None
    assert read("--model.bias", "False").model.bias is False
    assert read("--data.on_leak", "report").data.on_leak == "report"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("--train.step", "--train.steps"),
        ("--train.batchsize", "--train.batch_size"),
        ("--train.batch-sise", "--train.batch_size"),
        ("--steps", "--train.steps"),
        ("--model.widht=3", "--model.width"),
        ("--engin", "--engine"),
    ],
)
def test_an_unknown_setting_names_the_nearest(wrong, nearest):
    message = refused(wrong, "3")
    assert f"the nearest is {nearest}\n" in message
    assert wrong.split("=")[0].replace("-", "_").strip("_") in message.replace("-", "_")
    assert "medjax train toy --help" in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--train.steps", "ten"], ["--train.steps", "int"]),
        (["--train.steps", "1.5"], ["--train.steps", "int"]),
        (["--train.steps"], ["--train.steps", "int"]),
        (["--train.batch-size", "x"], ["train.batch_size", "int"]),
        (["--model.dropout", "high"], ["--model.dropout", "float"]),
        (["--model.bias", "maybe"], ["--model.bias", "bool"]),
        (["--model.blocks", "1", "two"], ["--model.blocks", "tuple[int, ...]"]),
        (["--data.fractions", "0.5", "0.5"], ["--data.fractions", "tuple[float, float, float]"]),
        (["--engine", "tpu"], ["--engine", "auto, jit, pmap"]),
        (["--data.on_leak", "go"], ["--data.on_leak", "stop, report"]),
        (["--preset", "huge"], ["--preset", "huge", "fast, full"]),
        (["--preset"], ["--preset", "fast, full"]),
        (["stray"], ["stray"]),
    ],
)
def test_an_ill_typed_value_says_the_type(args, words):
    message = refused(*args)
    for word in words:
        assert word in message


def test_help_prints_the_settings_and_their_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert not caught.value.code
    text = capsys.readouterr().out
    for word in ("--train.batch_size", "--model.blocks", "Blocks in each stage", "default: 7"):
        assert word in text


def test_field_types_are_the_leaves_in_words():
    found = field_types(Config())
    assert found["model.blocks"] == "tuple[int, ...]"
    assert found["train.steps"] == "int"
    assert found["model.name"] == "str | None"
    assert found["engine"] == "one of auto, jit, pmap"
    assert "model" not in found
    assert len(found) == sum(len(dataclasses.fields(part)) for part in (Data, Model, Train)) + 2


configs = st.builds(
    Config,
    data=st.builds(
        Data,
        path=st.none() | st.text(),
        classes=st.lists(st.text(), max_size=3).map(tuple),
        fractions=st.tuples(*[st.floats(0, 1)] * 3),
        near_copies=st.sampled_from(["any", "upright", "off"]),
    ),
    model=st.builds(Model, blocks=st.lists(st.integers()).map(tuple), dropout=st.floats(0, 1), bias=st.booleans()),
    train=st.builds(Train, steps=st.integers(1), seed=st.integers(0)),
    engine=st.sampled_from(["auto", "jit", "pmap"]),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_a_config_comes_back_from_json(config):
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_dict(Config(), saved) == config
    assert from_dict(FULL, saved) == config


def test_a_field_that_is_new_since_takes_its_default():
    saved = dataclasses.asdict(FULL)
    del saved["train"]["patience"], saved["engine"]
    assert from_dict(Config(), saved) == FULL


@pytest.mark.parametrize("where", [(), ("train",)])
def test_a_field_that_was_removed_since_is_refused(where):
    saved = dataclasses.asdict(FULL)
    part = saved
    for name in where:
        part = part[name]
    part["momentum"] = 0.9
    with pytest.raises(InputError, match="momentum"):
        from_dict(Config(), saved)
