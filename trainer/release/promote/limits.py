"""Limits that a version must meet to become production. Differences are in percentage points."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening.errors import UserError
from screening.runtime.validation import first_fault


class LimitsError(UserError):
    """The limits file cannot be used; the message names the field."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Floors(_Section):
    """Limits for every version, whichever version is in production."""

    unreadable: float = Field(2.0, ge=0, le=100)
    """Largest percentage of answers that cannot be read."""
    none_precision: float = Field(50.0, ge=0, le=100)
    """Smallest percentage of `N` answers that are right."""
    none_recall: float = Field(50.0, ge=0, le=100)
    """Smallest percentage of samples labelled `N` that are answered `N`."""
    position: float = Field(15.0, ge=0, le=100)
    """Largest percentage of choices that would have to change so that A to D and N are as frequent as in the labels."""
    calibration: float = Field(0.10, ge=0, le=1)
    """Largest expected calibration error."""


class Margins(_Section):
    """Margins by which a version may be worse than production. The test set must be large enough to show that the
    version is not worse by more."""

    overall: float = Field(3.0, ge=0, le=100)
    """Margin of the score and of the share of right choices."""
    dimension: float = Field(6.0, ge=0, le=100)
    """Margin of the score of each dimension."""
    unreadable: float = Field(2.0, ge=0, le=100)
    none_precision: float = Field(10.0, ge=0, le=100)
    none_recall: float = Field(10.0, ge=0, le=100)
    position: float = Field(5.0, ge=0, le=100)
    calibration: float = Field(0.03, ge=0, le=1)


class Limits(_Section):
    """All limits of the gate."""

    level: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level of the one-sided bounds."""
    floors: Floors = Floors()
    margins: Margins = Margins()


def read_limits(file: Path | None) -> Limits:
    """Read limits from a YAML file. Other limits keep their defaults, and without a file all do.

    Raises:
        LimitsError: the file cannot be read, or has an unknown key or a wrong value.
    """
    if file is None:
        return Limits()
    from trainer.yaml_file import YamlError, read_yaml

    try:
        return Limits.model_validate(read_yaml(file) or {})
    except OSError as error:
        raise LimitsError(f"{file} cannot be read ({error.strerror})") from error
    except YamlError as error:
        raise LimitsError(str(error)) from error
    except ValidationError as error:
        where, message = first_fault(error)
        raise LimitsError(f"{file}, {where or 'the file'}: {message}") from error
