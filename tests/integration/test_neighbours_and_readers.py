"""Training that draws states to neighbours', and that reads profiles: keys, resumption, what is exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.storage import Storage
from configs.errors import ConfigError
from models.config import BERT4RecConfig, NeighboursTarget, SASRecConfig
from models.students import build_encoder
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact
from pipeline.train.config import Arm, EarlyStoppingConfig, OptimizerConfig, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.keys import key
from pipeline.train.reading import READER
from pipeline.train.stage import train
from pipeline.train.teaching_config import EnsembleConfig, Member, ProfileInputConfig
from tests.builders import make_prepared, make_targets, read_metrics, train_arm

SASREC = SASRecConfig(hidden_dim=16, max_length=8, dropout=0.1)
CONFIG = TrainConfig(epochs=4, distill_epochs=3, batch_size=16, optimizer=OptimizerConfig(lr=0.01),
                     early_stopping=EarlyStoppingConfig(patience_epochs=0),
                     execution=TrainExecution(num_workers=0, threads_per_worker=1))
NEIGHBOURS = CONFIG.model_copy(update={
    "distillation": CONFIG.distillation.model_copy(update={"target": NeighboursTarget(neighbours=3)})})
READS = CONFIG.model_copy(update={"profile_input": ProfileInputConfig(dropout=0.3)})


class Killed(Exception):
    """In the middle of a training."""


def kill_after(epoch: int) -> Any:
    def on_epoch(record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise Killed

    return on_epoch


def weights(artifact: Artifact, file: str = "model/model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(artifact.local(file))


@pytest.mark.parametrize(("config", "arm"), [(NEIGHBOURS, "distilled"), (READS, "plain")], ids=["neighbours", "reads"])
def test_killed_and_resumed_ends_with_the_same_weights(storage: Storage, config: TrainConfig, arm: Arm,
                                                       tmp_path_factory: pytest.TempPathFactory) -> None:
    from cluster.config import StorageConfig

    fresh = Storage.from_config(StorageConfig(uri=str(tmp_path_factory.mktemp("fresh"))))
    found = []
    for place, kill in ((storage, True), (fresh, False)):
        prepared = make_prepared(place)
        targets = make_targets(place, prepared)
        if kill:
            with pytest.raises(Killed):
                train_arm(place, prepared, targets, config, SASREC, arm, on_epoch=kill_after(2))
        found.append(train_arm(place, prepared, targets, config, SASREC, arm))
    assert {name: value.shape for name, value in weights(found[0]).items()} == {
        name: value.shape for name, value in build_encoder(SASREC, 40, 0).state_dict().items()}
    assert all(torch.equal(value, weights(found[1])[name]) for name, value in weights(found[0]).items())
    if config is READS:
        assert torch.equal(weights(found[0], READER)["map"], weights(found[1], READER)["map"])


def test_neighbours_are_drawn_to_from_the_second_step_on_and_change_what_is_learnt(storage: Storage) -> None:
    prepared = make_prepared(storage)
    targets = make_targets(storage, prepared)
    each_step = NEIGHBOURS.execution.model_copy(update={"log_every_steps": 1})
    config = NEIGHBOURS.model_copy(update={"execution": each_step})
    drawn, plain = (train_arm(storage, prepared, targets, config, SASREC, arm) for arm in ("distilled", "plain"))
    records = read_metrics(drawn.local("metrics.jsonl"))
    first, *later = [record for record in records if record["kind"] == "step" and record["epoch"] <= 3]
    assert first["num_profiled"] == first["distillation"] == 0, "no neighbour has a state yet"
    assert later and all(record["num_profiled"] > 0 < record["distillation"] for record in later)
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert all(record["distillation"] > 0 for record in epochs[:3]) and "distillation" not in epochs[3]
    assert not torch.equal(weights(drawn)["item_embedding.weight"], weights(plain)["item_embedding.weight"])
    shuffled = train_arm(storage, prepared, targets, NEIGHBOURS, SASREC, "shuffled")
    assert not torch.equal(weights(drawn)["item_embedding.weight"], weights(shuffled)["item_embedding.weight"])


def test_a_profile_reading_member_teaches_a_student_that_knows_no_profile(storage: Storage) -> None:
    prepared = make_prepared(storage)
    targets = make_targets(storage, prepared)
    member = train_arm(storage, prepared, targets, READS, SASREC, "plain")
    read = weights(member, READER)
    assert float(read["map"].abs().max()) > 0 and len(read["users"]) == len(read["vectors"])
    assert member.manifest.info["teacher"]["users"] == len(read["users"])
    blind = READS.model_copy(update={"profile_input": ProfileInputConfig(dropout=0.3, control="shuffled")})
    others = train_arm(storage, prepared, targets, blind, SASREC, "plain")
    assert not torch.equal(weights(others, READER)["vectors"], read["vectors"])
    ensemble = EnsembleConfig(members=(Member(arm="reads"),), perturb=None)
    config = TrainConfig.model_validate(CONFIG.model_dump() | {
        "ensemble": ensemble.model_dump(), "epochs": 30, "optimizer": {"lr": 0.01}})
    divergence = []
    for source in (member, others):
        stage_key = key(config, SASREC, "plain", 0, prepared.fingerprint, None, members=[source.fingerprint])
        student = train(config, SASREC, "plain", 0, prepared, None, artifacts.begin(storage, stage_key),
                        members=[source])
        assert READER not in student.manifest.files
        epochs = [r["matching"] for r in read_metrics(student.local("metrics.jsonl")) if r["kind"] == "epoch"]
        assert epochs[-1] < 0.6 * epochs[0]
        divergence.append(epochs[0])
    assert divergence[0] != divergence[1]


def test_keys_hold_what_is_read_and_old_addresses_stay() -> None:
    plain = key(CONFIG, SASREC, "plain", 0, "p", None)
    assert not {"profile_input", "place_untrained", "item_init"} & set(plain.config["train"])
    assert "target" not in key(CONFIG, SASREC, "distilled", 0, "p", "r").config["train"]["distillation"]
    assert key(NEIGHBOURS, SASREC, "distilled", 0, "p", "r").config["train"]["distillation"]["target"] == {
        "kind": "neighbours", "neighbours": 3}
    reads = key(READS, SASREC, "plain", 0, "p", "r")
    assert reads.inputs["reduce"] == "r" and reads.fingerprint != plain.fingerprint
    with pytest.raises(ConfigError, match="needs the profile vectors"):
        key(READS, SASREC, "plain", 0, "p", None)
    with pytest.raises(ConfigError, match="either distils them or reads them"):
        key(READS, SASREC, "distilled", 0, "p", "r")
    with pytest.raises(ConfigError, match="got 'bert4rec'; legal: sasrec, esasrec, gru4rec"):
        key(READS, BERT4RecConfig(), "plain", 0, "p", "r")
