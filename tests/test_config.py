"""Config files, overrides and JSON: round trips, choices, refusals."""

import copy
import json
import pathlib
import re

import pytest

from flexivit_jax import config
from flexivit_jax.core import patch_size
from flexivit_jax.data import augment, sources
from flexivit_jax.experiment import ConfigError, Data
from flexivit_jax.nn import pooling, positions, vit
from flexivit_jax.tasks import supervised
from flexivit_jax.training import optimizer

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Recipes on a folder need its path.
FILES = [
  f"{path}:PATH" if "folder" in path.read_text() else str(path)
  for path in sorted(CONFIGS.glob("*.py"))
]
ARGUMENTS = [str(CONFIGS / "vit_digits.py") + ":8"]

# What a config must give, and nothing else.
SMALLEST = {
  "model": {
    "size": {
      "name": "custom",
      "width": 32,
      "depth": 1,
      "mlp_dim": 64,
      "num_heads": 2,
    },
    "position": {"name": "learned_grid", "size": (4, 4)},
    "pool": "gap",
  },
  "patch_size": {"name": "sampled", "choices": (4, 6)},
  "optimizer": {"name": "adamw", "learning_rate": 1e-3},
  "train": {"source": {"name": "digits"}},
  "test": {"source": "digits"},
  "batch_size": 8,
  "total_steps": 10,
}

# Fields without a default, for the choices that have some.
REQUIRED = {
  "custom": {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2},
  "learned_grid": {"size": (2, 3)},
  "fixed": {"size": (8, 6)},
  "sampled": {"choices": (4, (6, 8)), "probabilities": (0.25, 0.75)},
  "image_folder": {"path": "images"},
  "resize": {"size": (24, 20)},
  "resize_crop": {"short": 24, "size": (24, 20)},
  "inception_crop": {"size": (24, 20)},
  "adamw": {"learning_rate": 1e-3},
  "sgd": {"learning_rate": 1e-3},
}


def build(*overrides):
  raw = copy.deepcopy(SMALLEST)
  for override in overrides:
    config.apply_override(raw, override)
  return config.from_plain(raw)


def refusal(*overrides):
  with pytest.raises(ConfigError) as caught:
    build(*overrides)
  return str(caught.value)


def through_json(experiment):
  return config.from_plain(json.loads(json.dumps(config.to_json(experiment))))


def write(folder, text):
  path = folder / "some_config.py"
  path.write_text(text)
  return str(path)


# Round trips.


@pytest.mark.parametrize(
  "path", FILES + ARGUMENTS, ids=lambda p: pathlib.Path(p).name
)
def test_every_config_survives_json(path):
  experiment = config.load(path)
  assert through_json(experiment) == experiment
  # The comparison sees a change that deep.
  assert through_json(experiment) != config.load(
    path, ["optimizer.learning_rate=0.123"]
  )


@pytest.mark.parametrize(
  ("hint", "name"),
  [(hint, name) for hint, table in config.CHOICES.items() for name in table],
)
def test_every_choice_survives_json(hint, name):
  # _build, so that a new kind of choice is covered without naming its place.
  built = config._build(hint, {"name": name, **REQUIRED.get(name, {})}, "x")
  plain = json.loads(json.dumps(config.to_json(built)))
  assert plain["name"] == name
  assert config._build(hint, plain, "x") == built


def test_the_argument_after_the_colon_reaches_the_config():
  path = str(CONFIGS / "vit_digits.py")
  assert config.load(path).patch_size == patch_size.FixedPatchSize(6)
  assert config.load(path + ":8").patch_size == patch_size.FixedPatchSize(8)


def test_json_holds_names_and_defaults():
  plain = config.to_json(build())
  assert plain["patch_size"] == {
    "name": "sampled",
    "choices": [4, 6],
    "probabilities": None,
  }
  assert plain["model"]["pool"] == {"name": "gap"}
  assert plain["train"]["source"] == {
    "name": "digits",
    "split": "train",
    "side": 24,
  }


# Shorthands.


