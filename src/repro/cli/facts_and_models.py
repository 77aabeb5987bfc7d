"""Models and facts: the commands `models` and `data`."""

from typing import TYPE_CHECKING

from repro.cli.application import LOOK, command
from repro.cli.options import Facts, World
from repro.cli.output import say

if TYPE_CHECKING:  # loading it takes longer than help may take
    from repro.models.registry import ModelEntry


@command(LOOK, "list the models, and which are on this machine", "repro models")
def models() -> None:
    """List the models that have a name, their sizes, and which are on this machine."""
    from repro.models import registry

    for entry in registry.entries().values():
        say(_model_line(entry))
    say("* default. A folder of safetensors is a model too, and so is owner/name on the Hub.")


def _model_line(entry: "ModelEntry") -> str:
    """Return name, size and title of a model, and where its weights are or come from."""
    from repro.models import registry, weights

    absent = entry.get or ("missing" if entry.bundled else "from the Hub, with its licence")
    place = "here" if weights.available(entry) else absent
    mark = "*" if entry.name == registry.DEFAULT_MODEL else " "
    millions = (entry.parameters or 0) / 1e6
    size = f"{millions:,.{0 if millions >= 10 else 1}f} M"
    return f"{mark} {entry.name:20} {size:>9}  {entry.title:30} {place}"


@command(
    LOOK,
    "find or download the facts, check them and count them",
    "repro data atlas",
    "repro data --data FOLDER",
)
def data(world: World = "entityquestions", data: Facts = None) -> None:
    """Find or download the facts, check their checksums, and count them by split."""
    from repro import paper
    from repro.data import facts

    loaded = facts.load(data, world=world)
    for split in paper.SPLITS:
        say(f"{split:8} {(loaded['split'] == split).sum():7,d} facts")
    say(f"hash     {facts.data_hash(data, world)[:16]}")
