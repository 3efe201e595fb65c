"""Folders and tar archives: what is listed and read, and what is refused."""

import gzip
import io
import os
import pathlib
import tarfile

import numpy as np
import pytest

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.prepare import archives

FILES = {
  "train/cat/1.jpg": b"a" * 1024,  # whole blocks of the archive
  "train/cat/2.PNG": b"b" * 100,
  "test/dog/1.jpg": b"",
  "train/README": b"read me",
  "train/cat/.hidden.jpg": b"c",
  ".git/x/1.jpg": b"d",
}
SIZES = {
  "train/cat/1.jpg": 1024,
  "train/cat/2.PNG": 100,
  "test/dog/1.jpg": 0,
}
COMPRESS = {
  ".tar": lambda x: x,
  ".tar.gz": gzip.compress,
}


def member(name, data=b"x", **attributes):
  info = tarfile.TarInfo(name)
  info.size = len(data)
  for key, value in attributes.items():
    setattr(info, key, value)
  return info, data


def packed(*members, **options):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
    for info, data in members:
      tar.addfile(info, io.BytesIO(data))
  return buffer.getvalue()


def archive(tmp_path, data, suffix=".tar"):
  path = tmp_path / f"a{suffix}"
  path.write_bytes(COMPRESS[suffix](data))
  return archives.Archive(path)


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / "folder"
  for name, data in FILES.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
  return root


def check(store):
  listing = store.list()
  assert listing.sizes == SIZES
  assert listing.others == {"without a suffix": 1}
  for names in (sorted(SIZES), ["train/cat/2.PNG"]):
    read = dict(store.read(names))
    assert read == {name: FILES[name] for name in names}


def test_a_folder(folder):
  check(archives.Folder(folder))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive(tmp_path, suffix, prefix, form):
  directory = member(f"{prefix}train", b"", type=tarfile.DIRTYPE)
  files = (member(prefix + name, data) for name, data in FILES.items())
  check(archive(tmp_path, packed(directory, *files, format=form), suffix))


def test_links_in_a_folder_are_followed_once(folder, tmp_path):
  (folder / "train" / "back").symlink_to(folder)
  (folder / "train" / "cat" / "again").symlink_to(folder / "train" / "cat")
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "3.jpg").write_bytes(b"there")
  (folder / "train" / "eel").symlink_to(tmp_path / "elsewhere")
  (folder / "train" / "cat" / "lost.jpg").symlink_to(tmp_path / "nowhere")
  store = archives.Folder(folder)
  more = {"train/eel/3.jpg": 5, "train/cat/lost.jpg": 0}
  assert store.list().sizes == SIZES | more
  read = dict(store.read(more))
  assert read["train/eel/3.jpg"] == b"there"
  lost = read["train/cat/lost.jpg"]
  assert isinstance(lost, BadImageError)
  assert str(lost) == (
    f"{folder}/train/cat/lost.jpg: cannot read it: No such file or directory"
  )


def test_an_image_that_is_too_large_is_bad(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(archives, "MAX_BYTES", 1023)
  tar = archive(tmp_path, packed(*(member(*x) for x in FILES.items())))
  for store in (archives.Folder(folder), tar):
    assert store.list().sizes == SIZES
    read = dict(store.read(list(SIZES)))
    bad = read.pop("train/cat/1.jpg")
    assert str(bad) == (
      f"{store.title('train/cat/1.jpg')}: more than 1023 bytes, too large for "
      "an image"
    )
    assert all(read[name] == FILES[name] for name in read)


def test_without_an_image(tmp_path):
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "a.txt").touch()
  looked = "looked for .jpg, .jpeg, .png, .webp, .bmp, .gif, and found"
  with pytest.raises(ValueError) as caught:
    archives.Folder(tmp_path / "folder").list()
  assert str(caught.value) == (
    f"no image in {tmp_path}/folder: {looked} 1 .txt"
  )
  store = archive(tmp_path, packed(member("n1.tar"), member("n2.tar")))
  with pytest.raises(ValueError) as caught:
    store.list()
  assert str(caught.value) == (
    f"no image in {tmp_path}/a.tar: {looked} 2 .tar; unpack the archives in it"
  )


