"""What the engine's own comments and docstrings say that a change of the rule makes untrue.

They are judged sentence by sentence. A sentence goes when it states a cutoff, a token cap, a hidden
set or somebody else's heuristic that is no longer what decides; everything else stays as it is. In
a docstring the rule that is now in force takes its place, elsewhere the emitted comment says it.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from itertools import islice

from msgspec import Struct

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted, token_cap
from ..rules.algebra import by_world_size, byte_limit
from ..rules.condition import Condition
from ..rules.rule import Rule
from .diff import Edit, split_lines
from .execution import NoChoiceError
from .expression import WIDTH
from .module import Function, Module
from .reader import DispatchFunction, NotRecognisedError, read_dispatch

_SIZE = re.compile(
    r"(?<![\w.])(\d[\d_]*(?:\.\d+)?)\s*-?\s*"
    r"(\*\s*1024\s*\*\s*1024|\*\s*1024|<<\s*\d{1,4}|[KMkm]i?B?\b|bytes?\b|B\b|(?![\w.]))"
)
_LIMIT_NAMES = r"(?:guard|threshold|cap|limit|cut-?off|gate|crossover|bound)(?:s|ed)?"
_BYTE_LIMIT = re.compile(
    rf"\b(?:bytes?|sizes?|payloads?|messages?)\b.{{0,40}}\b{_LIMIT_NAMES}\b"
    rf"|\b{_LIMIT_NAMES}\b.{{0,40}}\b(?:bytes?|sizes?|payloads?)\b"
    r"|\b(?:small(?:er)?|larger?|big(?:ger)?)\b.{0,30}\b(?:payload|tensor|message|batch|input|size)(?:e?s)?\b"
    r"|\b(?:cut-?off|threshold|crossover)s?\b",
    re.IGNORECASE,
)
_HEURISTIC = re.compile(
    r"\b(?:follow|mirror|match|cop(?:y|ies)|keep|same|default|identical)\w*\b.{0,200}"
    r"\b(?:heuristic|polic|rule|dispatch|cut-?off|threshold|limit|logic)",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"\bhidden(?:[_ ]?(?:dim|size))", re.IGNORECASE)
_HIDDEN_SIZE = re.compile(r"\b(?:hidden|H)\w*\W{0,4}(?:size\W{0,4}|of )?(\d{3,5})\b")
#: Sizes of one sentence that are looked at.
_MOST_SIZES = 16
_HIDDEN_SET = re.compile(
    r"\b(?:support|known|list|only|set|valid|tuned|instanti|template)\w*|\d{3,}", re.IGNORECASE
)
_RANKS = re.compile(
    r"\b(?:TP|tp)[ =]*(\d)\b|\b(\d)[- ](?:ranks?|GPUs?|way)\b|\bworld[_ ]size\W{0,4}(\d)\b"
)
_TOKENS = re.compile(r"\b(\d{1,6})\s+tokens?\b|\btokens?\b\D{0,12}(\d{1,6})\b|\bkMaxBlocks\b")
_STAGE = re.compile(r"\b(?:1|2|one|two|single)[- _]?(?:stage|shot|phase)", re.IGNORECASE)
_LINKED = re.compile(r"\b(?:mirror|same|like|copy|copies|identical|as in)\w*\b", re.IGNORECASE)
_TOOLS = re.compile(r"#\s*(?:noqa|type:|fmt:|pylint|pragma|mypy|ruff|isort|yapf|nosec)")
_SENTENCES = re.compile(r"(?<=[.!?;])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!cf\.)\s+(?=[\w`'\"(])")
_ITEM = re.compile(r"\s*(?:[-*]|\(?\d{1,2}[.)])\s")

Judge = Callable[[str], bool]


class _Change(Struct, frozen=True, dict=True):
    """What decided and what decides now, per world size."""

    adapted: Adapted
    old: dict[int, Condition]

    @classmethod
    def of(cls, dispatch: DispatchFunction, adapted: Adapted) -> _Change:
        return cls(adapted, {n: dispatch.condition.at(n) for n in WORLD_SIZES})

    def states_a_cutoff(self, sentence: str) -> bool:
        """Tell whether a sentence names a cutoff that is no longer one at the ranks it names."""
        named = set(self._ranks(sentence)) or set(WORLD_SIZES)
        gone = {limit.value for n in named & self._moved if (limit := byte_limit(self.old[n]))}
        return not gone.isdisjoint(_sizes(sentence)) or self._states_tokens(sentence, named)

    def _states_tokens(self, sentence: str, named: Iterable[int]) -> bool:
        """Tell whether a sentence gives a cutoff as tokens at a hidden size, as it was."""
        hidden = {int(m[1]) for m in islice(_HIDDEN_SIZE.finditer(sentence), _MOST_SIZES)}
        tokens = {int(g) for m in _TOKENS.finditer(sentence) for g in m.groups() if g}
        if not tokens:
            return False
        old, new = Rule("old", by_world_size(self.old)), self.adapted.rule
        version = self.adapted.kernel.version
        return any(
            (was := old.max_tokens(h, n, kernel_version=version)) in tokens
            and was != new.max_tokens(h, n, kernel_version=version)
            for h in hidden
            for n in named
        )

    def about_the_choice(self, sentence: str) -> bool:
        """Tell whether a sentence that stands at the choice says how it was made."""
        if self.states_a_cutoff(sentence):
            return True
        if self._moved and (_BYTE_LIMIT.search(sentence) or _HEURISTIC.search(sentence)):
            return True
        changed = [n for n in self._ranks(sentence) if self.old[n] != self._new[n]]
        if changed and re.search(r"\b(?:always|never|every|only|all)\b", sentence):
            return True
        if self._gives_way(sentence):
            return True
        capped = [m for m in _TOKENS.finditer(sentence) if m[0] == "kMaxBlocks" or _is_cap(m)]
        return bool(capped) and not self.adapted.caps_tokens

    @cached_property
    def _new(self) -> dict[int, Condition]:
        return {n: self.adapted.rule.condition.at(n) for n in WORLD_SIZES}

    @cached_property
    def _moved(self) -> set[int]:
        """The world sizes at which another size is the limit."""
        return {n for n in WORLD_SIZES if byte_limit(self.old[n]) != byte_limit(self._new[n])}

    def _gives_way(self, sentence: str) -> bool:
        gone = self.adapted.hidden_set
        return bool(gone and _HIDDEN.search(sentence) and _HIDDEN_SET.search(sentence))

    def _ranks(self, sentence: str) -> list[int]:
        named = (int(next(g for g in m.groups() if g)) for m in _RANKS.finditer(sentence))
        return [n for n in named if n in WORLD_SIZES]


def edits(
    module: Module,
    dispatch: DispatchFunction,
    adapted: Adapted,
    taken: list[Edit],
    alike: Collection[str] = (),
    said: str = "",
) -> list[Edit]:
    """Return the edits of the comments and docstrings that ``taken``, the rule's, makes untrue.

    ``alike`` names functions that are changed alike: what they say of each other stays true.
    ``said`` is the rule as a docstring is to say it, where that is not ``adapted``'s alone.
    """
    change = _Change.of(dispatch, adapted)
    function = dispatch.node
    chooses = dispatch.returns or bool(_STAGE.search(function.name))
    at_choice = change.about_the_choice
    said = said or f"{adapted.rule.words()}."
    out = []
    for block in _blocks(module.text, function):
        attached = chooses or _is_attached(block, function, taken)
        out += block.edit(at_choice if attached else change.states_a_cutoff)
    out += _beside(module.text, taken, at_choice)
    mirrors = [name.rsplit(".", 1)[-1] for name in alike]

    def untrue(sentence: str) -> bool:
        if _LINKED.search(sentence) and any(name in sentence for name in mirrors):
            return False
        return (chooses or bool(_STAGE.search(sentence))) and at_choice(sentence)

    out += _docstring(module, function, untrue, said)
    out += _of_copies(module, dispatch, alike)
    return [edit for edit in out if not any(_overlap(edit, other) for other in taken)]


def _of_copies(
    module: Module, dispatch: DispatchFunction, alike: Collection[str]
) -> Iterator[Edit]:
    """Yield edits of docstrings of other functions that claim to choose as the changed one."""
    name = dispatch.name.rsplit(".", 1)[-1]
    for qualified in module.functions():
        target = module.function(qualified)
        if target is None or target[0] is dispatch.node or name not in (_doc_of(target[0]) or ""):
            continue
        try:
            own = read_dispatch(module, qualified, settings=False)
        except (NoChoiceError, NotRecognisedError):
            continue
        if dispatch.name in own.followed or qualified in alike:
            continue
        said = f"1-stage by a rule of its own: {own.condition.words()}."
        yield from _docstring(
            module, target[0], lambda s: name in s and bool(_LINKED.search(s)), said
        )


class _Block(Struct, frozen=True):
    """Comment lines of their own, one under the other: first line from 1, and their texts."""

    first: int
    lines: list[str]

    @property
    def end(self) -> int:
        """The line after the block."""
        return self.first + len(self.lines)

    def edit(self, judge: Judge) -> list[Edit]:
        """Return the edit without the sentences that are untrue, none where all stay."""
        indent = len(self.lines[0]) - len(self.lines[0].lstrip())
        texts = [line.strip().removeprefix("#").removeprefix(" ") for line in self.lines]
        kept = _without(texts, judge, "", WIDTH - indent - 2)
        if kept is None:
            return []
        lines = [f"{'':{indent}}# {text}".rstrip() + "\n" for text in kept]
        return [Edit((self.first, 0), (self.end, 0), "".join(lines))]


def _without(texts: list[str], judge: Judge, said: str, width: int) -> list[str] | None:
    """Return lines of prose without its untrue sentences, or None where all stay.

    ``said`` takes the place of the first one that goes.
    """
    out: list[list[str]] = []
    changed = False
    for paragraph in _paragraphs(texts):
        first = paragraph[0]
        sentences = _SENTENCES.split(" ".join(line.strip() for line in paragraph))
        judged = {s: judge(s) for s in dict.fromkeys(sentences)}
        untrue = [judged[s] for s in sentences]
        if not any(untrue):
            out.append(paragraph)
            continue
        if said:
            sentences[untrue.index(True)], untrue[untrue.index(True)] = said, False
            said = ""
        changed = True
        rest = " ".join(s for s, gone in zip(sentences, untrue, strict=True) if not gone)
        lead = first[: len(first) - len(first.lstrip())]
        inner = lead + " " * (len(item[0].lstrip()) if (item := _ITEM.match(first)) else 0)
        wrapped = textwrap.wrap(
            rest, width, initial_indent=lead, subsequent_indent=inner,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        if wrapped:
            out.append(wrapped)
        while not rest and out and out[-1][-1].rstrip().endswith(":") and not _ITEM.match(first):
            # A heading of what is gone.
            out.pop()
    if not changed:
        return None
    lines = [line for paragraph in out for line in paragraph]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _paragraphs(texts: list[str]) -> Iterator[list[str]]:
    """Yield lines that belong together: up to a blank line, a heading's colon, or the next item."""
    paragraph: list[str] = []
    for text in texts:
        if paragraph and (not text.strip() or _ITEM.match(text)):
            yield paragraph
            paragraph = []
        if not text.strip():
            yield [text]
            continue
        paragraph.append(text)
        if text.rstrip().endswith(":"):
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _blocks(text: str, function: Function) -> Iterator[_Block]:
    """Yield the comment blocks of a function, the one right above it included."""
    lines = split_lines(text)
    own: list[int] = []
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    for token in _comments(text):
        line = token.start[0]
        alone = not lines[line - 1][: token.start[1]].strip()
        if alone and first <= line <= (function.end_lineno or first):
            own.append(line)
    while own:
        run = [own.pop(0)]
        while own and own[0] == run[-1] + 1 and _indent(lines, own[0]) == _indent(lines, run[0]):
            run.append(own.pop(0))
        texts = [lines[line - 1].rstrip("\r\n") for line in run]
        if run[-1] < len(lines) and not any(_TOOLS.search(t) for t in texts):
            yield _Block(run[0], texts)


