"""The pixel transformer on ImageNet-1k at 28 px (arXiv:2406.09415): 784 tokens.

  python train.py --config configs/pit_in1k.py:DATA --workdir runs/pit
  python evaluate.py --checkpoint runs/pit

DATA is a folder PATH with PATH/train/CLASS/*.JPEG and PATH/validation/CLASS, or
tfds:imagenet2012 (docs/data.md); `smoke` tries the recipe on digits, in
seconds. After it: the patch size, 1, the model, S, and the side of the images,
28 px; `DATA,2` is the baseline of patches, 196 tokens.

The paper says that it follows MAE's training from scratch (arXiv:2111.06377,
appendix A.2) and its text was not at hand: AdamW, learning rate 1e-4 for each
256 images, decay 0.3, betas 0.9 and 0.95, batch 4,096, 300 epochs, 20 of
warm-up, cosine, RandAugment (9 of 10, 2 layers), label smoothing 0.1, mixup
0.8, CutMix 1.0, drop path 0.1, moving average 0.9999, class token. Those who
read it disagree on the size of the images: 28 px or 64.

Expected, of S at the paper's size: 74.1 % with pixels, 72.9 with patches of
2 px. Not run here.
"""

from configs._recipe import SMOKE, config_of, pixels, source, split_argument


def get_config(argument: str):
  where, patch, size, side = split_argument(argument, "1", "S", "28")
  patch = pixels("the patch size", patch)
  side = 8 if where == SMOKE else pixels("the side of the images", side)
  image_hw = (side, side)
  center = (dict(name="resize_crop", short=side * 8 // 7, size=image_hw),)
  return config_of(
    where,
    model=dict(
      size=size,
      kernel_hw=(patch, patch),
      position=dict(name="learned_grid", size=(side // patch, side // patch)),
      pool="tok",
      drop_path=0.1,
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
      dtype="bfloat16",
    ),
    patch_size=dict(name="fixed", size=patch),
    task=dict(
      name="supervised", loss=dict(name="softmax", label_smoothing=0.1)
    ),
    train=dict(
      source=source(where, "train[1%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw, area=(0.08, 1.0)),
        "flip",
        dict(name="rand_augment", layers=2, magnitude=9),
      ),
    ),
    validation=dict(source=source(where, "train[:1%]"), transforms=center),
    test=dict(source=source(where, "validation"), transforms=center),
    mix=(
      dict(name="mixup", alpha=0.8),
      dict(name="cutmix", alpha=1.0),
    ),
    ema=0.9999,
    optimizer=dict(
      name="adamw",
      learning_rate=1e-4 * 4096 / 256,
      weight_decay=0.3,
      b2=0.95,
      # 20 epochs of 1,268,355 images.
      schedule=dict(name="cosine", warmup_steps=6193),
    ),
    batch_size=4096,
    eval_batch_size=1024,
    total_epochs=300,
    eval_every=5000,
    save_every=1000,
    workers=8,
    threads=8,
  )
