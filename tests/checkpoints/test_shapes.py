"""What a checkpoint that is not the model's is told, as drawn tables."""

# ruff: noqa: E501

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints.shapes import check_shapes
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder
from flexivit_jax.nn.pooling import ClassToken, Gap
from flexivit_jax.nn.positions.learned_grid import LearnedGrid
from flexivit_jax.nn.positions.position import NoPosition


def tree(**changes):
  """Names and shapes of a small model's parameters."""
  fields = dict(
    size=encoder.Size(8, 3, 16, 2),
    position=LearnedGrid((3, 3)),
    pool=Gap(),
    kernel_hw=(4, 4),
    num_classes=5,
  )
  model = vit.ViT(**fields | changes)
  image = jnp.zeros((1, *model.kernel_hw, model.channels), jnp.uint8)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), patchify(image, model.kernel_hw))
  )
  return flax.traverse_util.flatten_dict(shapes["params"], sep="/")


MODEL = functools.cache(tree)


def arrays(**shapes):
  return {name: np.zeros(shape) for name, shape in shapes.items()}


def refusal(found, wanted):
  with pytest.raises(ValueError) as caught:
    check_shapes(found, wanted, "runs/x")
  first, *rest = str(caught.value).splitlines()
  assert first == "runs/x does not match the model:"
  return rest


def test_equal_names_and_shapes_pass():
  check_shapes(arrays(a=(2,), b=()), arrays(b=(), a=(2,)), "runs/x")
  check_shapes(MODEL(), tree(), "runs/x")


# What the checkpoint's model has that the small one has not, what is told of
# it, and the hint where model and checkpoint change places.
CASES = [
  (
    dict(num_classes=7),
    """
  kind         name         checkpoint  model
  wrong shape  head/bias    (7,)        (5,)
  wrong shape  head/kernel  (8, 7)      (8, 5)
hint: the checkpoint was made with model.num_classes=7
""",
    "model.num_classes=5",
  ),
  (
    dict(position=NoPosition()),
    """
  kind     name           checkpoint  model
  missing  pos_embedding  -           (1, 9, 8)
hint: the checkpoint was made with model.position=sincos2d, rotary or none
""",
    "model.position=learned_grid, model.position.size=(3, 3)",
  ),
  (
    dict(size=encoder.Size(8, 6, 16, 2)),
    """
  kind        name                                                            checkpoint  model
  unexpected  Transformer/encoderblock_{3..5}/LayerNorm_0/bias (3x)           (8,)        -
  unexpected  Transformer/encoderblock_{3..5}/LayerNorm_0/scale (3x)          (8,)        -
  unexpected  Transformer/encoderblock_{3..5}/LayerNorm_1/bias (3x)           (8,)        -
  unexpected  Transformer/encoderblock_{3..5}/LayerNorm_1/scale (3x)          (8,)        -
  unexpected  Transformer/encoderblock_{3..5}/MlpBlock_0/Dense_0/bias (3x)    (16,)       -
  unexpected  Transformer/encoderblock_{3..5}/MlpBlock_0/Dense_0/kernel (3x)  (8, 16)     -
  unexpected  Transformer/encoderblock_{3..5}/MlpBlock_0/Dense_1/bias (3x)    (8,)        -
  unexpected  Transformer/encoderblock_{3..5}/MlpBlock_0/Dense_1/kernel (3x)  (16, 8)     -
and 8 more
hint: the checkpoint was made with model.size.depth=6
""",
    "model.size.depth=3",
  ),
  (
    dict(scan=True),
    """
  kind        name                                                    checkpoint  model
  missing     Transformer/encoderblock_{0..2}/LayerNorm_0/bias (3x)   -           (8,)
  missing     Transformer/encoderblock_{0..2}/LayerNorm_0/scale (3x)  -           (8,)
  missing     Transformer/encoderblock_{0..2}/LayerNorm_1/bias (3x)   -           (8,)
  missing     Transformer/encoderblock_{0..2}/LayerNorm_1/scale (3x)  -           (8,)
  unexpected  Transformer/encoderblock/LayerNorm_{0..1}/bias (2x)     (3, 8)      -
  unexpected  Transformer/encoderblock/LayerNorm_{0..1}/scale (2x)    (3, 8)      -
  unexpected  Transformer/encoderblock/MlpBlock_0/Dense_0/bias        (3, 16)     -
  unexpected  Transformer/encoderblock/MlpBlock_0/Dense_0/kernel      (3, 8, 16)  -
and 22 more
hint: the checkpoint was made with model.scan=True
""",
    "model.scan=False",
  ),
  (
    dict(layer_scale=0.1),
    """
  kind        name                                                     checkpoint  model
  unexpected  Transformer/encoderblock_{0..2}/LayerScale_0/scale (3x)  (8,)        -
  unexpected  Transformer/encoderblock_{0..2}/LayerScale_1/scale (3x)  (8,)        -
hint: the checkpoint was made with model.layer_scale=1e-4 or another number
""",
    "model.layer_scale=None",
  ),
  (
    dict(
      num_classes=7,
      kernel_hw=(8, 8),
      registers=2,
      pool=ClassToken(),
      qk_norm=True,
    ),
    """
  kind         name                                                                                checkpoint    model
  unexpected   Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/key_ln/bias (3x)     (4,)          -
  unexpected   Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/key_ln/scale (3x)    (4,)          -
  unexpected   Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/query_ln/bias (3x)   (4,)          -
  unexpected   Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/query_ln/scale (3x)  (4,)          -
  unexpected   cls                                                                                 (1, 1, 8)     -
  wrong shape  embedding/kernel                                                                    (8, 8, 3, 8)  (4, 4, 3, 8)
  wrong shape  head/bias                                                                           (7,)          (5,)
  wrong shape  head/kernel                                                                         (8, 7)        (8, 5)
and 1 more
hint: the checkpoint was made with model.kernel_hw=(8, 8), model.pool=tok, model.registers=2, model.qk_norm=True, ...
""",
    "model.kernel_hw=(4, 4), model.pool=gap, model.registers=0, model.qk_norm=False, ...",
  ),
]


@pytest.mark.parametrize(
  ("changes", "text", "hint"), CASES, ids=lambda x: str(x)[:40]
)
def test_the_table_and_its_hint(changes, text, hint):
  other = tree(**changes)
  assert refusal(other, MODEL()) == text.strip("\n").splitlines()
  assert refusal(MODEL(), other)[-1] == (
    f"hint: the checkpoint was made with {hint}"
  )


def test_a_class_token_with_and_without_a_position():
  without = tree(pool=ClassToken())
  with_position = tree(pool=ClassToken(), prefix_position=True)
  made = "hint: the checkpoint was made with model.prefix_position="
  assert refusal(with_position, without)[-1] == f"{made}True"
  assert refusal(without, with_position)[-1] == f"{made}False"


def test_layers_that_do_not_follow_each_other():
  found = {f"block_{i}/x": np.zeros(2) for i in range(12)}
  wanted = dict(found)
  for i in (0, 2, 3, 4, 10, 11):
    wanted[f"block_{i}/x"] = np.zeros(3)
  assert refusal(found, wanted) == [
    "  kind         name                          checkpoint  model",
    "  wrong shape  block_{0,2..4,10..11}/x (6x)  (2,)        (3,)",
  ]
