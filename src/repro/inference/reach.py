"""Whether a completion can still come to contain a name with the tokens that are left.

A sample of 32 tokens that has two left can no longer spell a name of three tokens. It is decided:
what would follow is not computed. The bound comes from the vocabulary alone, so it holds for every
model: no sequence of tokens spells the name in fewer.

Steps, for one name of n characters, folded as names are compared (`repro.paper.folded`):

1. `rest[i]`: the fewest tokens that spell the characters from i on, where a token begins at i. From
   the end to the start: a token that reaches the end of the name needs one; a token that spells the
   characters from i to j needs one and `rest[j]`.
2. `whole`: the fewest tokens where nothing of the name is there yet. The first of them may begin
   before the name.
3. A text may end with the first i characters of the name, for several i. It needs the least of
   their `rest[i]` and of `whole`.

Parts of characters: in a byte-level vocabulary a token may end inside a character, and the next
token goes on inside it. Decoded alone, such a part is `PART`. Here a part counts as any character
outside ASCII, or as nothing: the bound becomes lower by it, and stays a bound.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from repro.models.tokens import token_texts
from repro.paper import folded

PART = "\ufffd"  # what part of a character decodes to
PARTS = 3  # that a token may hold one after another: a character has four bytes at most
LONGEST_FOLD = 3  # characters that one character becomes at most when it is folded
WITH_CASE = range(0x80, 0x20000)  # outside ASCII, what folding may change
_BY_TOKENIZER: WeakKeyDictionary[PreTrainedTokenizerBase, "Reach | None"] = WeakKeyDictionary()


def reach_of(tokenizer: PreTrainedTokenizerBase) -> "Reach | None":
    """Return the bounds for a tokenizer's vocabulary, made once; None where there are none.

    There are none where the text of a token depends on its neighbours.
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
        self._joined = PART.join(self._ordered)  # no name holds what stands between them
        self._bounds: dict[str, tuple[int, list[int]]] = {}

    def most(self, names: Sequence[str]) -> int:
        """Return with how many tokens left every text can still reach a name, as far as known."""
        return min((self._bound(folded(name))[0] for name in names), default=0)

    def needed(self, names: Sequence[str], text: str) -> int:
        """Return how many tokens a text, which holds no name yet, needs at least to hold one."""
        text = folded(text)
        if text.endswith(PART):  # nobody knows its last character yet
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
        """Return the tokens with parts of characters that may spell some of a name.

        One that shares no character with the name spells no more of it than its parts do.
        """
        parts = [PART * PARTS] if self._partial else []
        return parts + [text for text in self._partial if not set(name).isdisjoint(text)]

    def _ends(self, name: str, i: int, partial: list[str]) -> Iterator[int]:
        """Yield up to where tokens spell a name that begin at its character i.

        One character is always among them: where no token begins there, the bound is lower.
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
        """Tell whether a token with parts of characters spells a text, from any of its own on."""
        tails = (token[at:] for token in partial for at in range(len(token)))
        return any(len(text) in _spelled(tail, text, 0) for tail in tails)


def _any_starts_with(ordered: list[str], start: str) -> bool:
    place = bisect_left(ordered, start)
    return place < len(ordered) and ordered[place].startswith(start)


def _spelled(token: str, name: str, i: int) -> set[int]:
    """Return up to where a token with parts of characters may spell a name from i on.

    Past the end of the name it may say anything.
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
    """Return how many characters at the start of a folded text one other character may become."""
    lengths = [
        n for n in range(1, min(LONGEST_FOLD, len(text)) + 1) if text[:n] in _special_folds()
    ]
    return lengths if text[:1].isascii() else [1, *lengths]


@functools.cache
def _special_folds() -> frozenset[str]:
    """Return what characters outside ASCII become when folded, if it is ASCII or longer than one.

    Parts of it are among them: a name may begin or end there.
    """
    texts = {t for t in map(folded, map(chr, WITH_CASE)) if t.isascii() or len(t) > 1}
    return frozenset(t[a:b] for t in texts for b in range(1, len(t) + 1) for a in range(b))
