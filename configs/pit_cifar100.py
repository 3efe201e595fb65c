"""The pixel transformer on CIFAR-100 (arXiv:2406.09415): 1,024 tokens.

  flexivit prepare tfds:cifar100
  python train.py --config configs/pit_cifar100.py:tfds:cifar100 \
      --workdir runs/pit
  python evaluate.py --checkpoint runs/pit

A folder PATH with PATH/train/CLASS/* and PATH/test/CLASS does as well; `smoke`
tries the recipe on digits, in seconds. After the data: the patch size, 1, and
the model, Ti with 12 heads; `tfds:cifar100,2,S` is the baseline of patches.

The recipe as others report it of the paper, whose text was not at hand: AdamW,
learning rate 0.004, decay 0.3, betas 0.9 and 0.95, batch 1,024, 2,400 epochs,
20 of warm-up, cosine to 1e-6; crops of 0.2 to 1 of the area, jitter of colours
0.4, grey 0.2, flips; pixels normalised by ImageNet's mean and deviation; class
token, learned positions without a prior of two dimensions.

Expected: 85.1 % with Ti and 86.4 with S; with patches of 2 px 83.6 and 83.7.
Not run here.
"""

from configs._recipe import SMOKE, config_of, pixels, source, split_argument


def get_config(argument: str):
  where, patch, size = split_argument(argument, "1", "")
  patch = pixels("the patch size", patch)
  side = 8 if where == SMOKE else 32
  image_hw = (side, side)
  center = (dict(name="resize", size=image_hw),)
  return config_of(
    where,
    model=dict(
      size=size or dict(name="Ti", num_heads=12),
      kernel_hw=(patch, patch),
      position=dict(name="learned_grid", size=(side // patch, side // patch)),
      pool="tok",
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
    ),
    patch_size=dict(name="fixed", size=patch),
    train=dict(
      source=source(where, "train[2%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw, area=(0.2, 1.0)),
        "color_jitter",
        dict(name="grayscale", probability=0.2),
        "flip",
      ),
    ),
    validation=dict(source=source(where, "train[:2%]"), transforms=center),
    test=dict(source=source(where, "test"), transforms=center),
    optimizer=dict(
      name="adamw",
      learning_rate=4e-3,
      weight_decay=0.3,
      b2=0.95,
      clip_norm=1.0,
      # 20 epochs of 49,000 images.
      schedule=dict(name="cosine", warmup_steps=957, final=1e-6 / 4e-3),
    ),
    batch_size=1024,
    eval_batch_size=256,
    total_epochs=2400,
    eval_every=2000,
    save_every=500,
    threads=8,
  )
