"""The pixels of a whole photograph: 224 x 224, 50,176 tokens.

  flexivit plan --config configs/pit_224.py:DATA --devices 8
  python train.py --config configs/pit_224.py:DATA --workdir runs/pit_224
  python evaluate.py --checkpoint runs/pit_224

DATA is a folder PATH with PATH/train/CLASS/*.JPEG and PATH/validation/CLASS, or
tfds:imagenet2012 (docs/data.md); `smoke` tries the recipe on digits, in
seconds. After it: the model, Ti or S, the devices that share an image, 8, and
the side of the images: `DATA,S,8`.

Attention is nearly all of the work: 98 % of the forward pass of Ti, 96 of S
(2 l^2 d of 2 l^2 d + 12 l d^2 multiply-adds of a layer). Each device has the
queries of its own 6,272 pixels (LSS Transformer, arXiv:2311.02382). The learned
positions have a row for each pixel, 9.6 M numbers of Ti and more than the rest
of it, and lie where the pixels lie. It shows the method: with as many images as
devices, the planner says, whole images on each (1 for the devices) send less.

As the pixel transformer on ImageNet-1k (configs/pit_in1k.py), which had images
of 28 px, so this is past what its paper has (arXiv:2406.09415): average pooling
instead of a class token, which would stand in front of pixels that devices
share, and without CutMix, mixup and the average of parameters. Expected: an
epoch of ImageNet-1k is about 110 EFLOPs for Ti and 220 for S, 75 and 150 hours
of a GPU at 400 TFLOP/s; nothing is known of the accuracy. Not run here but for
steps (docs/long_sequences.md).
"""

from configs._recipe import SMOKE, config_of, source, split_argument


def get_config(argument: str):
  where, size, devices, side = split_argument(argument, "Ti", "8", "224")
  side = 8 if where == SMOKE else int(side)
  image_hw = (side, side)
  center = (dict(name="resize_crop", short=side * 8 // 7, size=image_hw),)
  return config_of(
    where,
    model=dict(
      size=size,
      kernel_hw=(1, 1),
      position=dict(name="learned_grid", size=image_hw),
      pool="gap",
      drop_path=0.1,
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
      kernel="blockwise",
      distribution="query_sharded",
      dtype="bfloat16",
      scan=True,
      remat=True,
    ),
    mesh=dict(seq=int(devices)),
    patch_size=dict(name="fixed", size=1),
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
    optimizer=dict(
      name="adamw",
      learning_rate=1e-4,
      weight_decay=0.3,
      b2=0.95,
      clip_norm=1.0,
      schedule=dict(name="cosine", warmup_steps=1000),
    ),
    batch_size=256,
    eval_batch_size=256,
    accumulate=16,
    total_epochs=30,
    eval_every=1000,
    save_every=100,
    log_every=10,
    threads=8,
  )
