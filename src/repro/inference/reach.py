"""Whether a completion can still come to contain a name with the tokens that are left.

A sample that has two tokens left can no longer spell a name of three tokens. It is decided, so its
last tokens are not computed. The bound comes from the vocabulary alone, so it holds for every
model: no sequence of tokens of this vocabulary spells the name in fewer tokens.

The steps, for one name of n characters, which is folded as names are compared
(`repro.paper.folded`):

1. `rest[i]` is the fewest tokens that spell the characters from i to the end, if a token begins at
   i. It is computed from the end of the name to its start. A token that reaches the end of the name
   needs one token; a token that spells the characters from i to j needs one, and `rest[j]` more.
2. `whole` is the fewest tokens if the text has no character of the name yet. The first of these
   tokens may begin before the name.
3. A text may end with the first i characters of the name, for several i. It needs the minimum of
   `whole` and of `rest[i]` for these i.

Parts of characters: in a byte-level vocabulary a token may end inside a character, and the next
token begins inside it. Such a part, decoded alone, is `PART`. This module lets a part stand for any
character outside ASCII, or for nothing. That can only make the bound lower, so it stays a bound.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from repro.models.tokens import token_texts
from repro.paper import folded

PART = "\ufffd"  # the text that a part of a character is decoded to
PARTS = 3  # most parts of one character in a token: a character has at most four bytes
LONGEST_FOLD = 3  # most characters that one character becomes when it is folded
WITH_CASE = range(0x80, 0x20000)  # the characters outside ASCII that folding may change
_BY_TOKENIZER: WeakKeyDictionary[PreTrainedTokenizerBase, "Reach | None"] = WeakKeyDictionary()


def reach_of(tokenizer: PreTrainedTokenizerBase) -> "Reach | None":
    """Return the bounds for a tokenizer's vocabulary, which are computed once.

    It returns None if the text of a token depends on its neighbours: there are no bounds then.
    """
    if tokenizer not in _BY_TOKENIZER:
        texts = token_texts(tokenizer)
        _BY_TOKENIZER[tokenizer] = Reach(texts) if texts else None
    return _BY_TOKENIZER[tokenizer]


class Reach:
    """Lower bounds on the number of tokens that a completion needs until it contains a name."""

    def __init__(self, texts: Sequence[str]):
        """Take the text of each token of a vocabulary."""
        folded_texts = {folded(text) for text in texts} - {""}
        self._partial = {text for text in folded_texts if PART in text}
        self._whole = folded_texts - self._partial
        self._longest = max(map(len, self._whole), default=0)
        self._ordered = sorted(self._whole)
        self._ordered_by_end = sorted(text[::-1] for text in self._whole)
        self._joined = PART.join(self._ordered)  # no name contains PART
        self._bounds: dict[str, tuple[int, list[int]]] = {}

    def most(self, names: Sequence[str]) -> int:
        """Return the number of tokens with which, as far as known, every text can reach a name."""
        return min((self._bound(folded(name))[0] for name in names), default=0)

    def needed(self, names: Sequence[str], text: str) -> int:
        """Return the fewest tokens that a text without a name needs to contain one."""
        text = folded(text)
        if text.endswith(PART):  # its last character is not known yet
            return 1
        return min((self._needed(folded(name), text) for name in names), default=0)

    def _needed(self, name: str, text: str) -> int:
        whole, rest = self._bound(name)
        begun = (rest[i] for i in range(1, len(name)) if text.endswith(name[:i]))
        return min([whole, *begun])

    def _bound(self, name: str) -> tuple[int, list[int]]:
        """Return `whole` and `rest` of a folded name (steps 1 and 2)."""
        if name not in self._bounds:
            partial = self._partial_for(name)
            rest = [0] * (len(name) + 1)
            for i in reversed(range(len(name))):
                rest[i] = 1 + min(rest[end] for end in self._ends(name, i, partial))
            starts = [rest[i] for i in range(1, len(name)) if self._ends_with(name[:i], partial)]
            if self._contains(name, partial):
                starts.append(0)
            self._bounds[name] = min([rest[0], *(1 + start for start in starts)]), rest
        return self._bounds[name]

    def _partial_for(self, name: str) -> list[str]:
        """Return the tokens with parts of characters that may spell a part of a name.

        A token that shares no character with the name spells no more of it than its parts do.
        """
        parts = [PART * PARTS] if self._partial else []
        return parts + [text for text in self._partial if not set(name).isdisjoint(text)]

    def _ends(self, name: str, i: int, partial: list[str]) -> Iterator[int]:
        """Yield the places in a name up to which the tokens that begin at its character i spell it.

        The next character is always one of them. If no token spells it, the bound is only lower.
        """
        yield i + 1
        for end in range(i + 2, min(len(name), i + self._longest) + 1):
            if name[i:end] in self._whole:
                yield end
        if _any_starts_with(self._ordered, name[i:]):
            yield len(name)
        for text in partial:
            yield from (end for end in _spelled(text, name, i) if end > i)

    def _ends_with(self, start: str, partial: list[str]) -> bool:
        """Tell whether a token ends with the start of a name."""
        if _any_starts_with(self._ordered_by_end, start[::-1]):
            return True
        return self._spells_inside(start, partial)

    def _contains(self, name: str, partial: list[str]) -> bool:
        """Tell whether a token contains a whole name."""
        return name in self._joined or self._spells_inside(name, partial)

    @staticmethod
    def _spells_inside(text: str, partial: list[str]) -> bool:
        """Tell whether any end of a token with parts of characters spells a text."""
        tails = (token[at:] for token in partial for at in range(len(token)))
        return any(len(text) in _spelled(tail, text, 0) for tail in tails)


def _any_starts_with(ordered: list[str], start: str) -> bool:
    place = bisect_left(ordered, start)
    return place < len(ordered) and ordered[place].startswith(start)


def _spelled(token: str, name: str, i: int) -> set[int]:
    """Return the places up to which a token with parts of characters may spell a name from i on.

    After the end of the name the token may have any text.
    """
    ends = {i}
    for character in token:
        if character == PART:
            ends |= {end + n for end in ends for n in _lengths_of_part(name[end:])}
        else:
            spelled = {end + 1 for end in ends if name[end : end + 1] == character}
            ends = spelled | {end for end in ends if end == len(name)}
    return ends


def _lengths_of_part(text: str) -> list[int]:
    """Return the numbers of characters at the start of a folded text that may be one character."""
    lengths = [
        n for n in range(1, min(LONGEST_FOLD, len(text)) + 1) if text[:n] in _special_folds()
    ]
    return lengths if text[:1].isascii() else [1, *lengths]


@functools.cache
def _special_folds() -> frozenset[str]:
    """Return the folded texts of characters outside ASCII that are ASCII or longer than one.

    Their parts are included, because a name may begin or end inside such a text.
    """
    texts = {t for t in map(folded, map(chr, WITH_CASE)) if t.isascii() or len(t) > 1}
    return frozenset(t[a:b] for t in texts for b in range(1, len(t) + 1) for a in range(b))
