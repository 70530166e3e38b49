"""Receive the messages of libtiff, which otherwise prints them without the name of a file."""

import ctypes
from collections.abc import Callable

from PIL import Image

_LONGEST = 500  # bytes of a message
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_kept: list[object] = []  # libtiff holds no reference


def receive_messages(receive: Callable[[str], object]) -> None:
    """Call `receive` for each error and warning, in the thread that decodes.

    Where Pillow contains libtiff so that its functions cannot be found, as on Windows, it does
    nothing.
    """
    try:
        library = ctypes.CDLL(Image.core.__file__)
        setters = library.TIFFSetErrorHandler, library.TIFFSetWarningHandler
        write = ctypes.CDLL(None).vsnprintf
    except (AttributeError, OSError, TypeError):
        return
    write.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def handle(_: bytes, form: bytes, values: int) -> None:  # a va_list is passed by its address
        message = ctypes.create_string_buffer(_LONGEST)
        write(message, _LONGEST, form, values)
        receive(message.value.decode(errors="replace"))

    handler = _Handler(handle)
    _kept.append(handler)
    for set_handler in setters:
        set_handler.restype = ctypes.c_void_p
        set_handler(handler)
