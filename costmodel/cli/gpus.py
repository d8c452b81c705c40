"""``costmodel gpus``."""

from __future__ import annotations

from typing import Literal, TypedDict

import click

from ..data import hardware
from ..show.listing import Listing
from . import options


class GpuRecord(TypedDict):
    """One GPU; rates in GB/s, one direction; null where no source states the figure."""

    gpu: str
    arch: str
    default: bool
    links: int | None
    link_gbps: float | None
    calibrated_link_gbps: float
    calibrated_link_gbps_lo: float
    calibrated_link_gbps_hi: float
    hbm_gbps: float
    rows: int
    calibration: str
    source: str


class GpusRecord(TypedDict):
    """``costmodel/gpus/1``."""

    schema: Literal["costmodel/gpus/1"]
    gpus: list[GpuRecord]


@click.command()
@options.listing_format
def command(style: str) -> None:
    """List the GPUs that the shipped calibrations cover, with their links.

    The nominal rate of a link is what its source states, one direction; the calibrated one is what
    measurements support, with its 90 % interval. The first GPU of an arch is its default.

    \b
    costmodel gpus
    costmodel gpus --format json
    """
    from ..calibration.posterior import shipped

    records = []
    for arch, gpus in hardware.GPUS.items():
        calibration = shipped(arch)
        for gpu in gpus:
            lo, rate, hi = calibration.interval(f"link_gbps[{gpu}]")
            link, links = _figure(gpu, "xgmi_link_bw_unidir"), _figure(gpu, "xgmi_links_to_peers")
            about: GpuRecord = {
                "gpu": gpu,
                "arch": arch,
                "default": gpu == gpus[0],
                "links": int(links.value) if links else None,
                "link_gbps": float(link.value) if link else None,
                "calibrated_link_gbps": rate,
                "calibrated_link_gbps_lo": lo,
                "calibrated_link_gbps_hi": hi,
                "hbm_gbps": hardware.hbm_gbps(gpu),
                "rows": sum(c.rows for c in calibration.coverage if c.gpu == gpu),
                "calibration": calibration.id,
                "source": (link or links).source_url if link or links else "",  # type: ignore[union-attr]
            }
            records.append(about)
    shown = {
        "gpu": "GPU", "arch": "arch", "link_gbps": "nominal GB/s", "calibrated_link_gbps":
        "fitted GB/s", "calibrated_link_gbps_lo": "from", "calibrated_link_gbps_hi": "to",
        "rows": "rows", "calibration": "calibration",
    }  # fmt: skip
    click.echo(Listing("costmodel/gpus/1", tuple(records), shown).render(style))


def _figure(gpu: str, quantity: str) -> hardware.Figure | None:
    try:
        return hardware.figure(gpu, quantity)
    except KeyError:
        return None