def test_a_name_alone_means_its_defaults():
  experiment = build()
  assert experiment.model.pool == pooling.Gap()
  assert experiment.test == Data(sources.Digits())
  assert experiment.task == supervised.Supervised()


def test_a_named_size_and_a_change_of_it():
  assert build("model.size=Ti").model.size == vit.SIZES["Ti"]
  assert build("model.size=Ti", "model.size.depth=3").model.size == vit.Size(
    192, 3, 768, 3
  )


def test_a_tuple_of_choices_mixes_names_and_fields():
  experiment = build("train.transforms=('flip', {'name':'affine','degrees':5})")
  assert experiment.train.transforms == (
    augment.Flip(),
    augment.Affine(degrees=5.0),
  )


# Overrides.


@pytest.mark.parametrize(
  ("override", "expected"),
  [
    ("batch_size=16", 16),
    ("optimizer.learning_rate=3e-4", 3e-4),
    ("optimizer.learning_rate=1", 1.0),
    ("optimizer.clip_norm=2", 2.0),
    ("optimizer.clip_norm=None", None),
    ("model.scan=True", True),
    ("model.scan=true", True),
    ("model.scan=false", False),
    ("model.dtype=bfloat16", "bfloat16"),
    ("model.dtype='bfloat16'", "bfloat16"),
    ("model.head_bias=-10", -10.0),
    ("model.kernel_hw=(8, 6)", (8, 6)),
    ("model.kernel_hw=[8,6]", (8, 6)),
    ("patch_size.choices=(4,(6,8))", (4, (6, 8))),
    ("train.source.split=train[:90%]", "train[:90%]"),
  ],
)
def test_an_override_is_typed(override, expected):
  value = build(override)
  for name in override.partition("=")[0].split("."):
    value = getattr(value, name)
  assert value == expected
  assert type(value) is type(expected)


def test_the_last_override_wins_and_others_stay():
  experiment = build("batch_size=16", "seed=7", "batch_size=24")
  assert (experiment.batch_size, experiment.seed) == (24, 7)


def test_load_applies_overrides_to_a_file():
  path = str(CONFIGS / "flexivit_digits.py")
  before = config.load(path)
  after = config.load(path, ["model.size.depth=2", "seed=3"])
  assert (before.model.size.depth, before.seed) != (2, 3)
  assert (after.model.size.depth, after.seed) == (2, 3)
  assert after.train == before.train


def test_another_name_resets_the_other_fields():
  before = build("optimizer.weight_decay=0.5", "patch_size.choices=(8,)")
  assert before.optimizer.weight_decay == 0.5
  # sgd has no weight_decay: keeping it would be refused.
  after = build(
    "optimizer.weight_decay=0.5",
    "optimizer.name=sgd",
    "optimizer.learning_rate=0.1",
  )
  assert after.optimizer == optimizer.Sgd(0.1)
  # The learning rate was a field of adamw, so it is gone too.
  assert "learning_rate must be given" in refusal("optimizer.name=sgd")


def test_the_same_name_keeps_the_other_fields():
  experiment = build("model.size.name=custom", "patch_size.name=sampled")
  assert experiment == build()


def test_a_shorthand_expands_when_a_field_of_it_is_set():
  assert build("test.source.split=test").test.source == sources.Digits("test")
  experiment = build("model.pool=tok", "model.pool.position=True")
  assert experiment.model.pool == pooling.ClassToken(position=True)
  assert build("model.pool.name=map").model.pool == pooling.Map()


def test_none_is_the_name_of_a_position():
  assert build("model.position=none").model.position == positions.NoPosition()
  experiment = build("model.position.name=none")
  assert experiment.model.position == positions.NoPosition()
  # None, Python's, is no position's name.
  assert refusal("model.position=None") == (
    "config.model.position is None: give a name, one of "
    "'none', 'learned_grid', 'sincos2d'"
  )


def test_a_whole_group_can_be_taken_away():
  experiment = build("validation={'source': 'digits'}", "validation=None")
  assert experiment.validation is None


# Refusals.


