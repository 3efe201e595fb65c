"""Plain values, overrides and JSON: round trips, choices, refusals."""

import copy
import dataclasses
import json
import math
import pathlib
import re

import pytest

from flexivit_jax.config import build as build_lib
from flexivit_jax.config import file, registry
from flexivit_jax.config import overrides as overrides_lib
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.sources import digits
from flexivit_jax.models import sizes
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import position
from flexivit_jax.tasks import classification, losses
from flexivit_jax.training import optimizer
from flexivit_jax.training.parameter_groups import Group

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# Recipes on a folder need its path.
FILES = [
  f"{path}:PATH"
  if re.search(r"get_config\((path|teacher)", path.read_text())
  else f"{path}:smoke"
  if re.search(r"get_config\((argument|data)", path.read_text())
  else str(path)
  for path in sorted(CONFIGS.glob("[!_]*.py"))
]
ARGUMENTS = [
  f"{CONFIGS}/{name}"
  for name in (
    *("vit_digits.py:8", "pit_digits.py:16", "pit_cifar.py:28,S"),
    *("flexivit_l_i1k.py:PATH,deit.npz", "flexivit_b_i21k.py:PATH,distilled"),
    *("pit_trend.py:tfds:cifar10,4", "pit_in1k.py:PATH,2,Ti,64"),
  )
]

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
  "row_column": {"size": (2, 3)},
  "joint_table": {"size": (2, 3)},
  "relative": {"size": (2, 3)},
  "fixed": {"size": (8, 6)},
  "square": {"side": 24},
  "pix2struct": {"max_patches": 16},
  "naflex": {"max_patches": 16},
  "budget": {"choices": (4, (6, 8)), "max_tokens": 16},
  ("TokenDrop", "constant"): {"rate": 0.5},
  ("Resolution", "sampled"): {"low": 12, "high": 32.5},
  ("PatchSizePolicy", "sampled"): {
    "choices": (4, (6, 8)),
    "probabilities": (0.25, 0.75),
  },
  ("PatchSizePolicy", "scheduled"): {
    "choices": (16, (6, 8)),
    "steps": (0, 100),
    "probabilities": ((1.0, 0.0), (0.25, 0.75)),
  },
  "beta": {"mean": 0.5},
  "by_resolution": {"rates": (0.1, 0.6), "tokens": (16, 256)},
  "scheduled": {"start": 0.8, "end": 0.2, "middle": 1e6, "width": 1e5},
  "image_folder": {"path": "images"},
  "distill": {"teacher": {"checkpoint": "runs/teacher"}},
  "listed_images": {"path": "images"},
  "arrays": {"path": "latents.npz"},
  "tfds": {"dataset": "cifar10"},
  "resize": {"size": (24, 20)},
  "resize_crop": {"short": 24, "size": (24, 20)},
  "central_crop": {"size": (24, 20)},
  "inception_crop": {"size": (24, 20)},
  "adamw": {"learning_rate": 1e-3},
  "sgd": {"learning_rate": 1e-3},
  "adafactor": {
    "learning_rate": 1e-3,
    "groups": ({"pattern": "head/.*", "multiplier": 10.0},),
  },
  "retired": {"learning_rate": 1e-3, "was": "optax's lion"},
}


def build(*overrides):
  raw = copy.deepcopy(SMALLEST)
  for override in overrides:
    overrides_lib.apply(raw, override)
  return build_lib.from_plain(raw)


def refusal(*overrides):
  with pytest.raises(ConfigError) as caught:
    build(*overrides)
  return str(caught.value)


def through_json(experiment):
  return build_lib.from_plain(
    json.loads(json.dumps(build_lib.to_json(experiment)))
  )


@pytest.mark.parametrize(
  "path", FILES + ARGUMENTS, ids=lambda p: pathlib.Path(p).name
)
def test_every_config_survives_json(path):
  experiment = build_lib.load(path)
  assert through_json(experiment) == experiment
  # The comparison sees a change that deep.
  assert through_json(experiment) != build_lib.load(
    path, ["optimizer.learning_rate=0.123"]
  )


