"""Image files, and arrays of pixels."""

from ganlib.data.decode import Conversion
from ganlib.data.decoders import DECODERS

DECODERS.register("image")(Conversion)
