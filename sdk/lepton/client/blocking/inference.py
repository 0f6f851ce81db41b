"""What the inference service answers, blocking."""

from lepton.client.batch_predictions import BatchPredictions
from lepton.client.deployments import Deployments
from lepton.client.loop_thread import Facade, iterates, lists, waits
from lepton.client.models import Models
from lepton.client.optimizations import Optimizations


class BlockingModels(Facade[Models]):
    """`client.models` that blocks."""

    create = waits(Models.create)
    get = waits(Models.get)
    list = lists(Models.list)
    delete = waits(Models.delete)
    register = waits(Models.register)
    create_version = waits(Models.create_version)
    get_version = waits(Models.get_version)
    versions = lists(Models.versions)
    set_alias = waits(Models.set_alias)
    update = waits(Models.update)
    update_version = waits(Models.update_version)
    set_stage = waits(Models.set_stage)
    delete_version = waits(Models.delete_version)
    lineage = waits(Models.lineage)
    taint = waits(Models.taint)
    quarantine = waits(Models.quarantine)
    release = waits(Models.release)
    register_files = waits(Models.register_files)
    export = waits(Models.export)


class BlockingOptimizations(Facade[Optimizations]):
    """`client.optimizations` that blocks."""

    create = waits(Optimizations.create)
    get = waits(Optimizations.get)
    list = lists(Optimizations.list)
    watch = iterates(Optimizations.watch)
    watch_all = iterates(Optimizations.watch_all)
    wait = waits(Optimizations.wait)
    cancel = waits(Optimizations.cancel)
    delete = waits(Optimizations.delete)


class BlockingDeployments(Facade[Deployments]):
    """`client.deployments` that blocks."""

    create = waits(Deployments.create)
    get = waits(Deployments.get)
    list = lists(Deployments.list)
    watch = iterates(Deployments.watch)
    watch_all = iterates(Deployments.watch_all)
    wait = waits(Deployments.wait)
    wait_deleted = waits(Deployments.wait_deleted)
    scale = waits(Deployments.scale)
    autoscale = waits(Deployments.autoscale)
    update = waits(Deployments.update)
    roll_out = waits(Deployments.roll_out)
    wait_rollout = waits(Deployments.wait_rollout)
    pause = waits(Deployments.pause)
    resume = waits(Deployments.resume)
    promote = waits(Deployments.promote)
    abort = waits(Deployments.abort)
    undo = waits(Deployments.undo)
    revisions = lists(Deployments.revisions)
    revision = waits(Deployments.revision)
    delete = waits(Deployments.delete)


class BlockingBatchPredictions(Facade[BatchPredictions]):
    """`client.batch_predictions` that blocks."""

    create = waits(BatchPredictions.create)
    get = waits(BatchPredictions.get)
    list = lists(BatchPredictions.list)
    watch = iterates(BatchPredictions.watch)
    watch_all = iterates(BatchPredictions.watch_all)
    wait = waits(BatchPredictions.wait)
    wait_deleted = waits(BatchPredictions.wait_deleted)
    cancel = waits(BatchPredictions.cancel)
    delete = waits(BatchPredictions.delete)
    manifest = waits(BatchPredictions.manifest)
    download = waits(BatchPredictions.download)
