"""Whether an encoded file is whole, as far as its bytes tell; decoders patch up more than they should and say nothing.

What is looked at: PNG chunks and their checksums; JPEG segments, the order and number of restart markers, that the scans of a progressive
picture reach full precision, and that the decoder is satisfied by exactly the bytes there are; WebP's RIFF sizes; what follows the end. A
changed bit that leaves all of these right is not found: no checksum lies in JPEG, WebP, GIF, TIFF and BMP. docs/data.md has the shares.
"""

import io
import zlib
from dataclasses import dataclass
from math import ceil
from struct import Struct

import numpy as np
from PIL import Image

PNG_CHUNK, PNG_CHECKSUM = Struct(">I4s"), Struct(">I")
TEXT_CHUNKS = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
TURNING_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # where an orientation may stand
FETCHED_AHEAD = 8 * b"\xff\x00"  # libjpeg-turbo fills a register of 64 bits first: ones, which are no Huffman code, stuffed
RESTARTS = range(0xD0, 0xD8)  # marker codes, in turn
IN_SCAN = np.isin(np.arange(256), [0x00, *RESTARTS, 0xFF])  # what may follow ff amid a scan: a stuffed byte, a restart, a fill byte
BETWEEN_SCANS = {0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


class BrokenImage(ValueError):
    """This image cannot be used; the message is the reason, without its name."""


@dataclass
class _Scans:
    """What the segments of a JPEG say; ITU-T T.81, annex B."""

    process: int = -1  # the n of its SOFn
    size: tuple[int, int] = (0, 0)  # height, width
    sampling: tuple[tuple[int, int, int], ...] = ()  # (id, horizontal, vertical) of each component
    interval: int = 0  # MCUs between two restart markers
    count: int = 0
    has_all: bool = True  # the first scan has every component
    data_end: int = 0  # where the last scan's data end
    has_more_pictures: bool = False  # a multi-picture index (CIPA DC-007): previews follow


def check_png(data: bytes) -> int:
    """Walk the chunks and their checksums, those of the pixels too, which Pillow skips; where the PNG ends."""
    view, total = memoryview(data), len(data)
    position: int = 8  # after the signature
    while position + 12 <= total:
        length: int
        length, kind = PNG_CHUNK.unpack_from(data, position)
        end = position + 8 + length
        if end + 4 > total:
            break
        if zlib.crc32(view[position + 4 : end]) != PNG_CHECKSUM.unpack_from(data, end)[0]:
            raise BrokenImage("damaged: wrong checksum in the PNG")
        position = end + 4
        if kind == b"IEND":
            return position
    raise BrokenImage("truncated: the end of the PNG is missing")


def without_texts(data: bytes) -> bytes:
    """A sound PNG without its texts and colour profile, which Pillow refuses above a size; those that may turn the picture stay."""
    kept, position = [data[:8]], 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        if kind not in TEXT_CHUNKS or data.startswith(TURNING_KEYWORDS, position + 8):
            kept.append(data[position:end])
        position = end
        if kind == b"IEND":
            break
    return b"".join(kept)


def check_webp(data: bytes) -> int:
    """Walk the RIFF chunks; where the WebP ends."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise BrokenImage(f"truncated: {len(data):,} bytes of the {end:,} that its RIFF header promises")
    position = 12
    while position < end:
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        position += position % 2
    if position not in (end, end + 1):  # some writers leave the padding of the last chunk out of the size
        raise BrokenImage("damaged: the chunks do not fill the WebP as its RIFF header says")
    return end


def check_end(data: bytes, end: int, *, has_more_pictures: bool = False) -> bool:
    """Whether bytes of an unknown kind follow the picture, which ends at `end`.

    Cameras append previews, motion pictures and trailers of their own: the picture before them is whole. Text means that something else
    was written to the file, a server's page for one.

    Raises:
        BrokenImage: a page of markup or an HTTP answer follows.
    """
    rest = data[end:].strip(b"\0\xff \r\n\t") if end < len(data) else b""
    if not rest:
        return False
    if rest[:1] == b"<" or rest.startswith(b"HTTP/"):
        raise BrokenImage("damaged: a page of text follows the picture in its file")
    is_known = has_more_pictures or data.startswith(b"\xff\xd8\xff", end) or data[-4:] == b"SEFT" or data[end + 4 : end + 8] == b"ftyp"
    return not (is_known or b"MotionPhoto_Data" in rest[:4096])


class CheckedJpeg(io.BytesIO):
    """A JPEG file that notices, while Pillow reads it, whether the decoder needs more or fewer bytes than there are.

    libjpeg suspends when its input runs dry, and Pillow asks for more. So the data are handed out up to two bytes before their end, where
    the last row cannot be there yet; then to the end and a few bytes more, which a decoder fetches ahead, where it must be. An end marker
    would make libjpeg fill up with grey. Nothing is decoded twice, and the pixels of a sound file are the same.

    Raises:
        BrokenImage: the segments are damaged.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        scans = _walk(data)
        self._data, self._end = data, scans.data_end
        self._full_end = len(data[: scans.data_end].rstrip(b"\0\xff"))  # some cameras fill up
        self.has_more_pictures = scans.has_more_pictures
        self._picture: Image.Image | None = None
        self._step = 0
        # progressive: no row before the end marker; arithmetic coding cannot suspend
        self._is_watched = scans.process in (0, 1) and scans.count == 1 and scans.has_all

    @property
    def end(self) -> int:
        """Where the file ends as a JPEG: after its end marker."""
        return self._data.index(b"\xff\xd9", self._end) + 2

    def watch(self, picture: Image.Image) -> None:
        """`picture` was opened from this file and is loaded next."""
        self._picture = picture if self._is_watched else None

    def read(self, size: int | None = -1, /) -> bytes:
        if self._picture is None:
            return super().read(size)
        self._step += 1
        held_back = max(self._full_end - 2, 0)
        if self._step == 1:
            self._mark()
            return self._data[:held_back]
        if self._step == 2:
            if self._has_last_row():
                raise BrokenImage("damaged: the picture ends before its data do")
            return self._data[held_back : self._end] + FETCHED_AHEAD
        if self._step == 3:
            if not self._has_last_row():
                raise BrokenImage("damaged or truncated: its data end before the picture does")
            return self._data[self._end :]
        return b""

    def check_loaded(self) -> None:
        """After loading: the decoder has asked for all of the data."""
        if self._picture is not None and self._step < 2:
            raise BrokenImage("damaged: the picture ends before its data do")

    def _marks(self) -> dict[tuple[int, int], tuple[int, ...]]:
        assert self._picture is not None
        width, height = self._picture.size
        bands = len(self._picture.getbands())
        columns = sorted({width * k // 8 for k in range(8)})
        return {(x, height - 1): tuple((97 * k + 61 * band + 29) % 256 for band in range(bands)) for k, x in enumerate(columns)}

    def _mark(self) -> None:
        """Pixels in the last row that no picture has, until the decoder writes it."""
        assert self._picture is not None
        for place, value in self._marks().items():
            self._picture.im.putpixel(place, value if len(value) > 1 else value[0])

    def _has_last_row(self) -> bool:
        assert self._picture is not None
        found = {place: self._picture.im.getpixel(place) for place in self._marks()}
        return any(found[place] != (value if len(value) > 1 else value[0]) for place, value in self._marks().items())


def _walk(data: bytes) -> _Scans:
    """The segments of a JPEG up to its end marker."""
    scans = _Scans()
    precision: dict[tuple[int, int], int] = {}  # (component, coefficient) -> bits that are missing
    values = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF)  # of every ff, whatever it is of
    codes = values[places + 1]
    position = 2
    while True:
        while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] == b"\xff":
            position += 1  # fill bytes
        if position + 2 > len(data):
            raise BrokenImage("truncated: the end of the JPEG is missing")
        if data[position] != 0xFF:
            raise BrokenImage(f"damaged: no marker at byte {position:,} of the JPEG, where one is due")
        marker = data[position + 1]
        if marker == 0xD9:
            break
        length = int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise BrokenImage("truncated: the end of the JPEG is missing" if length >= 2 else "damaged: an empty segment in the JPEG")
        position += 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(body) < 6 or len(body) != 6 + 3 * body[5] or scans.process >= 0:
                raise BrokenImage("damaged: the JPEG's frame header")
            scans.process = marker - 0xC0
            scans.size = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
            scans.sampling = tuple((body[k], body[k + 1] >> 4, body[k + 1] & 15) for k in range(6, len(body), 3))
        elif marker == 0xDD:
            scans.interval = int.from_bytes(body[:2])
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            scans.has_more_pictures = True
        elif marker == 0xDA:
            here = int(np.searchsorted(places, position))
            position = _scan(position, body, scans, precision, places[here:], codes[here:])
    # frames of lossless or hierarchical processes are Pillow's to refuse
    wanted = range(64) if scans.process == 2 else range(1)
    if scans.process in (0, 1, 2) and any(precision.get((part, k), 1) for part, _, _ in scans.sampling for k in wanted):
        raise BrokenImage("damaged or truncated: scans of the JPEG are missing")
    if scans.process < 0 or scans.count == 0:
        raise BrokenImage("damaged: a JPEG without a picture")
    return scans


def _scan(start: int, head: bytes, scans: _Scans, precision: dict[tuple[int, int], int], places: np.ndarray, codes: np.ndarray) -> int:
    """One scan, whose data begin at `start`; where they end. From there on, an ff stands at each of `places`, with `codes` after it."""
    parts = tuple(head[1 : 1 + 2 * head[0] : 2]) if head else ()
    if not parts or len(head) != 4 + 2 * len(parts):
        raise BrokenImage("damaged: a scan header of the JPEG")
    first, last, approximation = head[-3], head[-2], head[-1]
    is_end = ~IN_SCAN[codes]
    stop = int(is_end.argmax()) if len(codes) else 0
    if not len(codes) or not is_end[stop]:
        raise BrokenImage("truncated: the end of the JPEG is missing")
    if codes[stop] not in BETWEEN_SCANS:
        raise BrokenImage(f"damaged: marker ff {codes[stop]:02x} amid the JPEG's picture")
    restarts = codes[:stop][(codes[:stop] >= RESTARTS.start) & (codes[:stop] < RESTARTS.stop)]
    expected = (_mcus(scans, parts) - 1) // scans.interval if scans.interval else 0
    is_in_turn = np.array_equal(restarts, RESTARTS.start + np.arange(expected) % len(RESTARTS))
    if scans.size[0] and not is_in_turn:  # no height: a DNL segment tells it later
        raise BrokenImage("damaged: restart markers of the JPEG are missing or out of order")
    end = int(places[stop])
    scans.count += 1
    scans.has_all &= len(parts) == len(scans.sampling)
    scans.data_end = end
    for part in parts:
        for k in range(first, last + 1) if scans.process == 2 else range(1):
            precision[part, k] = approximation & 15 if scans.process == 2 else 0
    return end


def _mcus(scans: _Scans, parts: tuple[int, ...]) -> int:
    """Minimum coded units of a scan of these components; T.81, A.2."""
    most_h, most_v = (max((part[k] for part in scans.sampling), default=1) or 1 for k in (1, 2))
    height, width = scans.size
    if len(parts) > 1:
        return ceil(width / (8 * most_h)) * ceil(height / (8 * most_v))
    h, v = next(((h, v) for part, h, v in scans.sampling if part == parts[0]), (most_h, most_v))
    return ceil(ceil(width * h / most_h) / 8) * ceil(ceil(height * v / most_v) / 8)
