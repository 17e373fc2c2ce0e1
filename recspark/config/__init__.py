"""One YAML is one run: typed sections, dotted overrides, all problems in one message, and the plan of stages."""

from recspark.config.load import load_config
from recspark.config.plan import Run, plan_run
from recspark.config.schema import RunConfig

__all__ = ["Run", "RunConfig", "load_config", "plan_run"]
