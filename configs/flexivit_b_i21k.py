"""FlexiViT-B on ImageNet-21k, by labels or distilled (arXiv:2212.08013).

  python train.py --config configs/flexivit_b_i21k.py:DATA --workdir runs/i21k
  python train.py --config configs/flexivit_b_i21k.py:DATA,distilled \
      --workdir runs/i21k_distilled
  python evaluate.py --checkpoint runs/i21k --patch_sizes 8:48

DATA is a folder PATH with PATH/full/CLASS/*.JPEG, or tfds:imagenet21k as TFDS
reads it; `smoke` tries the recipe on digits, in seconds. The teacher is
AugReg's ViT-B/8, augreg_b8_i21k; another file: DATA,distilled,teacher.npz.

Values of big_vision's configs proj/flexivit/i21k_sup.py and i21k_distill.py,
compared by test_recipes.py. By labels: sigmoid loss with a head that
starts at -10, RandAugment (2, 10), mixup 0.2, learning rate 1e-3, decay 1e-4,
10,000 steps of warm-up. Distilled: KL divergence at temperature 1, the teacher
at 224 px, mixup 1.0, learning rate 1e-4, decay 1e-5, 5,000 steps. Both: batch
4,096, cosine, 90 epochs. Otherwise than there: products in bfloat16.

Expected: no accuracies per patch size are published for these recipes; the
released models are flexivit_b_i21k_300ep and its like. Not run here.
"""

from configs._recipe import (
  FLEXIVIT_SIZES,
  big_vision_adam,
  config_of,
  source,
  split_argument,
)


def get_config(argument: str):
  where, how, teacher = split_argument(argument, "labels", "augreg_b8_i21k")
  if how not in ("labels", "distilled"):
    raise ValueError(f"{how!r}: give labels or distilled after the data")
  distilled = how == "distilled"
  augment = [dict(name="inception_crop", size=(240, 240)), "flip"]
  model = dict(
    size="B",
    kernel_hw=(8, 8),
    position=dict(name="learned_grid", size=(7, 7)),
    pool="tok",
    dtype="bfloat16",
  )
  if distilled:
    task = dict(
      name="distill",
      teacher=dict(checkpoint=teacher, patch_size=8, image_size=224),
      distance=dict(name="kl", temperature=1.0),
      loss="sigmoid",
    )
    if where == "smoke":
      task["teacher"] |= dict(patch_size=16)
    begin = dict(init_from=dict(checkpoint=teacher))
    center = (
      dict(name="resize", size=(272, 272)),
      dict(name="central_crop", size=(240, 240)),
    )
  else:
    task = dict(name="supervised", loss="sigmoid")
    model["head_bias"] = -10.0
    augment.append(dict(name="rand_augment", layers=2, magnitude=10))
    begin = {}
    center = (dict(name="resize_crop", short=272, size=(240, 240)),)
  return config_of(
    where,
    model=model,
    patch_size=dict(name="sampled", choices=FLEXIVIT_SIZES),
    task=task,
    **begin,
    train=dict(source=source(where, "full[51200:]"), transforms=tuple(augment)),
    validation=dict(
      source=source(where, "full[25600:51200]"), transforms=center
    ),
    test=dict(source=source(where, "full[:25600]"), transforms=center),
    preprocessing="bv_compat",
    mix=(dict(name="mixup", alpha=1.0 if distilled else 0.2),),
    optimizer=big_vision_adam(1e-4, 1e-5, warmup_steps=5000)
    if distilled
    else big_vision_adam(1e-3, 1e-4, warmup_steps=10_000),
    batch_size=4096,
    eval_batch_size=1024,
    total_epochs=90,
    eval_every=5000,
    save_every=1000,
    workers=8,
    threads=8,
  )
