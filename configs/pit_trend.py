"""From patches to pixels at one input size (arXiv:2406.09415, trend study).

Separate models with patches of 8, 4, 2 and 1 px on images of one size, 16 px or
another: the smaller the patches the more tokens, and the more accurate, and the
dearer. All else is the same. One run for each patch size:

  for p in 8 4 2 1; do
    python train.py --config configs/pit_trend.py:tfds:cifar10,$p \
        --workdir runs/trend$p
    python evaluate.py --checkpoint runs/trend$p
  done

prints tokens and FLOPs beside the accuracy. DATA is also a folder PATH with
PATH/train/CLASS/* and PATH/test/CLASS; `smoke` tries it on digits, in seconds.
`--dry_run` shows tokens and FLOPs without training. After the patch size: the
side of the images, and the model, Ti with 12 heads.

Recipe and numbers of ours: the paper's are for its own sizes and 2,400 epochs.
Expected: docs/results.md, where it was run.
"""

from configs._recipe import config_of, pixels, source, split_argument


def get_config(argument: str):
  where, patch, side, size = split_argument(argument, "1", "16", "")
  patch = pixels("the patch size", patch)
  side = pixels("the side of the images", side)
  image_hw = (side, side)
  resize = dict(name="resize", size=image_hw)
  return config_of(
    where,
    model=dict(
      size=size or dict(name="Ti", num_heads=12),
      kernel_hw=(patch, patch),
      position=dict(name="learned_grid", size=(side // patch, side // patch)),
      pool="gap",
      drop_path=0.1,
    ),
    patch_size=dict(name="fixed", size=patch),
    train=dict(
      source=source(where, "train[2%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw, area=(0.2, 1.0)),
        "flip",
      ),
    ),
    validation=dict(source=source(where, "train[:2%]"), transforms=(resize,)),
    test=dict(source=source(where, "test"), transforms=(resize,)),
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
    total_epochs=100,
    eval_every=1000,
    save_every=500,
    threads=8,
  )
