"""Columns of text that say few different words, and rows told apart by several columns.

A million rows of measurements name a dozen sources, GPUs and kernels. :class:`Words` keeps each
word once and a small number per row: a tenth of the memory of an array of text, and a comparison
with a word costs a comparison of small integers. To numpy it is an array of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

#: Largest product of counts that a key of several columns may have.
_LARGEST_KEY = 2**62

#: Numbers are counted over their range, not sorted, where it is at most this often their count.
_DENSE = 8


class Words:
    """One word per row: ``words[codes]``. The words differ; rows need not use all of them.

    ``==`` and ``!=`` with a word, ``np.unique``, ``np.isin`` and ``np.concatenate`` work on the
    codes; every other function of numpy is given the text.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, words: Sequence[str], codes: NDArray[Any]) -> None:
        self.words = tuple(words)
        self.codes = codes.astype(np.min_scalar_type(max(len(self.words) - 1, 0)), copy=False)

    @classmethod
    def of(cls, text: Words | Sequence[str] | NDArray[np.str_]) -> Words:
        """Return a column of text as words; as it is where it is one."""
        if isinstance(text, Words):
            return text
        cells = text.tolist() if isinstance(text, np.ndarray) else list(text)
        codes: dict[str, int] = {}
        at = [codes.setdefault(cell, len(codes)) for cell in cells]
        return cls(tuple(codes), np.array(at, np.int64))

    @classmethod
    def all(cls, word: str, count: int) -> Words:
        """Return a column that says one word."""
        return cls((word,), np.zeros(count, np.uint8))

    def each(self, of_word: Callable[[str], Any], dtype: Any) -> NDArray[Any]:
        """Return a function of every row's word, evaluated once for each that is used."""
        used = np.flatnonzero(self._count).tolist()
        values = np.zeros(len(self.words), dtype)
        values[used] = np.array([of_word(self.words[i]) for i in used], dtype)
        return values[self.codes]

    def renamed(self, of_word: Callable[[str], str]) -> Words:
        """Return the column with every word replaced."""
        new = Words.of([of_word(word) for word in self.words])
        return Words(new.words, new.codes[self.codes])

    @property
    def used(self) -> tuple[str, ...]:
        """The words that rows say, sorted."""
        return tuple(sorted(word for word, n in zip(self.words, self._count, strict=True) if n))

    @property
    def _count(self) -> NDArray[np.int64]:
        return np.bincount(self.codes, minlength=len(self.words))

    @property
    def size(self) -> int:
        """Rows."""
        return self.codes.size

    @property
    def shape(self) -> tuple[int, ...]:
        """``(size,)``."""
        return self.codes.shape

    @property
    def ndim(self) -> int:
        """1."""
        return 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the text."""
        return np.array(self.words, np.str_).dtype

    def __len__(self) -> int:
        return self.codes.size

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def __repr__(self) -> str:
        return f"Words({len(self)} rows: {', '.join(self.used[:8])})"

    def tolist(self) -> list[str]:
        """Return the word of every row."""
        return [self.words[code] for code in self.codes.tolist()]

    def astype(self, dtype: Any) -> NDArray[Any]:
        """Return the text as an array."""
        return np.asarray(self).astype(dtype, copy=False)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> str: ...
    @overload
    def __getitem__(self, rows: NDArray[Any] | slice | list[int]) -> Words: ...
    def __getitem__(self, rows: Any) -> str | Words:
        found = self.codes[rows]
        return Words(self.words, found) if np.ndim(found) else self.words[int(found)]

    def __eq__(self, other: object) -> NDArray[np.bool_]:  # type: ignore[override]
        if isinstance(other, str):
            if other not in self.words:
                return np.zeros(self.codes.shape, np.bool_)
            return np.asarray(self.codes == self.words.index(other))
        return np.asarray(np.asarray(self) == np.asarray(other))

    def __ne__(self, other: object) -> NDArray[np.bool_]:  # type: ignore[override]
        return ~(self == other)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        text = np.array(self.words or ("",), np.str_)[self.codes]
        return text if dtype is None else text.astype(dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **how: Any) -> Any:
        if method == "__call__" and ufunc in (np.equal, np.not_equal) and not how:
            mine, other = inputs if isinstance(inputs[0], Words) else inputs[::-1]
            return mine == other if ufunc is np.equal else mine != other
        return getattr(ufunc, method)(*map(_plain, inputs), **how)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        if function is np.unique and not kwargs:
            return np.array(self.used, np.str_)
        if function is np.isin and len(args) == 2 and not kwargs and isinstance(args[0], Words):
            wanted = set(np.asarray(args[1]).tolist())
            return self.each(lambda word: word in wanted, np.bool_)
        if function is np.concatenate and len(args) == 1 and not kwargs:
            return joined([Words.of(part) for part in args[0]])
        plain = {name: _plain(value) for name, value in kwargs.items()}
        return function(*map(_plain, args), **plain)


def _plain(value: Any) -> Any:
    """Return an argument of a function of numpy with text in the place of words."""
    if isinstance(value, Words):
        return np.asarray(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def joined(parts: Sequence[Words]) -> Words:
    """Return columns one after another."""
    codes: dict[str, int] = {}
    at = [
        np.array([codes.setdefault(w, len(codes)) for w in part.words], np.int64)[part.codes]
        if part.words
        else np.zeros(0, np.int64)
        for part in parts
    ]
    return Words(tuple(codes), np.concatenate(at) if at else np.zeros(0, np.int64))


def combined(columns: Sequence[Words], of_words: Callable[..., str]) -> Words:
    """Return one word per row from the words of several columns, made once per combination."""
    number, first = numbered(columns)
    made = Words.of([of_words(*(column[i] for column in columns)) for i in first.tolist()])
    return Words(made.words, made.codes[number])


def numbered(
    columns: Sequence[Words | NDArray[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number rows so that equal numbers mean equal cells in all columns.

    Returns each row's number and, by number, the row that it was first seen in; numbers count up
    in that order. NaN equals NaN.
    """
    key, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        codes, count = _codes(column)
        if count <= 1:
            continue
        if size * count > _LARGEST_KEY:
            key, first = _by_first(key, size)
            size = first.size
        key = key * count + codes
        size *= count
    return _by_first(key, size)


def members(number: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Return the rows of each number below ``count``, in their order."""
    ends = np.cumsum(np.bincount(number, minlength=count))
    return np.split(np.argsort(number, kind="stable"), ends[:-1])[:count]


def _codes(column: Words | NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return whole numbers from 0 that are equal where cells are, and how many there may be."""
    if isinstance(column, Words):
        return column.codes, len(column.words)
    cells = np.nan_to_num(column, nan=-1.0) if column.dtype.kind == "f" else column
    if cells.dtype.kind in "fiub" and cells.size:
        low, high = cells.min(), cells.max()
        if high - low < _DENSE * cells.size + 1024 and (cells == np.floor(cells)).all():
            return (cells - low).astype(np.int64), int(high - low) + 1
    words, codes = np.unique(cells, return_inverse=True)
    return codes, words.size


def _by_first(key: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Renumber keys below ``size`` in the order in which they first appear."""
    if size <= _DENSE * key.size + 1024:
        seen = np.full(size, -1, np.int64)
        seen[key[::-1]] = np.arange(key.size)[::-1]  # of equal keys the last written stays
        first = np.sort(seen[seen >= 0])
        seen[key[first]] = np.arange(first.size)
        return seen[key], first
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return rank[index], first[order]
