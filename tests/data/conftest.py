"""The dataset of `zoo`, prepared once."""

import shutil

import pytest
import zoo


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
  """A data_dir with Zoo."""
  data_dir = tmp_path_factory.mktemp("tfds")
  zoo.prepare(zoo.Zoo, data_dir, zoo.SHARDS)
  return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
  """The same, to be changed."""
  return shutil.copytree(prepared, tmp_path / "data")
