"""Flow `retrain`: new data -> a challenger, which takes the champion's place if it is nowhere worse on the same prompts."""

from __future__ import annotations

from prefect import flow, get_run_logger
from pydantic import BaseModel

from flows.align import run_pipeline
from flows.failed_state import failed_on_user_error
from flows.form import Form, filled_in
from moslim_core.errors import UserError
from moslim_core.evaluation.promotion_gate import Bounds, Decision, gate
from moslim_core.policy.artifact import PolicyCard
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.display.prefect_page import entitle
from tasks.display.retraining import drifts_from, measured, show, show_control, told
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import digest_of
from tasks.ledger.registry import CHAMPION, Registry

DEFAULT_BOUNDS = Bounds()
SAME = "the challenger is the champion: neither data nor settings changed"


class Retrained(BaseModel):
    """What became of the challenger, and why. `decision` is null where the challenger is the champion itself."""

    run_id: str
    version: str
    promoted: bool
    why: str
    drift: str
    decision: Decision | None


@flow(name="retrain")
@failed_on_user_error
def retrain(settings: Form, name: str = "policy", bounds: Bounds = DEFAULT_BOUNDS) -> Retrained:
    """Train a challenger, measure it and the champion on the same prompts, and promote it only if the gate holds.

    The first policy of a name has no champion to beat: only `bounds` can hold it back. `moslim rollback` undoes a promotion.

    Args:
        settings: what to train: a profile, yours or packaged, with changes, or every setting by itself; its rows are read anew
        name: the policy's name in MLflow's registry; models:/NAME@champion is what it is set beside
        bounds: what the challenger must keep to, beside what the champion reaches
    """
    settings = filled_in(settings)
    if settings.evaluation.policy:
        raise UserError("evaluation.policy is given, but retraining trains the policy that it evaluates.\nLeave it out.")
    entitle(f"{name}, seed {settings.seed}", [settings.policy.optimiser])
    registry, ledger = Registry(settings.work_dir, name), ledger_of(settings.work_dir)
    ledger.reconcile()
    champion = registry.version_at(CHAMPION)
    facts = {"name": name, "champion": champion, "bounds": bounds.model_dump(mode="json")}
    fingerprint = digest_of({"settings": settings.content(), **facts})
    run_id = ledger.open_retraining(fingerprint, f"retrain {name}", {**facts, **settings.content()})
    try:
        retrained = _retrain(settings, registry, champion, bounds, run_id)
    except BaseException as error:
        ledger.close(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    for key in ("version", "promoted", "why", "drift"):
        ledger.client.set_tag(run_id, f"moslim.{key}", str(getattr(retrained, key)))
    ledger.close(run_id, "FINISHED")
    get_run_logger().info("%s version %s promoted: %s (%s)", name, retrained.version, retrained.promoted, retrained.why)
    return retrained


def _retrain(settings: Settings, registry: Registry, champion: str | None, bounds: Bounds, run_id: str) -> Retrained:
    drifts = []
    if champion is not None:
        policy = registry.policy(champion)
        _same_preferences(settings, PolicyCard.load(ledger_of(settings.work_dir).download(policy.uri)), registry.name)
        rows = run_pipeline(settings, "label", "new rows", run_id).outcomes["label"].ref
        drifts = drifts_from(policy, rows, settings.work_dir)
        get_run_logger().info("drift from the champion's data: %s", told(drifts))
    outcomes = run_pipeline(settings, "evaluate", "challenger", run_id).outcomes
    version = registry.register(outcomes["train_policy"].ref)
    drift = told(drifts)
    if version == champion:
        return Retrained(run_id=run_id, version=version, promoted=False, why=SAME, drift=drift, decision=None)
    registry.challenge(version, "trained by retrain")
    theirs = None
    runs = {"retraining": run_id, "challenger's evaluation": outcomes["evaluate"].ref.run_id}
    if champion is not None:
        evaluation = changed(settings.evaluation, policy=f"models:/{registry.name}/{champion}")
        other = run_pipeline(changed(settings, evaluation=evaluation), "evaluate", "champion", run_id)
        theirs = measured(other.outcomes["evaluate"].ref, settings.work_dir)
        runs["champion's evaluation"] = other.outcomes["evaluate"].ref.run_id
    ours = measured(outcomes["evaluate"].ref, settings.work_dir)
    decision = gate(ours, theirs, bounds)
    registry.tell(version, gate=decision.why, drift=drift)
    show(decision, drifts, f"{registry.name}: version {version} against champion {champion}; {decision.why}", runs, registry.ledger)
    show_control(settings.preferences, theirs, ours)
    if decision.holds:
        registry.promote(version, decision.why)
    return Retrained(run_id=run_id, version=version, promoted=decision.holds, why=decision.why, drift=drift, decision=decision)


def _same_preferences(settings: Settings, champion: PolicyCard, name: str) -> None:
    """Other preferences have other rows and requests: their figures can't be set side by side."""
    if champion.preferences != settings.preferences:
        raise UserError(
            f"preferences differ from those of the champion of {name} ({', '.join(champion.preferences.names)}).\n"
            "Train with moslim run and promote by hand, or give another name."
        )
