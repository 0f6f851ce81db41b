"""Small networks whose code knows nothing of parallelism, data for them, and a plain loop to compare with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WORDS, LENGTH, FEATURES, CLASSES = 32, 6, 8, 4
BATCHES = (8, 7, 5, 1, 8, 3)  # of one sample most ranks have none
RATE, CLIP_NORM = 0.02, 0.5


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(width // heads)  # meets what is cut, and is not cut itself

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        q, k, v = (
            layer(x).view(count, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = functional.scaled_dot_product_attention(self.q_norm(q), k, v, is_causal=True)
        return torch.as_tensor(self.out(y.transpose(1, 2).reshape(count, length, width)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return torch.as_tensor(x + self.mlp(self.second(x)))


class Transformer(nn.Module):
    """A small language model; tied, the embedding scores the words."""

    def __init__(self, *, is_tied: bool = False, blocks: int = 2, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WORDS, bias=False)
        if is_tied:
            nn.init.normal_(self.words.weight, std=0.1)
            self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1], device=words.device)
        x = self.words(words) + self.places(places)
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.head(self.norm(x)))


class Partly(nn.Module):
    """A network with a frozen trunk, and with a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(FEATURES, 16).requires_grad_(requires_grad=False)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(torch.relu(self.trunk(x)).view(len(x), -1)))


def build(name: str) -> nn.Module:
    """The network of that name, always with the same weights."""
    torch.manual_seed(7)
    if name == "partly":
        return Partly()
    if name == "deep":  # 12 layers of its own
        return nn.Sequential(*[nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh()) for _ in range(11)],
                             nn.Linear(FEATURES, CLASSES))  # fmt: skip
    if name == "mlp":
        return nn.Sequential(nn.Linear(FEATURES, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, CLASSES))
    return Transformer(is_tied=name == "tied")


def batches(name: str, sizes: Sequence[int] = BATCHES) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of each step, always the same."""
    generator = torch.Generator().manual_seed(11)
    found = []
    for size in sizes:
        if name in ("transformer", "tied"):
            words = torch.randint(0, WORDS, (size, LENGTH + 1), generator=generator)
            found.append((words[:, :-1], words[:, 1:]))
        else:
            x = torch.randn(size, FEATURES, generator=generator)
            found.append((x, x[:, :CLASSES].argmax(1)))
    return found


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy, summed over the samples."""
    return functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1), reduction="sum")


def optimizer(parameters: object) -> torch.optim.Optimizer:
    """AdamW; its epsilon keeps rounding errors of gradients that are 0 from becoming steps."""
    return torch.optim.AdamW(parameters, lr=RATE, eps=1e-4, weight_decay=0.1)  # type: ignore[arg-type]


def alone(name: str, steps: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of each step and the weights after them, by nothing but a plain loop in this process."""
    model = build(name)
    changing = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    losses = []
    for inputs, targets in steps:
        summed = loss(model(inputs), targets)
        (summed / len(inputs)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        changing.step()
        changing.zero_grad()
        losses.append(float(summed.detach()) / len(inputs))
    return losses, model.state_dict()