@pytest.mark.parametrize(
  ("hint", "name"),
  [(hint, name) for hint, table in registry.CHOICES.items() for name in table],
)
def test_every_choice_survives_json(hint, name):
  # _build, so that a new kind of choice is covered without naming its place.
  required = (
    REQUIRED.get((hint.__name__, name)) if isinstance(hint, type) else None
  )
  required = required or REQUIRED.get(name, {})
  built = build_lib._build(hint, {"name": name, **required}, "x")
  plain = json.loads(json.dumps(build_lib.to_json(built)))
  assert plain["name"] == name
  assert build_lib._build(hint, plain, "x") == built


def test_json_holds_names_and_defaults():
  plain = build_lib.to_json(build())
  assert plain["patch_size"] == {
    "name": "sampled",
    "choices": [4, 6],
    "probabilities": None,
  }
  assert plain["model"]["pool"] == {"name": "gap", "class_token": False}
  assert plain["train"]["source"] == {
    "name": "digits",
    "split": "train",
    "side": 24,
  }


def test_a_name_alone_means_its_defaults():
  experiment = build()
  assert experiment.model.pool == pooling.Gap()
  assert experiment.test == Dataset(digits.Digits())
  assert experiment.task == classification.Supervised()


def test_a_named_size_and_a_change_of_it():
  assert build("model.size=Ti").model.size == sizes.SIZES["Ti"]
  assert build(
    "model.size=Ti", "model.size.depth=3"
  ).model.size == encoder.Size(192, 3, 768, 3)


def test_a_tuple_of_choices_mixes_names_and_fields():
  experiment = build("train.transforms=('flip', {'name':'affine','degrees':5})")
  assert experiment.train.transforms == (
    transforms.Flip(),
    transforms.Affine(degrees=5.0),
  )


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


@pytest.mark.parametrize(
  ("written", "same"),
  [
    ("dict(name='fixed', size=8)", "{'name': 'fixed', 'size': 8}"),
    (" dict(name='fixed',size=(8,6)) ", "{'name': 'fixed', 'size': (8, 6)}"),
  ],
)
def test_dict_is_written_as_in_a_config_file(written, same):
  assert build(f"patch_size={written}") == build(f"patch_size={same}")
  assert build(f"patch_size={written}") != build()


def test_dicts_within_others_are_read_too():
  groups = "(dict(pattern='head/.*', multiplier=10.0),)"
  assert build(f"optimizer.groups={groups}").optimizer.groups == (
    Group("head/.*", multiplier=10.0),
  )
  whole = f"dict(name='adamw', learning_rate=0.1, groups={groups})"
  assert build(f"optimizer={whole}").optimizer == optimizer.AdamW(
    0.1, groups=(Group("head/.*", multiplier=10.0),)
  )


# A pattern may begin as a tuple does.
def test_what_is_no_notation_is_a_text_where_a_text_may_stand():
  overrides = (
    "optimizer.weight_decay=0",
    "optimizer.decay_pattern=(cls|head)/.*",
  )
  assert build(*overrides).optimizer.decay_pattern == "(cls|head)/.*"


QUOTES = (
  "quote the texts in it, and the whole once more for the shell: "
  "'--config.KEY=(dict(name=\"x\", size=8),)'"
)


@pytest.mark.parametrize(
  "text",
  [
    "dict(pattern=head, multiplier=10.0)",  # the shell took the quotes
    "(dict(pattern=head/.*, multiplier=10.0),)",
    "({name: wandb},)",
    "dict(a=1, a=2)",
    "dict(**{'a': 1})",
    "dict([('a', 1)])",
    "dict(a=print('run'))",
    "(dict(a=1)",
  ],
)
def test_a_dict_that_cannot_be_read_is_refused_with_what_can(text, capsys):
  assert refusal(f"optimizer.groups={text}") == (
    f"--config.optimizer.groups: {text!r} is not in Python's notation: {QUOTES}"
  )
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    (
      "dict(pattern='a', multiplier=2)",
      "{'pattern': 'a', 'multiplier': 2}",
    ),
    # In quotes too many.
    (
      "'dict(pattern=\"a\", multiplier=2)'",
      "'dict(pattern=\"a\", multiplier=2)'",
    ),
    (
      "'(dict(pattern=\"a\", multiplier=2),)'",
      "'(dict(pattern=\"a\", multiplier=2),)'",
    ),
  ],
)
def test_a_dict_alone_or_in_quotes_is_pointed_to_its_tuple(text, shown):
  assert refusal(f"optimizer.groups={text}") == (
    f"config.optimizer.groups is {shown}: expected a tuple; give "
    "({'pattern': 'a', 'multiplier': 2},)"
  )