def _is_attached(block: _Block, function: Function, taken: list[Edit]) -> bool:
    """Tell whether a block stands right above a statement that an edit of the rule lies in."""
    for statement in ast.walk(function):
        if not isinstance(statement, ast.stmt) or statement is function:
            continue
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        inside = any(first <= e.start[0] and e.end[0] <= last + 1 for e in taken)
        if inside and (block.end == first or first < block.first <= last):
            return True
    return False


def _beside(text: str, taken: list[Edit], judge: Judge) -> Iterator[Edit]:
    """Yield the removals of comments at the end of a changed line."""
    changed = {line for e in taken for line in (e.start[0], e.end[0])}
    for token in _comments(text):
        (line, column), comment = token.start, token.string
        before = token.line[:column]
        if line not in changed or not before.strip() or _TOOLS.search(comment):
            continue
        if judge(comment.lstrip("# ")):
            start = len(before.rstrip().encode())
            yield Edit((line, start), (line, len(before.encode()) + len(comment.encode())), "")


def _docstring(module: Module, function: Function, judge: Judge, said: str) -> list[Edit]:
    """Return the edit of a docstring in which ``said`` takes the place of what is untrue."""
    if _doc_of(function) is None or not isinstance(function.body[0], ast.Expr):
        return []
    node = function.body[0].value
    source = module.segment(node)
    parts = re.fullmatch(r"([rRuU]?(\"\"\"|'''))(.*)(\2)", source, re.DOTALL)
    if not parts:
        return []
    indent = node.col_offset
    texts = parts[3].replace("\r\n", "\n").split("\n")
    inner = [texts[0], *(_dedented(text, indent) for text in texts[1:])]
    # The first line stands behind the quotes.
    kept = _without(inner, judge, said, WIDTH - indent - len(parts[1]))
    if kept is None:
        return []
    lines = [kept[0], *(f"{'':{indent}}{text}".rstrip() for text in kept[1:])]
    closing = f"\n{'':{indent}}" if not texts[-1].strip() else ""
    return [Edit.of(node, f"{parts[1]}" + "\n".join(lines).rstrip() + closing + parts[4])]


