"""`profile` on Ray: same bytes whatever the actors, rows conserved, rejects with a reason, what must stop it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import ActorExecution, StorageConfig
from cluster.storage import Storage
from configs.errors import ArtifactError, DataError, LeakageError
from pipeline.profile import keys
from pipeline.profile import stage as profile_stage
from pipeline.profile import writing as profile_writing
from pipeline.profile.config import ProfileConfig
from pipeline.profile.definition import PROFILE_COLUMNS, REJECTED_COLUMNS
from pipeline.profile.stage import profile
from pipeline.store import artifacts, rows
from pipeline.store.artifacts import Artifact
from pipeline.store.columns import ANGLE, PROFILE, REASON, ROW_ID, USER_IDX
from tests.texts import make_text_prepared
from tests.tools import saved_blocks

pytestmark = pytest.mark.usefixtures("ray_cluster")
ONE = ActorExecution(actors=1, num_cpus=1.0, batch_rows=64, block_rows=1000)
TWO = ActorExecution(actors=2, num_cpus=0.5, batch_rows=7, block_rows=11)
HERE = ActorExecution(actors=0, batch_rows=7, block_rows=11)


def build(prepared: Artifact, storage: Storage, config: ProfileConfig) -> Artifact:
    return profile(config, prepared, artifacts.begin(storage, keys.key(config, prepared.fingerprint), resume=True))


def part_bytes(artifact: Artifact) -> dict[str, bytes]:
    return {name: Path(artifact.path(name)).read_bytes() for name in artifact.manifest.files}


def test_actors_batches_and_blocks_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_stage, "PART_USERS", 50)
    built = []
    for name, execution in (("one", ONE), ("two", TWO), ("here", HERE)):
        storage = Storage.from_config(StorageConfig(uri=str(tmp_path / name)))
        config = ProfileConfig(angles=("overall", "recent", "favourites"), execution=execution)
        built.append(build(make_text_prepared(storage), storage, config))
    assert part_bytes(built[0]) == part_bytes(built[1]) == part_bytes(built[2])
    assert sorted(built[0].manifest.files) == ["profiles/part-00000.parquet", "profiles/part-00001.parquet",
                                               "profiles/part-00002.parquet", "rejected.parquet", "stats.json"]
    assert built[0].manifest.id_digest == built[1].manifest.id_digest


def test_every_user_and_angle_is_a_profile_or_a_reject_with_a_reason(storage: Storage) -> None:
    prepared = make_text_prepared(storage, users=60, signals=False)
    config = ProfileConfig(angles=("overall", "favourites"), max_rejected_fraction=0.9, form="short", execution=TWO)
    artifact = build(prepared, storage, config)
    told, refused = artifact.read_table("profiles").to_pylist(), artifact.read_table("rejected.parquet").to_pylist()
    assert tuple(artifact.read_table("profiles").column_names) == PROFILE_COLUMNS
    assert tuple(artifact.read_table("rejected.parquet").column_names) == REJECTED_COLUMNS
    textless = {user for user in range(60) if user % 10 == 9}
    assert [row[USER_IDX] for row in told] == [user for user in range(60) if user not in textless]
    assert [row[ROW_ID] for row in told] == list(range(54))
    assert all(row[ANGLE] == "overall" and row[PROFILE].startswith("Tastes: ") for row in told)
    reasons = {(row[USER_IDX], row[ANGLE]): row[REASON] for row in refused}
    assert {key for key in reasons if key[1] == "overall"} == {(user, "overall") for user in textless}
    assert reasons[9, "overall"] == "no item text"
    assert reasons[0, "favourites"] == "no interaction for the angle favourites: no signals"
    assert artifact.manifest.counts == {"num_in": 120, "num_out": 54, "num_rejected": 66, "users": 60}
    assert not storage.exists(artifact.relative("work"))


def test_too_many_rejects_stop_the_stage_and_the_work_is_kept(storage: Storage) -> None:
    prepared = make_text_prepared(storage, users=40)
    strict = ProfileConfig(max_rejected_fraction=0.05, execution=ONE)
    out = artifacts.begin(storage, keys.key(strict, prepared.fingerprint))
    with pytest.raises(DataError, match=r"4 of 40 profiles are rejected \(10.0%; no item text: 4\).*raise profile.max"):
        profile(strict, prepared, out)
    out.release()
    accepted = build(prepared, storage, strict.model_copy(update={"max_rejected_fraction": 0.2}))
    assert accepted.manifest.attempt == out.attempt and accepted.manifest.counts["num_rejected"] == 4


def test_a_history_with_more_than_the_training_part_stops_the_stage(storage: Storage) -> None:
    with pytest.raises(LeakageError):
        build(make_text_prepared(storage, users=20, leak=True), storage, ProfileConfig(execution=ONE))


def test_a_user_that_stands_twice_stops_the_stage_before_any_text(storage: Storage) -> None:
    prepared = make_text_prepared(storage, users=20)
    table = prepared.read_table("histories/part-00000.parquet")
    storage.write_table(prepared.relative("histories/part-00001.parquet"), table.slice(19, 1))
    with pytest.raises(ArtifactError, match="19 follows 19"):
        build(prepared, storage, ProfileConfig(execution=ONE))
    assert saved_blocks(Path(storage.base)) == 0


def test_only_the_last_items_count_when_asked(storage: Storage) -> None:
    prepared = make_text_prepared(storage, users=30, textless=0)
    whole = build(prepared, storage, ProfileConfig(form="short", execution=ONE))
    short = build(prepared, storage, ProfileConfig(form="short", recent_items=2, execution=ONE))
    texts = zip(whole.read_table("profiles")[PROFILE].to_pylist(), short.read_table("profiles")[PROFILE].to_pylist(),
                strict=True)
    assert sum(a != b for a, b in texts) > 15


@pytest.mark.parametrize("where", [ONE, HERE], ids=["on-ray", "here"])
def test_a_sample_has_the_profiles_of_the_whole_and_lies_in_a_larger_one(storage: Storage, where: ActorExecution
                                                                         ) -> None:
    prepared = make_text_prepared(storage, users=60)
    texts = {}
    for users in (10, 25, 60, 61, None):
        artifact = build(prepared, storage, ProfileConfig(users=users, execution=where, max_rejected_fraction=0.9))
        told, refused = artifact.read_table("profiles"), artifact.read_table("rejected.parquet")
        texts[users] = dict(zip(told[USER_IDX].to_pylist(), told[PROFILE].to_pylist(), strict=True))
        assert told.num_rows + refused.num_rows == min(users or 60, 60) == artifact.manifest.counts["users"]
        assert told[ROW_ID].to_pylist() == list(range(told.num_rows))
    assert texts[10].items() <= texts[25].items() <= texts[60].items() == texts[None].items() == texts[61].items()


def test_a_call_cut_off_after_the_map_computes_nothing_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = make_text_prepared(storage, users=30, textless=0)
    config = ProfileConfig(execution=ONE)
    out = artifacts.begin(storage, keys.key(config, prepared.fingerprint))

    def cut_off(*args: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(profile_stage, "_write", cut_off)
        with pytest.raises(InterruptedError):
            profile(config, prepared, out)

    class NeverCalled(profile_writing.ProfileActor):
        def __call__(self, batch: object) -> None:  # type: ignore[override]
            raise AssertionError("a saved row was sent again")

    monkeypatch.setattr(profile_writing, "ProfileActor", NeverCalled)
    with monkeypatch.context() as patch:
        patch.setattr(rows, "remove_work", cut_off)
        with pytest.raises(InterruptedError):
            profile(config, prepared, out)
    storage.delete(out.relative(rows.RAW))
    artifact = profile(config, prepared, out)
    assert artifact.read_table("profiles")[USER_IDX].to_pylist() == list(range(30))
