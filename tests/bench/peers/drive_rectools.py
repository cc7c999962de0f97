"""RecTools' SASRec as its documentation shows it. Runs in RecTools' environment."""

from __future__ import annotations

import numpy as np
import pandas as pd
from gate import Settings, drive, read_sequences
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class RecTools:
    """Users and items keep the ids of the file."""

    def __init__(self, settings: Settings) -> None:
        sequences = read_sequences(settings["train"])
        lengths = np.array([len(sequence) for sequence in sequences])
        self._users = np.arange(len(sequences))
        steps = np.concatenate([np.arange(length) for length in lengths])
        interactions = pd.DataFrame({
            Columns.User: np.repeat(self._users, lengths), Columns.Item: np.concatenate(sequences),
            Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(steps, unit="s")})
        self._dataset = Dataset.construct(interactions)
        self._settings = settings
        self.steps_per_epoch = -(-len(sequences) // settings["batch_size"])

    def fit(self, epochs: int, max_steps: int | None) -> None:
        given = self._settings
        self._model = SASRecModel(
            n_blocks=given["blocks"], n_heads=given["heads"], n_factors=given["dim"], dropout_rate=given["dropout"],
            session_max_len=given["max_length"], batch_size=given["batch_size"], lr=given["lr"], loss="softmax",
            epochs=epochs, get_trainer_func=lambda: _trainer(epochs, max_steps))
        self._model.fit(self._dataset)

    def top(self, k: int) -> np.ndarray:
        found = self._model.recommend(users=self._users, dataset=self._dataset, k=k, filter_viewed=True)
        lists = np.zeros((len(self._users), k), np.int64)
        lists[found[Columns.User].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
        return lists


def _trainer(epochs: int, max_steps: int | None) -> Trainer:
    """RecTools' own, with an end."""
    return Trainer(max_epochs=epochs, min_epochs=epochs if max_steps is None else None, max_steps=max_steps or -1,
                   enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False,
                   devices=1)


if __name__ == "__main__":
    drive(RecTools, ("rectools", "torch", "pytorch-lightning", "numpy"))
