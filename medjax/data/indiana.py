"""Indiana University's reports of chest X-rays, from TorchXRayVision's wheel: 3,419 with findings and impression."""

from __future__ import annotations

from medjax.data.layouts import Layout, iu_xray
from medjax.data.wheels import Wheel, fetch

INDIANA = Wheel(
    package="torchxrayvision",
    version="1.5.7",
    sha256="95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
    licence="wheel Apache-2.0; the reports (Open-i, Demner-Fushman et al. 2016) CC BY-NC-ND 4.0",
    files=("torchxrayvision/data/NLMCXR_reports.tgz",),
    size=29_000_000,
)


def reports() -> Layout:
    """Findings to impression; the wheel is fetched at first use."""
    return iu_xray.sources(fetch(INDIANA) / INDIANA.files[0], write=True)
