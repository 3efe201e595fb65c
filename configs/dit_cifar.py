"""A diffusion transformer on CIFAR-10, with patches of 2 pixels.

  flexivit prepare tfds:cifar10
  python train.py --config configs/dit_cifar.py:tfds:cifar10 --workdir runs/dit
  flexivit sample --checkpoint runs/dit --output samples

After the colon the data, a folder or `smoke` to try it on digits; then, after
commas, the side of the images, 32 px, and the model, S:
`dit_cifar.py:tfds:cifar10,16,B`. Every pixel a token: configs/pit_dit_cifar.py.

DiT's settings (arXiv:2212.09748) as far as they fit: adaLN-Zero, sine-cosine
positions, AdamW at a constant 1e-4 without decay, batch 256, flips, classes
left out of a tenth of the images, an average of the parameters with 0.9999.
Other than there: pixels and no latents, cosine noise (arXiv:2102.09672), no
learned variance, 200,000 steps instead of 400,000, clipped gradients, and 50
steps of DDIM instead of 250 of DDPM.

Expected: nobody here has trained it to its end, so nothing is claimed.
"""

from configs._recipe import SMOKE, config_of, pixels, source, split_argument


def get_config(data_side_and_size: str, patch_size: int = 2):
  where, side, size = split_argument(data_side_and_size, "32", "S")
  side = 8 if where == SMOKE else pixels("the side of the images", side)
  resize = dict(name="resize", size=(side, side))

  def data(split, *transforms):
    return dict(source=source(where, split), transforms=(resize, *transforms))

  return config_of(
    where,
    model=dict(
      size=size,
      kernel_hw=(patch_size, patch_size),
      position="sincos2d",
      pool="gap",
      conditioning="adaln_zero",
      # On a GPU or TPU; the noise and the loss are float32 all the same.
      dtype="bfloat16",
      scan=True,
    ),
    patch_size=dict(name="fixed", size=patch_size),
    task=dict(
      name="diffusion",
      schedule="cosine",
      predicts="noise",
      class_dropout=0.1,
      sampler=dict(steps=50, eta=0.0, guidance=1.5),
    ),
    train=data("train[2%:]", "flip"),
    validation=data("train[:2%]"),
    test=data("test"),
    optimizer=dict(
      name="adamw",
      learning_rate=1e-4,
      weight_decay=0.0,
      clip_norm=1.0,
      schedule=dict(name="constant", warmup_steps=0),
    ),
    ema=0.9999,
    batch_size=256,
    eval_batch_size=250,
    total_steps=200_000,
    eval_every=10_000,
    save_every=2000,
    threads=8,
  )
