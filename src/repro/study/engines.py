"""Which engine answers the questions of a study, and what the keys of its records say of it.

The CPU engine and the layers of transformers round alike but for the order of sums, as two devices
do, so no key names them. vLLM is named there, with its version.
"""

from importlib import metadata, util

from repro.errors import ConfigError

AUTO, CPU, TRANSFORMERS, VLLM = NAMES = ("auto", "cpu", "transformers", "vllm")


def check(name: str) -> None:
    """Raise ConfigError unless an engine is known, and installed."""
    if name not in NAMES:
        raise ConfigError(f"unknown engine {name!r}: give one of {', '.join(NAMES)}")
    parameters(name)


def parameters(name: str) -> dict:
    """Return what the parameters of each record say of an engine: nothing, but for vLLM.

    Raises:
        ConfigError: vLLM is not installed.
    """
    return {"engine": {"name": VLLM, "version": vllm_version()}} if name == VLLM else {}


def vllm_version() -> str:
    """Return the version of vLLM; raise ConfigError where it is not installed."""
    if util.find_spec(VLLM) is None:
        raise ConfigError("vLLM is not installed: pip install 'repro[vllm]'")
    names = metadata.packages_distributions().get(VLLM, [VLLM])  # builds have names of their own
    return metadata.version(names[0])