def test_the_last_override_wins_and_others_stay():
  experiment = build("batch_size=16", "seed=7", "batch_size=24")
  assert (experiment.batch_size, experiment.seed) == (24, 7)


def test_load_applies_overrides_to_a_file():
  path = str(CONFIGS / "flexivit_digits.py")
  before = build_lib.load(path)
  after = build_lib.load(path, ["model.size.depth=2", "seed=3"])
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


DIGITS = str(CONFIGS / "flexivit_digits.py")
SGD = ("optimizer.name=sgd",)


def test_what_goes_with_a_name_is_told():
  lines = []
  given = ("optimizer.learning_rate=1e-4", "optimizer.weight_decay=0.1")
  found = build_lib.load(DIGITS, (*SGD, *given), lines.append)
  # What sgd has not, Adam's betas, is not missed, nor what was given.
  assert lines == [
    "config.optimizer.name=sgd leaves out schedule.warmup_steps=100, "
    "clip_norm=1.0: what is to stay must be given with it"
  ]
  assert found.optimizer.clip_norm is None
  # What it names can be given, in any order.
  kept = ("optimizer.schedule.warmup_steps=100", "optimizer.clip_norm=1.0")
  lines.clear()
  found = build_lib.load(DIGITS, (*SGD, *kept, *given), lines.append)
  assert lines == []
  assert (found.optimizer.schedule.warmup_steps, found.optimizer.clip_norm) == (
    100,
    1.0,
  )
  # Given before the name, it is gone.
  before = ("optimizer.weight_decay=0.1", *SGD, *kept, given[0])
  build_lib.load(DIGITS, before, lines.append)
  assert lines == [
    "config.optimizer.name=sgd leaves out weight_decay=0.1: what is to stay "
    "must be given with it"
  ]


def test_a_field_that_went_with_a_name_and_must_be_given():
  with pytest.raises(ConfigError) as caught:
    build_lib.load(DIGITS, SGD)
  assert str(caught.value) == (
    "config.optimizer: learning_rate must be given; config.optimizer.name="
    "sgd leaves out learning_rate=0.002"
  )


def test_a_name_without_consequences_is_silent():
  lines = []
  build_lib.load(DIGITS, ("model.pool.name=map", "seed=3"), lines.append)
  build_lib.load(
    DIGITS, ("patch_size.name=fixed", "patch_size.size=8"), lines.append
  )
  assert lines == []


def test_the_same_name_keeps_the_other_fields():
  experiment = build("model.size.name=custom", "patch_size.name=sampled")
  assert experiment == build()


def test_a_shorthand_expands_when_a_field_of_it_is_set():
  assert build("test.source.split=test").test.source == digits.Digits("test")
  experiment = build("model.pool=gap", "model.pool.class_token=True")
  assert experiment.model.pool == pooling.Gap(class_token=True)
  assert build("model.pool.name=map").model.pool == pooling.Map()


def test_none_is_the_name_of_a_position():
  assert build("model.position=none").model.position == position.NoPosition()
  experiment = build("model.position.name=none")
  assert experiment.model.position == position.NoPosition()
  # None, Python's, is no position's name.
  assert refusal("model.position=None") == (
    "config.model.position is None: give a name, one of "
    "'none', 'learned_grid', 'sincos2d', 'fourier', 'row_column', "
    "'joint_table', 'rotary', 'relative'"
  )


