"""The pixel transformer on CIFAR-10: every pixel of 32 x 32 is a token.

  flexivit prepare tfds:cifar10
  python train.py --config configs/pit_cifar.py --workdir runs/pit
  python evaluate.py --checkpoint runs/pit

`flexivit prepare` takes a folder or tar of CIFAR-10's images (docs/data.md).
Crops of 28 px, 784 tokens instead of 1,024: `pit_cifar.py:28`; another model
than Ti, its heads as it has them: `pit_cifar.py:32,S`.

After arXiv:2406.09415 as others report it: Ti with 12 heads, learned positions
without a prior of two dimensions, class token; AdamW with b2 0.95 and weight
decay 0.3, peak 0.004 at batch 1024, 20 epochs of warm-up, crops of 0.2 to 1 of
the area, and 2,400 epochs. Their jitter of colours, grey images and ImageNet's
mean and deviation of pixels are left out; configs/pit_cifar100.py has all of
them. A CPU needs other numbers: --config.batch_size=8.
"""

from ml_collections import ConfigDict

from configs._recipe import pixels


def get_config(side_and_size: str = "32"):
  side, _, name = side_and_size.partition(",")
  image_hw = (pixels("the side of the images", side),) * 2
  size = dict(name=name) if name else dict(name="Ti", num_heads=12)
  # A crop that is smaller than the images: their centre where all is seen.
  center = dict(name="central_crop", size=image_hw)

  def cifar(split):
    return dict(name="tfds", dataset="cifar10", split=split)

  return ConfigDict(
    dict(
      model=dict(
        size=size,
        kernel_hw=(1, 1),
        position=dict(name="learned_grid", size=image_hw),
        pool="tok",
      ),
      patch_size=dict(name="fixed", size=1),
      train=dict(
        source=cifar("train[2%:]"),
        transforms=(
          dict(name="inception_crop", size=image_hw, area=(0.2, 1.0)),
          "flip",
        ),
      ),
      validation=dict(source=cifar("train[:2%]"), transforms=(center,)),
      test=dict(source=cifar("test"), transforms=(center,)),
      optimizer=dict(
        name="adamw",
        learning_rate=4e-3,
        weight_decay=0.3,
        b2=0.95,
        clip_norm=1.0,
        # 20 epochs of 49,000 images.
        schedule=dict(name="cosine", warmup_steps=957),
      ),
      batch_size=1024,
      eval_batch_size=256,
      total_epochs=2400,
      eval_every=2000,
      save_every=500,
      threads=8,
    )
  )
