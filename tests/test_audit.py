"""The audit trail and the checker of histories: each illegal one is found, each legal one accepted."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from pipeteer_django.auditing import reading
from pipeteer_django.auditing.audit import Audit
from pipeteer_django.auditing.history import History
from pipeteer_django.auditing.reading import Trails
from pipeteer_django.auditing.rules import RULES
from pipeteer_django.auditing.trail import Trail
from pipeteer_django.pipelines.outcome import Done, Released, Retry
from pipeteer_django.pipelines.outcome import Failure as Failed
from pipeteer_django.queues.claim import plain
from pipeteer_django.signals import entries_leaving, entries_moved
from pipeteer_django.testing import drain
from pipeteer_django.worker.reports import report_settled
from tests.queues.by_hand import claim_one, drain_anyway, engine, overdue, settle
from tests.testapp.models import Ledger
from tests.testapp.pipelines import approve, boom, double, quad, record

Line = dict[str, Any]


# Histories made by hand: of run 1 of one pipeline, by several processes


def enqueued() -> Line:
    return {"event": "enqueued", "pipeline": "p", "runs": [1], "keys": ["k"]}


def claimed(epoch: int) -> Line:
    return {"event": "claimed", "pipeline": "p", "run": 1, "epoch": epoch}


def settled(epoch: int, to: int | None, outcome: str = "", **marks: Any) -> Line:
    name = outcome or ("done" if to is None else "retry")
    return {"event": "settled", "pipeline": "p", "run": 1, "epoch": epoch, "outcome": name, "next": to, **marks}


def advanced(epoch: int, to: int | None) -> Line:
    return settled(epoch, to, claimed=False)


def lost(epoch: int) -> Line:
    return {"event": "lost", "pipeline": "p", "run": 1, "epoch": epoch}


def moved(verb: str, epoch: int | None = None) -> Line:
    return {"event": "moved", "pipeline": "p", "verb": verb, "runs": [1]} | ({} if epoch is None else {"epoch": epoch})


GAP = {"event": "gap"}


def write(folder: Path, *files: list[Line], opened: bool = True) -> Trails:
    for number, lines in enumerate(files):
        whole = [{"event": "opened"}, *lines] if opened else lines
        (folder / f"host-{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole))
    return Trails(folder)


def rules(trails: Trails) -> set[str]:
    return {fault.rule for events in trails.runs() for fault in History(events).faults(trails.gaps)}


LEGAL: dict[str, list[list[Line]]] = {
    "a life": [[enqueued(), claimed(1), settled(1, None)]],
    "two attempts": [[enqueued()], [claimed(1), settled(1, 2), claimed(3), settled(3, None)]],
    "it died before its settle, another took over": [[claimed(1)], [claimed(2), settled(2, None)]],
    "it died after its settle, before the line": [[claimed(1)], [claimed(3), settled(3, None)]],
    "it died between claim and line": [[], [claimed(2), settled(2, None)]],
    "a zombie was refused": [[claimed(1), lost(1)], [claimed(2), settled(2, None)]],
    "a late result whose epoch still stands": [[claimed(1), settled(1, None)], [lost(7)]],
    "released, then edited": [[claimed(1), settled(1, 2, "released")], [moved("edited", 3)], [claimed(4)]],
    "a person took it away": [[claimed(1), lost(1)], [moved("edited", 2)], [claimed(3), settled(3, None)]],
    "deleted": [[enqueued(), moved("deleted")], [claimed(1), lost(1)]],
    "a run that sleeps on as it did": [[claimed(1), settled(1, 2), advanced(2, 2), advanced(2, 2), advanced(2, None)]],
    "a run that sleeps on under another epoch": [[claimed(1), settled(1, 2), advanced(2, 3), advanced(3, None)]],
    "in doubt, and it was his": [[claimed(1), settled(1, None, proved=False)]],
    "in doubt, and it was somebody else's": [
        [claimed(1), settled(1, None, proved=False)], [claimed(2), settled(2, None)],
    ],
    "lines were lost for want of space": [[claimed(1), GAP, settled(3, None)]],
    "many releases by UPDATE": [[claimed(1)], [{"event": "moved", "pipeline": "p", "verb": "released", "count": 9}],
                                [claimed(7), settled(7, None)]],
}  # fmt: skip
ILLEGAL: dict[str, tuple[str, list[list[Line]]]] = {
    "one claim, two workers": ("H2", [[claimed(1)], [claimed(1)]]),
    "a zombie settles": ("H2", [[claimed(1), settled(1, 2)], [claimed(2)]]),
    "a zombie's end": ("H2", [[claimed(1), settled(1, None)], [claimed(2), lost(2)]]),
    "settled twice": ("H2", [[claimed(1), settled(1, 2), settled(1, 2)]]),
    "two results": ("H5", [[claimed(1), settled(1, None)], [claimed(2), settled(2, None)]]),
    "one result, twice": ("H5", [[claimed(1), settled(1, None), settled(1, None)]]),
    "deleted and done": ("H5", [[moved("deleted")], [claimed(1), settled(1, None)]]),
    "pushed twice": ("H5", [[moved("pushed")], [moved("pushed")]]),
    "run after its end": ("H4", [[claimed(1), settled(1, None)], [claimed(4)]]),
    "edited after its end": ("H4", [[claimed(1), settled(1, None)], [moved("edited", 3)]]),
    "an edit that did not release": ("H2", [[claimed(1), settled(1, 2)], [moved("edited", 2)]]),
    "two edits of one state": ("H2", [[moved("edited", 2)], [moved("edited", 2)]]),
    "advanced under an old epoch": ("H2", [[claimed(1), settled(1, 2), advanced(2, 3)], [claimed(3)]]),
    "settled what another had claimed": ("H3", [[claimed(1)], [settled(1, None)]]),
    "settled before it was claimed": ("H3", [[settled(1, 2), claimed(1)]]),
    "enqueued twice": ("H6", [[enqueued()], [enqueued()]]),
    "claimed in falling order": ("H7", [[claimed(5), claimed(3)]]),
    # Both ends of 2 to 3 are known, but of which epoch the second came is not: only that 3 was written twice.
    "an epoch written twice": ("H1", [[claimed(2), settled(2, 4)], [claimed(4)]]),
}


@pytest.mark.once
@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_history(name: str, tmp_path: Path) -> None:
    assert rules(write(tmp_path, *LEGAL[name])) == set()


@pytest.mark.once
@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_history(name: str, tmp_path: Path) -> None:
    rule, files = ILLEGAL[name]
    assert rule in rules(write(tmp_path, *files))


@pytest.mark.once
@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_history_stays_legal_without_the_last_lines_of_any_process(name: str, tmp_path: Path) -> None:
    files = LEGAL[name]
    for number, lines in enumerate(files):
        for end in range(len(lines)):
            cut = [lines[:end] if n == number else each for n, each in enumerate(files)]
            assert rules(write(tmp_path, *cut)) == set()


# Histories of a model: an entry, workers who claim, crash, sleep through their lease, and people


class Model:
    """An entry as the engine treats it. Who does something says so in his file, unless he dies just then."""

    def __init__(self, chance: random.Random, fenced: bool) -> None:
        self.files: dict[int, list[Line]] = {0: [enqueued()]}
        self.chance, self.fenced = chance, fenced
        self.epoch = 0
        self.ended = False
        self.held: dict[int, int] = {}
        """Epochs by worker, old ones included: he does not know yet."""
        self.acknowledged: set[int] = {0}
        """Epochs of which it is known who left them."""
        self.harmed = False
        """A zombie settled, and both he and who had taken over said so."""

    def step(self) -> None:
        act = self.chance.choice([self.claim, self.claim, self.settle, self.settle, self.die, self.edit, self.release])
        act()

    def say(self, who: int, line: Line) -> bool:
        if self.chance.random() < 0.1:
            self.held.pop(who, None)  # dead before he could
            return False
        self.files.setdefault(who, []).append(line)
        return True

    def claim(self) -> None:
        if self.ended:
            return
        who = max(self.files) + 1 if self.chance.random() < 0.3 else self.chance.choice(list(self.files))
        self.epoch += 1
        self.held[who] = self.epoch
        if self.say(who, claimed(self.epoch)):
            self.acknowledged.add(self.epoch - 1)

    def settle(self) -> None:
        if not self.held:
            return
        who = self.chance.choice(list(self.held))
        mine = self.held.pop(who)
        stands = mine == self.epoch and not self.ended
        if not stands and self.fenced:
            self.say(who, lost(mine))
            return
        to = None if self.chance.random() < 0.2 else mine + 1
        if stands:
            self.ended, self.epoch = to is None, self.epoch + 1
        if self.say(who, settled(mine, to)):
            self.harmed |= not stands and mine in self.acknowledged
            self.acknowledged.add(mine)

    def die(self) -> None:
        if self.held:
            self.held.pop(self.chance.choice(list(self.held)))

    def edit(self) -> None:
        if not self.ended:
            self.epoch += 1
            if self.say(0, moved("edited", self.epoch)):
                self.acknowledged.add(self.epoch - 1)

    def release(self) -> None:
        if not self.ended:
            self.epoch += 1  # by an UPDATE, of which nobody knows whom it concerned


def play(seed: int, fenced: bool) -> Model:
    chance = random.Random(seed)
    model = Model(chance, fenced)
    for _ in range(chance.randint(1, 40)):
        model.step()
    return model


@pytest.mark.once
@given(seed=st.integers(0, 2**32))
@how(max_examples=400, deadline=None, database=None)
def test_a_fenced_engine_makes_legal_histories(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = play(seed, fenced=True).files
    assert rules(write(tmp_path_factory.mktemp("trail"), *files.values())) == set()


@pytest.mark.once
@given(seed=st.integers(0, 2**32))
@how(max_examples=400, deadline=None, database=None)
def test_an_unfenced_engine_is_found_out(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = play(seed, fenced=False)
    if model.harmed:
        assert rules(write(tmp_path_factory.mktemp("trail"), *model.files.values()))


def test_the_model_does_do_harm_without_a_fence() -> None:
    assert sum(play(seed, fenced=False).harmed for seed in range(100)) > 30
    assert not any(play(seed, fenced=True).harmed for seed in range(100))


# Reading


@pytest.mark.once
def test_a_line_under_way_is_no_damage_and_a_torn_one_is(tmp_path: Path) -> None:
    write(tmp_path, [claimed(1), settled(1, None)])
    file = tmp_path / "host-0.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    trails = Trails(tmp_path)
    assert len(next(trails.runs())) == 1
    assert trails.damaged == 0
    file.write_bytes(whole[:-5] + b"\n" + json.dumps(claimed(3)).encode() + b"\n\n")
    trails = Trails(tmp_path)
    assert [event.kind for event in next(trails.runs())] == ["claimed", "claimed"]
    assert (trails.damaged, trails.gaps) == (1, {0})


@pytest.mark.once
def test_a_file_without_its_head_has_a_gap(tmp_path: Path) -> None:
    trails = write(tmp_path, [settled(1, None)], opened=False)
    assert rules(trails) == set()
    assert trails.gaps == {0}


@pytest.mark.once
def test_more_than_fits_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [line for legal in LEGAL.values() for line in legal]
    for number, lines in enumerate(files):
        for line in lines:
            if "run" in line:
                line["run"] = number % 7
    whole = [[(e.run, e.file, e.line, e.facts) for e in events] for events in write(tmp_path, *files).runs()]
    monkeypatch.setattr(reading, "AT_ONCE", 3)
    parts = [[(e.run, e.file, e.line, e.facts) for e in events] for events in Trails(tmp_path).runs()]
    assert parts == whole
    assert len(whole) == 7


@pytest.mark.once
def test_no_trail_is_no_clean_bill(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no trail"):
        Trails(tmp_path)


def test_each_rule_is_a_sentence() -> None:
    for id, rule in RULES.items():
        assert rule.id == id
        for text in (rule.sentence, rule.means, rule.advice):
            assert text.endswith((".", "?")), (id, text)


# Writing


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    trail = Trail(tmp_path / "trail")
    trail.connect()
    yield trail
    trail.disconnect()


def said(trail: Trail) -> list[Line]:
    lines = [json.loads(line) for file in trail.folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("at", "key", "keys")} for line in lines[1:]]


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_says(trail: Trail) -> None:
    run = double.enqueue(1, key="task")
    drain(double)
    place = {"pipeline": "double", "run": run.id}
    assert said(trail) == [
        {"event": "enqueued", "pipeline": "double", "runs": [run.id]},
        {"event": "claimed", **place, "epoch": 1, "attempt": 1},
        {"event": "settled", **place, "epoch": 1, "attempt": 1, "outcome": "done", "next": None},
    ]


@pytest.mark.django_db(transaction=True)
def test_a_child_says_where_its_result_went(trail: Trail) -> None:
    quad.enqueue(1)
    drain()
    step = quad.Step.objects.order_by("id").first()
    ends = [line for line in said(trail) if line["event"] == "settled" and line["pipeline"] == "double"]
    assert ends[0]["step"] == ["quad", step.pk]
    assert [line["next"] for line in said(trail) if line.get("outcome") == "waiting"] == [2, 4]


@pytest.mark.django_db(transaction=True)
def test_every_way_to_enqueue(trail: Trail) -> None:
    double.enqueue(1)
    double.enqueue_many([1, 2, 3])
    double.Input.objects.create(key="a", value=1)
    double.Input.objects.bulk_create([double.Input(key="b", value=1), double.Input(key="c", value=1)])
    told = [run for line in said(trail) for run in line["runs"]]
    assert sorted(told) == sorted(double.Input.objects.values_list("pk", flat=True))


@pytest.mark.django_db(transaction=True)
def test_what_people_do(trail: Trail) -> None:
    first, second = approve.enqueue("x", key="a"), approve.enqueue("x", key="b")
    approve.push("a", True)
    entry = approve.Input.objects.get(key="b")
    entry.priority = 5
    entry.save()
    approve.Input.objects.update(priority=6)
    approve.Input.objects.all().delete()
    assert said(trail)[2:] == [
        {"event": "moved", "pipeline": "approve", "verb": "pushed", "runs": [first.id]},
        {"event": "moved", "pipeline": "approve", "verb": "edited", "runs": [second.id], "epoch": 1},
        {"event": "moved", "pipeline": "approve", "verb": "edited", "count": 1},
        {"event": "leaving", "pipeline": "approve", "verb": "deleted", "runs": [second.id]},
        {"event": "moved", "pipeline": "approve", "verb": "deleted", "runs": [second.id]},
    ]


@pytest.mark.django_db(transaction=True)
def test_what_people_do_to_runs(trail: Trail) -> None:
    quad.enqueue(1, key="a")
    drain(quad)
    quad.rerun("a", from_step=0)
    drain(quad)
    quad.correct("a", step=0, value=3)
    drain(quad)
    quad.Input.objects.restart()
    drain(quad)
    claim_one(double)
    double.Input.objects.all().release()
    quad.cancel("a")
    drain(quad)
    verbs = [line["verb"] for line in said(trail) if line["event"] in ("moved", "leaving")]
    assert verbs == ["rerun", "pushed", "restarted", "released", "cancelled", "cancelled"]
    assert [line for line in said(trail) if line["event"] == "settled"][-1]["outcome"] == "cancelled"


@pytest.mark.django_db(transaction=True)
def test_a_failed_one_is_retried(trail: Trail) -> None:
    boom.enqueue("x")
    drain_anyway(boom)
    boom.Input.objects.all().retry()
    assert {"event": "moved", "pipeline": "boom", "verb": "retried", "count": 1} in said(trail)


@pytest.mark.django_db(transaction=True)
def test_an_output_that_is_deleted_is_announced(trail: Trail) -> None:
    run = double.enqueue(1)
    drain(double)
    double.Output.objects.all().delete()
    assert said(trail)[-1] == {"event": "output_leaving", "pipeline": "double", "run": run.id}


@pytest.mark.django_db(transaction=True)
def test_a_lost_lease(trail: Trail) -> None:
    run = double.enqueue(1)
    claim = claim_one(double)
    engine(double, epoch=7)
    report_settled(settle(claim, Done(2)))
    place = {"pipeline": "double", "run": run.id, "epoch": 1, "attempt": 1}
    assert said(trail)[1:] == [{"event": "lost", **place}]


@pytest.mark.django_db
def test_what_rolls_back_is_announced_at_most(trail: Trail) -> None:
    """In a TestCase nothing commits."""
    double.enqueue(1)
    double.Input.objects.all().delete()
    assert [line["event"] for line in said(trail)] == ["leaving"]


@pytest.mark.django_db(transaction=True)
def test_values_stay_out_of_it(trail: Trail) -> None:
    record.enqueue("a secret value")
    boom.enqueue("another secret")
    drain_anyway()
    (file,) = trail.folder.glob("*.jsonl")
    assert "secret" not in file.read_text()
    assert Ledger.objects.filter(name="a secret value").exists()


@pytest.mark.django_db(transaction=True)
def test_without_a_listener_nothing_is_asked(django_assert_num_queries: Any) -> None:
    """The signals cost nothing when nobody listens: not even who would be told is found out."""
    assert not entries_moved.receivers
    assert not entries_leaving.receivers
    double.enqueue(1)
    with django_assert_num_queries(1):
        double.Input.objects.update(priority=1)


@pytest.mark.once
def test_a_full_disk_leaves_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trail = Trail(tmp_path)
    trail.write("claimed", "p", run=1)
    real = os.write

    def full(file: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def half(file: int, text: bytes) -> int:
        return real(file, text[: len(text) // 2])

    for broken in (full, full, half):
        monkeypatch.setattr(os, "write", broken)
        trail.write("claimed", "p", run=2)
    monkeypatch.setattr(os, "write", real)
    trail.write("claimed", "p", run=3)
    trail.disconnect()
    assert caplog.text.count("cannot be written") == 1
    trails = Trails(tmp_path)
    assert {event.run for events in trails.runs() for event in events} >= {1, 3}
    assert trails.gaps == {0}


@pytest.mark.once
def test_a_folder_that_cannot_be_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    trail = Trail(tmp_path / "file" / "folder")
    trail.write("claimed", "p", run=1)
    trail.write("claimed", "p", run=1)
    assert caplog.text.count("will have gaps") == 1


FORKING = """
import os, sys
from pipeteer_django.auditing.trail import Trail
trail = Trail(sys.argv[1])
trail.write("claimed", "p", run=1)
if os.fork() == 0:
    trail.write("claimed", "p", run=2)
    os._exit(0)
