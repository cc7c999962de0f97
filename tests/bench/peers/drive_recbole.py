"""RecBole's SASRec with its own trainer. Runs in RecBole's environment.

RecBole trains on every prefix of a sequence as a sample of its own; a batch holds so many prefixes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gate import Settings, drive, read_sequences
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NAME = "bench"


class RecBole:
    """Raw ids are the file's, as text."""

    def __init__(self, settings: Settings) -> None:
        folder = Path(settings["scratch"]) / NAME
        folder.mkdir(exist_ok=True)
        sequences, held_out = read_sequences(settings["train"]), read_sequences(settings["validation"])
        lines = [f"{user}\t{item}\t{time}" for user, (sequence, target) in enumerate(zip(sequences, held_out,
                                                                                         strict=True))
                 for time, item in enumerate(sequence + target)]
        (folder / f"{NAME}.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]))
        config = Config(model="SASRec", dataset=NAME, config_dict={
            "data_path": settings["scratch"], "checkpoint_dir": settings["scratch"], "use_gpu": False,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": settings["max_length"],
            "train_batch_size": settings["batch_size"], "learning_rate": settings["lr"], "epochs": 10**6,
            "eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "mode": "full", "group_by": "user"},
            "train_neg_sample_args": None, "loss_type": "CE", "hidden_size": settings["dim"],
            "inner_size": settings["dim"], "n_layers": settings["blocks"], "n_heads": settings["heads"],
            "hidden_dropout_prob": settings["dropout"], "attn_dropout_prob": settings["dropout"],
            "hidden_act": "relu", "seed": settings["seed"], "show_progress": False})
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        self._config = config
        self._train, self._validation, _ = data_preparation(config, dataset)
        self._model = get_model("SASRec")(config, self._train.dataset)
        self._raw_items = np.array([0, *map(int, dataset.field2id_token["item_id"][1:])])
        self._raw_users = np.array([0, *map(int, dataset.field2id_token["user_id"][1:])])
        self._num_users = len(sequences)
        self.steps_per_epoch = len(self._train)

    def fit(self, epochs: int, max_steps: int | None) -> None:
        if max_steps is not None:  # its trainer knows epochs only; ranking needs no training
            return
        trainer = get_trainer(self._config["MODEL_TYPE"], "SASRec")(self._config, self._model)
        trainer.epochs = epochs
        trainer.fit(self._train, None, verbose=False, saved=False)

    @torch.no_grad()
    def top(self, k: int) -> np.ndarray:
        """As its evaluation does it; the sequence's items are removed, which RecBole leaves in for this model."""
        self._model.eval()
        lists = np.zeros((self._num_users, k), np.int64)
        for interaction, *_ in self._validation:
            scores = self._model.full_sort_predict(interaction)
            scores.scatter_(1, interaction[self._model.ITEM_SEQ], -torch.inf)  # its padding is item 0
            users = self._raw_users[interaction[self._model.USER_ID].numpy()]
            lists[users] = self._raw_items[scores.topk(k).indices.numpy()]
        return lists


if __name__ == "__main__":
    drive(RecBole, ("recbole", "torch", "numpy"))
