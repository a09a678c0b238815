"""A small transformer that predicts the next byte.

Source: Radford et al. 2019 (GPT-2): pre-norm blocks, learnt positions, GELU,
input and output embedding tied, residual projections initialised smaller.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

VOCABULARY = 256
"""Bytes."""


class GPT(nn.Module):
    """Called with inputs and targets it returns the loss."""

    def __init__(
        self, *, layers: int, heads: int, width: int, block: int, dropout: float
    ) -> None:
        """Make the layers; `block` is the longest input in bytes."""
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(block, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _Block(heads, width, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.apply(_initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("attend.project.weight", "contract.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))
        self.head.weight = self.token.weight

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy, in nats per byte.

        Args:
            inputs: (batch, length) int64, length at most `block`.
            targets: (batch, length) int64, the bytes that follow.

        Returns:
            () float32, or autocast's type.
        """
        logits = self.logits(inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def logits(self, inputs: Tensor) -> Tensor:
        """Return (batch, length, 256) scores of the next byte."""
        places = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.drop(self.token(inputs) + self.position(places))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class _Block(nn.Module):
    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_attend = nn.LayerNorm(width)
        self.attend = _Attention(heads, width)
        self.norm_feed = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attend(self.norm_attend(x)))
        hidden = F.gelu(self.expand(self.norm_feed(x)))
        out: Tensor = x + self.drop(self.contract(hidden))
        return out


class _Attention(nn.Module):
    """Causal self-attention. Dropout is left to the residual stream.

    With dropout inside, scaled_dot_product_attention leaves its fused kernel on
    CPU: a training step took 1.2 times as long (one thread, width 128).
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
