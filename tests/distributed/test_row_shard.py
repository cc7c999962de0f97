"""A table divided over three gloo ranks: what each holds, and what they bring together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import spawn

from models import row_shard
from models.config import SampledSoftmaxLoss, SASRecConfig
from models.row_shard import WHOLE, RowShard
from models.rowwise import STATE, RowwiseTable
from models.students import build_encoder
from pipeline.train.config import OptimizerConfig, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.learner import Learner

RANKS, SIZES = 3, (2, 3, 10, 11)
"""Of two rows the last rank holds none."""
ITEMS, ROWS = 40, 4_000


def table(size: int) -> torch.Tensor:
    return torch.arange(size * 4, dtype=torch.float32).reshape(size, 4)


def trained(shard: RowShard) -> dict[str, torch.Tensor]:
    """A table and its optimizer's state after three epochs of made-up gradients; most rows rest for dozens of steps."""
    encoder = build_encoder(SASRecConfig(hidden_dim=8, max_length=6), ROWS - 1, seed=0)
    table, generator = RowwiseTable(encoder, (0.9, 0.999), 0.3, shard=shard), torch.Generator().manual_seed(0)
    for epoch in range(3):
        for step in range(150):
            rows_TD, _ = table.take(torch.randint(ROWS, (100,), generator=generator))
            rows_TD.grad = torch.randn(rows_TD.shape, generator=generator)
            table.step(1e-2 / (1 + step))
        table.settle()
        if epoch == 1:
            state = table.state()
            table.load(table.whole_VD.clone(), {name: shared(state.get(name)) for name in STATE})
    state = table.state()
    return {"table": table.whole_VD} | {name: state.get(name, torch.zeros(0)) for name in STATE}


def shared(value: torch.Tensor | None) -> torch.Tensor:
    """What the first rank has, on every rank."""
    sent = [value]
    dist.broadcast_object_list(sent)
    assert sent[0] is not None
    return sent[0]


def one_rank(rank: int, root: Path) -> None:
    """Divide and bring together tables of several sizes, then a learner's; results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{root}/rendezvous", rank=rank, world_size=RANKS)
    row_shard.BLOCK_ROWS = 2
    shard, saved = RowShard.own(), {}
    for size in SIZES:
        whole_VD, copied_VD = table(size), torch.zeros(size, 4)
        held_HD = shard.held(whole_VD)
        saved[f"held-{size}"] = held_HD.clone()
        shard.fill(copied_VD, held_HD)
        saved[f"whole-{size}"] = copied_VD
        first_VD = shard.whole_on_first(held_HD, size)
        if rank == 0:
            saved[f"first-{size}"] = first_VD
        for name, ids in (("all", range(size)), ("two", (0, size - 1)), ("one", (1,))):
            ids_T = torch.tensor(ids)
            places_M = shard.places(ids_T)
            saved[f"{name}-{size}"] = shard.gathered(held_HD[shard.rows(ids_T[places_M])], ids_T)
    for name in ("table", *STATE):
        whole, divided = (trained(each)[name] for each in (WHOLE, shard))
        saved[f"{name}-of-divided"], saved[f"{name}-of-whole"] = divided, whole
    config = TrainConfig(loss=SampledSoftmaxLoss(negatives=8), optimizer=OptimizerConfig(table="rowwise"),
                         execution=TrainExecution(num_workers=0, shard_item_table=True))
    encoder = build_encoder(SASRecConfig(hidden_dim=8, max_length=6), ITEMS, seed=0)
    learner = Learner(encoder, config, "plain", 0, torch.device("cpu"))
    saved["device rows"] = torch.tensor([p.shape[0] for n, p in learner.model.named_parameters() if "item_emb" in n])
    saved["moment rows"] = torch.tensor([len(learner._table._moment_HD)])  # type: ignore[union-attr]
    saved["student"] = learner.student()[0].item_weights_VD().clone()
    save_file(saved, root / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What each rank saw."""
    root = tmp_path_factory.mktemp("shards")
    spawn(one_rank, args=(root,), nprocs=RANKS)
    return [load_file(root / f"{rank}.safetensors") for rank in range(RANKS)]


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_held_once(ranks: list[dict[str, torch.Tensor]], size: int) -> None:
    held = torch.cat([saved[f"held-{size}"] for saved in ranks])
    assert sorted(held[:, 0].tolist()) == table(size)[:, 0].tolist()
    assert max(len(saved[f"held-{size}"]) for saved in ranks) == -(-size // RANKS)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_brought_together_is_the_whole_in_order(ranks: list[dict[str, torch.Tensor]], size: int) -> None:
    whole_VD = table(size)
    assert torch.equal(ranks[0][f"first-{size}"], whole_VD)
    for saved in ranks:
        assert torch.equal(saved[f"whole-{size}"], whole_VD)
        assert torch.equal(saved[f"all-{size}"], whole_VD)
        assert torch.equal(saved[f"two-{size}"], whole_VD[[0, size - 1]])
        assert torch.equal(saved[f"one-{size}"], whole_VD[[1]])


@pytest.mark.parametrize("name", ["table", *STATE])
def test_dividing_changes_no_bit(ranks: list[dict[str, torch.Tensor]], name: str) -> None:
    """Of rows that have rested for long, with weight decay, with 4,000 rows over three ranks, and after a restart."""
    assert ranks[0][f"{name}-of-whole"].any()
    assert torch.equal(ranks[0][f"{name}-of-divided"], ranks[0][f"{name}-of-whole"])
    assert all(torch.equal(saved["table-of-divided"], ranks[0]["table-of-divided"]) for saved in ranks)


def test_a_rank_keeps_its_rows_and_their_moments_alone(ranks: list[dict[str, torch.Tensor]]) -> None:
    whole_VD = build_encoder(SASRecConfig(hidden_dim=8, max_length=6), ITEMS, seed=0).item_weights_VD()
    assert [saved["device rows"].tolist() for saved in ranks] == [[1]] * RANKS, "padding's in the table's place"
    assert sum(int(saved["moment rows"]) for saved in ranks) == ITEMS + 1
    assert all(int(saved["moment rows"]) <= -(-(ITEMS + 1) // RANKS) for saved in ranks)
    assert all(torch.equal(saved["student"], whole_VD) for saved in ranks)


def test_one_rank_holds_the_whole() -> None:
    assert RowShard.own() == WHOLE and not WHOLE.divides
    assert torch.equal(WHOLE.held(table(5)), table(5))
    assert torch.equal(WHOLE.gathered(table(5)[[1, 3]], torch.tensor([1, 3])), table(5)[[1, 3]])