def _doc_of(function: Function) -> str | None:
    return ast.get_docstring(function, clean=False)


def _dedented(text: str, indent: int) -> str:
    return text[indent:] if not text[:indent].strip() else text


def _comments(text: str) -> list[tokenize.TokenInfo]:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text, newline="").readline))
    except (tokenize.TokenError, SyntaxError):
        return []
    return [token for token in tokens if token.type == tokenize.COMMENT]


def _indent(lines: list[str], line: int) -> int:
    return len(lines[line - 1]) - len(lines[line - 1].lstrip())


def _sizes(sentence: str) -> Iterable[int]:
    """Yield the sizes in bytes that a sentence names."""
    for number, unit in _SIZE.findall(sentence):
        unit = re.sub(r"\s", "", unit)
        shift = int(unit[2:]) if unit.startswith("<<") and int(unit[2:]) < 64 else 0
        scale = {"*1024": 1 << 10, "*1024*1024": 1 << 20}.get(unit, 1 << shift)
        if unit[:1] in "KkMm" and unit:
            scale = 1 << (10 if unit[0] in "Kk" else 20)
        yield int(float(number.replace("_", "")[:15]) * scale)


def _is_cap(match: re.Match[str]) -> bool:
    return token_cap() in [int(g) for g in match.groups() if g]


def _overlap(one: Edit, other: Edit) -> bool:
    return one.start < other.end and other.start < one.end
