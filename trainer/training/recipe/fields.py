"""Types of fields that the sections of a recipe share, and what all sections refuse."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Strict(BaseModel):
    """A section of a recipe. Unknown keys and booleans in place of numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans for numbers: YAML reads `yes` and `on` as true, which pydantic would take for 1."""
        switch = any(isinstance(one, bool) for one in (value if isinstance(value, list) else [value]))
        if switch and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("give a number, not true or false")
        return value


def not_all_zero(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not sum(shares):
        raise ValueError("at least one share must be above 0")
    return shares


Share = Annotated[float, Field(ge=0, le=1)]
Shares3 = Annotated[tuple[Share, Share, Share], AfterValidator(not_all_zero)]
Shares4 = Annotated[tuple[Share, Share, Share, Share], AfterValidator(not_all_zero)]
Shares5 = Annotated[tuple[Share, Share, Share, Share, Share], AfterValidator(not_all_zero)]
"""Shares are relative to each other; they need not add up to 1."""
LARGEST = 10**9
"""Maximum of a count. A larger one is a typing error: a training with so many steps would never end."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountFrom0 = Annotated[int, Field(ge=0, le=LARGEST)]
Factor = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A learning rate. With AdamW and Muon, a rate above 1 is a typing error."""
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Tiles = Annotated[int, Field(ge=1, le=4, exclude_if=lambda tiles: tiles == 1)]
"""A maximum number of tiles per picture. It is left out of the resolved recipe if it is 1, so that recipes without
tiles keep their record."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed in the range that NumPy accepts."""
