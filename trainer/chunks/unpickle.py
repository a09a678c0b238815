"""Read one pickled NumPy array and nothing else.

No class of a pickle is ever imported. The four names that NumPy's arrays are
made of stand for small types of ours that only note what they are told; the
array is built afterwards, by us, from a dtype of a fixed list and bytes whose
number was checked. Any other name is an error before it is looked up.
"""

import io
import math
import pickle
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from agent.rundir.errors import UnreadableFileError

DTYPES = frozenset(
    "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split()  # noqa: SIM905 - a table
)
_BYTE_ORDERS = frozenset("<>=|")


class NotAnArrayError(UnreadableFileError):
    """A pickle is not a plain NumPy array; nothing of it was executed."""


class _DType:
    """What a pickle says about an array's dtype."""

    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code
        self.order: object = "|"

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subdtype, names, fields, itemsize, alignment, flags)
        if not isinstance(state, tuple) or len(state) < 5 or any(state[2:5]):
            raise NotAnArrayError("a pickled dtype is structured")
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        if self.code not in DTYPES or self.order not in _BYTE_ORDERS:
            raise NotAnArrayError(f"a pickled array has dtype {self.code!r}")
        return np.dtype(str(self.order) + str(self.code))


class _Array:
    """What a pickle says about an array."""

    content: tuple[object, object, object, object] | None = None
    """Shape, dtype, whether in Fortran order, bytes."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise NotAnArrayError("a pickled array has no valid state")
        self.content = state[1:]

    def resolve(self) -> npt.NDArray[Any]:
        if self.content is None:
            raise NotAnArrayError("a pickled array has no content")
        shape, dtype, is_fortran, data = self.content
        if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray):
            raise NotAnArrayError("a pickled array holds objects")
        if not isinstance(shape, tuple) or not all(_is_size(size) for size in shape):
            raise NotAnArrayError("a pickled array has no valid shape")
        flat = np.frombuffer(data, dtype=dtype.resolve())
        if flat.size != math.prod(shape):
            raise NotAnArrayError(f"a pickled array of shape {shape} is cut short")
        return flat.reshape(shape, order="F" if is_fortran else "C")


class _NdArray:
    """Stands for `numpy.ndarray`, which a pickle only passes on."""


def _reconstruct(cls: object, _shape: object, _typecode: object) -> _Array:
    if cls is not _NdArray:
        raise NotAnArrayError("a pickled array is of a subclass")
    return _Array()


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.content = (shape, dtype, order == "F", data)
    return array


class _ArrayUnpickler(pickle.Unpickler):
    _ALLOWED: ClassVar[dict[tuple[str, str], object]] = {
        ("numpy", "ndarray"): _NdArray,
        ("numpy", "dtype"): _DType,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _frombuffer,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    }

    def find_class(self, module_name: str, global_name: str, /) -> object:
        try:
            return self._ALLOWED[module_name, global_name]
        except KeyError:
            name = ascii(f"{module_name}.{global_name}")[1:-1]
            raise NotAnArrayError(f"a pickle names `{name}`") from None

    def persistent_load(self, pid: object, /) -> object:
        raise NotAnArrayError(f"a pickle refers to {pid!a}, outside itself")


def load_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array that a pickle holds; it shares the pickle's memory.

    Bounds on memory and time are the caller's: run it in a process that has
    them, as `trainer.chunks.foreign` does.

    Raises:
        NotAnArrayError: it holds anything else, or is damaged.
    """
    try:
        loaded = _ArrayUnpickler(io.BytesIO(data)).load()
    except NotAnArrayError:
        raise
    except Exception as error:
        # A hostile pickle can make the machine fail in any way it likes.
        raise NotAnArrayError(f"a pickle cannot be read: {error}") from error
    if not isinstance(loaded, _Array):
        raise NotAnArrayError(f"a pickle holds a {type(loaded).__name__}, no array")
    return loaded.resolve()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
