"""The sizes of the paper's models, from their published configurations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """The sizes of a LLaMA, from its published configuration."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int = 128_256

    @property
    def products(self) -> int:
        """Parameters in the matrix products of a token: all matrices but the embedding table."""
        narrow = self.hidden * self.key_value_heads // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * narrow
        block = attention + 3 * self.hidden * self.intermediate
        return self.layers * block + self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All parameters: matrices, embedding table, two norms for each layer, the final norm."""
        return self.products + self.hidden * (self.vocabulary + 2 * self.layers + 1)

    @property
    def layer(self) -> int:
        """The parameters of one layer."""
        outside = self.hidden * (2 * self.vocabulary + 1)
        return (self.parameters - outside) // self.layers

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values per token, in bfloat16."""
        return 2 * 2 * self.layers * self.hidden * self.key_value_heads // self.heads


LLAMA_2_VOCABULARY = 32_000
ARCHITECTURES = {
    "llama-2-7b": Architecture(4096, 32, 11_008, 32, 32, LLAMA_2_VOCABULARY),
    "llama-2-13b": Architecture(5120, 40, 13_824, 40, 40, LLAMA_2_VOCABULARY),
    "llama-2-70b": Architecture(8192, 80, 28_672, 64, 8, LLAMA_2_VOCABULARY),
    "llama-3-8b": Architecture(4096, 32, 14_336, 32, 8),
    "llama-3-70b": Architecture(8192, 80, 28_672, 64, 8),
    "llama-3-8b-instruct": Architecture(4096, 32, 14_336, 32, 8),
}
