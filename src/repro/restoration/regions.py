"""The tensors of a region, and their order, which decides between equal scores (§5)."""

import re
from collections.abc import Iterable

from repro.errors import ConfigError
from repro.models.architecture import PROJECTIONS

# `transformer` is the region of the authors' released tool: every weight inside a layer except
# the norms. An old checkpoint may also hold the rotary position angles and the attention mask,
# which are not parameters and so are excluded.
REGIONS = {
    "transformer": re.compile(r"^(?!.*norm)(?!.*rotary).*layers"),
    "attention": re.compile(r"^(?!.*norm)(?!.*rotary).*layers\..*(attn|attention)"),
    "mlp": re.compile(r"^(?!.*norm).*layers\..*(mlp|ffn|feed_forward|fc[12]|moe)"),
    "embedding": re.compile(r"embed_tokens|lm_head|\bwte\b|\bwpe\b|word_embeddings|embed_(in|out)"),
    "all": re.compile(r"^(?!.*rotary)"),
}
_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
_LAYER = re.compile(r"\blayers\.(\d+)\.")
# Other families name the list of layers differently: `h` (GPT-2, BLOOM, Falcon), `blocks` (MPT),
# `layer` (BERT). They name the norms differently too (`ln_`).
_OTHER_LAYER = re.compile(r"(?<![^.])(?:h|blocks|layer)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|\bwte\b|\bwpe\b")
_OTHER_NORM = re.compile(r"(?<![^.])ln_")


def tensors_in(names: Iterable[str], region: str = "transformer", layers: str = "") -> list[str]:
    """Return the tensors of a region, sorted by `sort_key`: of equal scores the first are chosen.

    Args:
        names: the names of all tensors of a model.
        region: a name of `REGIONS`, or a regular expression searched in tensor names.
        layers: such as `0-3` or `0,2,5-7`; empty for all.

    Raises:
        ConfigError: the region matches nothing, or is no regular expression.
    """
    try:
        pattern = REGIONS.get(region) or re.compile(region)
    except re.error as error:
        raise ConfigError(f"region {region!r} is not a regular expression: {error}") from error
    numbers, names = _layer_numbers(layers), [name for name in names if not _MASK.search(name)]
    searched = _llama_names(names) if region in REGIONS else dict(zip(names, names, strict=True))
    matching = [
        n for n in names if pattern.search(searched[n]) and (not numbers or layer(n) in numbers)
    ]
    if matching:
        return sorted(matching, key=sort_key)
    in_layers = f" in layers {layers}" if layers else ""
    raise ConfigError(
        f"region {region!r}{in_layers} matches no tensor; try one of {', '.join(REGIONS)}"
    )


def _llama_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name with its layer written `layers.N`, as in LLaMA, for `REGIONS` to match."""
    names = list(names)
    if any(_LAYER.search(name) for name in names):
        return {name: name for name in names}
    return {n: _OTHER_LAYER.sub(r"layers.\1.", _OTHER_NORM.sub("norm_", n)) for n in names}


def _layer_numbers(layers: str) -> set[int]:
    """Parse a list such as `0,2,5-7`; raise ConfigError if it is malformed."""
    numbers: set[int] = set()
    for part in filter(None, layers.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"layers {layers!r}: give numbers and ranges, such as 0-3 or 0,2,5-7")
        numbers |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers


def layer(name: str) -> int | None:
    """Return the number of a tensor's layer, None for one outside the layers."""
    match = _LAYER.search(name) or _OTHER_LAYER.search(name)
    return int(match[1]) if match else None


def module(name: str) -> str:
    """Return the name of a tensor's module within its layer, such as `self_attn.q_proj`."""
    pattern = _LAYER if _LAYER.search(name) else _OTHER_LAYER
    return pattern.split(name)[-1].removesuffix(".weight").removesuffix(".bias")


def sort_key(name: str) -> tuple:
    """Return a key that sorts tensors in the order of LLaMA, whatever their order in the files.

    The embedding comes first, then layers by number, then the rest. Within a layer come q, k, v, o,
    gate, up, down, then all others by name, digits compared as numbers. A weight precedes its bias.
    """
    number = layer(name)
    part = 0 if number is not None or _EMBEDDING.search(name) else 1
    projections = [i for i, p in enumerate(PROJECTIONS) if f".{p}." in name]
    order = projections[0] if projections else len(PROJECTIONS)
    natural = [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
    return part, -1 if number is None else number, order, not name.endswith("weight"), natural
