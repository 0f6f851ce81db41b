"""What the trainer answers, blocking."""

from lepton.client.artifacts import Artifacts
from lepton.client.jobs import Jobs
from lepton.client.loop_thread import Facade, iterates, lists, waits


class BlockingJobs(Facade[Jobs]):
    """`client.jobs` that blocks."""

    create = waits(Jobs.create)
    submit_script = waits(Jobs.submit_script)
    get = waits(Jobs.get)
    list = lists(Jobs.list)
    watch = iterates(Jobs.watch)
    watch_all = iterates(Jobs.watch_all)
    wait = waits(Jobs.wait)
    cancel = waits(Jobs.cancel)
    delete = waits(Jobs.delete)
    checkpoints = lists(Jobs.checkpoints)
    logs = iterates(Jobs.logs)
    metrics = iterates(Jobs.metrics)
    curves = waits(Jobs.curves)


class BlockingArtifacts(Facade[Artifacts]):
    """`client.artifacts` that blocks."""

    upload = waits(Artifacts.upload)
    get = waits(Artifacts.get)
    download = waits(Artifacts.download)
    download_to = waits(Artifacts.download_to)
