"""What is always true of a history and of the tables, said as sentences: the checkers name these when one is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Weight = Literal["wrong", "pending", "unknown"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One invariant."""

    id: str
    sentence: str
    """What is always true."""
    means: str
    """What it means if it is not."""
    advice: str
    """What to do then."""
    weight: Weight = "wrong"
    """pending: a sweep repairs it, and until then it is no fault. unknown: this code cannot tell."""


_ENGINE = "This is a defect of the engine or somebody wrote to its tables: report it, with the lines of the trail."
_HALVES = "Somebody wrote to the table by hand, or a transaction was committed in part."
_RESTORED = (
    "The database has lost commits: it was restored from a backup, failed over to a replica that lagged behind, or "
    "does not wait for its disk (synchronous_commit, innodb_flush_log_at_trx_commit, PRAGMA synchronous)."
)
_AGAIN = "Enqueue it again if it is still wanted, after a look at what its activities may have done outside."

_RULES = (
    # The history of a run, by the trails alone
    Rule(
        "H1", "Each epoch of an entry is written by one transition.",
        "Two workers, or a worker and a person, moved the entry from the same state: one of them was not fenced.",
        _ENGINE,
    ),
    Rule(
        "H2", "Each epoch of an entry is left by one transition.",
        "An attempt was settled although somebody else had already moved the entry on: the zombie was not refused.",
        _ENGINE,
    ),
    Rule(
        "H3", "Whoever settles an entry has claimed it, under that epoch and in that process.",
        "A result was settled that no claim of this process led to.", _ENGINE,
    ),
    Rule("H4", "Nothing happens to a run after its end.", "An entry that had left its queue was run again.", _ENGINE),
    Rule("H5", "A run ends once.", "Its result, or its removal, was committed twice.", _ENGINE),
    Rule(
        "H6", "A run's id is given to one entry.", "Two entries got the same id: what is known of them is mixed up.",
        "Was the id counter of the table set back, by a restored backup or a fixture that was loaded twice? "
        "Raise it above the largest id in the trail.",
    ),
    Rule(
        "H7", "The epochs that one process claims of a run rise.",
        "The entry went back to a state that it had left.", _RESTORED,
    ),
    # The trails and the database
    Rule("T1", "What was acknowledged as done is in the outputs.", "The result of a root is gone.", _RESTORED),
    Rule("T2", "What was acknowledged as ended is not in its queue.", "It is going to run a second time.", _RESTORED),
    Rule(
        "T3", "What was acknowledged as enqueued is in its queue, in the outputs, or was taken out.",
        f"The entry is gone without a trace. {_RESTORED}",
        f"If raw SQL or a process without AUDIT deleted it, all is well. {_AGAIN}",
    ),
    Rule("T4", "An entry's epoch is at least the last one that was acknowledged.", "It went back in time.", _RESTORED),
    Rule(
        "T5", "What was acknowledged as a child's end is in the step of its caller.",
        "The result of a child is gone, its caller waits for it.", _RESTORED,
    ),
    Rule("T6", "What was acknowledged as deleted or cancelled has no output.", "The run ended in two ways.", _ENGINE),
    # Entries
    Rule(
        "E1", "An entry in its queue has no output.", "A run that is over is going to run again, or did.",
        "Look which of its effects are there; then delete the entry.",
    ),
    Rule(
        "E2", "An entry has a time from which it may be claimed, or sleeps, or was given up.",
        "Nobody will ever run it.", "Let it go on with .release(), or .restart() it.",
    ),
    Rule(
        "E3", "An entry is in one state: claimed, asleep, given up, or none of these.", _HALVES,
        "Put it into one by .retry(), .release() or .restart().",
    ),
    Rule("E4", "A child's step exists.", "Nobody waits for its result.", "Delete the child, by .delete()."),
    Rule(
        "E5", "A child in its queue has a step that is open.", "It runs although its result is already there.",
        "Delete the child, by .delete(), after a look at what it may have done twice.",
    ),
    Rule(
        "E6", "The step of a child in its queue is not cancelled.", "Nobody waits for its result any more.",
        "A sweep deletes it. If it is still there after some SWEEP_INTERVALs: does a worker run?", "pending",
    ),
    Rule("E7", "A step has one child.", "What was called once is run twice.", _ENGINE),
    Rule("E8", "A child is in the queue that its step called.", _HALVES, "Delete the child, by .delete()."),
    Rule("E9", "A child names both its caller and its step.", _HALVES, "Delete the child, by .delete()."),
    Rule(
        "E10", "The code knows the caller of each child.", "Nothing can be said about it here.",
        "pipeteer_check says what to do about pipelines that the code does not know.", "unknown",
    ),
    # Outputs
    Rule(
        "O1", "A run has one output.", "Its result was committed twice: the unique constraint on run_id is gone.",
        "Delete one of them, and bring the constraint back: makemigrations and migrate.",
    ),
    # Steps and messages
    Rule("S1", "A step has a result or an error, not both.", _HALVES, "Give it one, by .correct()."),
    Rule(
        "S2", "What came of a step, and its order, come with the time at which it ended.", _HALVES,
        "Rerun the run from this step, by .rerun().",
    ),
    Rule(
        "S3", "Each event of a run has a number of its own.", "A replay would not know which came first.",
        "Restart the run, or rerun it from before these events.",
    ),
    Rule(
        "S4", "The events that a run has taken are numbered from 1 without a gap.",
        "A step or a message is missing in the record of a live run: it was deleted.",
        "Restart the run, or rerun it from before the gap.",
    ),
    Rule(
        "S5", "The steps of a run are numbered without a gap.", "A step is missing in the record of a live run.",
        "Restart the run, or rerun it from before the gap.",
    ),
    Rule(
        "S6", "The open steps of a run are of its present branch, and the run is in its queue.",
        "Something was left open at a run's end, and is still being worked on, or nobody will ever close it.",
        "If the entry was deleted by raw SQL or by CASCADE, delete its children, too. If not: " + _ENGINE,
    ),
    Rule(
        "S7", "The child of an open step is in its queue.",
        "It was deleted by CASCADE or raw SQL, without its caller being told.",
        "A sweep tells the caller as soon as that sleeps. If it is still so after some SWEEP_INTERVALs: "
        "does a worker run?", "pending",
    ),
    Rule(
        "S8", "A run that sleeps has taken the results that are there.",
        "A crash came between the two transactions of an atomic activity: the caller was not woken.",
        "A sweep wakes it. If it is still so after some SWEEP_INTERVALs: does a worker run?", "pending",
    ),
    Rule(
        "S9", "A run that sleeps has taken the messages that are there.", "It was not woken for one.",
        "Send it another, or .release() it; and report this.",
    ),
    Rule(
        "S10", "A run that sleeps wakes when its next timer is due.", "Its timer will be late, or never end.",
        "Rerun the run from that timer's step, by .rerun().",
    ),
    Rule(
        "S11", "What ended as a child has no output of its own.", "The result was delivered twice.", _ENGINE,
    ),
    Rule(
        "S12", "The code knows what open steps call.", "Nothing can be said about it here.",
        "pipeteer_check says what to do about pipelines that the code does not know.", "unknown",
    ),
)  # fmt: skip

RULES = {rule.id: rule for rule in _RULES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule that is broken, and where."""

    rule: str
    pipeline: str
    run: int
    text: str
    """What was found, in this very case."""
    key: str = ""
    step: int | None = None
    """The number of a step, where it is about one."""
    evidence: tuple[str, ...] = ()
    """Lines of the trail: file and number."""

    @property
    def weight(self) -> Weight:
        """How bad it is."""
        return RULES[self.rule].weight

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rule = RULES[self.rule]
        return {
            "rule": self.rule, "weight": rule.weight, "pipeline": self.pipeline, "run": self.run, "key": self.key,
            "step": self.step, "text": self.text, "sentence": rule.sentence, "means": rule.means,
            "advice": rule.advice, "evidence": list(self.evidence),
        }  # fmt: skip

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        key = f" {self.key!r}" if self.key else ""
        seen = f" ({', '.join(self.evidence)})" if self.evidence else ""
        return f"{self.weight} {self.rule}: {self.pipeline}{key} (run {self.run}{step}): {self.text}{seen}"
