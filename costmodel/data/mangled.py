"""Kernel names as compilers mangle them (Itanium C++ ABI), read up to their template arguments.

Profilers print AITER's kernels mangled where their demangler does not know ``__bf16`` (``DF16b``).
Only a function's qualified name and its template arguments are read, since nothing else says what
ran; a name with parts that are not needed for kernels (function types, expressions) is refused.

>>> read("_ZN5aiter26cross_device_reduce_1stageIDF16bLi8ELb0EEEvPNS_8RankDataE")
('aiter::cross_device_reduce_1stage', ['__bf16', '8', 'false'])
"""

from __future__ import annotations

#: Builtin types by their code (Itanium C++ ABI, 5.1.5.2), longest first.
_BUILTIN = {
    "DF16b": "__bf16", "DF16_": "_Float16", "Dh": "half", "v": "void", "w": "wchar_t", "b": "bool",
    "c": "char", "a": "signed char", "h": "unsigned char", "s": "short", "t": "unsigned short",
    "i": "int", "j": "unsigned int", "l": "long", "m": "unsigned long", "x": "long long",
    "y": "unsigned long long", "f": "float", "d": "double",
}  # fmt: skip
#: What may stand before a type without changing which type it is.
_QUALIFIERS = "PROKV"
#: Whose literals are written without their type.
_PLAIN = ("int", "unsigned int", "long", "unsigned long")
_DEEPEST = 40


class NotRead(ValueError):
    """A mangled name that is none or is not read; ``base`` is the function's name if that was."""

    base = ""


def read(name: str) -> tuple[str, list[str]]:
    """Return a mangled function's qualified name and its template arguments.

    Types are written as demanglers do, anonymous namespaces left out. Raises :class:`NotRead`.
    """
    if not name.startswith("_Z"):
        raise NotRead(name)
    reader = _MangledReader(name[2:])
    try:
        if reader.take("N"):
            return reader.nested()
        reader.base = reader.component()
        return reader.base, reader.arguments()
    except NotRead as error:
        error.base = reader.base
        raise


class _MangledReader:
    """What is left of a mangled name, read from its front."""

    def __init__(self, text: str) -> None:
        self.base = ""
        self._text = text
        self._at = 0
        self._depth = 0
        #: What S_, S0_, S1_ ... stand for, in the order of the ABI: prefixes and types as they end.
        self._seen: list[str] = []

    def take(self, code: str) -> bool:
        """Step over a code and return True if it stands next."""
        if not self._text.startswith(code, self._at):
            return False
        self._at += len(code)
        return True

    def nested(self) -> tuple[str, list[str]]:
        """Return a nested name, after its N, and the arguments of its last part.

        The first one to be read is the function's, whose name is kept in ``base``.
        """
        name, arguments = "", list[str]()
        while self.take("K") or self.take("V") or self.take("r"):
            pass
        while not self.take("E"):
            if self._text.startswith("I", self._at):
                if self._depth == 0:
                    self.base = name
                arguments = self.arguments()
                self._seen.append(_with(name, arguments))
                continue
            name = _with(name, arguments)
            if self._text.startswith("S", self._at) and not self._text.startswith("St", self._at):
                name, arguments = self._substitution(), []
                continue
            part = self.component()
            name = "::".join(p for p in (name, part) if p)
            arguments = []
            if part != "std":
                self._seen.append(name)
        return name, arguments

    def component(self) -> str:
        """Return one part of a name, "" for an anonymous namespace."""
        if self.take("St"):
            return "std"
        self.take("L")
        digits = self._digits()
        if not 0 < len(digits) <= 4:
            raise NotRead(self._text)
        end = self._at + int(digits)
        part, self._at = self._text[self._at : end], end
        if len(part) != int(digits):
            raise NotRead(self._text)
        return "" if part.startswith("_GLOBAL__N") else part

    def arguments(self) -> list[str]:
        """Return the template arguments that stand next, flat, none where none do."""
        found: list[str] = []
        if not self.take("I"):
            return found
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotRead(self._text)
        while not self.take("E"):
            if self.take("J"):  # a pack: its own arguments, up to its E
                while not self.take("E"):
                    found.append(self._argument())
            else:
                found.append(self._argument())
        self._depth -= 1
        return found

    def _substitution(self) -> str:
        """Return what the S_ or S<n>_ that stands next is for; <n> counts in base 36."""
        self.take("S")
        number = self._until("_")
        if len(number) > 4 or not number.isascii() or (number and not number.isalnum()):
            raise NotRead(self._text)
        index = int(number, 36) + 1 if number else 0
        if index >= len(self._seen):
            raise NotRead(self._text)
        return self._seen[index]

    def _argument(self) -> str:
        if not self.take("L"):
            return self._type()
        if self.take("_Z"):
            raise NotRead(self._text)
        kind = self._type()
        value = self._until("E").replace("n", "-")
        if kind == "bool":
            return "true" if value == "1" else "false"
        return value if kind in _PLAIN else f"({kind}){value}"

    def _type(self) -> str:
        if self._text[self._at : self._at + 1] in tuple(_QUALIFIERS):
            self._at += 1
            self._depth += 1
            if self._depth > _DEEPEST:
                raise NotRead(self._text)
            name = self._type()
            self._depth -= 1
            self._seen.append(name)
            return name
        for code, name in _BUILTIN.items():
            if self.take(code):
                return name
        if self.take("DB"):
            return f"_BitInt({self._until('_')})"
        if self._text.startswith("S", self._at) and not self._text.startswith("St", self._at):
            name = self._substitution()
        elif self.take("N"):
            return _with(*self.nested())
        else:
            name = self.component()
            if name == "std":
                name = f"std::{self.component()}"
            self._seen.append(name)
        if not self._text.startswith("I", self._at):
            return name
        name = _with(name, self.arguments())
        self._seen.append(name)
        return name

    def _digits(self) -> str:
        start = self._at
        while self._text[self._at : self._at + 1].isdecimal() and self._text[self._at].isascii():
            self._at += 1
        return self._text[start : self._at]

    def _until(self, end: str) -> str:
        stop = self._text.find(end, self._at)
        if stop < 0:
            raise NotRead(self._text)
        part, self._at = self._text[self._at : stop], stop + len(end)
        return part


def _with(name: str, arguments: list[str]) -> str:
    return f"{name}<{', '.join(arguments)}>" if arguments else name
