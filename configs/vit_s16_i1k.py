"""ViT-S/16 on ImageNet-1k: "Better plain ViT baselines" (arXiv:2205.01580).

  python train.py --config configs/vit_s16_i1k.py:DATA --workdir runs/vit_s16
  python evaluate.py --checkpoint runs/vit_s16

DATA is a folder PATH with PATH/train/CLASS/*.JPEG and PATH/validation/CLASS, or
tfds:imagenet2012 (docs/data.md); `smoke` tries the recipe on digits, in
seconds.

Values of big_vision's config vit_s16_i1k.py, compared by test_recipes.py:
global average pooling, sincos2d positions, a tanh layer before the head,
RandAugment (2, 10), mixup 0.2, batch 1,024, learning rate 1e-3, decay 1e-4 that
is not multiplied by it, 10,000 steps of warm-up, cosine, clipping at 1, 90
epochs. Otherwise than there: products in bfloat16
(--config.model.dtype=float32) and crops as docs/data.md says.

Expected, from the paper: 76.5 % in 90 epochs, 78.5 in 150, 80.0 in 300
(--config.total_epochs=300); 6.5 hours on eight TPU v3 for 90. Not run here.
"""

from configs._recipe import (
  big_vision_adam,
  config_of,
  source,
  split_argument,
)


def get_config(argument: str):
  (where,) = split_argument(argument)
  image_hw = (224, 224)
  center = (dict(name="resize_crop", short=256, size=image_hw),)
  return config_of(
    where,
    model=dict(
      size="S",
      kernel_hw=(16, 16),
      position="sincos2d",
      pool="gap",
      representation=True,
      dtype="bfloat16",
    ),
    patch_size=dict(name="fixed", size=16),
    train=dict(
      source=source(where, "train[1%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw),
        "flip",
        dict(name="rand_augment", layers=2, magnitude=10),
      ),
    ),
    validation=dict(source=source(where, "train[:1%]"), transforms=center),
    test=dict(source=source(where, "validation"), transforms=center),
    preprocessing="bv_compat",
    mix=(dict(name="mixup", alpha=0.2),),
    optimizer=big_vision_adam(1e-3, 1e-4, warmup_steps=10_000),
    batch_size=1024,
    eval_batch_size=1024,
    total_epochs=90,
    eval_every=5000,
    save_every=1000,
    workers=8,
    threads=8,
  )
