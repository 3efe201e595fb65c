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
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.data.pixels import transforms
from flexivit_jax.models import sizes
from flexivit_jax.nn import encoder
from flexivit_jax.nn.positions import position
from flexivit_jax.tasks import losses
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
FILES += [
  f"{CONFIGS}/{name}"
  for name in (
    *("vit_digits.py:8", "pit_digits.py:16", "pit_cifar.py:28,S"),
    *("flexivit_l_i1k.py:PATH,deit.npz", "flexivit_b_i21k.py:PATH,distilled"),
    *("pit_trend.py:tfds:cifar10,4", "pit_in1k.py:PATH,2,Ti,64"),
  )
]

SIZE = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2}
# What a config must give, and nothing else.
SMALLEST = {
  "model": {
    "size": {"name": "custom", **SIZE},
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

HW, PATH = {"size": (24, 20)}, {"path": "images"}
RATE = {"learning_rate": 1e-3}
# Fields without a default, for the choices that have some.
REQUIRED = {
  "custom": SIZE,
  "learned_grid": HW,
  "row_column": HW,
  "joint_table": HW,
  "relative": HW,
  "fixed": HW,
  "resize": HW,
  "central_crop": HW,
  "inception_crop": HW,
  "resize_crop": {"short": 24, **HW},
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
  "image_folder": PATH,
  "listed_images": PATH,
  "arrays": {"path": "latents.npz"},
  "tfds": {"dataset": "cifar10"},
  "distill": {"teacher": {"checkpoint": "runs/teacher"}},
  "adamw": RATE,
  "sgd": RATE,
  "adafactor": RATE | {"groups": ({"pattern": "head/.*", "multiplier": 10.0},)},
  "retired": RATE | {"was": "optax's lion"},
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: pathlib.Path(p).name)
def test_every_config_survives_json(path):
  experiment = build_lib.load(path)
  assert through_json(experiment) == experiment
  # The comparison sees a change that deep.
  rate = dataclasses.replace(experiment.optimizer, learning_rate=0.123)
  other = dataclasses.replace(experiment, optimizer=rate)
  assert through_json(other) == other != experiment


def fields_of(hint, name):
  required = None
  if isinstance(hint, type):
    required = REQUIRED.get((hint.__name__, name))
  return {"name": name, **(required or REQUIRED.get(name, {}))}


CHOICES = [
  (hint, name) for hint, table in registry.CHOICES.items() for name in table
]


# _build, so that a new kind of choice is covered without naming its place.
@pytest.mark.parametrize(("hint", "name"), CHOICES)
def test_every_choice_survives_json(hint, name):
  built = build_lib._build(hint, fields_of(hint, name), "x")
  plain = json.loads(json.dumps(build_lib.to_json(built)))
  assert plain["name"] == name
  assert build_lib._build(hint, plain, "x") == built


ODD = (
  *(None, True, -1, 0, 1, 10**30, 10**5000, -0.5, 1.5, 64.0, 1e300, 1e-300),
  *(math.nan, math.inf, "", "x", "none", "1e-3", "8x6", b"x", 1j, ...),
  *((), (1,), (0, 0), (1, 1), (10**9, 10**9), (0.5, math.nan), (7,) * 3000),
  *({}, {"name": "x"}, {"name": ["x"]}, {1: 2}, {3, 4}, range(2), print),
)


@pytest.mark.parametrize(
  ("hint", "name"),
  [(h, n) for h, n in CHOICES if isinstance(registry.CHOICES[h][n], type)],
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


def test_json_holds_names_and_defaults():
  plain = build_lib.to_json(build())
  assert plain["patch_size"] == {
    "name": "sampled",
    "choices": [4, 6],
    "probabilities": None,
  }
  assert plain["model"]["pool"] == {"name": "gap", "class_token": False}


GROUPS = (Group("head/.*", multiplier=10.0),)
GROUP = "dict(pattern='head/.*', multiplier=10.0)"


@pytest.mark.parametrize(
  ("overrides", "expected"),
  [
    ("batch_size=16", 16),
    ("optimizer.learning_rate=3e-4", 3e-4),
    ("optimizer.clip_norm=None", None),
    ("model.scan=false", False),
    ("model.dtype='bfloat16'", "bfloat16"),
    ("model.head_bias=-10", -10.0),
    ("model.kernel_hw=[8,6]", (8, 6)),
    ("patch_size.choices=(4,(6,8))", (4, (6, 8))),
    ("train.source.split=train[:90%]", "train[:90%]"),
    # A pattern may begin as a tuple does.
    ("optimizer.decay_pattern=(cls|head)/.*", "(cls|head)/.*"),
    ("model.size=Ti", sizes.SIZES["Ti"]),
    ("model.size.depth=3 model.size=Ti", encoder.Size(192, 12, 768, 3)),
    ("model.size=Ti model.size.depth=3", 3),
    (
      "train.transforms=('flip',{'name':'affine','degrees':5})",
      (transforms.Flip(), transforms.Affine(degrees=5.0)),
    ),
    (f"optimizer.groups=({GROUP},)", GROUPS),
    (
      f"optimizer=dict(name='adamw',learning_rate=0.1,groups=({GROUP},))",
      optimizer.AdamW(0.1, groups=GROUPS),
    ),
    # The last one wins; a shorthand expands.
    ("batch_size=16 seed=7 batch_size=24", 24),
    ("test.source.split=test", "test"),
    ("model.pool=gap model.pool.class_token=True", True),
    ("model.pool.name=map", "map"),
    ("model.position=none", position.NoPosition()),
    ("validation={'source':'digits'} validation=None", None),
  ],
)
def test_an_override_is_typed(overrides, expected):
  # One after another, but for the space in a value.
  given = re.split(r"(?<!,) ", overrides)
  value = build(*given)
  for name in given[-1].partition("=")[0].split("."):
    value = build_lib.name_of(value) if name == "name" else getattr(value, name)
  assert value == expected
  assert type(value) is type(expected)


QUOTES = "quote the texts in it, and the whole once more for the shell"


@pytest.mark.parametrize(
  "text",
  [
    "dict(pattern=head, multiplier=10.0)",  # the shell took the quotes
    "(dict(pattern=head/.*, multiplier=10.0),)",
    "({name: wandb},)",
    "dict(a=1, a=2)",
    "dict(**{'a': 1})",
    "dict(a=print('run'))",
    "(dict(a=1)",
  ],
)
def test_a_dict_that_cannot_be_read_is_refused_with_what_can(text, capsys):
  told = refusal(f"optimizer.groups={text}")
  assert told.startswith(
    f"--config.optimizer.groups: {text!r} is not in Python"
  )
  assert QUOTES in told
  assert capsys.readouterr().out == ""


def test_load_applies_overrides_to_a_file():
  before = build_lib.load(DIGITS)
  overrides = ("model.size.depth=2", "task.loss.name=sigmoid")
  after = build_lib.load(DIGITS, overrides)
  assert before.model.size.depth != 2
  assert after.model.size.depth == 2
  assert after.task.loss == losses.SigmoidLoss()  # the file leaves it out
  assert after.train == before.train


DIGITS = str(CONFIGS / "flexivit_digits.py")
SGD = ("optimizer.name=sgd",)
LOW = ("optimizer.learning_rate=1e-4",)
KEPT = ("optimizer.schedule.warmup_steps=100", "optimizer.clip_norm=1.0")
DECAY = ("optimizer.weight_decay=0.1",)


@pytest.mark.parametrize(
  ("overrides", "lost"),
  [
    # What sgd has not, Adam's betas, is not missed, nor what was given.
    (
      (*SGD, *LOW, *DECAY),
      "config.optimizer.name=sgd leaves out schedule.warmup_steps=100, "
      "clip_norm=1.0: ",
    ),
    # What it names can be given, in any order.
    ((*SGD, *KEPT, *LOW, *DECAY), None),
    # Given before the name, it is gone.
    (
      (*DECAY, *SGD, *KEPT, *LOW),
      "config.optimizer.name=sgd leaves out weight_decay=0.1: ",
    ),
    (("model.pool.name=map", "seed=3"), None),
    (("patch_size.name=fixed", "patch_size.size=8"), None),
  ],
)
def test_what_goes_with_a_name_is_told(overrides, lost):
  lines = []
  found = build_lib.load(DIGITS, overrides, lines.append)
  assert [x.startswith(lost) for x in lines] == ([True] if lost else [])
  if overrides[: len(SGD)] == SGD:
    assert found.optimizer.clip_norm == (1.0 if KEPT[1] in overrides else None)


def test_another_name_resets_the_other_fields_and_the_same_keeps_them():
  assert build(*DECAY).optimizer.weight_decay == 0.1
  # sgd has no weight_decay: keeping it would be refused.
  assert build(*DECAY, *SGD, *LOW).optimizer == optimizer.Sgd(1e-4)
  assert build("model.size.name=custom", "patch_size.name=sampled") == build()


@pytest.mark.parametrize(
  ("override", "text"),
  [
    # Unknown keys, with the nearest valid one where there is one.
    ("model.size.widht=3", "size.widht: no such key (did you mean 'width'?)"),
    ("patch_size.zzz=3", "valid: choices, probabilities"),
    ("batch_sise=3", "(did you mean 'batch_size'?)"),
    ("learning_rate=0.1", "(did you mean 'optimizer.learning_rate'?)"),
    ("model=mu", "is 'mu': expected its fields, size, position, pool, "),
    # Wrong types.
    ("batch_size=many", "is 'many': expected a whole number, got str"),
    ("batch_size=8.0", "expected a whole number, got float; give 8"),
    ("batch_size=True", "expected a whole number, got bool"),
    ("batch_size='64'", "expected a whole number, got str; give 64"),
    ("batch_size=None", "is None: expected a whole number"),
    ("optimizer.clip_norm=none", "expected a number or None; give None"),
    ("optimizer.learning_rate='1e-3'", "got str; give 0.001"),
    ("model.scan=1", "expected True or False, got int; give True"),
    # A folder's name, of which the shell keeps no quotes.
    (
      "train.source={'name': 'image_folder', 'path': 2024}",
      "source.path is 2024: expected a text, got int; give \"'2024'\"",
    ),
    # Numbers that nothing can compute with, or even read.
    ("optimizer.learning_rate=1e999", "learning_rate is inf: give a finite"),
    ("optimizer.learning_rate=1e-50", "give 0, or a size from 1.18e-38 to 3.4"),
    (f"optimizer.learning_rate=1{'0' * 400}", f"give at most {2**63 - 1}"),
    (f"seed={2**63}", f"give at most {2**63 - 1}"),
    (f"batch_size={'9' * 5000}", f"is '{'9' * 76}...: expected a whole number"),
    # Unions of types and tuples.
    (
      "patch_size.choices=(4, 6.5)",
      "choices[1] is 6.5: expected a whole number or 2 values in a tuple",
    ),
    ("patch_size.choices=(4, 6.0)", "a tuple; give 6"),
    ("patch_size.choices=(4, '8x6')", "choices[1] is '8x6': expected a whole"),
    # The value that is wrong, not all that could stand there.
    ("patch_size.choices=(4, (8, 6.0))", "choices[1][1] is 6.0: expected a wh"),
    ("model.kernel_hw=(8,)", "expected 2 values in a tuple; give (8, 8)"),
    ("model.kernel_hw=(8, 8, 3)", "expected 2 values in a tuple"),
    ("patch_size.choices=4", "expected a tuple; give (4,)"),
    ("patch_size.choices={8, 4}", "is {8, 4}: expected a tuple"),
    ("patch_size.choices=()", "choices is (): give at least one patch size"),
    ("train.transforms=flip", "expected a tuple; give ('flip',)"),
    ("train.transforms=(5,)", "transforms[0] is 5: give a name, one of 'resi"),
    ("train.transforms=(flip,)", QUOTES),
    (f"optimizer.groups={GROUP}", "give ({'pattern': 'head/.*', "),
    # In quotes too many.
    (f"optimizer.groups={GROUP!r}", "give ({'pattern': 'head/.*', "),
    # Choices.
    ("model.pool=GAP", "no 'GAP' (did you mean 'gap'?); valid: 'gap', 'tok', "),
    ("model.kernel=blockwise(block_q=9)", "(did you mean 'blockwise'?)"),
    ("patch_size.name=zzz", "patch_size has no 'zzz'; valid: 'fixed', 'sampl"),
    ("patch_size=8", "is 8: give a name, one of 'fixed', 'sampled', "),
    ("model.position=None", "is None: give a name, one of 'none', 'learned"),
    # Overrides themselves.
    ("batch_size", "write --config.batch_size=VALUE"),
    ("batch_size.foo=1", "is 8 and has no fields: give --config.batch_size=V"),
    ("modle.size=Ti", "there is no config.modle (did you mean 'model'?); val"),
    # Like others, not the TypeError of an unhashable or unordered value.
    ("model={1: 2}", "model.1: no such key"),
    ("model={[1]: 2}", QUOTES),
    ("patch_size.name.size=8", "has no {'name': 'sampled', 'size': 8}; valid"),
    (f"model={'-' * 100_000}1", ""),  # too deep for Python's parser
    # No message is longer than a few lines.
    (f"{'x' * 5000}.y=1", ""),
    (f"patch_size.choices=({'(7,),' * 3000})", ""),
    (f"model={dict.fromkeys(map(str, range(3000)))}", ""),
    (f"batch_size.{'x' * 5000}=1", ""),
  ],
  ids=lambda text: text[:40],
)
def test_a_refusal_names_the_key_and_the_remedy(override, text):
  told = refusal(override)
  key = re.split("[.=]", override)[0]
  assert told.removeprefix("--").startswith(f"config.{key[:50]}")
  assert text in told
  assert 20 < len(told) <= 600


def test_differences_of_two_experiments_through_json():
  old = json.loads(json.dumps(build_lib.to_json(build())))
  new = build_lib.to_json(build("patch_size.name=fixed", "patch_size.size=8"))
  assert build_lib.differences(old, build_lib.to_json(build())) == []
  assert build_lib.differences(old, new) == [
    "patch_size.choices: [4, 6] -> None",
    "patch_size.name: 'sampled' -> 'fixed'",
    "patch_size.size: None -> 8",
  ]
