"""Masked autoencoding of CIFAR-10 at patch sizes drawn per step.

  python train.py --config configs/mae_cifar.py:DATA --workdir runs/mae
  python train.py --config configs/finetune.py:DATA,runs/mae,4,32 \
      --workdir runs/tuned
  python evaluate.py --checkpoint runs/tuned --patch_sizes 2,4,8

DATA is a folder PATH with PATH/train/CLASS/* and PATH/test/CLASS, or
tfds:cifar10 (docs/data.md), whose labels are not read; `smoke` tries the recipe
on digits, in seconds. Patches of 2, 4 and 8 px at 32 px; with a number after
the data that size alone.

MAE (arXiv:2111.06377) as far as it is known here, by memory and not by its
text: 75 % hidden, targets normalised per patch, AdamW with b2 0.95 and decay
0.05, 1.5e-4 at batch 256 and in proportion, 800 epochs of which 40 warm up,
crops of 0.2 to 1 of the area and flips alone. The model is that of
configs/flexivit_cifar.py, the decoder two blocks of 128 where the paper has
eight of 512.

Expected: docs/masked_autoencoding.md. Not run here.
"""

from configs._recipe import config_of, pixels, source, split_argument

SIZES = (8, 4, 2)


def get_config(argument: str):
  where, patch = split_argument(argument, "")
  image_hw = (32, 32)
  resize = (dict(name="resize", size=image_hw),)
  patch_size = dict(name="sampled", choices=SIZES)
  if patch:
    patch_size = dict(name="fixed", size=pixels("the patch size", patch))
  return config_of(
    where,
    model=dict(
      size=dict(name="Ti"),
      kernel_hw=(16, 16),
      position=dict(name="learned_grid", size=(8, 8)),
      pool="gap",
      dtype="bfloat16",
    ),
    task=dict(name="mae"),
    patch_size=patch_size,
    train=dict(
      source=source(where, "train[2%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw, area=(0.2, 1.0)),
        "flip",
      ),
    ),
    validation=dict(source=source(where, "train[:2%]"), transforms=resize),
    test=dict(source=source(where, "test"), transforms=resize),
    optimizer=dict(
      name="adamw",
      learning_rate=6e-4,
      weight_decay=0.05,
      b2=0.95,
      clip_norm=1.0,
      # 40 epochs of 49,000 images.
      schedule=dict(name="cosine", warmup_steps=1914),
    ),
    batch_size=1024,
    eval_batch_size=500,
    total_epochs=800,
    eval_every=5000,
    save_every=1000,
    log_every=100,
    threads=8,
  )
