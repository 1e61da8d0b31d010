"""What a version must keep to become production. Differences are in percentage points."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening.errors import UserError


class LimitsError(UserError):
    """The file of limits is not understood; the message names the field."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Floors(_Section):
    """For every version, whatever is in production."""

    unreadable: float = Field(2.0, ge=0, le=100)
    """Most percent of answers that cannot be read."""
    none_precision: float = Field(50.0, ge=0, le=100)
    """Least percent of the answers `N` that are right."""
    none_recall: float = Field(50.0, ge=0, le=100)
    """Least percent of the samples with label `N` that are answered `N`."""
    position: float = Field(15.0, ge=0, le=100)
    """Most percent of the choices that would have to move to spread over A, B, C, D, N as the labels do."""
    calibration: float = Field(0.10, ge=0, le=1)
    """Largest expected calibration error."""


class Margins(_Section):
    """How much worse than production a version may be. A test set must be large enough to show that it is not."""

    overall: float = Field(3.0, ge=0, le=100)
    """Of the score, and of the share of right choices."""
    dimension: float = Field(6.0, ge=0, le=100)
    """Of the score of each dimension."""
    unreadable: float = Field(2.0, ge=0, le=100)
    none_precision: float = Field(10.0, ge=0, le=100)
    none_recall: float = Field(10.0, ge=0, le=100)
    position: float = Field(5.0, ge=0, le=100)
    calibration: float = Field(0.03, ge=0, le=1)


class Limits(_Section):
    """All limits of the gate."""

    level: float = Field(0.95, gt=0.5, lt=1)
    """Of the one-sided bounds."""
    floors: Floors = Floors()
    margins: Margins = Margins()


def read_limits(file: Path | None) -> Limits:
    """Limits from a YAML file that names those that differ; the usual ones without a file.

    Raises:
        LimitsError: it cannot be read, has an unknown key or a wrong value.
    """
    if file is None:
        return Limits()
    import yaml

    try:
        return Limits.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except OSError as error:
        raise LimitsError(f"{file} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LimitsError(f"{file} is not YAML: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise LimitsError(f"{file}, {where}: {first['msg']}") from error
