"""The hyperbolic contrastive loss alone: points, loss, gradients, a learned curvature.

Embeds 8 groups of items and, for each group, one parent, with nothing but the loss: the query is a
parent, the key one of its items, the negatives are the items of all groups. Prints the loss before
and after, the learned curvature, and how often the nearest item of a parent is its own. No data
and no network are needed; it takes seconds.

    python examples/hyperbolic_loss.py [STEPS]
"""

import math
import sys

import torch

from pretrain.geometry.poincare import pairwise_distance, to_ball
from pretrain.losses import hyperbolic_info_nce

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
GROUPS, ITEMS, DIM = 8, 16, 4
torch.manual_seed(0)

# Euclidean vectors are the tangents at the origin; the curvature of the ball is -c.
parents = torch.nn.Parameter(0.1 * torch.randn(GROUPS, DIM))
items = torch.nn.Parameter(0.1 * torch.randn(GROUPS * ITEMS, DIM))
log_c = torch.nn.Parameter(torch.tensor(0.0))
group_of_item = torch.arange(GROUPS * ITEMS) // ITEMS
optimizer = torch.optim.Adam([parents, items, log_c], lr=0.02)

for step in range(STEPS + 1):
    c = log_c.exp()
    chosen = torch.arange(GROUPS) * ITEMS + torch.randint(ITEMS, (GROUPS,))
    queries, keys = to_ball(parents, c), to_ball(items[chosen], c)
    # The loss treats keys and negatives as constants, as a momentum encoder's are: a second term
    # with the roles exchanged moves the items too.
    negatives = to_ball(items, c)
    loss = hyperbolic_info_nce(queries, keys, negatives, c=c, temperature=0.2)
    loss = loss + hyperbolic_info_nce(keys, queries, queries, c=c, temperature=0.2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in (0, STEPS):
        print(f"step {step}: loss {loss.item():.3f}, c {c.item():.3f}")

with torch.no_grad():
    c = log_c.exp()
    nearest = pairwise_distance(to_ball(parents, c), to_ball(items, c), c).argmin(dim=1)
    share = (group_of_item[nearest] == torch.arange(GROUPS)).float().mean().item()
print(f"nearest item is of the parent's own group: {share:.0%} (chance {1 / GROUPS:.0%})")
print(
    f"chance loss of one term with {GROUPS * ITEMS} negatives: {math.log(GROUPS * ITEMS + 1):.3f}"
)
