"""Which tensors a restoration may touch, and the order in which their parameters count (§5)."""

import re
from collections.abc import Iterable

from repro.errors import ConfigError
from repro.models.architecture import PROJECTIONS

# `transformer` is the region of the authors' released tool: every weight inside a layer except
# the norms. A checkpoint of an old version may hold the angles of the position embedding and the
# mask of the attention too, which are no parameters.
REGIONS = {
    "transformer": re.compile(r"^(?!.*norm)(?!.*rotary).*layers"),
    "attention": re.compile(r"^(?!.*norm)(?!.*rotary).*layers\..*(attn|attention)"),
    "mlp": re.compile(r"^(?!.*norm).*layers\..*(mlp|ffn|feed_forward|fc[12]|moe)"),
    "embedding": re.compile(r"embed_tokens|lm_head|\bwte\b|\bwpe\b|word_embeddings|embed_(in|out)"),
    "all": re.compile(r"^(?!.*rotary)"),
}
_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
_LAYER = re.compile(r"\blayers\.(\d+)\.")
# What other families call the list of layers: GPT-2, BLOOM and Falcon `h`, MPT `blocks`, BERT
# `layer`; and their norms.
_OTHER_LAYER = re.compile(r"(?<![^.])(?:h|blocks|layer)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|\bwte\b|\bwpe\b")
_OTHER_NORM = re.compile(r"(?<![^.])ln_")


def inside(names: Iterable[str], region: str = "transformer", layers: str = "") -> list[str]:
    """Return the tensors of a region, in the order in which their parameters count.

    Args:
        names: of all tensors.
        region: a name of `REGIONS`, or a regular expression searched in tensor names.
        layers: such as `0-3` or `0,2,5-7`; empty for all.

    Raises:
        ConfigError: the region matches nothing, or is no regular expression.
    """
    try:
        pattern = REGIONS.get(region) or re.compile(region)
    except re.error as error:
        raise ConfigError(f"region {region!r} is not a regular expression: {error}") from error
    wanted, given = _range(layers), [name for name in names if not _MASK.search(name)]
    searched = _as_layers(given) if region in REGIONS else dict(zip(given, given, strict=True))
    found = [n for n in given if pattern.search(searched[n]) and (not wanted or layer(n) in wanted)]
    if found:
        return sorted(found, key=place)
    where = f" in layers {layers}" if layers else ""
    raise ConfigError(
        f"region {region!r}{where} matches no tensor; try one of {', '.join(REGIONS)}"
    )


def _as_layers(names: Iterable[str]) -> dict[str, str]:
    """Return each name as LLaMA would begin it, where no tensor is in `layers`."""
    spelled = {name: name for name in names}
    if any(_LAYER.search(name) for name in spelled):
        return spelled
    return {n: _OTHER_LAYER.sub(r"layers.\1.", _OTHER_NORM.sub("norm_", n)) for n in spelled}


def _range(layers: str) -> set[int]:
    wanted: set[int] = set()
    for part in filter(None, layers.replace(" ", "").split(",")):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ConfigError(f"layers {layers!r}: give numbers and ranges, such as 0-3 or 0,2,5-7")
        wanted |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    return wanted


def layer(name: str) -> int | None:
    """Return the number of a tensor's layer, None for one outside the layers."""
    found = _LAYER.search(name) or _OTHER_LAYER.search(name)
    return int(found[1]) if found else None


def module(name: str) -> str:
    """Return what a tensor is within its layer, such as `self_attn.q_proj`."""
    pattern = _LAYER if _LAYER.search(name) else _OTHER_LAYER
    return pattern.split(name)[-1].removesuffix(".weight").removesuffix(".bias")


def place(name: str) -> tuple:
    """Return a key that sorts tensors as LLaMA holds them, whatever the files hold first.

    Embedding, layers by number, the rest; in a layer q, k, v, o, gate, up, down, then what else
    there is by name, numbers as numbers; a weight before its bias.
    """
    number = layer(name)
    part = 0 if number is not None or _EMBEDDING.search(name) else 1
    known = [i for i, p in enumerate(PROJECTIONS) if f".{p}." in name]
    natural = [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
    order = known[0] if known else len(PROJECTIONS)
    return part, -1 if number is None else number, order, not name.endswith("weight"), natural
