"""Ways of dividing one training over ranks, behind one interface; the model's code knows nothing of them.

plan = parallel.Plan.of_environment()
part = parallel.strategy(plan, gang, build=lambda: Net(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
if part.serves:                       # a parameter server's rank
    part.serve()
for batch in train.shard(...):        # its share: rank part.data_rank of part.data_size
    loss, outputs = part.forward_backward(x, y, summed_loss, scale=1 / batch.size)
    part.step(learning_rate=1e-3)
part.close()
"""

from lepton.train.parallel.build import strategy
from lepton.train.parallel.strategy import Loss, SavedState, Strategy
from lepton.train.plan import Plan

__all__ = ["Loss", "Plan", "SavedState", "Strategy", "strategy"]
