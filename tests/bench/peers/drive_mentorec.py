"""Ours, through the `train` stage in this very process. Runs in the project's environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gate import Settings, drive

from cluster.config import StorageConfig
from cluster.storage import Storage
from configs.errors import MentorecError
from models.ranking import rank_users, recommend, shards
from models.scoring import EncoderScorer
from models.students import build_encoder
from pipeline.store import arrays
from pipeline.store.artifacts import begin, open_artifact
from pipeline.train.config import TrainConfig
from pipeline.train.data import TrainingRows
from pipeline.train.export import load_model
from pipeline.train.keys import key
from pipeline.train.sampler import Sampler
from pipeline.train.stage import train
from pipeline.work.memory import keep_freed_memory
from tests.bench.beauty import student
from tests.bench.dense import dense_ranks

NEVER = 10**6


class Mentorec:
    """A plain student on the prepared data set."""

    def __init__(self, settings: Settings) -> None:
        prepared = open_artifact(Storage.from_config(StorageConfig(uri=settings["storage"])), "prepare",
                                 settings["prepared"])
        assert prepared is not None, "the driver's parent prepares the data first"
        self._settings, self._prepared = settings, prepared
        self._model = student(settings)
        self._encoder = build_encoder(self._model, settings["num_items"], settings["seed"])
        rows = TrainingRows.open(prepared.local("train.arrow"), self._encoder)
        self.steps_per_epoch = len(Sampler(rows.lengths_N, settings["batch_size"], settings["seed"]))
        self._histories = arrays.cases(prepared.local("validation.arrow")).histories

    def fit(self, epochs: int, max_steps: int | None) -> None:
        if max_steps is not None:  # ranking needs no training
            return
        given, storage = self._settings, self._prepared.storage
        arm = given.get("arm", "plain")
        config = TrainConfig.model_validate({
            "epochs": epochs, "distill_epochs": 0 if arm == "plain" else epochs - 1, "batch_size": given["batch_size"],
            "optimizer": {"lr": given["lr"], **given["optimizer"]}, "validate_every_epochs": NEVER,
            "validation_users": given.get("validation_users"), "loss": given["loss"], "precision": given["precision"],
            **given.get("train_settings", {}), "execution": {
                "num_workers": 0, "threads_per_worker": given["threads"], "checkpoint_every_epochs": NEVER}})
        targets, texts = (open_artifact(storage, stage, given[name]) if given.get(name) else None
                          for stage, name in (("reduce", "targets"), ("encode", "texts")))
        members = [artifact for name in given.get("members", ())
                   if (artifact := open_artifact(storage, "train", name)) is not None]
        stage_key = key(config, self._model, arm, given["seed"], self._prepared.fingerprint, given.get("targets"),
                        texts_fp=given.get("texts"), members=given.get("members", ()))
        storage.delete(stage_key.folder)  # each call trains anew
        trained = train(config, self._model, arm, given["seed"], self._prepared, targets, begin(storage, stage_key),
                        item_texts=texts, members=members)
        self._encoder = load_model(trained.local("model"))

    def top(self, k: int) -> np.ndarray:
        keep_freed_memory()  # as every stage of ours that computes with torch on a CPU
        return recommend(EncoderScorer(self._encoder), self._histories, k,
                         precision=self._settings["rank_precision"]).items_NK

    def checks(self) -> dict[str, Any]:
        """Ranks of all validation targets against a dense product in double precision, fully sorted."""
        cases = arrays.cases(self._prepared.local("validation.arrow"))
        scorer = EncoderScorer(self._encoder)
        found = rank_users(scorer, cases, top_k=0)
        wrong = 0
        for indices in shards(len(cases)):
            states_BD = scorer.states(cases.histories, indices)  # the very same states, as they are encoded together
            for rows in np.array_split(np.arange(len(indices)), 16):
                ranks = dense_ranks(states_BD[torch.from_numpy(rows)], scorer.items_VD, cases, indices[rows])
                wrong += int((ranks != found.rank[indices[rows]]).sum())
        lists = [recommend(scorer, cases.histories, 10, precision=precision).items_NK
                 for precision in ("fp32", "bf16")]
        return {"users": len(cases), "ranks_unlike_dense": wrong,
                "top10_unlike_between_fp32_and_bf16": int((lists[0] != lists[1]).any(1).sum())}


if __name__ == "__main__":
    try:
        drive(Mentorec, ("torch", "numpy"))
    except MentorecError as exc:
        raise SystemExit(f"error: {exc}") from exc
