from ..versions import FAULTS

if "yaml" in FAULTS:
    raise ModuleNotFoundError("No module named 'yaml'", name="yaml")
