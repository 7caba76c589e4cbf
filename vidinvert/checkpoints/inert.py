"""Read pickles without running them: a stack machine that calls nothing.

A pickle is a program: it names functions and has them called. This reader carries out the part of
the program that builds plain containers, and keeps a record (`Name`, `Call`) of every name and
call instead of looking it up. So no import, no constructor and no `__setstate__` can run, whatever
the file says; names that the caller did not expect are refused on top. What the records mean is
for the readers of known formats, as `vidinvert.checkpoints.pickled_tensors`.
"""

import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from vidinvert.errors import CheckpointError

HIGHEST_PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a module, as the pickle gives it; nothing is imported."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        """`module.name`."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Call:
    """A call that the pickle asks for and that was not made.

    `state` is what would be set on the result; `items` and `pairs` what would be added to it.
    """

    function: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list[Any])
    pairs: dict[Any, Any] = field(default_factory=dict[Any, Any])


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to data outside the pickle."""

    identity: Any


def read_pickle(stream: BinaryIO, *, allowed: Collection[str], source: str) -> Any:
    """Read one pickle from a stream, to just behind its end.

    Args:
        stream: opened for reading bytes.
        allowed: dotted names that may occur.
        source: the file, for messages.

    Returns:
        Numbers, text, bytes and containers of them; `Name`, `Call` and `Persistent` for the rest.

    Raises:
        CheckpointError: the pickle is damaged, or names something else.
    """
    machine = _Machine(allowed=frozenset(allowed), source=source)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{source} is not a whole pickle ({type(error).__name__}: {error}). Fetch it again."
        ) from error
    raise CheckpointError(f"{source} is not a whole pickle: it has no end. Fetch it again.")


class _Mark:
    """Where a group of values on the stack begins."""


@dataclass(slots=True)
class _Machine:
    """The stack and the memo of one pickle."""

    allowed: frozenset[str]
    source: str
    stack: list[Any] = field(default_factory=list[Any])
    memo: dict[int, Any] = field(default_factory=dict[int, Any])

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _MEMO_WRITES:
            self.memo[argument] = self.stack[-1]
        elif name in _MEMO_READS:
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise CheckpointError(
                f"{self.source} holds a pickle with the opcode {name}, which no file of weights "
                "needs. Do not use this file."
            )

    def memoize(self) -> None:
        """Remember what is on top under the next free number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def take_group(self) -> list[Any]:
        """Remove and return what lies above the last mark, and the mark."""
        group: list[Any] = []
        while not isinstance(self.stack[-1], _Mark):
            group.append(self.stack.pop())
        self.stack.pop()
        return group[::-1]

    def push_name(self, module: Any, name: Any) -> None:
        """Record a name, if it is one that is expected."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError(f"a name is given as {module!r}, {name!r}")
        if f"{module}.{name}" not in self.allowed:
            raise CheckpointError(
                f"{self.source} holds a pickle that refers to {module}.{name}, which no known file "
                "of weights needs; nothing of it was run. Do not use this file."
            )
        self.stack.append(Name(module, name))

    def push_call(self, function: Any, arguments: Any) -> None:
        """Record a call."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError(f"a call of {type(function).__name__} is asked for")
        self.stack.append(Call(function.dotted, arguments))

    def add_pairs(self, flat: list[Any]) -> None:
        """Put keys and values into the dictionary, or the call, on top of the stack."""
        target = self.stack[-1]
        into = target.pairs if isinstance(target, Call) else target
        if not isinstance(into, dict):
            raise TypeError(f"pairs are added to a {type(target).__name__}")
        into.update(zip(flat[::2], flat[1::2], strict=True))

    def add_items(self, items: list[Any]) -> None:
        """Put values into the list, set or call on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Call):
            target.items.extend(items)
        elif isinstance(target, set):
            target.update(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise TypeError(f"values are added to a {type(target).__name__}")

    def set_state(self) -> None:
        """Record the state that a call's result would get."""
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Call):
            raise TypeError(f"a state is set on a {type(target).__name__}")
        target.state = state


def _name_from_stack(machine: _Machine, argument: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push_name(module, name)


def _call(machine: _Machine, argument: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.push_call(function, arguments)


def _call_with_keywords(machine: _Machine, argument: Any) -> None:
    keywords, arguments, function = (machine.stack.pop() for _ in range(3))
    if keywords:
        raise TypeError("a constructor is called with keywords")
    machine.push_call(function, arguments)


def _tuple(machine: _Machine, size: int) -> None:
    start = len(machine.stack) - size
    items = tuple(machine.stack[start:])
    if start < 0 or any(isinstance(item, _Mark) for item in items):
        raise IndexError("a tuple is made of values that are not there")
    machine.stack[start:] = [items]


def _dictionary(machine: _Machine, argument: Any) -> None:
    flat = machine.take_group()
    machine.stack.append({})
    machine.add_pairs(flat)


def _one_pair(machine: _Machine, argument: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.add_pairs([key, value])


_CONSTANTS: Mapping[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": _Mark,
}
_MEMO_WRITES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_MEMO_READS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: _check_protocol(argument),
    "FRAME": lambda machine, argument: None,
    "POP": lambda machine, argument: machine.stack.__delitem__(-1),
    "POP_MARK": lambda machine, argument: machine.take_group().clear(),
    "DUP": lambda machine, argument: machine.stack.append(machine.stack[-1]),
    "MEMOIZE": lambda machine, argument: machine.memoize(),
    "LIST": lambda machine, argument: machine.stack.append(machine.take_group()),
    "TUPLE": lambda machine, argument: machine.stack.append(tuple(machine.take_group())),
    "TUPLE1": lambda machine, argument: _tuple(machine, 1),
    "TUPLE2": lambda machine, argument: _tuple(machine, 2),
    "TUPLE3": lambda machine, argument: _tuple(machine, 3),
    "FROZENSET": lambda machine, argument: machine.stack.append(frozenset(machine.take_group())),
    "DICT": _dictionary,
    "APPEND": lambda machine, argument: machine.add_items([machine.stack.pop()]),
    "APPENDS": lambda machine, argument: machine.add_items(machine.take_group()),
    "ADDITEMS": lambda machine, argument: machine.add_items(machine.take_group()),
    "SETITEM": _one_pair,
    "SETITEMS": lambda machine, argument: machine.add_pairs(machine.take_group()),
    "GLOBAL": lambda machine, argument: machine.push_name(*argument.split(" ", 1)),
    "STACK_GLOBAL": _name_from_stack,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _call_with_keywords,
    "BUILD": lambda machine, argument: machine.set_state(),
    "PERSID": lambda machine, argument: machine.stack.append(Persistent(argument)),
    "BINPERSID": lambda machine, argument: machine.stack.append(Persistent(machine.stack.pop())),
}


def _check_protocol(protocol: int) -> None:
    if protocol > HIGHEST_PROTOCOL:
        raise ValueError(f"pickle protocol {protocol}, expected at most {HIGHEST_PROTOCOL}")
