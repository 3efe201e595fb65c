"""ViT-S/16 on ImageNet-1k: "Better plain ViT baselines" (arXiv:2205.01580).

  python train.py --config configs/vit_s16_i1k.py:PATH --workdir runs/vit_s16

for a folder PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG. The paper's
model, optimiser and schedule: global average pooling, sincos2d positions, a
tanh layer before the head, batch 1,024, learning rate 1e-3, 10,000 steps of
warm-up, cosine, clipping at 1, 90 epochs. big_vision's weight decay of 1e-4 is
not multiplied by the learning rate; optax's is, so it is 1e-4 / 1e-3 here.

Otherwise than there: products in bfloat16 (--config.model.dtype=float32), crops
drawn by their area, and images resized with antialias.

Expected: 73.6 % in 90 epochs, the paper's figure without RandAugment and mixup,
which this recipe does not have yet (with them: 76.5 %). Not run here.
"""

from ml_collections import ConfigDict


def get_config(path: str):
  image_hw = (224, 224)

  def folder(split):
    return dict(name="image_folder", path=path, split=split)

  center = dict(name="resize_crop", short=256, size=image_hw)
  return ConfigDict(
    dict(
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
        source=folder("train[1%:]"),
        transforms=(dict(name="inception_crop", size=image_hw), "flip"),
      ),
      validation=dict(source=folder("train[:1%]"), transforms=(center,)),
      test=dict(source=folder("val"), transforms=(center,)),
      optimizer=dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.1,
        clip_norm=1.0,
        mu_dtype="bfloat16",
        schedule=dict(name="cosine", warmup_steps=10_000),
      ),
      batch_size=1024,
      eval_batch_size=1024,
      total_epochs=90,
      eval_every=5000,
      save_every=1000,
      workers=8,
      threads=8,
    )
  )