@pytest.mark.parametrize(
  ("override", "message"),
  [
    # Unknown keys, with the nearest valid one where there is one.
    (
      "model.size.widht=3",
      "config.model.size.widht: no such key (did you mean 'width'?); "
      "valid: width, depth, mlp_dim, num_heads",
    ),
    (
      "patch_size.zzz=3",
      "config.patch_size.zzz: no such key; valid: choices, probabilities",
    ),
    (
      "model.pool.position=1",
      "config.model.pool.position: no such key; valid: none",
    ),
    # Wrong types.
    (
      "batch_size=many",
      "config.batch_size is 'many': expected a whole number, got str",
    ),
    (
      "batch_size=8.0",
      "config.batch_size is 8.0: expected a whole number, got float",
    ),
    (
      "batch_size=True",
      "config.batch_size is True: expected a whole number, got bool",
    ),
    (
      "optimizer.learning_rate=True",
      "config.optimizer.learning_rate is True: expected a number, got bool",
    ),
    (
      "optimizer.clip_norm=none",
      "config.optimizer.clip_norm is 'none': expected a number, got str",
    ),
    ("model.scan=1", "config.model.scan is 1: expected bool, got int"),
    ("model.dtype=32", "config.model.dtype is 32: expected a text, got int"),
    # A union of types.
    (
      "patch_size={'name': 'fixed', 'size': 'big'}",
      "config.patch_size.size is 'big': expected a whole number or tuple",
    ),
    (
      "patch_size.choices=(4, 6.5)",
      "config.patch_size.choices[1] is 6.5: expected a whole number or tuple",
    ),
    # Tuples.
    (
      "model.kernel_hw=(8,)",
      "config.model.kernel_hw is (8,): expected 2 values in a tuple",
    ),
    (
      "model.kernel_hw=(8, 8, 3)",
      "config.model.kernel_hw is (8, 8, 3): expected 2 values in a tuple",
    ),
    (
      "model.kernel_hw=8",
      "config.model.kernel_hw is 8: expected 2 values in a tuple",
    ),
    (
      "model.kernel_hw=(8, 'x')",
      "config.model.kernel_hw[1] is 'x': expected a whole number, got str",
    ),
    (
      "patch_size.choices=4",
      "config.patch_size.choices is 4: expected a tuple",
    ),
    (
      "train.transforms=({'name': 'affine', 'shfit': 0.1},)",
      "config.train.transforms[0].shfit: no such key (did you mean 'shift'?); "
      "valid: degrees, scale, shift",
    ),
    # Choices.
    (
      "model.pool=gpa",
      "config.model.pool has no 'gpa' (did you mean 'gap'?); "
      "valid: 'gap', 'tok', 'map'",
    ),
    (
      "patch_size.name=zzz",
      "config.patch_size has no 'zzz'; valid: 'fixed', 'sampled'",
    ),
    (
      "patch_size=8",
      "config.patch_size is 8: give a name, one of 'fixed', 'sampled'",
    ),
    (
      "patch_size={'size': 8}",
      "config.patch_size is {'size': 8}: give a name, one of "
      "'fixed', 'sampled'",
    ),
    # Groups of fields, and what they must hold.
    ("train=5", "config.train is 5: expected fields of Data"),
    ("train={}", "config.train: source must be given"),
    ("optimizer=sgd", "config.optimizer: learning_rate must be given"),
    (
      "model={'pool': 'gap'}",
      "config.model: size, position must be given",
    ),
    # What the objects themselves refuse, with the path in front.
    (
      "model.size.num_heads=3",
      "config.model.size: width 32 is not a multiple of num_heads 3",
    ),
    (
      "model.position.size=(0, 4)",
      "config.model.position: position table of (0, 4) rows and cols: "
      "give >= 1",
    ),
    (
      "total_epochs=3",
      "config: give either total_steps or total_epochs, and None for the other",
    ),
    # Overrides themselves.
    ("batch_size", "--config.batch_size: write --config.batch_size=VALUE"),
    (
      "batch_size.foo=1",
      "--config.batch_size.foo: config.batch_size is 8 and has no fields",
    ),
    (
      "modle.size=Ti",
      "--config.modle.size: there is no config.modle (did you mean 'model'?)",
    ),
    (
      "model.sise.width=8",
      "--config.model.sise.width: there is no config.model.sise "
      "(did you mean 'size'?)",
    ),
  ],
)
def test_a_refusal_names_the_key_the_value_and_the_remedy(override, message):
  assert refusal(override) == message


