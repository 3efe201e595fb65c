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
from flexivit_jax.nn.pooling import ClassToken, Gap, Map
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
    dict(num_classes=0),
    """
  kind     name         checkpoint  model
  missing  head/bias    -           (5,)
  missing  head/kernel  -           (8, 5)
hint: the checkpoint was made with model.num_classes=0
""",
    "model.num_classes=5",
  ),
  (
    dict(kernel_hw=(8, 6)),
    """
  kind         name              checkpoint    model
  wrong shape  embedding/kernel  (8, 6, 3, 8)  (4, 4, 3, 8)
hint: the checkpoint was made with model.kernel_hw=(8, 6)
""",
    "model.kernel_hw=(4, 4)",
  ),
  (
    dict(channels=1),
    """
  kind         name              checkpoint    model
  wrong shape  embedding/kernel  (4, 4, 1, 8)  (4, 4, 3, 8)
hint: the checkpoint was made with model.channels=1
""",
    "model.channels=3",
  ),
  (
    dict(position=LearnedGrid((7, 7))),
    """
  kind         name           checkpoint  model
  wrong shape  pos_embedding  (1, 49, 8)  (1, 9, 8)
hint: the checkpoint was made with model.position.size=(7, 7)
""",
    "model.position.size=(3, 3)",
  ),
  (
    dict(position=LearnedGrid((2, 3))),
    """
  kind         name           checkpoint  model
  wrong shape  pos_embedding  (1, 6, 8)   (1, 9, 8)
hint: the checkpoint was made with model.position.size of 6 cells
""",
    "model.position.size=(3, 3)",
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
    dict(size=encoder.Size(12, 3, 24, 3)),
    """
  kind         name                                                            checkpoint  model
  wrong shape  Transformer/encoder_norm/bias                                   (12,)       (8,)
  wrong shape  Transformer/encoder_norm/scale                                  (12,)       (8,)
  wrong shape  Transformer/encoderblock_{0..2}/LayerNorm_0/bias (3x)           (12,)       (8,)
  wrong shape  Transformer/encoderblock_{0..2}/LayerNorm_0/scale (3x)          (12,)       (8,)
  wrong shape  Transformer/encoderblock_{0..2}/LayerNorm_1/bias (3x)           (12,)       (8,)
  wrong shape  Transformer/encoderblock_{0..2}/LayerNorm_1/scale (3x)          (12,)       (8,)
  wrong shape  Transformer/encoderblock_{0..2}/MlpBlock_0/Dense_0/bias (3x)    (24,)       (16,)
  wrong shape  Transformer/encoderblock_{0..2}/MlpBlock_0/Dense_0/kernel (3x)  (12, 24)    (8, 16)
and 14 more
hint: the checkpoint was made with another model.size (width 12, depth 3, mlp_dim 24, num_heads 3)
""",
    "another model.size (width 8, depth 3, mlp_dim 16, num_heads 2)",
  ),
  (
    dict(size=encoder.Size(8, 3, 24, 2)),
    """
  kind         name                                                            checkpoint  model
  wrong shape  Transformer/encoderblock_{0..2}/MlpBlock_0/Dense_0/bias (3x)    (24,)       (16,)
  wrong shape  Transformer/encoderblock_{0..2}/MlpBlock_0/Dense_0/kernel (3x)  (8, 24)     (8, 16)
  wrong shape  Transformer/encoderblock_{0..2}/MlpBlock_0/Dense_1/kernel (3x)  (24, 8)     (16, 8)
hint: the checkpoint was made with model.size.mlp_dim=24
""",
    "model.size.mlp_dim=16",
  ),
  (
    dict(size=encoder.Size(8, 3, 16, 4)),
    """
  kind         name                                                                              checkpoint  model
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/key/bias (3x)      (4, 2)      (2, 4)
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/key/kernel (3x)    (8, 4, 2)   (8, 2, 4)
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/out/kernel (3x)    (4, 2, 8)   (2, 4, 8)
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/query/bias (3x)    (4, 2)      (2, 4)
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/query/kernel (3x)  (8, 4, 2)   (8, 2, 4)
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/value/bias (3x)    (4, 2)      (2, 4)
  wrong shape  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/value/kernel (3x)  (8, 4, 2)   (8, 2, 4)
hint: the checkpoint was made with model.size.num_heads=4
""",
    "model.size.num_heads=2",
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
    dict(registers=4),
    """
  kind        name       checkpoint  model
  unexpected  registers  (1, 4, 8)   -
hint: the checkpoint was made with model.registers=4
""",
    "model.registers=0",
  ),
  (
    dict(pool=ClassToken()),
    """
  kind        name  checkpoint  model
  unexpected  cls   (1, 1, 8)   -
hint: the checkpoint was made with model.pool=tok
""",
    "model.pool=gap",
  ),
  (
    dict(pool=ClassToken(), prefix_position=True),
    """
  kind        name               checkpoint  model
  unexpected  cls                (1, 1, 8)   -
  unexpected  cls_pos_embedding  (1, 1, 8)   -
hint: the checkpoint was made with model.pool=tok, model.prefix_position=True
""",
    "model.pool=gap, model.prefix_position=False",
  ),
  (
    dict(pool=Map()),
    """
  kind        name                                                 checkpoint  model
  unexpected  MAPHead_0/LayerNorm_0/bias                           (8,)        -
  unexpected  MAPHead_0/LayerNorm_0/scale                          (8,)        -
  unexpected  MAPHead_0/MlpBlock_0/Dense_0/bias                    (16,)       -
  unexpected  MAPHead_0/MlpBlock_0/Dense_0/kernel                  (8, 16)     -
  unexpected  MAPHead_0/MlpBlock_0/Dense_1/bias                    (8,)        -
  unexpected  MAPHead_0/MlpBlock_0/Dense_1/kernel                  (16, 8)     -
  unexpected  MAPHead_0/MultiHeadDotProductAttention_0/key/bias    (2, 4)      -
  unexpected  MAPHead_0/MultiHeadDotProductAttention_0/key/kernel  (8, 2, 4)   -
and 7 more
hint: the checkpoint was made with model.pool=map
""",
    "model.pool=gap",
  ),
  (
    dict(embedding_norm=True),
    """
  kind        name                  checkpoint  model
  unexpected  embedding_norm/bias   (8,)        -
  unexpected  embedding_norm/scale  (8,)        -
hint: the checkpoint was made with model.embedding_norm=True
""",
    "model.embedding_norm=False",
  ),
  (
    dict(qk_norm=True),
    """
  kind        name                                                                                checkpoint  model
  unexpected  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/key_ln/bias (3x)     (4,)        -
  unexpected  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/key_ln/scale (3x)    (4,)        -
  unexpected  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/query_ln/bias (3x)   (4,)        -
  unexpected  Transformer/encoderblock_{0..2}/MultiHeadDotProductAttention_0/query_ln/scale (3x)  (4,)        -
hint: the checkpoint was made with model.qk_norm=True
""",
    "model.qk_norm=False",
  ),
  (
    dict(representation=True),
    """
  kind        name               checkpoint  model
  unexpected  pre_logits/bias    (8,)        -
  unexpected  pre_logits/kernel  (8, 8)      -
hint: the checkpoint was made with model.representation=True
""",
    "model.representation=False",
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


def test_every_kind_is_shown_where_one_of_them_is_long():
  found = arrays(same=(), shape=(3,), **{f"extra{c}": () for c in "abcdefghij"})
  wanted = arrays(same=(), shape=(2,), gone=())
  assert refusal(found, wanted) == [
    "  kind         name    checkpoint  model",
    "  missing      gone    -           ()",
    "  unexpected   extraa  ()          -",
    "  unexpected   extrab  ()          -",
    "  unexpected   extrac  ()          -",
    "  unexpected   extrad  ()          -",
    "  unexpected   extrae  ()          -",
    "  unexpected   extraf  ()          -",
    "  wrong shape  shape   (3,)        (2,)",
    "and 4 more",
  ]


def test_layers_that_do_not_follow_each_other():
  found = {f"block_{i}/x": np.zeros(2) for i in range(12)}
  wanted = dict(found)
  for i in (0, 2, 3, 4, 10, 11):
    wanted[f"block_{i}/x"] = np.zeros(3)
  assert refusal(found, wanted) == [
    "  kind         name                          checkpoint  model",
    "  wrong shape  block_{0,2..4,10..11}/x (6x)  (2,)        (3,)",
  ]


def test_names_of_another_program():
  found = {"params/blocks.0.attn": np.zeros(2), "params/norm": np.zeros(2)}
  assert refusal(found, arrays(cls=(1,)))[-1] == (
    "hint: the checkpoint was made with another program, or nested otherwise: "
    "its names look like params/blocks.0.attn"
  )
  assert refusal({}, arrays(cls=(1,)))[-1].endswith("its names look like none")


def test_known_names_of_unknown_shapes_are_told_like_others():
  # No hint may be read off an axis that is not there.
  found = {name: np.zeros(()) for name in MODEL()}
  lines = refusal(found, MODEL())
  assert lines[1] == (
    "  wrong shape  Transformer/encoder_norm/bias                              "
    "     ()          (8,)"
  )
