"""The codebook of an image tokenizer: fitted to latents by k-means, then kept at their moving means."""

import torch
from torch import Tensor

from ..tokenizers.vector_quantised import nearest


def fit(latents: Tensor, codes: int, generator: torch.Generator, rounds: int = 15) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007) and some rounds of Lloyd's algorithm: (n, C) to (codes, C).

    An entry that is nearest to no latent moves to a random one.
    """
    count = len(latents)
    pick = lambda chance: torch.multinomial(chance, 1, generator=generator)  # noqa: E731
    centre = latents[torch.randint(count, (1,), generator=generator, device=latents.device)]
    centres, distance = [centre], (latents - centre).square().sum(1)
    for _ in range(codes - 1):
        centre = latents[pick(distance + 1e-12)]
        centres.append(centre)
        distance = torch.minimum(distance, (latents - centre).square().sum(1))
    codebook = torch.cat(centres)
    for _ in range(rounds):
        sums, counts = totals(latents, nearest(latents, codebook), codes)
        random = latents[torch.randint(count, (codes,), generator=generator, device=latents.device)]
        codebook = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), random)
    return codebook


def totals(latents: Tensor, index: Tensor, codes: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum and number, or sum of weights (n,), of the latents of each entry: (codes, C), (codes,)."""
    weights = torch.ones_like(latents[:, 0]) if weights is None else weights
    sums = torch.zeros(codes, latents.shape[1], device=latents.device).index_add_(0, index, latents * weights[:, None])
    return sums, torch.zeros(codes, device=latents.device).index_add_(0, index, weights)


class MovingCodebook:
    """Moving means of the latents of each entry (van den Oord et al., arXiv 1711.00937, appendix A.1).

    Args:
        codebook: the parameter that is kept up to date, (K, C).
    """

    def __init__(self, codebook: Tensor, decay: float = 0.99):
        self.codebook, self.decay = codebook, decay
        self.counts = torch.ones(len(codebook), device=codebook.device)
        self.sums = codebook.detach().clone()

    def state(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "sums": self.sums}

    def load(self, state: dict[str, Tensor]) -> None:
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])

    @torch.no_grad()
    def update(self, latents: Tensor, index: Tensor, weights: Tensor, reduce=lambda tensor: tensor) -> None:
        """Move towards a batch's latents (n, C) of entries (n,). ``reduce`` adds a tensor up over all processes, in place."""
        sums, counts = totals(latents, index, len(self.codebook), weights)
        self.sums.lerp_(reduce(sums), 1 - self.decay)
        self.counts.lerp_(reduce(counts), 1 - self.decay)
        self.codebook.copy_(self.sums / self.counts.clamp(min=1e-6)[:, None])

    @torch.no_grad()
    def revive(self, latents: Tensor, generator: torch.Generator, share: float = 0.05, of_first=lambda tensor: tensor) -> int:
        """Move entries that have less than a share of the mean count to random latents; how many. ``of_first`` gives all processes the first one's tensor."""
        dead = self.counts < share * self.counts.mean()
        fresh = of_first(latents[torch.randint(len(latents), (len(self.codebook),), generator=generator, device=latents.device)])
        mean = self.counts.mean()
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead[:, None], self.codebook * mean, self.sums))
        return int(dead.sum())
