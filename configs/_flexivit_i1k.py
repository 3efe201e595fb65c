"""FlexiViT on ImageNet-1k, distilled from DeiT III, for any size of model."""

from configs._recipe import (
  FLEXIVIT_SIZES,
  big_vision_adam,
  config_of,
  source,
  split_argument,
)


def get_config(argument: str, size: str):
  where, teacher = split_argument(argument, f"deit3_{size.lower()}_384_1k")
  # The aspect ratio is not kept, as in the paper's evaluation.
  center = (
    dict(name="resize", size=(272, 272)),
    dict(name="central_crop", size=(240, 240)),
  )
  return config_of(
    where,
    model=dict(
      size=size,
      kernel_hw=(16, 16),
      position=dict(name="learned_grid", size=(7, 7)),
      pool="tok",
      dtype="bfloat16",
    ),
    patch_size=dict(name="sampled", choices=FLEXIVIT_SIZES),
    task=dict(
      name="distill",
      teacher=dict(checkpoint=teacher, patch_size=16, image_size=384),
      distance=dict(name="kl", temperature=1.0),
    ),
    init_from=dict(checkpoint=teacher),
    train=dict(
      source=source(where, "train[1%:]"),
      transforms=(dict(name="inception_crop", size=(240, 240)), "flip"),
    ),
    validation=dict(source=source(where, "train[:1%]"), transforms=center),
    test=dict(source=source(where, "validation"), transforms=center),
    preprocessing="bv_compat",
    mix=(dict(name="mixup", alpha=1.0),),
    optimizer=big_vision_adam(1e-4, 1e-5, warmup_steps=5000),
    batch_size=1024,
    eval_batch_size=1024,
    total_epochs=90,
    eval_every=5000,
    save_every=1000,
    workers=8,
    threads=8,
  )
