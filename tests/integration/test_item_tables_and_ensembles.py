"""Training with a table that is computed from texts, and from finished recommenders: what is served stays plain."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cluster.storage import Storage
from configs.errors import ConfigError
from models.config import BERT4RecConfig, ESASRecConfig, GRU4RecConfig, ModelConfig, PerturbationConfig, SASRecConfig
from models.students import build_encoder
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.train.collaborative import TrainingMatrix
from pipeline.train.config import EarlyStoppingConfig, OptimizerConfig, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.keys import key
from pipeline.train.stage import train
from pipeline.train.teaching_config import (
    BoundedChangeTable,
    EnsembleConfig,
    MappedTextTable,
    Member,
    TextControl,
    TextItemInit,
)
from tests.builders import make_prepared, read_metrics
from tests.vectors import encoded_items, write_items

SASREC = SASRecConfig(hidden_dim=16, max_length=8, dropout=0.1)
CONFIG = TrainConfig(epochs=4, distill_epochs=0, batch_size=16, optimizer=OptimizerConfig(lr=0.01),
                     early_stopping=EarlyStoppingConfig(patience_epochs=0),
                     execution=TrainExecution(num_workers=0, threads_per_worker=1))


def changed(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate(CONFIG.model_dump() | fields)


@pytest.fixture
def prepared(storage: Storage) -> Artifact:
    return make_prepared(storage)


def trained(storage: Storage, prepared: Artifact, config: TrainConfig, model: ModelConfig = SASREC, seed: int = 0,
            **given: Any) -> Artifact:
    fingerprints = [given[name].fingerprint if name in given else None for name in ("item_vectors", "item_texts")]
    stage_key = key(config, model, "plain", seed, prepared.fingerprint, None, *fingerprints,
                    [member.fingerprint for member in given.get("members", ())])
    return artifacts.find(storage, stage_key) or train(
        config, model, "plain", seed, prepared, None, artifacts.begin(storage, stage_key), **given)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.local("model/model.safetensors"))


def shapes(artifact: Artifact) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights(artifact).items()}


def test_a_mapped_table_is_a_linear_map_of_the_texts_folded_at_export(storage: Storage, prepared: Artifact) -> None:
    told = [*range(1, 40)]  # item 40 has no text
    given = np.random.default_rng(0).normal(2, 3, size=(39, 24))
    texts = encoded_items(storage, given, told)
    found = trained(storage, prepared, changed(item_table={"kind": "mapped_text"}), item_texts=texts)
    table_XD = weights(found)["item_embedding.weight"].double()
    scaled = torch.from_numpy((given - given.mean(0)) / (given.std(0) + 1e-4))
    solution = torch.linalg.lstsq(scaled, table_XD[told]).solution
    torch.testing.assert_close(scaled @ solution, table_XD[told], rtol=1e-3, atol=1e-4)
    assert not table_XD[[0, 40]].any()
    assert shapes(found) == {name: value.shape for name, value in build_encoder(SASREC, 40, 0).state_dict().items()}
    start = trained(storage, prepared, changed(item_table={"kind": "mapped_text"}, epochs=1,
                                               optimizer={"lr": 1e-12}), item_texts=texts)
    assert (weights(start)["item_embedding.weight"] - table_XD).abs().max() > 1e-3, "the map has learnt nothing"


def test_a_bounded_change_keeps_every_row_near_its_start(storage: Storage, prepared: Artifact) -> None:
    given = np.random.default_rng(0).normal(size=(40, 16))
    out = artifacts.begin(storage, StageKey("reduce", 1, {"rows": given.tolist()}))
    write_items(out, range(1, 41), given)
    reduced = out.commit({})
    tables = []
    for extra in ({"epochs": 1, "optimizer": {"lr": 1e-12}}, {"optimizer": {"lr": 0.1}}):
        config = changed(item_init=TextItemInit().model_dump(), item_table={"kind": "bounded_change", "limit": 0.2},
                         **extra)
        tables.append(weights(trained(storage, prepared, config, item_vectors=reduced))["item_embedding.weight"][1:])
    share = (tables[1] - tables[0]).norm(dim=1) / tables[0].norm(dim=1)
    assert float(share.max()) == pytest.approx(0.2, rel=1e-3)


def test_controls_exchange_vectors_and_keep_their_spread() -> None:
    from pipeline.train.item_vectors import ItemVectors

    rng = np.random.default_rng(0)
    own_TE = (rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 5)) + 3).astype(np.float32)
    known = np.ones(4001, bool)
    known[7] = False
    own = ItemVectors(np.insert(own_TE, 7, 0, axis=0), known)
    unused = cast(TrainingMatrix, None)
    shuffled, noise = (own.controlled(control, 1, unused) for control in get_args(TextControl)[1:3])
    assert not (shuffled.vectors_VE[known] == own_TE).all(axis=1).any()
    assert sorted(map(tuple, shuffled.vectors_VE[known].tolist())) == sorted(map(tuple, own_TE.tolist()))
    np.testing.assert_allclose(np.cov(noise.vectors_VE[known].T), np.cov(own_TE.T), atol=0.1 * np.cov(own_TE.T).max())
    np.testing.assert_allclose(noise.vectors_VE[known].mean(0), own_TE.mean(0), atol=0.2)
    assert not noise.vectors_VE[7].any() and not shuffled.vectors_VE[7].any()
    assert own.controlled("none", 1, unused) is own


def test_a_student_takes_over_its_teachers_ranking(storage: Storage, prepared: Artifact) -> None:
    """Three kinds of members; matched on the histories as they are, KL falls far below that of a fresh student."""
    plain = changed(epochs=12)
    members = [trained(storage, prepared, plain), trained(storage, prepared, plain, seed=1),
               trained(storage, prepared, plain, ESASRecConfig(hidden_dim=32, max_length=8)),
               trained(storage, prepared, plain, GRU4RecConfig(hidden_dim=16, max_length=8))]
    ensemble = EnsembleConfig(members=tuple(Member(arm="plain") for _ in members), perturb=None)
    divergences = {}
    for name, start, lr, epochs in (("untaught", None, 1e-12, 1), ("taught", None, 0.01, 40), ("started", 0, 0.01, 5)):
        config = changed(ensemble=ensemble.model_copy(update={"start": start}).model_dump(), epochs=epochs,
                         optimizer={"lr": lr, "schedule": "cosine"})
        found = trained(storage, prepared, config, SASREC.model_copy(update={"dropout": 0.0}), members=members)
        assert shapes(found) == shapes(members[0])
        epochs_logged = [r for r in read_metrics(found.local("metrics.jsonl")) if r["kind"] == "epoch"]
        divergences[name] = epochs_logged[-1]["matching"]
    assert divergences["taught"] < 0.3 * divergences["untaught"]
    assert divergences["started"] < 0.5 * divergences["untaught"]


@pytest.mark.parametrize("kind", ["content", "transitions", "item_knn"])
def test_a_student_takes_over_what_a_baseline_adds(kind: str, storage: Storage, prepared: Artifact) -> None:
    """Beside an untrained member, so that all there is to match is the baseline's; served as any other."""
    given = np.random.default_rng(0).normal(size=(40, 24))
    texts = {"item_texts": encoded_items(storage, given, range(1, 41))}
    member = trained(storage, prepared, changed(epochs=1, optimizer={"lr": 1e-12}))
    divergences, model = [], SASREC.model_copy(update={"dropout": 0.0})
    for lr, epochs in ((1e-12, 1), (0.01, 60)):
        config = changed(ensemble={"members": [{"arm": "plain"}], "start": 0, "perturb": None,
                                   "baselines": [{"kind": kind, "scale": 20}]},
                         epochs=epochs, optimizer={"lr": lr, "schedule": "cosine"})
        found = trained(storage, prepared, config, model, members=[member], **(texts if kind == "content" else {}))
        assert shapes(found) == shapes(member)
        epochs_logged = [r for r in read_metrics(found.local("metrics.jsonl")) if r["kind"] == "epoch"]
        divergences.append(epochs_logged[-1]["matching"])
    assert divergences[0] > 0.1
    assert divergences[1] < 0.5 * divergences[0]


