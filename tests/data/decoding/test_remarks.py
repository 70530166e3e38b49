import io
import logging
import os
import struct
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import open_images
from fromnoise.data.decoding.decode import read_picture
from fromnoise.data.decoding.remarks import collect_warnings
from fromnoise.data.errors import BrokenImage

RGB = np.full((8, 8, 3), 7, np.uint8)


def warn(text: str) -> None:
    """Warn as Pillow does."""
    exec("import warnings; warnings.warn(text)", {"__name__": "PIL.Plugin", "text": text})


def test_each_warning_goes_to_its_own_thread():
    """Warnings are errors here: no filter turns them into exceptions while files are read."""
    found, meet = {}, threading.Barrier(4)

    def read(name: str) -> None:
        with collect_warnings() as texts:
            meet.wait()
            warn(f"of {name}")
            warn(f"of {name}")
            meet.wait()
        found[name] = list(texts)

    threads = [threading.Thread(target=read, args=(name,)) for name in "abcd"]
    before, shown = list(warnings.filters), warnings.showwarning
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [f"of {name}"] for name in "abcd"}
    assert (warnings.filters, warnings.showwarning) == (before, shown)
    with pytest.raises(UserWarning, match="outside"):
        warn("outside")


def test_the_log_of_pillow_and_messages_of_libtiff_count_as_warnings(capfd, caplog):
    """The TIFF is of WebP, which Pillow's libtiff cannot read, or is damaged there."""
    log = logging.getLogger("PIL.Plugin")
    with collect_warnings() as texts:
        log.error("of %s", "Pillow")
        log.info("nothing")
    assert list(texts) == ["of Pillow"]
    assert caplog.messages == []
    log.error("outside")
    assert caplog.messages == ["outside"]
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    at = struct.unpack_from("<I", data, 4)[0]  # the tags
    for entry in range(at + 2, at + 2 + 12 * data[at], 12):
        if struct.unpack_from("<H", data, entry)[0] == 259:
            struct.pack_into("<H", data, entry + 8, 50001)
    with pytest.raises(BrokenImage, match=r"decoder error -2; .*[Ww][Ee][Bb][Pp]"):
        read_picture(bytes(data), background=(0, 0, 0))
    assert capfd.readouterr() == ("", "")


def test_other_warnings_are_not_taken():
    with collect_warnings() as texts, pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
    assert not texts


def test_a_file_that_pillow_warns_of_is_read(tmp_path, save):
    broken_exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\xff\0\0\0"
    path = save("exif.jpg", RGB, exif=broken_exif)
    found = read_picture(path.read_bytes(), background=(0, 0, 0))
    assert found.pixels.shape == (8, 8, 3)
    assert found.remarks  # other texts in other versions of Pillow
    images = open_images("folder", path.parent, size=(8, 8), channels=3)
    assert images.skipped == ()
    assert images.notes == (f"read with warnings (1): exif.jpg: {'; '.join(found.remarks)}",)
    assert open_images("folder", path.parent, size=(8, 8), channels=3).notes == images.notes


def test_frames_after_the_first_are_said(save):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for name in ("a.gif", "b.tif", "c.webp", "d.png"):
        path = save(name, frames[0], save_all=True, append_images=frames[1:])
    save("one.gif", frames[0])
    images = open_images("folder", path.parent, size=(4, 4), channels=3)
    assert images.notes == (
        "frames after the first are not used (4): a.gif; b.tif; c.webp; and 1 more",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_names_of_any_bytes_are_said(save):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    name, other = os.fsdecode(b"a\xff.gif"), os.fsdecode(b"b.\xfe")
    path = save(name, frames[0], save_all=True, append_images=frames[1:])
    (path.parent / other).touch()
    notes = open_images("folder", path.parent).notes
    assert notes == (
        r"skipped 1 file of other types: .\xfe ×1.",
        r"frames after the first are not used (1): a\xff.gif",
    )
