"""A linear classifier on the frozen features of any checkpoint.

  python train.py --config configs/linear_probe.py:DATA,CHECKPOINT \
      --workdir runs/probe
  python evaluate.py --checkpoint runs/probe

Arguments as for configs/finetune.py; `smoke` tries it on digits and random
parameters, in seconds. Only the head learns: the rest has no gradient and no
optimiser state. With few images of each class,
`flexivit few-shot` gives the answer without training.

SGD with momentum 0.9, no decay, cosine, learning rate 0.1 at batch 256, crops
and flips: as the linear classification of MoCo v3 (arXiv:2104.02057) by its
program, main_lincls.py. That trains 90 epochs, --config.total_epochs=90 with
--config.total_steps=None, at 224 px; otherwise than there: 2,000 steps,
100 of them of warm-up, clipping at 1, 240 px.

Expected: it depends on the checkpoint and the data. Not run here.
"""

from configs import finetune


def get_config(argument: str):
  config = finetune.get_config(argument)
  config.optimizer.learning_rate = 0.1
  config.optimizer.groups = (dict(pattern="(?!head/).*", multiplier=0.0),)
  if config.batch_size > 256:
    config.batch_size = 256
  return config
