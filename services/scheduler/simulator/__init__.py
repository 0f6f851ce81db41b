"""The simulator: discrete events over the production planner. It owns no decision: what is to be done, `plan` says."""

from services.scheduler.simulator.costs import Costs
from services.scheduler.simulator.job import Job
from services.scheduler.simulator.report import Report, table
from services.scheduler.simulator.scaling import Scaling
from services.scheduler.simulator.simulation import Restless, Simulation
from services.scheduler.simulator.world import World

__all__ = ["Costs", "Job", "Report", "Restless", "Scaling", "Simulation", "World", "table"]