def test_a_whole_group_can_be_taken_away():
  experiment = build("validation={'source': 'digits'}", "validation=None")
  assert experiment.validation is None


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
      "config.model.pool.position: no such key; valid: class_token",
    ),
    # Wrong types.
    (
      "batch_size=many",
      "config.batch_size is 'many': expected a whole number, got str",
    ),
    (
      "batch_size=8.0",
      "config.batch_size is 8.0: expected a whole number, got float; give 8",
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
      "config.optimizer.clip_norm is 'none': expected a number or None; "
      "give None",
    ),
    (
      "model.scan=1",
      "config.model.scan is 1: expected True or False, got int; give True",
    ),
    (
      "model.scan=no",
      "config.model.scan is 'no': expected True or False, got str; give False",
    ),
    (
      # A folder's name, of which the shell keeps no quotes.
      "train.source={'name': 'image_folder', 'path': 2024}",
      "config.train.source.path is 2024: expected a text, got int; "
      "give \"'2024'\"",
    ),
    (
      "optimizer.learning_rate='1e-3'",
      "config.optimizer.learning_rate is '1e-3': expected a number, got str; "
      "give 0.001",
    ),
    (
      "batch_size='64'",
      "config.batch_size is '64': expected a whole number, got str; give 64",
    ),
    (
      "batch_size=8,",
      "config.batch_size is (8,): expected a whole number, got tuple; give 8",
    ),
    ("batch_size=None", "config.batch_size is None: expected a whole number"),
    # Numbers that nothing can compute with.
    (
      "optimizer.learning_rate=1e999",
      "config.optimizer.learning_rate is inf: give a finite number",
    ),
    (
      "optimizer.learning_rate=1e-50",
      "config.optimizer.learning_rate is 1e-50: give 0, or a size from "
      "1.18e-38 to 3.4e+38, what float32 can hold",
    ),
    (
      "optimizer.learning_rate=1e39",
      "config.optimizer.learning_rate is 1e+39: give 0, or a size from "
      "1.18e-38 to 3.4e+38, what float32 can hold",
    ),
    (
      f"seed={2**63}",
      f"config.seed is {2**63}: give at most {2**63 - 1}",
    ),
    (
      # Too large to become a float.
      f"optimizer.learning_rate=1{'0' * 400}",
      f"config.optimizer.learning_rate is 1{'0' * 76}...: give at most "
      f"{2**63 - 1}",
    ),
    (
      # Too large to be read as a number.
      f"batch_size={'9' * 5000}",
      f"config.batch_size is '{'9' * 76}...: expected a whole number, got str",
    ),
    # A union of types.
    (
      "patch_size={'name': 'fixed', 'size': 'big'}",
      "config.patch_size.size is 'big': expected a whole number or "
      "2 values in a tuple",
    ),
    (
      "patch_size.choices=(4, 6.5)",
      "config.patch_size.choices[1] is 6.5: expected a whole number or "
      "2 values in a tuple",
    ),
    (
      "patch_size.choices=(4, 6.0)",
      "config.patch_size.choices[1] is 6.0: expected a whole number or "
      "2 values in a tuple; give 6",
    ),
    (
      "patch_size.choices=(4, '8x6')",
      "config.patch_size.choices[1] is '8x6': expected a whole number or "
      "2 values in a tuple; give (8, 6)",
    ),
    (
      # The value that is wrong, not all that could stand there.
      "patch_size.choices=(4, (8, 6.0))",
      "config.patch_size.choices[1][1] is 6.0: expected a whole number, got "
      "float; give 6",
    ),
    # Tuples.
    (
      "model.kernel_hw=(8,)",
      "config.model.kernel_hw is (8,): expected 2 values in a tuple; "
      "give (8, 8)",
    ),
    (
      "model.kernel_hw=8x6",
      "config.model.kernel_hw is '8x6': expected 2 values in a tuple; "
      "give (8, 6)",
    ),
    (
      "model.kernel_hw=(8, 8, 3)",
      "config.model.kernel_hw is (8, 8, 3): expected 2 values in a tuple",
    ),
    (
      "model.kernel_hw=8",
      "config.model.kernel_hw is 8: expected 2 values in a tuple; give (8, 8)",
    ),
    (
      "model.kernel_hw=(8, 'x')",
      "config.model.kernel_hw[1] is 'x': expected a whole number, got str",
    ),
    (
      "patch_size.choices=4",
      "config.patch_size.choices is 4: expected a tuple; give (4,)",
    ),
    (
      "patch_size.choices={8, 4}",
      "config.patch_size.choices is {8, 4}: expected a tuple; give (4, 8)",
    ),
    (
      "patch_size.choices=()",
      "config.patch_size: choices is (): give at least one patch size",
    ),
    (
      "train.transforms=flip",
      "config.train.transforms is 'flip': expected a tuple; give ('flip',)",
    ),
    (
      "train.transforms=(5,)",
      "config.train.transforms[0] is 5: give a name, one of 'resize', "
      "'resize_crop', 'central_crop', 'pad_square', 'inception_crop', 'flip', "
      "'affine', 'color_jitter', 'grayscale', 'rand_augment'",
    ),
    (
      "train.transforms=({'name': 'affine', 'shfit': 0.1},)",
      "config.train.transforms[0].shfit: no such key (did you mean 'shift'?); "
      "valid: degrees, scale, shift",
    ),
    (
      "train.transforms=(flip,)",
      f"config.train.transforms is '(flip,)': expected a tuple; {QUOTES}",
    ),
    # Choices.
    (
      "model.pool=GAP",
      "config.model.pool has no 'GAP' (did you mean 'gap'?); "
      "valid: 'gap', 'tok', 'map'",
    ),
    (
      "model.pool=gpa",
      "config.model.pool has no 'gpa' (did you mean 'gap'?); "
      "valid: 'gap', 'tok', 'map'",
    ),
    (
      "model.kernel=blockwise(block_q=256)",
      "config.model.kernel has no 'blockwise(block_q=256)' (write "
      "dict(name='blockwise', block_q=256)); valid: 'dense', 'blockwise', "
      "'fused'",
    ),
    (
      "patch_size.name=zzz",
      "config.patch_size has no 'zzz'; valid: 'fixed', 'sampled', "
      "'scheduled', 'budget'",
    ),
    (
      "patch_size=8",
      "config.patch_size is 8: give a name, one of 'fixed', 'sampled', "
      "'scheduled', 'budget'",
    ),
    (
      "patch_size={'size': 8}",
      "config.patch_size is {'size': 8}: give a name, one of "
      "'fixed', 'sampled', 'scheduled', 'budget'",
    ),
    # Groups of fields, and what they must hold.
    (
      "train=5",
      "config.train is 5: expected its fields, source, transforms, resolution",
    ),
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
      "config.model.position: size is (0, 4) rows and cols: give 1 to 1024 of "
      "each",
    ),
    (
      "total_epochs=3",
      "config: give either total_steps or total_epochs, and None for the "
      "other: --config.total_steps=None",
    ),
    # Overrides themselves.
    ("batch_size", "--config.batch_size: write --config.batch_size=VALUE"),
    (
      "batch_size.foo=1",
      "--config.batch_size.foo: config.batch_size is 8 and has no fields: "
      "give --config.batch_size=VALUE",
    ),
    (
      "modle.size=Ti",
      "--config.modle.size: there is no config.modle (did you mean 'model'?); "
      "valid: model, patch_size, optimizer, train, test, batch_size, "
      "total_steps",
    ),
    (
      "model.sise.width=8",
      "--config.model.sise.width: there is no config.model.sise "
      "(did you mean 'size'?); valid: size, position, pool",
    ),
  ],
)
def test_a_refusal_names_the_key_the_value_and_the_remedy(override, message):
  assert refusal(override) == message


