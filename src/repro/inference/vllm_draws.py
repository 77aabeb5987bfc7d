"""What runs inside vLLM, which loads it by name: our draws, as a logits processor.

The processor leaves exactly one finite logit, that of the token that our
own sampler draws, so that whatever vLLM does next chooses it.
"""

from collections.abc import Callable

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from repro.inference.sampling import check_logits, draw


class Draws(AdapterLogitsProcessor):
    """Draws a token for each request that carries random numbers, all of a step together.

    `SamplingParams.extra_args` holds `numbers`, one for each step, and `temperature`. The base
    class follows requests as they come, go and change their rows: `req_info` has a function of
    each, which already knows the tokens that the request consists of so far.
    """

    def is_argmax_invariant(self) -> bool:
        """Return False: the token drawn is seldom the most probable one."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Callable | None:
        """Return what tells a request's temperature and next number; None of a greedy one."""
        settings = params.extra_args or {}
        if "numbers" not in settings:
            return None

        def next_draw(output_ids: list[int], _: None) -> tuple[float, float]:
            return settings["temperature"], settings["numbers"][len(output_ids)]

        return next_draw

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave one finite logit in each row that draws.

        Raises:
            ModelError: a logit is NaN.
        """
        check_logits(logits)
        drawn: dict[float, list[tuple[int, float]]] = {}  # by temperature: row, number
        for row, next_draw in self.req_info.items():
            temperature, number = next_draw(None)
            drawn.setdefault(temperature, []).append((row, number))
        for temperature, pairs in drawn.items():
            rows, numbers = zip(*pairs, strict=True)
            places = torch.tensor(rows, device=logits.device)
            u = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
            tokens = draw(logits, u, places, temperature)
            logits[places] = -torch.inf
            logits[places, tokens] = 0.0
        return logits
