"""Which tensor lies in which storage, told from a pickle that is never run.

The opcodes are read one by one and their effect is sketched with inert nodes:
nothing is imported, called or built, so a hostile pickle costs a bounded number
of steps and does nothing else. What the sketch does not understand becomes an
opaque node. The names found are for messages; no decision rests on them.
"""

import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_MAX_STEPS = 2_000_000
_MAX_NODES = 1_000_000
_MAX_PATH_CHARACTERS = 400
_ITEM_SIZES = {
    "ByteStorage": 1,
    "CharStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "QInt32Storage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


class NotAPickleError(Exception):
    """The bytes are not a pickle, or larger or stranger than is looked at.

    Attributes:
        ends_early: every byte was used and more were needed.
        is_too_long: it may be a pickle; it was not followed to its end.
    """

    def __init__(
        self, message: str, *, ends_early: bool = False, is_too_long: bool = False
    ) -> None:
        super().__init__(message)
        self.ends_early = ends_early
        self.is_too_long = is_too_long


@dataclass(eq=False)
class Node:
    """A value that was not built: what it was made of, not what it is."""

    text: str = ""
    """Of a global, its dotted name."""
    parts: list[object] = field(default_factory=list)
    """Elements, arguments and state, in the order of the opcodes."""
    items: list[tuple[object, object]] = field(default_factory=list)
    """Keys and values."""
    is_call: bool = False
    """Made by calling `parts[0]`: a tensor, a parameter, an object."""


@dataclass(eq=False)
class Storage:
    """A persistent id of torch: `("storage", type, key, location, numel)`."""

    key: str
    num_elements: int
    item_size: int | None
    """Bytes per element; None for a type that is not known here."""

    @property
    def num_bytes(self) -> int | None:
        """Bytes of its content; None if the type is not known."""
        return None if self.item_size is None else self.num_elements * self.item_size


@dataclass
class Sketch:
    """What one pickle says."""

    root: object
    size: int
    """Bytes up to and including its last opcode."""
    storages: dict[str, Storage]
    """By key, in the order in which they are met."""

    def tensor_names(self) -> dict[str, str]:
        """Return for each storage key the path of the first tensor on it.

        A path joins keys and indexes with dots: `model.blocks.0.weight`.
        """
        names: dict[str, str] = {}
        for path, storage in _iter_storages(self.root):
            names.setdefault(storage.key, path)
        return names

    def texts(self) -> set[str]:
        """Return every string that is a value, a key or an argument."""
        return {found for found in _iter_values(self.root) if isinstance(found, str)}


def sketch_pickle(data: bytes) -> Sketch:
    """Sketch the pickle at the start of `data`; what follows it is ignored.

    Raises:
        NotAPickleError: there is none, it is torn, or it is too long.
    """
    machine = _Machine()
    stream = io.BytesIO(data)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if step > _MAX_STEPS:
                raise NotAPickleError(
                    f"it has more than {_MAX_STEPS} opcodes", is_too_long=True
                )
            machine.step(opcode, argument)
        root = machine.stack.pop()
    except (ValueError, LookupError, TypeError, OverflowError, Warning) as error:
        raise NotAPickleError(
            f"it is no whole pickle: {error}", ends_early=stream.tell() == len(data)
        ) from error
    return Sketch(root, stream.tell(), machine.storages)


class _Machine:
    """The stack and memo of an unpickler that builds nothing."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.storages: dict[str, Storage] = {}
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        name = opcode.name
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif opcode.stack_before == [] and name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _EFFECTS:
            _EFFECTS[name](self, argument)
        else:
            self._sketch_unknown(opcode)

    def _sketch_unknown(self, opcode: pickletools.OpcodeInfo) -> None:
        if pickletools.markobject in opcode.stack_before:
            parts = self.pop_to_mark()
            num_below = opcode.stack_before.index(pickletools.markobject)
        else:
            parts = []
            num_below = len(opcode.stack_before)
        below = [self.stack.pop() for _ in range(num_below)]
        self.stack += [Node(parts=[*below, *parts]) for _ in opcode.stack_after]

    def mark(self, _argument: object) -> None:
        self._marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[object]:
        above, self.stack = self.stack, self._marks.pop()
        return above

    def put(self, argument: object) -> None:
        self._memo[int(str(argument))] = self.stack[-1]

    def memoize(self, _argument: object) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, argument: object) -> None:
        self.stack.append(self._memo[int(str(argument))])

    def pop(self, _argument: object) -> None:
        self.stack.pop()

    def duplicate(self, _argument: object) -> None:
        self.stack.append(self.stack[-1])

    def global_name(self, argument: object) -> None:
        self.stack.append(Node(text=str(argument).replace(" ", ".")))

    def stack_global(self, _argument: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Node(text=f"{module}.{name}"))

    def collect(self, num_parts: int) -> None:
        start = len(self.stack) - num_parts
        self.stack[start:] = [Node(parts=self.stack[start:])]

    def collect_to_mark(self, _argument: object) -> None:
        parts = self.pop_to_mark()
        self.stack.append(Node(parts=parts))

    def call(self, _argument: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(Node(parts=[function, arguments], is_call=True))

    def build(self, _argument: object) -> None:
        self._add_parts([self.stack.pop()])

    def append(self, _argument: object) -> None:
        self._add_parts([self.stack.pop()])

    def appends(self, _argument: object) -> None:
        self._add_parts(self.pop_to_mark())

    def set_item(self, _argument: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add_items([key, value])

    def set_items(self, _argument: object) -> None:
        self._add_items(self.pop_to_mark())

    def dict_to_mark(self, _argument: object) -> None:
        flat = self.pop_to_mark()
        self.stack.append(Node())
        self._add_items(flat)

    def persistent_id(self, _argument: object) -> None:
        storage = _read_storage(self.stack.pop())
        if storage is None:
            self.stack.append(Node())
            return
        self.stack.append(self.storages.setdefault(storage.key, storage))

    def _add_parts(self, parts: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Node):
            target.parts += parts

    def _add_items(self, flat: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Node):
            target.items += zip(flat[::2], flat[1::2], strict=True)


_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_ARGUMENT = frozenset(
    code.name
    for code in pickletools.opcodes
    if code.arg is not None
    and len(code.stack_after) == 1
    and code.name not in {"GET", "BINGET", "LONG_BINGET", "GLOBAL", "PERSID", "INST"}
    and not code.name.startswith("EXT")
)
_EFFECTS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, argument: None,  # noqa: ARG005 - one signature for all
    "FRAME": lambda machine, argument: None,  # noqa: ARG005 - one signature for all
    "STOP": lambda machine, argument: None,  # noqa: ARG005 - one signature for all
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "TUPLE": _Machine.collect_to_mark,
    "LIST": _Machine.collect_to_mark,
    "FROZENSET": _Machine.collect_to_mark,
    "TUPLE1": lambda machine, _: machine.collect(1),
    "TUPLE2": lambda machine, _: machine.collect(2),
    "TUPLE3": lambda machine, _: machine.collect(3),
    "DICT": _Machine.dict_to_mark,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPERSID": _Machine.persistent_id,
}


def _read_storage(persistent_id: object) -> Storage | None:
    if not isinstance(persistent_id, Node) or len(persistent_id.parts) < 5:
        return None
    kind, storage_type, key, _location, num_elements = persistent_id.parts[:5]
    if kind != "storage" or not isinstance(storage_type, Node):
        return None
    if not isinstance(key, str) or not isinstance(num_elements, int):
        return None
    class_name = storage_type.text.rpartition(".")[2]
    return Storage(key, max(0, num_elements), _ITEM_SIZES.get(class_name))


def _iter_storages(root: object) -> Iterator[tuple[str, Storage]]:
    """Walk the sketch once, each node under the first path that leads to it."""
    seen: set[int] = set()
    waiting: list[tuple[str, object, bool]] = [("", root, False)]
    while waiting and len(seen) < _MAX_NODES:
        path, value, in_call = waiting.pop()
        if isinstance(value, Storage):
            yield path, value
        if not isinstance(value, Node) or id(value) in seen:
            continue
        seen.add(id(value))
        # What a call is made of bears the name of its result.
        is_nameless = in_call or value.is_call
        children = [
            (path if is_nameless else _join(path, index), part, is_nameless)
            for index, part in enumerate(value.parts)
        ]
        children += [(_join(path, key), item, False) for key, item in value.items]
        waiting += reversed(children)


def _iter_values(root: object) -> Iterator[object]:
    """Walk everything that is in the sketch, each node once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting and len(seen) < _MAX_NODES:
        value = waiting.pop()
        if not isinstance(value, Node):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += value.parts
            for pair in value.items:
                waiting += pair


def _join(path: str, key: object) -> str:
    if not isinstance(key, str | int | float) or len(path) > _MAX_PATH_CHARACTERS:
        return path
    return f"{path}.{key}" if path else str(key)
