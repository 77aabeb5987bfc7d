"""Runs `repro rank` and `repro restore` on two small models, for the page on the tool."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from repro.book import dependencies
from repro.book.execution import Book
from repro.files import write_atomic

PAGE = "restore_tool.md"
COMMANDS = {
    "rank": "repro rank base tuned --percent 1 5 20 60",
    "dry": "repro restore base tuned restored --percent 5 20 --dry-run",
    "restore": "repro restore base tuned restored --percent 5 20",
    "again": "repro restore base tuned restored --percent 20",
}


def outputs(book: Book) -> dict[str, str]:
    """Return each command with its output as a block of code; it runs again after a change."""
    stored = book.root / "book" / "_executed" / "restore_tool.json"
    command = dependencies.files_of(dependencies.PACKAGE / "cli" / "__main__.py")
    stamp = dependencies.content_hash([book.root / "book" / PAGE, Path(__file__), *command])
    if (
        stored.is_file()
        and (record := json.loads(stored.read_text(encoding="utf-8")))["stamp"] == stamp
    ):
        return record["outputs"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        two_models(folder)
        outputs = {key: _block(command, folder) for key, command in COMMANDS.items()}
        files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("restored/*/*"))
    outputs["files"] = "```text\n" + "\n".join(files) + "\n```"
    write_atomic(stored, json.dumps({"stamp": stamp, "outputs": outputs}))
    return outputs


def _block(command: str, folder: Path) -> str:
    words = [sys.executable, "-m", "repro.cli", *command.split()[1:]]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    return f"```text\n$ {command}\n{done.stdout}{done.stderr}```"


def two_models(folder: Path) -> None:
    """Write `base` in one file, and `tuned`, trained for ten steps, in two; in bfloat16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        model = LlamaForCausalLM(config)
        _save(model, folder / "base", ["model.safetensors"])
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        for _ in range(10):
            ids = torch.randint(512, (4, 16))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    shards = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
    _save(model, folder / "tuned", shards)


def _save(model: LlamaForCausalLM, folder: Path, files: list[str]) -> None:
    """Write a model in bfloat16, its tensors divided over some files with an index."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    weights = {n: w.detach().bfloat16() for n, w in model.state_dict().items()}
    names = {name: files[i * len(files) // len(weights)] for i, name in enumerate(weights)}
    for file in files:
        part = {n: w for n, w in weights.items() if names[n] == file}
        save_file(part, folder / file, {"format": "pt"})
    if len(files) > 1:
        index = json.dumps({"metadata": {}, "weight_map": names})
        (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
