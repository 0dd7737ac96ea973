"""What the `task` section of params.yaml has of every task; the rest are the keys of the task it names (`Task.options`)."""

from pydantic import Field

from ganlib.config import Section


class TaskConfig(Section):
    """What is minimised, by whom and how often."""

    name: str = Field("adversarial", description="a registered task; the other keys are its own (`python -m ganlib.catalog NAME`)")
