"""One commit moves what is active; gates refuse with figures; the way back is a stack."""

import json
import re

import pytest

from recspark.errors import ReleaseError
from recspark.faults import FAULT_VARIABLE
from recspark.lake.arrow import list_records
from recspark.releases import activate as module
from recspark.releases.activate import activate, judge_release, rollback
from recspark.releases.gates import REFUSED
from recspark.releases.registry import ACTIVE, READY, RETIRED, action_record, change_registry, read_registry


def newest_record(lake):
    return next(record for _, record in list_records(lake, "releases"))


def test_the_newest_ready_one_becomes_active_in_one_commit(released):
    version = released.registry.version
    done = activate(released.lake)
    assert done.row.release_id == released.second
    assert released.registry.version == version + 1
    assert released.states() == {released.first: READY, released.second: ACTIVE}
    assert done.describe().splitlines()[-1] == f"release {released.second} is active"


def test_the_one_before_is_retired_in_the_same_commit(released):
    activate(released.lake, released.first)
    version = released.registry.version
    done = activate(released.lake, released.second[:6])
    assert released.registry.version == version + 1
    assert released.states() == {released.first: RETIRED, released.second: ACTIVE}
    assert released.row(released.first).reason == f"replaced by {released.second}"
    assert released.row(released.second).previous_id == released.first
    assert done.describe().endswith(f"is active, in place of {released.first}")
    assert newest_record(released.lake).facts["action"] == "activate"
    assert {gate["outcome"] for gate in newest_record(released.lake).facts["gates"]} == {"passed"}


def test_what_is_active_already_stays_so(released):
    activate(released.lake, released.first)
    version = released.registry.version
    assert activate(released.lake, released.first).row.state == ACTIVE
    assert released.registry.version == version


def test_a_refusal_names_gate_value_and_limit_and_changes_nothing(released):
    version = released.registry.version
    limits = {"min_recall": 0.8, "min_coverage": 0.99}
    with pytest.raises(ReleaseError) as caught:
        activate(released.lake, released.first, limits=limits)
    said = str(caught.value)
    assert said.startswith(f"release {released.first} is refused by 1 gate: min_coverage\n")
    assert "share of the catalogue listed at 5, off by 0." in said
    assert said.endswith("change release.gates, or give --force with the reason")
    assert released.registry.version == version


def test_force_is_recorded_with_what_it_overrode(released):
    activate(released.lake, released.first, limits={"min_coverage": 0.99}, force="the shop opens tomorrow")
    assert released.row(released.first).reason == "activated, forced: the shop opens tomorrow"
    facts = newest_record(released.lake).facts
    assert facts["forced"] == "the shop opens tomorrow"
    assert [gate["name"] for gate in facts["gates"] if gate["outcome"] == REFUSED] == ["min_coverage"]
    with pytest.raises(ReleaseError, match="say why; the reason is recorded"):
        activate(released.lake, released.second, force=" ")


def test_gates_compare_with_the_active_release(released):
    activate(released.lake, released.first)
    registry = read_registry(released.lake)
    gates = {gate.name: gate for gate in judge_release(registry, registry.rows[released.second], {
        "max_metric_drop": 0.0, "min_neighbour_overlap": 0.999})}  # fmt: skip
    assert released.first in gates["max_metric_drop"].why
    assert gates["min_neighbour_overlap"].outcome == REFUSED
    assert gates["min_neighbour_overlap"].why == f"neighbours@10 of 20 items in common with release {released.first}"


def test_damage_cannot_be_forced(released):
    released.file("indexes", released.row(released.first).index_id, "shard-00000.faiss").unlink()
    with pytest.raises(ReleaseError, match=rf"release {released.first} is damaged: .*shard-00000\.faiss: missing"):
        activate(released.lake, released.first, force="in a hurry")


def test_a_damaged_active_release_can_be_replaced_for_a_reason(released):
    activate(released.lake, released.first)
    released.file("releases", released.first, "manifest.json").unlink()
    with pytest.raises(
        ReleaseError, match=r"is refused by 2 gates: max_metric_drop, min_neighbour_overlap\n"
    ) as caught:
        activate(released.lake, released.second)
    assert re.search(
        r"refused  max_metric_drop +cannot be compared: release .*manifest\.json: not there", str(caught.value)
    )
    assert activate(released.lake, released.second, force="the manifest is lost").row.state == ACTIVE
    recorded = {gate["name"]: gate["why"] for gate in newest_record(released.lake).facts["gates"]}
    assert recorded["min_neighbour_overlap"].startswith(f"cannot be compared: release {released.first}: ")


