"""The base of every config section: frozen, unknown keys refused, each knob described where it is declared."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of knobs. The docstring under each field is its description in ``recspark config``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