def test_baselines_of_an_ensemble_are_part_of_the_key_where_there_are_any(storage: Storage) -> None:
    def fingerprint(baselines: list[dict[str, Any]], texts: str | None = None, model: ModelConfig = SASREC) -> str:
        config = changed(ensemble={"members": [{"arm": "a"}], "baselines": baselines})
        return key(config, model, "plain", 0, "p", None, None, texts, ["x"]).fingerprint

    links = [{"kind": "transitions"}]
    found = [fingerprint([]), fingerprint(links), fingerprint([{"kind": "transitions", "scale": 2}]),
             fingerprint([{"kind": "content"}], "t"), fingerprint([{"kind": "content", "control": "shuffled"}], "t")]
    assert len(set(found)) == len(found)
    assert fingerprint([], "t") == found[0]
    with pytest.raises(ConfigError, match="encode/items"):
        fingerprint([{"kind": "content"}])
    with pytest.raises(ConfigError, match="bert4rec.*legal: sasrec"):
        fingerprint(links, model=BERT4RecConfig(hidden_dim=16, max_length=8))


def test_perturbed_histories_change_what_is_matched_and_nothing_random_is_left(storage: Storage, prepared: Artifact
                                                                               ) -> None:
    member = trained(storage, prepared, CONFIG)
    found = {}
    for name, perturb in (("as they are", None), ("perturbed", PerturbationConfig(drop=0.5, swap=0.5))):
        ensemble = EnsembleConfig(members=(Member(arm="plain"),), perturb=perturb)
        config = changed(ensemble=ensemble.model_dump())
        found[name] = weights(trained(storage, prepared, config, members=[member]))
        again = artifacts.begin(storage, StageKey("train", 1, {"again": name}))
        repeated = weights(train(config, SASREC, "plain", 0, prepared, None, again, members=[member]))
        assert all(torch.equal(found[name][key], repeated[key]) for key in repeated)
    assert any(not torch.equal(value, found["perturbed"][name]) for name, value in found["as they are"].items())


def test_members_are_part_of_the_key_and_of_the_same_catalogue(storage: Storage, prepared: Artifact) -> None:
    config = changed(ensemble=EnsembleConfig(members=(Member(arm="a"),)).model_dump())
    keys = [key(config, SASREC, "plain", 0, "p", None, None, None, [member]) for member in ("x", "y")]
    renamed = changed(ensemble=EnsembleConfig(members=(Member(arm="b"),)).model_dump())
    assert keys[0].fingerprint != keys[1].fingerprint
    assert key(renamed, SASREC, "plain", 0, "p", None, None, None, ["x"]).fingerprint == keys[0].fingerprint
    with pytest.raises(ConfigError, match="go together"):
        train(config, SASREC, "plain", 0, prepared, None, artifacts.begin(storage, keys[0]))
    other = trained(storage, make_prepared(storage, items=50), CONFIG)
    with pytest.raises(ConfigError, match="50"):
        trained(storage, prepared, config, members=[other])


def test_settings_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="softmax"):
        changed(ensemble={"members": [{"arm": "plain"}]}, loss={"kind": "sampled_softmax"})
    with pytest.raises(ValueError, match="start=1"):
        EnsembleConfig(members=(Member(arm="plain"),), start=1)
    assert BoundedChangeTable().limit == 0.5 and MappedTextTable().control == "none"
