"""FlexiViT-B with patches of 4 px at 1,024 px: 65,536 tokens.

  flexivit plan --devices 8 \
      --config configs/flexivit_b4_1024.py:DATA
  python train.py --config configs/flexivit_b4_1024.py:DATA --workdir runs/b4
  python evaluate.py --checkpoint runs/b4 --patch_sizes 16,32,64

DATA is a folder PATH with PATH/train/CLASS/* and PATH/test/CLASS, or tfds:NAME
(docs/data.md); `smoke` tries the recipe on digits and random parameters, in
seconds. After it: the checkpoint to start from, flexivit_b_i1k, the patch size,
4, the side of the images, 1024, and the devices that share an image, 8.

Fine-tuning as configs/finetune.py (ViT, arXiv:2010.11929, table 4), for images
of which details matter. Positions are interpolated from 7x7 and the patch
embedding is PI-resized, so that a checkpoint for 240 px starts here
(arXiv:2212.08013). Its class token would stand in front of patches that devices
share: it is left out and the patches are averaged, which fine-tuning has to
learn. Expected: an image is 85 T multiply-adds forward; nothing is known of the
accuracy. Not run here.
"""

from configs._recipe import SMOKE, config_of, source, split_argument
from configs._start import architecture


def get_config(argument: str):
  where, checkpoint, patch, side, devices = split_argument(
    argument, "flexivit_b_i1k", "4", "1024", "8"
  )
  side, patch = (16, 4) if where == SMOKE else (int(side), int(patch))
  image_hw = (side, side)
  center = (dict(name="resize_crop", short=side, size=image_hw),)
  model, begin = architecture(where, checkpoint)
  model.update(
    pool="gap",
    kernel="blockwise",
    distribution="query_sharded",
    dtype="bfloat16",
    scan=True,
    remat=True,
  )
  begin["dont_load"] = ("cls", *begin.get("dont_load", ()))
  return config_of(
    where,
    model=model,
    mesh=dict(seq=int(devices)),
    patch_size=dict(name="fixed", size=patch),
    init_from=begin,
    train=dict(
      source=source(where, "train[10%:]"),
      transforms=(
        dict(name="inception_crop", size=image_hw, area=(0.5, 1.0)),
        "flip",
      ),
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
    batch_size=64,
    eval_batch_size=64,
    accumulate=8,
    total_steps=1000,
    eval_every=250,
    save_every=50,
    threads=8,
  )
