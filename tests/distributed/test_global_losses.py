"""The same global batch on 1, 2 and 3 ranks: equal losses and equal gradients, however unevenly users fall.

Ranks are plain processes joined by gloo. Each runs every scenario under DDP and saves what it saw.

Legend: R rows of the global batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import (
    AttentionPooling,
    BCELoss,
    BERT4RecConfig,
    CosineDistillation,
    DistillationConfig,
    DistillationLossConfig,
    ESASRecConfig,
    ExponentialPooling,
    GBCELoss,
    GRU4RecConfig,
    InfoNCEDistillation,
    ModelConfig,
    MSEDistillation,
    NeighboursTarget,
    ProjectionConfig,
    RankingLossConfig,
    RMSEDistillation,
    SampledSoftmaxLoss,
    SASRecConfig,
    SoftmaxLoss,
)
from models.distilled import DistilledRecommender
from models.neighbours import NeighbourStates
from models.parallel import gather_ids, gather_rows, gather_values
from models.profile_reader import ProfileReader
from models.rowwise import RowwiseTable
from models.sequences import Batch
from models.students import build_encoder

ROWS, NUM_ITEMS, PROFILE_DIM, ANGLES = 13, 40, 6, 2
SASREC = SASRecConfig(hidden_dim=8, max_length=6, dropout=0.0)
BERT4REC = BERT4RecConfig(hidden_dim=8, max_length=6, dropout=0.0, mask_probability=0.3)
ESASREC = ESASRecConfig(hidden_dim=8, max_length=6, dropout=0.0)
GRU4REC = GRU4RecConfig(hidden_dim=8, max_length=6, dropout=0.0, num_blocks=2, state_dim=12)
UNEVEN = tuple(row in (0, 1, 2, 4, 6, 8, 12) for row in range(ROWS))
FIRST_RANK_ONLY = tuple(row % 6 == 0 for row in range(ROWS))
NOBODY = (False,) * ROWS


@dataclass(frozen=True)
class Scenario:
    """One setting of the loss and who has a profile."""

    loss: DistillationLossConfig
    profiled: tuple[bool, ...] = UNEVEN
    student: ModelConfig = SASREC
    distillation: DistillationConfig = DistillationConfig()
    alpha: float = 0.4
    beta: bool = True
    beta_cap: float | None = None
    rows: int = ROWS
    ranking: RankingLossConfig = SoftmaxLoss(chunk_rows=8)
    by_rows: bool = False
    """Train the item table by rows (``models.rowwise``)."""
    reads: bool = False
    """Read profiles beside the items."""

    def model(self) -> DistilledRecommender:
        encoder = build_encoder(self.student, NUM_ITEMS, seed=0)
        distillation = self.distillation.model_copy(update={"loss": self.loss})
        neighbours = self.neighbours() if isinstance(distillation.target, NeighboursTarget) else None
        reader = ProfileReader(torch.arange(0, ROWS, 2), torch.randn(7, 5, generator=torch.Generator().manual_seed(2)),
                               encoder.hidden_dim, dropout=0.3) if self.reads else None
        return DistilledRecommender(encoder, self.ranking, distillation, PROFILE_DIM, ANGLES, seed=0,
                                    item_counts_V=torch.arange(1, NUM_ITEMS + 1), neighbours=neighbours,
                                    profile_reader=reader)

    def neighbours(self) -> NeighbourStates:
        """Of the profiled rows, those of the first four read before."""
        users_R = torch.tensor(self.profiled).nonzero().squeeze(1)
        found = NeighbourStates(users_R, (torch.arange(7).unsqueeze(1) + torch.tensor([1, 3])) % 7, 8)
        found.keep(torch.arange(4), torch.randn(4, 8, generator=torch.Generator().manual_seed(3)))
        return found

    def batch(self, rank: int, world: int) -> Batch:
        generator = torch.Generator().manual_seed(1)
        items_RL = torch.randint(1, NUM_ITEMS + 1, (ROWS, 7), generator=generator)
        lengths_R1 = torch.randint(1, 8, (ROWS, 1), generator=generator)
        items_RL[torch.arange(7) >= lengths_R1] = 0
        angles_RA = torch.tensor([[True, False], [True, True]]).repeat(ROWS, 1)[:ROWS]
        profiled_RA = torch.tensor(self.profiled).unsqueeze(1) & angles_RA
        profiles_RAP = torch.randn(ROWS, ANGLES, PROFILE_DIM, generator=generator) * profiled_RA.unsqueeze(2)
        mine = slice(rank, self.rows, world)
        width = max(int(lengths_R1[mine].max()) if rank < self.rows else 1, 1)
        return Batch(torch.arange(ROWS)[mine], items_RL[mine, :width], profiles_RAP[mine], profiled_RA[mine])


RICH = DistillationConfig(layer=1, pooling=AttentionPooling(), profile_aggregation="attention",
                          projection=ProjectionConfig(variance_floor=0.5))
SCENARIOS = {
    "mse": Scenario(MSEDistillation()),
    "rmse": Scenario(RMSEDistillation()),
    "cosine": Scenario(CosineDistillation()),
    "infonce": Scenario(InfoNCEDistillation()),
    "infonce-beta-off": Scenario(InfoNCEDistillation(), beta=False),
    "mse-beta-capped": Scenario(MSEDistillation(), beta_cap=0.5),
    "rmse-bert4rec": Scenario(RMSEDistillation(), student=BERT4REC),
    "infonce-bert4rec-rich": Scenario(InfoNCEDistillation(), student=BERT4REC, distillation=RICH),
    "mse-esasrec": Scenario(MSEDistillation(), student=ESASREC),
    "infonce-gru4rec": Scenario(InfoNCEDistillation(), student=GRU4REC),
    "mse-rich": Scenario(MSEDistillation(), distillation=RICH),
    "mse-exponential": Scenario(MSEDistillation(), distillation=DistillationConfig(pooling=ExponentialPooling())),
    "rmse-one-rank-profiled": Scenario(RMSEDistillation(), profiled=FIRST_RANK_ONLY),
    "infonce-one-rank-profiled": Scenario(InfoNCEDistillation(), profiled=FIRST_RANK_ONLY),
    "rmse-nobody-profiled": Scenario(RMSEDistillation(), profiled=NOBODY),
    "infonce-one-row": Scenario(InfoNCEDistillation(), rows=1),
    "mse-alpha-0": Scenario(MSEDistillation(), alpha=0.0),
    "uniform": Scenario(MSEDistillation(), ranking=SampledSoftmaxLoss(negatives=9)),
    "popularity-bert4rec": Scenario(MSEDistillation(), student=BERT4REC,
                                    ranking=SampledSoftmaxLoss(negatives=9, source="popularity")),
    "in-batch": Scenario(MSEDistillation(), ranking=SampledSoftmaxLoss(source="in_batch")),
    "in-batch-few": Scenario(MSEDistillation(), ranking=SampledSoftmaxLoss(source="in_batch", negatives=7)),
    "in-batch-one-row": Scenario(MSEDistillation(), rows=1, ranking=SampledSoftmaxLoss(source="in_batch")),
    "bce-in-batch": Scenario(MSEDistillation(), ranking=BCELoss(source="in_batch", negatives=7)),
    "gbce": Scenario(MSEDistillation(), ranking=GBCELoss(negatives=9)),
    "rows-uniform": Scenario(MSEDistillation(), ranking=SampledSoftmaxLoss(negatives=9), by_rows=True),
    "rows-in-batch-bert4rec": Scenario(InfoNCEDistillation(), student=BERT4REC, by_rows=True, distillation=RICH,
                                       ranking=SampledSoftmaxLoss(source="in_batch", negatives=7)),
    "mse-neighbours": Scenario(MSEDistillation(), distillation=DistillationConfig(target=NeighboursTarget())),
    "infonce-neighbours-one-row": Scenario(InfoNCEDistillation(), rows=1, distillation=DistillationConfig(
        target=NeighboursTarget())),
    "mse-reads": Scenario(MSEDistillation(), reads=True),
    "rows-reads": Scenario(MSEDistillation(), reads=True, by_rows=True, alpha=0.0, student=GRU4REC,
                           ranking=SampledSoftmaxLoss(source="in_batch", negatives=7)),
    "rows-one-row": Scenario(MSEDistillation(), rows=1, ranking=GBCELoss(negatives=9), by_rows=True),
}


def observe(scenario: Scenario, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Values and gradients of one step, then the values after an optimizer step."""
    model = scenario.model()
    table = RowwiseTable(model.encoder, (0.9, 0.999), 0.1) if scenario.by_rows else None
    if table is not None:
        model.train_rows_of(table)
    wrapped: nn.Module = model if world == 1 else DistributedDataParallel(model, broadcast_buffers=False)
    batch = scenario.batch(rank, world)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    seen: dict[str, Tensor] = {}
    for step in range(3 if model.neighbours is not None else 2):
        terms = wrapped(batch, scenario.alpha, scenario.beta, scenario.beta_cap, mask_seed=step, with_stats=True,
                        draw_seed=step)
        optimizer.zero_grad()
        terms.total.backward()
        if table is not None:
            table.exchange()
            table.step(0.1)
        seen |= {f"value.{step}.{name}": torch.tensor(value) for name, value in terms.values().items()}
        if step == 0:
            seen |= {f"gradient.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    if table is not None:
        table.settle()
        seen |= {f"rows.{name}": value for name, value in table.state().items()}
        seen["rows.table"] = model.state_dict()["encoder.item_embedding.weight"]
    return seen


def gathered_gradient(rank: int, world: int) -> dict[str, Tensor]:
    """Rows 0…5 of different sizes per rank, squared and weighted by their place in the global order."""
    counts = [4, 0, 2] if world == 3 else [4, 2] if world == 2 else [6]
    start = sum(counts[:rank])
    rows_NC = torch.arange(12.0).view(6, 2)[start : start + counts[rank]].clone().requires_grad_()
    rows_GC = gather_rows(rows_NC, counts)
    (rows_GC**2 * torch.arange(1.0, 7.0).unsqueeze(1)).sum().backward()
    assert rows_NC.grad is not None
    ids = gather_ids(torch.arange(6)[start : start + counts[rank]])
    return {"rows": rows_GC.detach(), "gradient": rows_NC.grad, "values": gather_values(torch.tensor([float(rank)])),
            "ids": ids}


def run_rank(rank: int, world: int, folder: str) -> None:
    """Entry point of a rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    seen = {f"{name}/{key}": value.contiguous() for name, scenario in SCENARIOS.items()
            for key, value in observe(scenario, rank, world).items()}
    seen |= {f"gather/{key}": value.contiguous() for key, value in gathered_gradient(rank, world).items()}
    save_file(seen, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Spawned ranks import this module by its name."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each rank of a 2- and of a 3-rank group saw."""
    world, folder = int(request.param), tmp_path_factory.mktemp("ranks")
    with importable(Path(__file__).parents[2]):
        mp.spawn(run_rank, (world, str(folder)), nprocs=world, join=True)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_losses_and_gradients_equal_those_of_one_process(name: str, ranks: list[dict[str, Tensor]]) -> None:
    expected = observe(SCENARIOS[name])
    for seen in ranks:
        got = {key.partition("/")[2]: value for key, value in seen.items() if key.startswith(f"{name}/")}
        assert got.keys() == expected.keys()
        for key in expected:
            assert torch.allclose(got[key], expected[key], rtol=1e-5, atol=1e-6), key


def test_scenarios_cover_what_they_claim() -> None:
    seen = {name: observe(scenario) for name, scenario in SCENARIOS.items()}
    assert float(seen["mse-beta-capped"]["value.0.beta"]) == 0.5
    assert float(seen["mse"]["value.0.beta"]) > 1
    assert float(seen["rmse-nobody-profiled"]["value.0.beta"]) == 0.0
    assert float(seen["mse-rich"]["value.0.variance_floor"]) > 0
    per_rank = [sum(SCENARIOS["mse"].profiled[rank::2]) for rank in range(2)]
    assert per_rank[0] != per_rank[1]
    assert not any(SCENARIOS["rmse-one-rank-profiled"].profiled[1::2])
    assert seen["mse"]["gradient.encoder.item_embedding.weight"].any()
    assert seen["mse-reads"]["gradient.profile_reader.map_DP"].any()
    drawn = [float(seen["mse-neighbours"][f"value.{step}.distillation"]) for step in range(3)]
    assert all(drawn) and len(set(drawn)) == 3
    assert "gradient.encoder.item_embedding.weight" not in seen["rows-uniform"]
    assert seen["rows-uniform"]["rows.exp_avg"].any()


def test_gathered_rows_carry_the_gradient_of_the_own_rows(ranks: list[dict[str, Tensor]]) -> None:
    single = gathered_gradient(0, 1)
    assert all(torch.equal(seen["gather/rows"], single["rows"]) for seen in ranks)
    assert all(seen["gather/ids"].tolist() == list(range(6)) for seen in ranks)
    torch.testing.assert_close(torch.cat([seen["gather/gradient"] for seen in ranks]), single["gradient"])
    assert all(seen["gather/values"].flatten().tolist() == list(range(len(ranks))) for seen in ranks)


def test_without_a_process_group_everything_is_local() -> None:
    rows_NC = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows_NC, [3]) is rows_NC
    assert gather_values(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]
