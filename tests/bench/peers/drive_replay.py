"""RePlay's SASRec over Parquet, as its examples show it. Runs in RePlay's environment."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
import polars as pl
import torch
from gate import Settings, drive, read_sequences
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import TorchTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms

ITEM, USER, SEEN = "item_id", "user_id", "seen_ids"


class RePlay:
    """Items are numbered from 0 here; the padding value is their number."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        sequences = [[item - 1 for item in sequence] for sequence in read_sequences(settings["train"])]
        self._num_users, self._num_items = len(sequences), settings["num_items"]
        self._file = Path(settings["scratch"]) / "replay.parquet"
        pl.DataFrame({USER: range(len(sequences)), ITEM: sequences, SEEN: sequences}).write_parquet(self._file)
        self._longest = max(len(sequence) for sequence in sequences)
        self._schema = TensorSchema([
            TensorFeatureInfo(ITEM, is_seq=True, feature_type=FeatureType.CATEGORICAL,
                              embedding_dim=settings["dim"], padding_value=self._num_items,
                              cardinality=self._num_items, feature_hint=FeatureHint.ITEM_ID,
                              feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)])])
        self.steps_per_epoch = -(-len(sequences) // settings["batch_size"])
        model = SasRec.from_params(
            self._schema, embedding_dim=settings["dim"], num_heads=settings["heads"], num_blocks=settings["blocks"],
            max_sequence_length=settings["max_length"], dropout=settings["dropout"])
        self._module = LightningModule(model, OptimizerFactory(learning_rate=settings["lr"]))

    def fit(self, epochs: int, max_steps: int | None) -> None:
        length = self._settings["max_length"] + 1  # one more: the last target
        data = ParquetModule(
            batch_size=self._settings["batch_size"], transforms=make_default_sasrec_transforms(self._schema),
            metadata={"train": {ITEM: {"shape": length, "padding": self._num_items}}}, train_path=str(self._file))
        trainer = lightning.Trainer(max_epochs=epochs, max_steps=max_steps or -1, limit_val_batches=0, **_QUIET)
        trainer.fit(self._module, data)

    def top(self, k: int) -> np.ndarray:
        callback = TorchTopItemsCallback(k, USER, [SeenItemsFilter(self._num_items, SEEN)])
        data = ParquetModule(
            batch_size=256, transforms=make_default_sasrec_transforms(self._schema), metadata={"predict": {
                USER: {}, ITEM: {"shape": self._settings["max_length"], "padding": self._num_items},
                SEEN: {"shape": self._longest, "padding": -1}}}, predict_path=str(self._file))
        trainer = lightning.Trainer(callbacks=[callback], inference_mode=True, **_QUIET)
        trainer.predict(self._module, data, return_predictions=False)
        users, items, _ = callback.get_result()
        lists = torch.zeros(self._num_users, k, dtype=torch.int64)
        lists[users] = items + 1
        return lists.numpy()


_QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
          "enable_progress_bar": False, "enable_model_summary": False}

if __name__ == "__main__":
    drive(RePlay, ("replay-rec", "torch", "lightning", "numpy"))
