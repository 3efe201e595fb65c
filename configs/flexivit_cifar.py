"""FlexiViT on CIFAR-10, or a plain ViT with all else the same.

  python train.py --config configs/flexivit_cifar.py:DATA --workdir runs/flexi
  python train.py --config configs/flexivit_cifar.py:DATA,4 --workdir runs/vit4
  python evaluate.py --checkpoint runs/flexi

DATA is a folder PATH with PATH/train/CLASS/* and PATH/test/CLASS, or
tfds:cifar10 (docs/data.md); `smoke` tries the recipe on digits, in seconds.
Patches of 2, 4, 8 and 16 px at 32 px, drawn for each step; with a number after
the data that size alone. A model of 12 layers, 192 wide, for one GPU; a recipe
of ours.

Expected: docs/results.md, where `python -m benchmarks.cifar` was run.
"""

from configs._recipe import config_of, pixels, source, split_argument

SIZES = (16, 8, 4, 2)


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
      drop_path=0.1,
      dtype="bfloat16",
    ),
    patch_size=patch_size,
    train=dict(
      source=source(where, "train[2%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw, area=(0.3, 1.0)),
        "flip",
      ),
    ),
    validation=dict(source=source(where, "train[:2%]"), transforms=resize),
    test=dict(source=source(where, "test"), transforms=resize),
    mix=(dict(name="mixup", alpha=0.2),),
    optimizer=dict(
      name="adamw",
      learning_rate=1e-3,
      weight_decay=0.05,
      clip_norm=1.0,
      schedule=dict(name="cosine", warmup_steps=500),
    ),
    batch_size=512,
    eval_batch_size=500,
    total_steps=20_000,
    eval_every=5000,
    save_every=1000,
    log_every=100,
    threads=8,
  )
