"""Models of the Hugging Face Hub: the commit of a revision, and the files of a commit."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from repro.errors import ModelError, one_line

ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name[@revision]
COMMIT = re.compile(r"[0-9a-f]{40}")
INDEX = "model.safetensors.index.json"
# The files of a model beside its weights that are downloaded: no code, no state of a training.
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "chat_template*", "*.model", "LICENSE*",
    "NOTICE*",
)  # fmt: skip


@cache  # one process never works with two commits of a branch
def commit(repository: str, revision: str | None = None) -> str:
    """Return the commit that a branch or a tag names now; without a revision, that of `main`.

    If the Hub cannot be reached, it is the commit of the last download.

    Raises:
        ModelError: there is no such repository or revision, or it was never downloaded and the
            Hub cannot be reached.
    """
    if COMMIT.fullmatch(revision or ""):
        return revision
    from huggingface_hub import HfApi, hf_hub_download  # slow to load, and rarely needed

    reason = None
    try:  # this request fails at once, while a download would try again for a minute
        HfApi().model_info(repository, revision=revision, timeout=10)
    except Exception as error:  # the client has changed its HTTP library more than once
        reason = error
    try:
        options = {"revision": revision, "local_files_only": reason is not None}
        config = hf_hub_download(repository, "config.json", **options)
    except Exception as error:
        raise unavailable(repository, reason or error) from error
    return Path(config).parent.name  # the cache names the folder of a download by its commit


def download(repository: str, revision: str | None = None) -> Path:
    """Return the folder of a model's safetensors and their companions; download it once.

    Raises:
        ModelError: the Hub does not offer it, and it is not in the Hub's cache.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        if not downloaded(repository, revision):
            HfApi().auth_check(repository)  # fails at once, see `commit`
        options = {"ignore_patterns": ["*/*", "consolidated*"]}
        options["allow_patterns"] = ["*.safetensors", INDEX, *COMPANIONS]
        return Path(snapshot_download(repository, revision=revision, **options))
    except Exception as error:  # the client has changed its HTTP library more than once
        raise unavailable(repository, error) from error


def downloaded(repository: str, revision: str | None = None) -> bool:
    """Tell whether the Hub's cache holds the weights of a model."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


def unavailable(repository: str, reason: Exception) -> ModelError:
    """Return the error for a repository that the Hub does not offer."""
    return ModelError(
        f"there is no folder {repository}, and the Hub does not give a model of this name"
        f" ({one_line(reason)[:200]}); give the folder of a model that is here, or check the name"
        f" and the network, accept the licence at https://huggingface.co/{repository} and log in"
        " with `hf auth login`"
    )
