"""The architecture of a checkpoint, to start from, as plain values."""

from configs._recipe import SMOKE, smoke_checkpoint


def architecture(where: str, checkpoint: str) -> tuple[dict, dict]:
  """(model, init_from) of a recipe that starts from a checkpoint.

  The model is the checkpoint's but for its head, which is for the data's
  classes and starts afresh, if the checkpoint has one or not.
  """
  # Here, so that the other recipes do not wait for JAX.
  from flexivit_jax.checkpoints import load as pretrained
  from flexivit_jax.config import build as config

  if where == SMOKE:
    checkpoint = smoke_checkpoint()
  if not checkpoint:
    raise ValueError(
      "name the checkpoint after the data: DATA,CHECKPOINT; a run, a file, or "
      "the name of a published model"
    )
  found = pretrained.read(checkpoint)
  model = config.to_json(found.model)
  model.update(num_classes=None, scan=False, remat=False)
  return model, dict(checkpoint=checkpoint, dont_load=("head/.*",))