os.wait()
trail.write("claimed", "p", run=3)
"""


@pytest.mark.once
def test_a_child_of_a_fork_has_a_file_of_its_own(tmp_path: Path) -> None:
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    code = "import django; django.setup()\n" + FORKING
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, timeout=60)
    files = [[json.loads(line).get("run") for line in f.read_text().splitlines()] for f in tmp_path.iterdir()]
    assert sorted(files) == [[None, 1, 3], [None, 2]] or sorted(files, key=len) == [[None, 2], [None, 1, 3]]


# The trail against the database


def look(trail: Trail) -> tuple[set[str], dict[str, str]]:
    """The rules that are broken, and what became of what was enqueued."""
    audit = Audit([double, quad, approve, boom], "default", trail.folder)
    found = {finding.rule for finding in audit.findings()}
    assert audit.comparison is not None
    return found, {id: str(balance) for id, balance in audit.comparison.balances.items()}


@pytest.mark.django_db(transaction=True)
def test_nothing_is_wrong(trail: Trail) -> None:
    """What is done, waits, was given up, deleted, cancelled, consumed and pruned: each where it should be."""
    done = [quad.enqueue(n) for n in range(6)]
    drain(quad, double)
    with quad.consume() as entry:
        assert entry.run_id == done[0].id
    quad.Output.everything.filter(run_id=done[1].id).delete()
    boom.enqueue("x")
    drain_anyway(boom)
    approve.enqueue("x", key="waits")
    approve.enqueue("x", key="goes")
    approve.Input.objects.filter(key="goes").delete()
    quad.enqueue(7, key="cancelled")
    drain(quad)
    quad.cancel("cancelled")
    drain(quad)
    quad.enqueue(8, key="deleted")
    quad.Input.objects.filter(key="deleted").delete()
    found, balances = look(trail)
    assert found == set()
    assert balances == {
        "quad": "8 enqueued = 6 outputs + 2 deleted",
        "boom": "1 enqueued = 0 outputs + 1 failed",
        "approve": "2 enqueued = 0 outputs + 1 waiting + 1 deleted",
    }


@pytest.mark.django_db(transaction=True)
def test_a_crash_loses_the_last_lines_and_nothing_is_wrong(trail: Trail) -> None:
    quad.enqueue_many([1, 2, 3])
    drain(quad, double)
    (file,) = trail.folder.glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    for end in range(len(lines), 0, -1):
        file.write_bytes(b"".join(lines[:end]))
        assert look(trail)[0] == set()


@pytest.mark.django_db(transaction=True)
def test_a_crash_between_a_delete_and_its_line(trail: Trail) -> None:
    """Why what goes is announced before its commit: without that, a crash just after it would look like a loss."""
    approve.enqueue("x", key="a")
    approve.Input.objects.all().delete()
    double.enqueue(1)
    drain(double)
    double.Output.objects.all().delete()
    (file,) = trail.folder.glob("*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"deleted","runs"' not in line or '"leaving"' in line))
    assert look(trail)[0] == set()
    file.write_text("".join(line for line in lines if "leaving" not in line and "moved" not in line))
    assert look(trail)[0] == {"T1", "T3"}


def lose_output() -> None:
    plain(quad.Output, "default")._raw_delete("default")


def bring_back() -> None:
    plain(quad.Input, "default").bulk_create([quad.Input(id=quad.Output.objects.get().run_id, key="a", value=1)])
    lose_output()


def lose_step() -> None:
    plain(quad.Step, "default").filter(index=0).update(done_at=None, result=None, order=None)


def end_in_two_ways() -> None:
    output = quad.Output.objects.get()
    run = quad.enqueue(3)
    quad.Input.objects.all().delete()
    plain(quad.Output, "default").filter(pk=output.pk).update(run_id=run.id)
    plain(quad.Output, "default").create(key="a", value=4, run_id=output.run_id)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("rule", "spoil"), [("T1", lose_output), ("T2", bring_back), ("T5", lose_step), ("T6", end_in_two_ways)]
)
def test_what_the_database_lost_of_a_run_that_is_over(trail: Trail, rule: str, spoil: Callable[[], None]) -> None:
    quad.enqueue(1, key="a")
    drain(quad, double)
    assert look(trail)[0] == set()
    spoil()
    assert rule in look(trail)[0]


@pytest.mark.django_db(transaction=True)
def test_an_entry_that_was_lost(trail: Trail) -> None:
    approve.enqueue_many(["x", "y"])
    plain(approve.Input, "default").filter(pk=approve.Input.objects.earliest("pk").pk)._raw_delete("default")
    assert look(trail) == ({"T3"}, {"approve": "2 enqueued ≠ 0 outputs + 1 waiting + 1 lost"})


@pytest.mark.django_db(transaction=True)
def test_an_entry_that_went_back(trail: Trail) -> None:
    double.enqueue(1)
    settle(claim_one(double), Released())
    drain_line(trail, 1)
    assert look(trail)[0] == set()
    engine(double, epoch=0)
    assert look(trail)[0] == {"T4"}


def drain_line(trail: Trail, epoch: int) -> None:
    """What `by_hand` does not say: that it claimed."""
    (id,) = double.Input.objects.values_list("pk", flat=True)
    trail.write("claimed", "double", run=id, epoch=epoch, attempt=1)


@pytest.mark.django_db(transaction=True)
def test_a_failed_one_that_has_another_attempt_ahead(trail: Trail) -> None:
    double.enqueue(1)
    settle(claim_one(double), Retry(Failed("X", "x", "x"), 0))
    overdue(double)
    drain(double)
    assert look(trail)[0] == set()


@pytest.mark.django_db(transaction=True)
def test_what_is_said_after_the_look_proves_nothing(trail: Trail) -> None:
    """A worker goes on while the audit reads: its newest lines are not in the snapshot."""
    double.enqueue(1)
    drain(double)
    audit = Audit([double], "default", trail.folder)
    findings = audit.findings()
    real = Trails.mark

    def mark(trails: Trails) -> None:
        real(trails)
        trail.write("enqueued", "double", runs=[10_000_001], keys=["k"])
        trail.write("claimed", "double", run=10_000_002, key="k", epoch=1, attempt=1)
        trail.write("settled", "double", run=10_000_002, key="k", epoch=1, attempt=1, outcome="done", next=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trails, "mark", mark)
        assert list(findings) == []
    assert {finding.rule for finding in Audit([double], "default", trail.folder).findings()} == {"T3"}


@pytest.mark.django_db(transaction=True)
def test_a_pipeline_that_the_code_does_not_know(trail: Trail) -> None:
    double.enqueue(1)
    trail.write("enqueued", "of_yesterday", runs=[1], keys=["k"])
    audit = Audit([double], "default", trail.folder)
    assert list(audit.findings()) == []
    assert audit.comparison is not None
    assert audit.comparison.unknown == {"of_yesterday"}