@pytest.mark.parametrize(
  ("start", "kind"), [(b"PK\3\4", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_other_archives(tmp_path, start, kind):
  store = archive(tmp_path, start + bytes(2000))
  with pytest.raises(ValueError, match=rf"a\.tar is a {kind} file: unpack it"):
    store.list()


DEVICE = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}


@pytest.mark.parametrize(
  ("odd", "reason"),
  [
    (member("b.jpg", b"", type=tarfile.SYMTYPE, linkname="/x"), "is a link"),
    (member("b.jpg", b"", type=tarfile.LNKTYPE, linkname="a.jpg"), "is a link"),
    (member("b.jpg", b"", **DEVICE), "is no ordinary file"),
    (member("b.jpg", b"", type=tarfile.FIFOTYPE), "is no ordinary file"),
    (member("/etc/b.jpg"), "has a path that leads elsewhere"),
    (member("../b.jpg"), "has a path that leads elsewhere"),
    (member("x/../../b.jpg"), "has a path that leads elsewhere"),
    (member("a.jpg"), "is there twice"),
    (member("./a.jpg"), "is there twice"),
  ],
)
def test_odd_images_are_refused(tmp_path, odd, reason):
  store = archive(tmp_path, packed(member("a.jpg"), odd))
  with pytest.raises(Fault) as caught:
    store.list()
  assert str(caught.value) == (
    f"{tmp_path}/a.tar: {odd[0].name!r} {reason}: unpack the archive and "
    "prepare the folder, or pack it anew"
  )


def test_odd_members_that_are_no_images_are_left_out(tmp_path):
  odd = [
    member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("null", b"", **DEVICE),
    member("/etc/passwd"),
    member("../../x.txt"),
  ]
  store = archive(tmp_path, packed(*odd, member("a.jpg")))
  before = set(tmp_path.rglob("*"))
  assert store.list().sizes == {"a.jpg": 1}
  assert dict(store.read(["a.jpg"])) == {"a.jpg": b"x"}
  assert set(tmp_path.rglob("*")) == before


def many(n=40):
  rng = np.random.default_rng(0)
  return [member(f"c/{i}.jpg", rng.bytes(700 + i)) for i in range(n)]


def read_all(store):
  return dict(store.read(list(store.list().sizes)))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.8])
def test_an_archive_that_is_cut_off_is_refused(tmp_path, suffix, share):
  store = archive(tmp_path, packed(*many()), suffix)
  size = store.path.stat().st_size
  os.truncate(store.path, int(size * share))
  with pytest.raises(Fault) as caught:
    store.list()
  assert str(caught.value).startswith(
    f"{store.path}: not a whole tar archive ("
  )
  assert str(caught.value).endswith(": get it from its source again")


def test_an_archive_that_is_cut_off_between_two_files(tmp_path):
  data = packed(*many())
  # Each has a header and two blocks.
  for cut, problem in (
    (3 * 512 * 20, "no end mark"),
    (100, "truncated header"),
  ):
    with pytest.raises(Fault, match=problem):
      archive(tmp_path, data[:cut]).list()


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_compressed_data_is_refused(tmp_path, seed):
  store = archive(tmp_path, packed(*many()), ".tar.gz")
  expected = read_all(store)
  data = bytearray(store.path.read_bytes())
  rng = np.random.default_rng(seed)
  data[rng.integers(20, len(data))] ^= 1 << rng.integers(8)
  store.path.write_bytes(data)
  try:
    assert read_all(store) == expected  # a bit that means nothing
  except Fault as e:
    assert "not a whole tar archive (" in str(e)  # noqa: PT017


def test_a_damaged_header_is_not_the_end(tmp_path):
  data = bytearray(packed(*many()))
  data[3 * 512 * 20 + 5] ^= 1
  with pytest.raises(Fault, match=r"end mark\), damaged after 'c/19\.jpg': "):
    archive(tmp_path, data).list()


def test_a_size_below_zero_ends(tmp_path):
  first, second = member("c/1.jpg"), member("c/2.jpg", bytes(512))
  header = bytearray(second[0].tobuf(tarfile.GNU_FORMAT))
  header[124:136] = b"\xff" * 10 + (-1024 % 2**16).to_bytes(2, "big")
  header[148:156] = b" " * 8
  header[148:156] = b"%06o\0 " % sum(header)
  data = packed(first)[:1024] + bytes(header) + bytes(2048)
  with pytest.raises(Fault, match="not a whole tar archive"):
    archive(tmp_path, data).list()


def test_a_header_of_gigabytes_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, "MAX_BYTES", 4096)
  name = "c/" + "x" * 5000 + ".jpg"
  data = packed(member(name), format=tarfile.GNU_FORMAT)
  with pytest.raises(Fault, match="a part of 5,120 bytes"):
    archive(tmp_path, data).list()


def test_no_archive_at_all(tmp_path):
  with pytest.raises(Fault, match=r"not a whole tar archive \("):
    archive(tmp_path, b"<html>404</html>" * 200).list()
  with pytest.raises(Fault, match=r"archive \(empty file\)"):
    archives.Archive(pathlib.Path(os.devnull)).list()


def test_an_archive_that_changes_meanwhile(tmp_path):
  store = archive(tmp_path, packed(*many(3)))
  names = list(store.list().sizes)
  archive(tmp_path, packed(*many(2)))
  with pytest.raises(Fault, match=r"changed while it was read: c/2\.jpg is g"):
    dict(store.read(names))


def test_what_does_not_decode_is_bad_and_in_order(tmp_path):
  store = archive(tmp_path, packed(*many()))
  read = list(archives.read_whole(store, list(store.list().sizes)))
  assert [name for name, _ in read] == [f"c/{i}.jpg" for i in range(40)]
  for name, bad in read:
    assert str(bad).startswith(f"{store.path}:{name}: cannot decode this image")
