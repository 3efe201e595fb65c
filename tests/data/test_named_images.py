"""Files and folders as a user names them."""

import os

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.sources import named_images


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A folder that one is in, with a function that makes images in it."""
  monkeypatch.chdir(tmp_path)

  def make(path, value=0):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((2, 3, 3), value, np.uint8)
    Image.fromarray(pixels).save(tmp_path / path, "PNG")

  return make


def test_files_and_folders_in_the_order_in_which_they_are_named(place):
  names = ("p/b/1.png", "p/b-c/1.PNG", "p/a.jpeg", "p/b/deep/er/0.gif")
  for name in (*names, "z.png", "no_suffix", "p/.hidden/1.png", "p/.1.png"):
    place(name)
  with open("p/note.txt", "w") as file:
    file.write("none")
  found = named_images.find(["z.png", "p/", "no_suffix", "./p/b/1.png"])
  # By parts of paths: "b/" is before "b-c/", as no plain sort has it.
  expected = ("p/a.jpeg", "p/b/1.png", "p/b/deep/er/0.gif", "p/b-c/1.PNG")
  assert found.paths == ("z.png", *expected, "no_suffix")
  assert found.others == {".txt": 1}


def test_the_source_reads_them_from_where_they_are(place, tmp_path):
  place("p/1.png", 7)
  place("q.png", 9)
  paths = named_images.find(["p", str(tmp_path / "q.png")]).paths
  source = named_images.NamedImages(paths).open()
  assert len(source) == 2
  assert [source.name(i) for i in range(2)] == [
    "p/1.png",
    str(tmp_path / "q.png"),
  ]
  assert [int(source.image(i).max()) for i in range(2)] == [7, 9]
  assert [source.size(i) for i in range(2)] == [(2, 3)] * 2
  # What a loader asks of labels: each is a class.
  assert [source.label(i) for i in range(2)] == [0, 0]
  assert len(source.classes) == 1


def test_orientations_are_heeded_when_asked(tmp_path):
  path = tmp_path / "turned.jpg"
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path, exif=exif)
  for turn, hw in ((False, (2, 3)), (True, (3, 2))):
    source = named_images.NamedImages((str(path),), turn).open()
    assert source.size(0) == source.image(0).shape[:2] == hw


def test_a_link_to_nothing_in_a_folder_is_a_bad_image(place, tmp_path):
  place("p/1.png")
  (tmp_path / "p" / "2.png").symlink_to("gone.png")
  source = named_images.NamedImages(named_images.find(["p"]).paths).open()
  with pytest.raises(BadImageError, match=r"^p/2\.png: cannot read it: No "):
    source.image(1)


@pytest.mark.parametrize(
  ("named", "message"),
  [
    ("gone.png", "^gone.png: no such file or directory$"),
    ("pipe", "^pipe is neither a file nor a folder$"),
    ("texts", r"^no image in texts: looked for \.jpg, .* and found 1 \.txt$"),
  ],
)
def test_what_is_no_image_or_folder_of_them(place, tmp_path, named, message):
  place("good.png")
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "texts").mkdir()
  (tmp_path / "texts" / "a.txt").write_text("none")
  with pytest.raises(ValueError, match=message):
    named_images.find(["good.png", named])