def test_an_unknown_key_of_the_experiment_lists_the_valid_ones():
  fields = ", ".join(field.name for field in dataclasses.fields(Experiment))
  assert refusal("batch_sise=3") == (
    f"config.batch_sise: no such key (did you mean 'batch_size'?); "
    f"valid: {fields}"
  )


def test_a_choice_given_to_what_holds_it_is_pointed_to():
  assert refusal("model=mu").startswith(
    "config.model is 'mu' (did you mean config.model.size=mu?): expected its "
    "fields, size, position, pool, "
  )


def test_a_key_of_another_place_is_pointed_to():
  message = refusal("learning_rate=0.1")
  assert message.startswith(
    "config.learning_rate: no such key (did you mean "
    "'optimizer.learning_rate'?); valid: model, patch_size, optimizer,"
  )


@pytest.mark.parametrize(
  "override",
  [
    f"optimizer.mu_dtype={'x' * 5000}",
    f"{'x' * 5000}=1",
    f"{'x' * 5000}.y=1",
    f"patch_size.choices=({'7,' * 3000})",
    f"patch_size.choices=({'(7,),' * 3000})",
    f"model={dict.fromkeys(map(str, range(3000)))}",
    f"model.pool={'x' * 5000}",
    f"batch_size.{'x' * 5000}=1",
  ],
)
def test_no_message_is_longer_than_a_few_lines(override):
  assert 20 < len(refusal(override)) <= 600


