"""What several tests need of runs with matching guidance."""

from distill_parts import mode, targets_of
from tiny import cpu, distil

from manifoldgd.diffusion import DDPM
from manifoldgd.diffusion.protocol import judges_in
from manifoldgd.guidance import CombinedGuidance, MatchingGuidance

SAMPLER = DDPM(steps=4, cfg_scale=2.0)


def guidance(rate=0.1):
    match = MatchingGuidance(rate=rate, inner_steps=2, t_start=0.5, networks=2, width=4, real_per_class=5,
                             pool_seed=None)  # fmt: skip
    return CombinedGuidance(first=mode(), then=match)


def make(folder, dataset, prior, matching, *, batch_size=4, method=None):
    method = method or guidance()
    return distil(
        folder,
        dataset,
        prior,
        SAMPLER,
        method,
        targets_of(dataset, prior, method),
        matching if judges_in(method) else None,
        ipc=2,
        seed=0,
        machine=cpu(batch_size=batch_size),
        facts={"method": "test", "config": {}},
    )
