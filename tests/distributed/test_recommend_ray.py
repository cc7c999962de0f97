"""`recommend` by Ray actors: the lists of one process."""

from __future__ import annotations

import numpy as np

from cluster.config import ActorExecution
from cluster.storage import Storage
from models.config import SASRecConfig
from pipeline.api.filters import Filter
from pipeline.recommend.config import RecommendConfig
from pipeline.recommend.sequences import NamedHistories
from pipeline.recommend.stage import Model, recommend
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.train.config import TrainConfig
from pipeline.train.execution_config import TrainExecution
from tests.builders import make_prepared, make_sequences, train_arm


def test_two_actors_give_the_lists_of_this_process(ray_cluster: None, storage: Storage) -> None:
    settings = TrainConfig(epochs=2, distill_epochs=1, batch_size=16, execution=TrainExecution(num_workers=0))
    trained = train_arm(storage, make_prepared(storage), None, settings,
                        SASRecConfig(hidden_dim=8, max_length=6, num_blocks=1), "plain")
    sequences = make_sequences(users=90)
    asked = NamedHistories([f"u{i}" for i in range(90)], sequences, np.zeros(90, np.int32))

    def lists(actors: int) -> Artifact:
        execution = ActorExecution(actors=actors, num_cpus=0.5, batch_rows=20, block_rows=20)
        out = artifacts.begin(storage, StageKey("recommend", 1, {"actors": actors}))
        return recommend(RecommendConfig(k=5, execution=execution), Model(trained), asked, Filter(deny=["item-4"]), out)

    here, there = lists(0).read_table("lists"), lists(2).read_table("lists")
    assert here.num_rows == 90
    assert there.drop_columns("scores").equals(here.drop_columns("scores"))
    np.testing.assert_allclose(np.concatenate(there["scores"].to_pylist()), np.concatenate(here["scores"].to_pylist()),
                               rtol=1e-5)
