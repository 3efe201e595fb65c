"""config.json of a run: written, compared, and refused where it is damaged."""

import json

import pytest

from flexivit_jax.checkpoints import run_record
from flexivit_jax.core.errors import ConfigError

RECORD = {
  "config": {"seed": 0, "workers": 0, "model": {"width": 8}},
  "data": {"train": {"fingerprint": "ab", "images": 5}},
  "classes": ["a", "b"],
  "provenance": {"commit": "first"},
}


def changed(**config):
  return RECORD | {"config": RECORD["config"] | config}


def with_checkpoint(workdir):
  (workdir / "checkpoints" / "10").mkdir(parents=True)


def test_without_a_checkpoint_anything_may_change(tmp_path):
  run_record.write(tmp_path, RECORD)
  run_record.write(tmp_path, changed(seed=1))
  assert run_record.read(tmp_path) == changed(seed=1)


def test_a_resumed_run_keeps_its_origin_and_records_what_may_change(tmp_path):
  run_record.write(tmp_path, RECORD)
  with_checkpoint(tmp_path)
  run_record.write(
    tmp_path, changed(workers=4) | {"provenance": {"commit": "second"}}
  )
  assert run_record.read(tmp_path) == changed(workers=4)


def test_data_that_are_not_looked_at_again_stay_in_the_record(tmp_path):
  taught = RECORD["data"] | {"teacher": {"fingerprint": "cd"}}
  run_record.write(tmp_path, RECORD | {"data": taught})
  with_checkpoint(tmp_path)
  run_record.write(tmp_path, RECORD)
  assert run_record.read(tmp_path)["data"] == taught
  other = taught | {"teacher": {"fingerprint": "ef"}}
  with pytest.raises(ConfigError, match=r"teacher\.fingerprint: 'cd' -> 'ef'"):
    run_record.write(tmp_path, RECORD | {"data": other})


def test_another_run_is_refused(tmp_path):
  run_record.write(tmp_path, RECORD)
  with_checkpoint(tmp_path)
  with pytest.raises(ConfigError) as caught:
    run_record.write(tmp_path, changed(seed=1, model={"width": 9}))
  assert str(caught.value) == (
    f"{tmp_path} holds a run that started otherwise (model.width: 8 -> 9; "
    "seed: 0 -> 1): give the old values to resume it, or another --workdir"
  )
  assert run_record.read(tmp_path) == RECORD


def test_checkpoints_without_a_record_are_refused(tmp_path):
  with_checkpoint(tmp_path)
  with pytest.raises(ConfigError) as caught:
    run_record.write(tmp_path, RECORD)
  assert str(caught.value) == (
    f"{tmp_path} has no config.json: restore it from a copy, or start in "
    "another directory"
  )


WHOLE = json.dumps(RECORD)


@pytest.mark.parametrize(
  ("content", "problem"),
  [
    (WHOLE[:40], "is damaged (Unterminated string"),
    ("[]", "is no record of a run"),
    (json.dumps(RECORD | {"config": []}), "is no record of a run"),
  ],
)
def test_a_damaged_record_is_named(tmp_path, content, problem):
  path = tmp_path / "config.json"
  content = content if isinstance(content, bytes) else content.encode()
  path.write_bytes(content)
  with_checkpoint(tmp_path)
  for use in (run_record.read, lambda w: run_record.write(w, RECORD)):
    with pytest.raises(ConfigError) as caught:
      use(tmp_path)
    assert str(caught.value).startswith(f"{path} {problem}")
    assert str(caught.value).endswith(
      ": restore it from a copy, or start in another directory"
    )
  assert path.read_bytes() == content
