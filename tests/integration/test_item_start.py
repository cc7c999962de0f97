"""Training that starts from item texts: in the embeddings of every arm, in the key, and on a grown catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cluster.storage import Storage
from configs.errors import ConfigError
from models.config import BERT4RecConfig, ModelConfig, SASRecConfig
from models.sequences import Sequences
from models.students import build_encoder
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, StageKey
from pipeline.train.config import Arm, TrainConfig
from pipeline.train.execution_config import TrainExecution
from pipeline.train.keys import key
from pipeline.train.stage import train
from pipeline.train.teaching_config import TextItemInit
from tests.builders import make_prepared, make_targets
from tests.vectors import encoded_items, write_items

SASREC = SASRecConfig(hidden_dim=16, max_length=8, dropout=0.2)
BERT4REC = BERT4RecConfig(hidden_dim=16, max_length=8, dropout=0.2)
CONFIG = TrainConfig(epochs=5, distill_epochs=2, batch_size=16,
                     execution=TrainExecution(num_workers=0, threads_per_worker=1))


def changed(**fields: Any) -> TrainConfig:
    return CONFIG.model_copy(update=fields)


@pytest.fixture
def prepared(storage: Storage) -> Artifact:
    return make_prepared(storage)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_file(artifact.local("model/model.safetensors"))


def item_texts(storage: Storage, rows: np.ndarray, items: list[int]) -> Artifact:
    """A `reduce/items` artifact made by hand."""
    out = artifacts.begin(storage, StageKey("reduce", 1, {"rows": rows.tolist(), "items": items}))
    write_items(out, items, rows)
    return out.commit({})


def start_with_texts(storage: Storage, prepared: Artifact, texts: Artifact | None, model: ModelConfig, arm: Arm,
                     targets: Artifact | None = None, **changes: Any) -> Artifact:
    """Trained with no step worth the name, so that the start is what is exported."""
    config = changed(epochs=1, distill_epochs=0, item_init=TextItemInit() if texts else None,
                     optimizer=CONFIG.optimizer.model_copy(update={"lr": 1e-12}), **changes)
    stage_key = key(config, model, arm, 0, prepared.fingerprint, targets.fingerprint if targets else None,
                    texts.fingerprint if texts else None)
    return train(config, model, arm, 0, prepared, targets, artifacts.begin(storage, stage_key), item_vectors=texts)


def test_item_texts_reach_the_embeddings_of_every_arm_and_nothing_else(storage: Storage, prepared: Artifact) -> None:
    told = [i for i in range(1, 41) if i not in (7, 40)]
    given = np.random.default_rng(0).normal(size=(38, 16))
    texts, targets = item_texts(storage, given, told), make_targets(storage, prepared)
    for model in (SASREC, BERT4REC):
        fresh = build_encoder(model, 40, 0).state_dict()
        for arm, teacher in (("plain", None), ("distilled", targets)):
            trained = start_with_texts(storage, prepared, texts, model, arm, teacher)
            assert trained.manifest.info["start"] == {
                "model": None, "matched_items": 0, "items_from_text": 38, "fresh_items": 2}
            after = weights(trained)
            table = after["item_embedding.weight"]
            wanted = given - given.mean(axis=0)
            wanted *= fresh["item_embedding.weight"][told].square().mean().sqrt().item() / np.sqrt(np.mean(wanted**2))
            np.testing.assert_allclose(table[told].numpy(), wanted, atol=1e-5)
            untouched = [i for i in range(len(table)) if i not in told]
            torch.testing.assert_close(table[untouched], fresh["item_embedding.weight"][untouched])
            assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in fresh.items()}


def test_item_texts_are_part_of_the_key_and_needed_where_asked_for(storage: Storage, prepared: Artifact) -> None:
    plain = key(CONFIG, SASREC, "plain", 0, "p", None)
    text = changed(item_init=TextItemInit())
    keys = [key(text, SASREC, "plain", 0, "p", None, items) for items in ("a", "b")]
    assert len({plain.fingerprint, *(k.fingerprint for k in keys)}) == 3
    assert key(CONFIG, SASREC, "plain", 0, "p", None, "a").fingerprint == plain.fingerprint
    with pytest.raises(ConfigError, match="train.item_init needs"):
        key(text, SASREC, "plain", 0, "p", None)
    with pytest.raises(ConfigError, match="go together"):
        train(text, SASREC, "plain", 0, prepared, None, artifacts.begin(storage, keys[0]))


def test_new_items_of_a_grown_catalogue_are_placed_by_their_texts(storage: Storage) -> None:
    rng = np.random.default_rng(1)
    walks = [rng.permutation(60)[:12] + 1 for _ in range(30)]
    old_data = make_prepared(storage, Sequences.from_lists([(w - 1).clip(1, 50).tolist() for w in walks]), items=50)
    new_data = make_prepared(storage, Sequences.from_lists([w.tolist() for w in walks]), items=60)
    old_texts, new_texts = rng.normal(size=(60, 16)), rng.normal(size=(16, 16))
    old = start_with_texts(storage, old_data, item_texts(storage, old_texts[:50], [*range(1, 51)]), SASREC, "plain")
    turned = item_texts(storage, old_texts @ new_texts, [*range(1, 60), 60])  # the texts' space is another one by now
    new = start_with_texts(storage, new_data, turned, SASREC, "plain", init_from=old.fingerprint)
    assert new.manifest.info["start"] == {
        "model": old.fingerprint, "matched_items": 50, "items_from_text": 10, "fresh_items": 0}
    before, after = weights(old)["item_embedding.weight"], weights(new)["item_embedding.weight"]
    torch.testing.assert_close(after[:51], before)
    centred = old_texts - old_texts[:50].mean(axis=0)
    scale = (before[1].numpy() @ centred[0]) / (centred[0] @ centred[0])
    gap = np.linalg.norm(after[51:].numpy() - scale * centred[50:]) / np.linalg.norm(scale * centred[50:])
    assert gap < 0.6  # ridge: 50 items for 16 dimensions; a place at random would be at 1.4


def test_untrained_items_are_placed_at_export_and_all_else_is_as_trained(storage: Storage) -> None:
    rng = np.random.default_rng(2)
    walks = Sequences.from_lists([(rng.permutation(30)[:8] + 1).tolist() for _ in range(40)])
    data, texts = make_prepared(storage, walks, items=40), item_texts(
        storage, rng.normal(size=(39, 16)), [*range(1, 40)])  # 31…39 are never trained and have a text, 40 has none
    found = {}
    for place in (False, True):
        config = changed(item_init=TextItemInit(), place_untrained=place)
        stage_key = key(config, SASREC, "plain", 0, data.fingerprint, None, texts.fingerprint)
        found[place] = train(config, SASREC, "plain", 0, data, None, artifacts.begin(storage, stage_key),
                             item_vectors=texts)
    assert [found[place].manifest.info["placed_items"] for place in (False, True)] == [0, 9]
    model = json.loads(Path(found[True].local("model/model.json")).read_text())
    info = found[True].manifest.info
    assert model["validation"] == info["placed_validation"] != info["validation"]
    assert info["validation"] == found[False].manifest.info["validation"]
    before, after = (weights(found[place]) for place in (False, True))
    moved = (before["item_embedding.weight"] != after["item_embedding.weight"]).any(1)
    assert moved.nonzero()[:, 0].tolist() == [*range(31, 40)]
    assert all(torch.equal(before[name], after[name]) for name in before if name != "item_embedding.weight")


def test_an_arm_that_reads_no_text_places_by_the_texts_as_they_are_encoded(storage: Storage) -> None:
    """The trained items' rows are a linear map of their texts, so a new item's place is known."""
    rng = np.random.default_rng(2)
    walks = Sequences.from_lists([(rng.permutation(30)[:8] + 1).tolist() for _ in range(40)])
    data, vectors = make_prepared(storage, walks, items=40), rng.normal(size=(39, 4))
    texts = encoded_items(storage, vectors, range(1, 40))
    config = changed(place_untrained=True)
    with pytest.raises(ConfigError, match="train.place_untrained need the vectors .*encode/items"):
        key(config, SASREC, "plain", 0, data.fingerprint, None)
    stage_key = key(config, SASREC, "plain", 0, data.fingerprint, None, None, texts.fingerprint)
    found = train(config, SASREC, "plain", 0, data, None, artifacts.begin(storage, stage_key), item_texts=texts)
    assert found.manifest.info["placed_items"] == 9
    table_XD = weights(found)["item_embedding.weight"].double().numpy()
    trained = table_XD[1:31] - table_XD[1:31].mean(0)
    centred = vectors - vectors[:30].mean(0)
    placed = centred[30:] @ np.linalg.lstsq(centred[:30], trained, rcond=None)[0]
    rows = table_XD[31:40] - table_XD[1:31].mean(0)
    assert (placed * rows).sum() / np.linalg.norm(placed) / np.linalg.norm(rows) > 0.99  # the spread is another one


def test_a_scale_of_places_is_no_part_of_trainings_that_place_nothing(storage: Storage) -> None:
    data = make_prepared(storage)
    prints = {(place, scale): key(changed(item_init=TextItemInit(), place_untrained=place, place_scale=scale), SASREC,
                                  "plain", 0, data.fingerprint, None, "0" * 16).fingerprint
              for place in (False, True) for scale in (1.0, 0.5)}
    assert prints[False, 1.0] == prints[False, 0.5] and len(set(prints.values())) == 3