ODD = (
  *(None, True, -1, 0, 1, 10**30, 10**5000, -0.5, 1.5, 64.0, 1e300, 1e-300),
  *(math.nan, math.inf, "", "x", "none", "1e-3", "8x6", b"x", 1j, ...),
  *((), (1,), (0, 0), (1, 1), (10**9, 10**9), (0.5, math.nan), (7,) * 3000),
  *({}, {"name": "x"}, {"name": ["x"]}, {1: 2}, {3, 4}, range(2), print),
)


@pytest.mark.parametrize(
  ("hint", "name"),
  [
    (hint, name)
    for hint, table in registry.CHOICES.items()
    for name, chosen in table.items()
    if isinstance(chosen, type)
  ],
)
def test_odd_values_of_every_field_are_refused_or_survive_json(hint, name):
  required = {"name": name, **REQUIRED.get(name, {})}
  for field in build_lib._fields(registry.CHOICES[hint][name]):
    refusals = []
    for value in map(file.to_plain, ODD):
      try:
        built = build_lib._build(hint, required | {field.name: value}, "place")
      except ConfigError as e:
        refusals.append(str(e))
      else:
        plain = json.loads(json.dumps(build_lib.to_json(built)))
        assert build_lib._build(hint, plain, "place") == built
    # No field takes numbers, texts, tuples and functions alike.
    assert len(refusals) > len(ODD) / 2
    assert all(text.startswith("place") for text in refusals)


@pytest.mark.parametrize(
  "override",
  [
    "model={1: 2}",  # a key that is no text
    "model={[1]: 2}",  # no value in Python's notation
    "patch_size.name.size=8",  # a field of the name itself
    "patch_size.name={'name': 'fixed'}",
    f"model={'-' * 100_000}1",  # deeper than Python's parser goes
    f"model={'(' * 300}",
  ],
)
def test_odd_values_are_refused_like_others(override):
  # ConfigError, not the TypeError of an unhashable or unordered value.
  assert override.partition(".")[0].partition("=")[0] in refusal(override)


def test_no_hint_at_the_word_that_was_written():
  message = refusal("train.transforms=('flip',)", "train.transforms.0=affine")
  assert "config.train.transforms is ('flip',) and has no fields" in message
  assert "did you mean" not in message


def test_differences_lists_what_changed_added_and_removed():
  old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": {"f": 0}}
  new = {"a": 1, "b": {"c": [1, 3], "d": "x"}, "g": {"h": True}}
  assert build_lib.differences(old, new) == [
    "b.c: [1, 2] -> [1, 3]",
    "e.f: 0 -> None",
    "g.h: None -> True",
  ]
  assert build_lib.differences(old, old) == []


def test_differences_of_two_experiments_through_json():
  old = json.loads(json.dumps(build_lib.to_json(build())))
  new = build_lib.to_json(build("patch_size.name=fixed", "patch_size.size=8"))
  assert build_lib.differences(old, build_lib.to_json(build())) == []
  assert build_lib.differences(old, new) == [
    "patch_size.choices: [4, 6] -> None",
    "patch_size.name: 'sampled' -> 'fixed'",
    "patch_size.size: None -> 8",
  ]


def test_a_default_that_the_file_leaves_out_can_be_changed():
  experiment = build_lib.load(
    "configs/flexivit_digits.py", ["task.loss.name=sigmoid"]
  )
  assert experiment.task.loss == losses.SigmoidLoss()
