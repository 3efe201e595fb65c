"""Any checkpoint fine-tuned on your images, at any patch size.

  python train.py --config configs/finetune.py:DATA,CHECKPOINT,24 \
      --workdir runs/mine
  python evaluate.py --checkpoint runs/mine --patch_sizes 8,16,24

DATA is a folder PATH with PATH/train/CLASS/* and PATH/test/CLASS, or tfds:NAME
(docs/data.md); CHECKPOINT anything that `flexivit_jax.load` takes: a run, a
file of big_vision, timm or Hugging Face, or the name of a published model;
`smoke` tries the recipe on digits and random parameters, in seconds.

The architecture is read from the checkpoint, so this takes FlexiViTs as well as
plain ones. After the checkpoint: the patch size, 16, and the side of the
images, 240. FlexiViT's fast transfer (arXiv:2212.08013, section 5.2): fine-tune
with large patches, which is cheap, and evaluate with small ones: B went from
81.8 % at the grid of 8 x 8 it was fine-tuned at to 85.3 at 24 x 24. Expected:
it depends on the checkpoint and the data. Not run here.

SGD with momentum, batch 512, no decay, cosine, clipping at 1, a fresh head, as
ViT's fine-tuning (arXiv:2010.11929, table 4), whose steps and learning rate
depend on the data: 0.003 to 0.06 and 20,000 steps for ImageNet, 500 for Pets
and Flowers: --config.total_steps=500 --config.optimizer.learning_rate=0.003
"""

from configs._recipe import config_of, pixels, source, split_argument
from configs._start import architecture


def get_config(argument: str):
  where, checkpoint, patch, side = split_argument(argument, "", "16", "240")
  side = pixels("the side of the images", side)
  image_hw = (side, side)
  center = (dict(name="resize_crop", short=side * 8 // 7, size=image_hw),)
  model, begin = architecture(where, checkpoint)
  return config_of(
    where,
    model=model,
    patch_size=dict(name="fixed", size=pixels("the patch size", patch)),
    init_from=begin,
    train=dict(
      source=source(where, "train[10%:]"),
      transforms=(dict(name="inception_crop", size=image_hw), "flip"),
    ),
    validation=dict(source=source(where, "train[:10%]"), transforms=center),
    test=dict(source=source(where, "test"), transforms=center),
    optimizer=dict(
      name="sgd",
      learning_rate=0.01,
      momentum=0.9,
      clip_norm=1.0,
      schedule=dict(name="cosine", warmup_steps=100),
    ),
    batch_size=512,
    eval_batch_size=512,
    total_steps=2000,
    eval_every=500,
    save_every=500,
    threads=8,
  )