@pytest.mark.parametrize("damage", ["cut", "lost", "flipped"])
def test_damaged_canaries_of_the_active_release_refuse_the_gate_that_needs_them(released, damage):
    activate(released.lake, released.first)
    path = released.file("releases", released.first, "canaries.parquet")
    content = path.read_bytes()
    path.unlink()
    if damage != "lost":
        path.write_bytes(content[:100] if damage == "cut" else content[:99] + b"!" + content[100:])
    gates = {gate.name: gate for gate in judge_release(released.registry, released.row(released.second))}
    assert gates["max_metric_drop"].outcome == "passed"
    assert gates["min_neighbour_overlap"].outcome == REFUSED
    assert "cannot be compared: " in gates["min_neighbour_overlap"].why
    assert "canaries.parquet: " in gates["min_neighbour_overlap"].why


def test_rollbacks_go_further_and_further_back(released):
    activate(released.lake, released.first)
    activate(released.lake, released.second)
    done = rollback(released.lake, reason="complaints")
    assert done.row.release_id == released.first
    assert released.states() == {released.first: ACTIVE, released.second: RETIRED}
    assert released.row(released.second).reason == f"taken back for {released.first}: complaints"
    with pytest.raises(ReleaseError, match=f"rollback: {released.first} was the first to be active"):
        rollback(released.lake)
    assert rollback(released.lake, released.second).row.state == ACTIVE


def test_a_rollback_asks_no_gate_but_is_whole(released, monkeypatch):
    activate(released.lake, released.first)
    activate(released.lake, released.second)
    monkeypatch.setattr(module, "judge", lambda *_: pytest.fail("a gate was asked"))
    released.file("models", released.row(released.first).model_id, "vectors.safetensors").write_bytes(b"tablets")
    with pytest.raises(ReleaseError, match=r"is damaged: models/\w+: .*vectors\.safetensors: 7 bytes"):
        rollback(released.lake)
    assert released.row(released.second).state == ACTIVE


@pytest.mark.parametrize("point", ["release.before_activation", "release.activated"])
@pytest.mark.parametrize("move", [activate, rollback])
def test_killed_while_it_moves_one_of_the_two_is_active(released, monkeypatch, point, move):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    activate(released.lake, released.first)
    if move is rollback:
        activate(released.lake, released.second)
    before = released.registry.active
    monkeypatch.setenv(FAULT_VARIABLE, point)
    monkeypatch.setattr("os.kill", die)
    with pytest.raises(Killed):
        move(released.lake)
    has_moved = released.registry.active.release_id != before.release_id
    assert has_moved == (point == "release.activated")
    assert list(released.states().values()).count(ACTIVE) == 1


def test_nothing_to_roll_back_to(released):
    with pytest.raises(ReleaseError, match="rollback: no release is active; activate one first"):
        rollback(released.lake)


def test_only_published_releases_can_be_active(released):
    def fail(registry):
        return registry.rows | {released.first: registry.rows[released.first].moved("FAILED", "out of disk")}

    change_registry(released.lake, fail, action_record("fail", released.first))
    with pytest.raises(ReleaseError, match=r"is FAILED \(out of disk\); only a READY or RETIRED one can be active"):
        activate(released.lake, released.first)


def test_who_is_overtaken_by_another_activation_is_told(released, monkeypatch):
    real = module.check_sound

    def activate_the_other(lake, row):
        real(lake, row)
        monkeypatch.setattr(module, "check_sound", real)
        activate(released.lake, released.second)

    monkeypatch.setattr(module, "check_sound", activate_the_other)
    with pytest.raises(ReleaseError, match=f"meanwhile {released.second} became active; look at it and try again"):
        activate(released.lake, released.first)
    assert released.states() == {released.first: READY, released.second: ACTIVE}


def test_an_edited_manifest_is_refused_by_name(released):
    path = released.file("releases", released.first, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["facts"]["measured"]["recall_at_10"] = 1.0
    path.write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match=r"manifest\.json: SHA-256 \w{12}, published was \w{12}: edited since"):
        activate(released.lake, released.first)
