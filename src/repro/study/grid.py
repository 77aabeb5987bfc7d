"""The runs of a study, from its profile and the number of facts of each level (§3.3)."""

from collections.abc import Iterable
from dataclasses import replace

from repro import paper
from repro.errors import ConfigError
from repro.study.profiles import Profile
from repro.study.requests import MIXED, Request, Requests, Run

LORA_RATE = 10  # learning rate of adapters over that of all parameters: they need larger steps


class Grid:
    """The runs of a study. A level with fewer facts than a size has no run of that size."""

    def __init__(self, profile: Profile, learning_rate: float, pool_sizes: dict[int, int]):
        """Take the profile, the model's learning rate, and the training facts by level."""
        self.profile, self.learning_rate, self.pool_sizes = profile, learning_rate, pool_sizes

    @property
    def all_levels(self) -> int:
        """The number of training facts of all levels together."""
        return sum(self.pool_sizes.values())

    def size(self, run: Run) -> int:
        """Return the number of facts a run is trained on."""
        if run.size is not None:
            return run.size
        return self.all_levels if run.level == MIXED else self.pool_sizes.get(run.level, 0)

    def runs(self) -> list[Run]:
        """Return every run on facts of one level."""
        runs = []
        for level in paper.LEVELS:
            for size in self.profile.sizes:
                number = None if size == "all" else size
                if 0 < (number or 1) <= self.pool_sizes.get(level, 0):
                    runs += [
                        Run(level, number, sample, self.learning_rate)
                        for sample in range(self.profile.samples)
                    ]
        return runs

    def rate_runs(self) -> list[Run]:
        """Return the runs that compare learning rates, on facts of all levels."""
        size = self.profile.rate_size
        samples = range(self.profile.rate_samples if size <= self.all_levels else 0)
        return [Run(MIXED, size, n, rate) for rate in self.profile.rates for n in samples]

    def mixed_runs(self) -> list[Run]:
        """Return the runs on facts of all levels that Table 7 compares.

        There is no run on all facts: for micro-m two such runs took a sixth of all training.
        """
        sizes = [size for size in self.profile.sizes if size != "all"]
        return self._of_all_levels(sizes, self.profile.mixed_samples)

    def lora_runs(self) -> list[Run]:
        """Return the runs with adapters, at the sizes of the restored runs (Table 7).

        Raises:
            ConfigError: the profile's rank is below 1.
        """
        if self.profile.lora_samples and self.profile.lora_rank < 1:
            raise ConfigError(
                f"profile {self.profile.name}: LoRA needs a rank of at least 1, not"
                f" {self.profile.lora_rank}; to leave it out, set lora_samples to 0"
            )
        rate = float(f"{LORA_RATE * self.learning_rate:g}")
        runs = self._of_all_levels(self.profile.restore_sizes, self.profile.lora_samples)
        return [replace(run, learning_rate=rate, rank=self.profile.lora_rank) for run in runs]

    def restored_runs(self) -> list[Run]:
        """Return the runs whose parameters are restored (§5)."""
        return self._selected(self.profile.restore_sizes, self.profile.restore_samples)

    def control_runs(self) -> list[Run]:
        """Return the runs whose parameters are also restored by other rules, as controls."""
        runs = self._selected(self.profile.control_sizes, self.profile.control_samples)
        return [run for run in runs if run.level in self.profile.control_levels]

    def layer_runs(self) -> list[Run]:
        """Return the runs whose layers are restored group by group (Table 11)."""
        return self._selected(self.profile.layer_sizes, self.profile.layer_samples)

    def requests(self, requests: Requests) -> list[Request]:
        """Return all requests of the profile but mastery, without duplicates, run by run."""
        all_requests = [requests.accuracy(None, split) for split in ("dev", "test", "testood")]
        all_requests += requests.instruct()
        strategies = {*self.mixed_runs(), *self.lora_runs()}
        for run in dict.fromkeys([*self.rate_runs(), *self.mixed_runs(), *self.lora_runs()]):
            compared = run in strategies
            all_requests += requests.strategy(run) if compared else requests.learning_rate(run)
        restored = set(self.restored_runs())
        controlled, by_layers = set(self.control_runs()), set(self.layer_runs())
        for run in self.runs():
            all_requests += [requests.finetune(run)]
            all_requests += [requests.accuracy(run, split) for split in ("test", "testood")]
            all_requests += [requests.divergence(run)]
            if run in restored:
                all_requests += [requests.concentration(run), requests.locations(run)]
                all_requests += requests.restoration(run, self.profile.percents)
            if run in controlled:
                all_requests += requests.controls(run)
            if run in by_layers:
                all_requests += requests.layers(run)
        return list({request.key: request for request in all_requests}.values())

    def _of_all_levels(self, sizes: Iterable[int], samples: int) -> list[Run]:
        return [
            Run(MIXED, size, sample, self.learning_rate)
            for size in sizes
            if size <= self.all_levels
            for sample in range(samples)
        ]

    def _selected(self, sizes: Iterable, samples: int) -> list[Run]:
        return [run for run in self.runs() if run.size in sizes and run.sample < samples]
