"""One rank's run of a recipe: the task made of its dataset, what it begins with, and the loop over it."""

from lepton import data
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.train.checkpoints import Checkpoint
from lepton.train.parallel import Plan
from lepton.train.rank_session import RankSession
from services.trainer.worker import recipes
from services.trainer.worker.loop import Loop
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.task import Task
from services.trainer.worker.transfer import Donor, begin_with
from services.trainer.worker.trunk import Shared, share_trunk


def train(spec: TrainingSpec, session: RankSession) -> bool:
    """Trains to the end, or until any rank is asked to stop (False); every rank of the gang calls it."""
    saved = session.resume()
    if saved is not None and saved.manifest.config_digest != spec.digest:
        raise FailedPrecondition("CHECKPOINT_OF_ANOTHER_RUN", checkpoint=saved.digest)
    plan = Plan.of_environment()
    if spec.stop_patience_epochs and plan.data == "parameter_server":
        problem = "needs workers that step together; leave it out, or use another way of dividing the data"
        raise InvalidArgument("INVALID_FIELD", fields={"stop_patience_epochs": problem})
    loop = Loop(spec, session, task_of(spec, session, saved), plan)
    if saved is not None:
        loop.restore(saved)
    return loop.run()


def task_of(spec: TrainingSpec, session: RankSession, saved: Checkpoint | None) -> Task:
    """What is trained: the recipe's task on its dataset, with what is taken over from another model."""
    task = recipes.task(spec, data.parse(session.store.read(spec.project, spec.dataset)))
    if spec.initial_model:
        donor = Donor.read(session.store, spec.project, spec.initial_model)
        task = begin_with(task, donor, freeze=spec.freeze_trunk)
    if spec.freeze_trunk:
        carried = {} if saved is None else saved.state.get("loop", {}).get("carried", {})
        task = share_trunk(task, session, spec.project, Shared.of_state(carried))
    return task