def test_an_unknown_key_of_the_experiment_lists_the_valid_ones():
  message = refusal("batch_sise=3")
  assert message.startswith(
    "config.batch_sise: no such key (did you mean 'batch_size'?); valid: model,"
  )
  assert message.endswith("threads")


@pytest.mark.parametrize(
  "override",
  [
    "model={1: 2}",  # a key that is no text
    "model={[1]: 2}",  # no value in Python's notation
    "patch_size.name.size=8",  # a field of the name itself
    "patch_size.name={'name': 'fixed'}",
  ],
)
def test_odd_values_are_refused_like_others(override):
  # ConfigError, not the TypeError of an unhashable or unordered value.
  assert override.partition(".")[0].partition("=")[0] in refusal(override)


def test_no_hint_at_the_word_that_was_written():
  message = refusal("train.transforms=('flip',)", "train.transforms.0=affine")
  assert "config.train.transforms is ('flip',) and has no fields" in message
  assert "did you mean" not in message


def test_a_missing_file_lists_those_there(tmp_path):
  (tmp_path / "one.py").touch()
  (tmp_path / "two.py").touch()
  (tmp_path / "notes.txt").touch()
  there = f"{tmp_path / 'one.py'}, {tmp_path / 'two.py'}"
  missing = tmp_path / "three.py"
  with pytest.raises(ConfigError) as caught:
    config.load(str(missing))
  assert str(caught.value) == f"no config file {missing}; there: {there}"
  missing = tmp_path / "empty" / "three.py"
  with pytest.raises(ConfigError) as caught:
    config.load(str(missing) + ":8")
  assert str(caught.value) == f"no config file {missing}; there: none"


def test_a_file_without_get_config(tmp_path):
  path = write(tmp_path, "config = {}")
  with pytest.raises(ConfigError) as caught:
    config.load(path)
  assert str(caught.value) == f"{path} has no function get_config"


def test_a_file_that_is_no_python(tmp_path):
  path = tmp_path / "some_config.toml"
  path.write_text("[model]")
  with pytest.raises(ConfigError, match=re.escape(str(path))):
    config.load(str(path))


@pytest.mark.parametrize(
  "get_config",
  [
    "def get_config(): return {}",  # takes no argument
    "def get_config(argument): return int(argument)",  # not this one
  ],
)
def test_an_argument_that_the_config_does_not_take(tmp_path, get_config):
  path = write(tmp_path, get_config)
  with pytest.raises(ConfigError, match=re.escape(path)) as caught:
    config.load(path + ":eight")
  assert "eight" in str(caught.value)


# Differences.


def test_differences_lists_what_changed_added_and_removed():
  old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": {"f": 0}}
  new = {"a": 1, "b": {"c": [1, 3], "d": "x"}, "g": {"h": True}}
  assert config.differences(old, new) == [
    "b.c: [1, 2] -> [1, 3]",
    "e.f: 0 -> None",
    "g.h: None -> True",
  ]
  assert config.differences(old, old) == []


def test_differences_of_two_experiments_through_json():
  old = json.loads(json.dumps(config.to_json(build())))
  new = config.to_json(build("patch_size.name=fixed", "patch_size.size=8"))
  assert config.differences(old, config.to_json(build())) == []
  assert config.differences(old, new) == [
    "patch_size.choices: [4, 6] -> None",
    "patch_size.name: 'sampled' -> 'fixed'",
    "patch_size.size: None -> 8",
  ]


def test_a_default_that_the_file_leaves_out_can_be_changed():
  experiment = config.load(
    "configs/flexivit_digits.py", ["task.loss.name=sigmoid"]
  )
  assert experiment.task.loss == supervised.SigmoidLoss()
