"""``costmodel schemas``: what every JSON of costmodel holds."""

from __future__ import annotations

from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from ..calibration.posterior import CalibrationRecord
from ..decide import schemas as decide
from ..decide.drift_schemas import DiffRecord
from ..decide.fit_schemas import FitRecord
from ..engines.schemas import AuditRecord
from ..errors import InputError, nearest
from ..live.in_force import InForceRecord
from ..live.run.schemas import EnvironmentRecord, RunSettings, StartsRecord
from ..live.validation import LiveValidationRecord
from ..planning.schemas import PlanRecord
from ..rules.schemas import Catalogue, RuleOfArmsRecord, RuleRecord, RulesByGpu
from ..rules.table import FirstTableRecord, TableRecord
from ..simulation.schemas import SimulationRecord, SweepRecord
from ..tuning.handover import TuneRecord
from ..tuning.session import TuningSettings
from . import data, doctor, gpus, models, options, rules, statements

#: Name of a schema, as it stands under ``schema`` in every record of it -> its type, or its types
#: where the question decides.
SCHEMAS: dict[str, Any] = {
    "costmodel/recommend/1": decide.Recommendation,
    "costmodel/predict/1": decide.Predictions,
    "costmodel/explain/2": decide.ExplainedCall | decide.ExplainedBatches,
    "costmodel/worth/1": decide.Worths,
    "costmodel/calibrate/1": FitRecord,
    "costmodel/validate/1": LiveValidationRecord,
    "costmodel/in-force/1": InForceRecord,
    "costmodel/audit/1": AuditRecord,
    "costmodel/diff/1": DiffRecord,
    "costmodel/simulate/1": SimulationRecord,
    "costmodel/simulate-sweep/1": SweepRecord,
    "costmodel/rule/1": RuleRecord,
    "costmodel/rules-by-gpu/1": RulesByGpu,
    "costmodel/rule-of-arms/1": RuleOfArmsRecord,
    "costmodel/catalogue/1": Catalogue,
    "costmodel/table/1": FirstTableRecord,
    "costmodel/table/2": TableRecord,
    "costmodel/plan/1": PlanRecord,
    "costmodel/calibration/2": CalibrationRecord,
    "costmodel/tuning/1": TuningSettings,
    "costmodel/tune/1": TuneRecord,
    "costmodel/run/1": RunSettings,
    "costmodel/environment/1": EnvironmentRecord,
    "costmodel/starts/1": StartsRecord,
    "costmodel/models/1": models.ModelsRecord,
    "costmodel/rules/1": rules.RulesRecord,
    "costmodel/statements/1": statements.StatementsRecord,
    "costmodel/gpus/1": gpus.GpusRecord,
    "costmodel/data/1": data.DataRecord,
    "costmodel/doctor/1": doctor.DoctorRecord,
}


def types_of(name: str) -> tuple[Any, ...]:
    """Return the types of a schema: a record of it is of one of them."""
    return get_args(SCHEMAS[name]) or (SCHEMAS[name],)


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a schema by name.

    A record may hold keys that are not in it. Raises :class:`InputError` for an unknown name; the
    prefix ``costmodel/`` may be left out.
    """
    import msgspec

    full = name if name.startswith("costmodel/") else f"costmodel/{name}"
    if full not in SCHEMAS:
        known = [known.removeprefix("costmodel/") for known in SCHEMAS]
        near = nearest(name.removeprefix("costmodel/"), known)
        raise InputError(f"no schema '{name}'{near}; there are {', '.join(known)}")
    types = types_of(full)
    roots, parts = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    root = roots[0] if len(types) == 1 else {"anyOf": list(roots)}
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": full}
    return {**about, **root, "$defs": parts}


def complete(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Offer the names."""
    return options.completed(SCHEMAS, incomplete)


@click.command()
@click.argument("name", required=False, shell_complete=complete)
def command(name: str | None) -> None:
    """List the schemas of costmodel's JSON, or print the JSON Schema of one.

    Every JSON that a command prints or writes says under "schema" which it is. A key that stands in
    one keeps its name and meaning; what would change either gets a new number. Keys may be added.

    \b
    costmodel schemas
    costmodel schemas costmodel/recommend/1 > recommend.schema.json
    """
    if name is None:
        click.echo("\n".join(SCHEMAS))
    else:
        options.print_json(json_schema(name))
