"""Kernels that start at once, because they are forked from a process with all imports loaded.

The imports of a notebook take longer than its tables and figures. So on Linux one process loads
them once, and the kernel of each notebook is a fork of it: a separate process, which shares nothing
with other notebooks. jupyter_client starts a kernel through a provisioner. This module has one, and
papermill uses it through `KernelManager`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from repro.book import dependencies

NAME = "repro-forked"
# What a kernel loads when it starts, and the figures when they are drawn.
LOADED = (
    "ipykernel.kernelapp",
    "matplotlib_inline.backend_inline",
    "matplotlib.backends.backend_svg",
)


class ForkedProcess:
    """A forked kernel, with the methods of `subprocess.Popen` that a provisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        """Take the number of the process, which is not a child of this process."""
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return None while it runs, then 0, because only its parent knows its exit status."""
        if self.returncode is None:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self.returncode = 0
        return self.returncode

    def wait(self) -> int:
        """Wait until it has ended."""
        while self.poll() is None:
            time.sleep(0.01)
        return 0

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel as a fork of the process that `_server` keeps."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict:
        """Fork a kernel with the arguments of a kernel's command, and return how to reach it."""
        arguments = cmd[cmd.index("-f") :]
        self.process = ForkedProcess(_fork(arguments, options.get("env"), options.get("cwd")))
        # Its process group is the server's, which a signal to one kernel must not reach.
        self.pid, self.pgid, self.cwd = self.process.pid, None, options.get("cwd")
        return self.connection_info


class KernelManager(AsyncKernelManager):
    """Starts the usual kernel through `ForkedProvisioner`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel's specification, with the provisioner that starts it."""
        factory = KernelProvisionerFactory.instance(parent=self.parent)
        entry = EntryPoint(NAME, f"{__name__}:ForkedProvisioner", factory.GROUP_NAME)
        factory.provisioners.setdefault(NAME, entry)
        spec = super().kernel_spec
        spec.metadata = {**spec.metadata, "kernel_provisioner": {"provisioner_name": NAME}}
        return spec


def options() -> dict[str, type]:
    """Return options for papermill's `execute_notebook`; none if forking is not safe.

    On macOS system libraries may fail after a fork, and Windows has no fork.
    """
    return {"kernel_manager_class": KernelManager} if sys.platform == "linux" else {}


@cache
def _server() -> subprocess.Popen:
    words = [sys.executable, "-m", __name__]
    # In a process group of its own, which can be ended as a whole, and gets no interrupt.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(words, text=True, **pipes)


def end() -> None:
    """End the process that forks kernels, and all kernels with it."""
    if _server.cache_info().currsize:
        server = _server()
        os.killpg(server.pid, signal.SIGKILL)
        _server.cache_clear()
        server.communicate()


_one_at_a_time = threading.Lock()


def _fork(arguments: list[str], env: dict | None, folder: str | None) -> int:
    request = {"arguments": arguments, "env": env or dict(os.environ), "folder": folder}
    with _one_at_a_time:
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
    if not answer:
        raise RuntimeError("the process that starts kernels has ended")
    return int(answer)


# --- the other process ----------------------------------------------------------------------------


def _serve() -> None:
    """Load the modules, then fork a kernel for each request and print its number."""
    for name in LOADED:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # an ended kernel leaves nothing to wait for
    for line in sys.stdin:
        request = json.loads(line)
        _load_imports(request["folder"] or ".")
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become_kernel(**request)
            os._exit(0)
        print(pid, flush=True)


@cache
def _load_imports(folder: str) -> None:
    """Import all modules that the notebooks of a folder import, directly or through others."""
    for source in sorted(Path(folder).glob("[0-9]*.py")):
        # A module that cannot be imported is an error of the notebook, which reports it itself.
        with suppress(Exception):
            for name in dependencies.imported(source.read_text(encoding="utf-8"), "__main__"):
                import_module(name)


def _become_kernel(arguments: list[str], env: dict[str, str], folder: str | None) -> None:
    """Turn this process into an IPython kernel with these arguments, environment and folder."""
    from ipykernel.kernelapp import IPKernelApp

    # A kernel sends its output in messages; the pipes belong to the server.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.environ.clear()
    os.environ.update(env)
    if folder:
        os.chdir(folder)
    IPKernelApp.launch_instance(argv=arguments)


if __name__ == "__main__":
    _serve()
