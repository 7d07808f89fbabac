# %% [markdown]
# # Training with certified attention
#
# A small character model, trained twice from the same start: once with torch's attention, once with kernels that
# are proved equal to their formula for every size, forward and backward. Run it as a script
# (`python examples/train.py`) or cell by cell. On a machine with a GPU the certified kernels run as Triton; without
# one, the same candidates run in the CPU executor.

# %% Certificates: prove the kernels that ship with the specs (or write your own `.tile` files).
from itertools import chain, islice
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import synth
from ir.loader import bind, load_spec
from synth.certify import certify
from synth.propose.embedded import propose
from synth.propose.seeds import seeds
from synth.ship import ship

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT = Path("runs/train")


def certificate(spec: str, **settings: str | int) -> Path:
    """Prove candidates in the order the proposer offers them; the first proved one, cross-checked, as a file."""
    bound = bind(load_spec(spec), settings)
    for candidate in islice(chain(seeds(bound), propose(bound)), 10):
        found = certify(candidate.text, bound, candidate.name)
        print(f"{spec}: {candidate.name} is {found.report.verdict.value}")
        if found.certificate is not None:
            OUT.mkdir(parents=True, exist_ok=True)
            path = OUT / f"{spec}.cert.json"
            ship(found, bound, checked=DEVICE == "cuda").save(path)
            return path
    raise SystemExit(f"no candidate for {spec} was proved")


forward = certificate("attention", causal="top_left", dtype="fp32", D=64)
backward = certificate("attention_bwd", causal="top_left", dtype="fp32", o_dtype="fp32", D=64)

# %% One call checks both files, that the backward is the gradient of this forward, and makes a torch operator.
certified = synth.load(forward, backward=backward)
print(*certified.kernels, sep="\n")


# %% A model of two blocks. `attention` is the only thing that differs between the two runs.
class Block(nn.Module):
    def __init__(self, width, heads, attention):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.qkv = nn.Linear(width, 3 * heads * 64)
        self.out = nn.Linear(heads * 64, width)
        self.norm, wide = nn.LayerNorm(width), 4 * width
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, 64)).permute(2, 0, 3, 1, 4)  # views: no copy
        x = x + self.out(self.attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self, characters, attention, width=64, heads=2, length=64):
        super().__init__()
        self.token, self.place = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads, attention) for _ in range(2)])
        self.head = nn.Linear(width, characters)

    def forward(self, tokens):
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.blocks(x))


# %% Train both on the text of the attention spec.
TEXT = load_spec("attention").source
ALPHABET = sorted(set(TEXT))
DATA = torch.tensor([ALPHABET.index(c) for c in TEXT], device=DEVICE)


def train(attention, steps=40, batch=8, length=48):
    torch.manual_seed(0)
    model = Model(len(ALPHABET), attention).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(DATA) - length - 1, (batch,)).tolist()
        rows = torch.stack([DATA[s : s + length + 1] for s in starts])
        loss = cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


ours, theirs = train(certified), train(scaled_dot_product_attention)

# %% The two curves.
print("step  certified     torch")
for step in [*range(0, len(ours), 10), len(ours) - 1]:
    print(f"{step:4d}  {ours[step]:9.5f} {theirs[step]:9.5f}")
apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
print(f"largest difference: {apart:.1e}")
assert apart < 1e-2, "the two trainings went apart"
