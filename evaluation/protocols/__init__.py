"""Named protocols, one small file each."""

import difflib

from evaluation.protocols.base import Protocol
from evaluation.protocols.default import DEFAULT
from evaluation.protocols.instant3d_gso64 import INSTANT3D_GSO64
from evaluation.protocols.mvdiffusionpp_sparse import MVDIFFUSIONPP_SPARSE
from evaluation.protocols.syncdreamer_gso30 import SYNCDREAMER_GSO30
from infra.errors import UserError

PROTOCOLS: dict[str, Protocol] = {one.base: one for one in (DEFAULT, SYNCDREAMER_GSO30, MVDIFFUSIONPP_SPARSE, INSTANT3D_GSO64)}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, 1, 0.3)
        known = f"choose one of: {', '.join(PROTOCOLS)}"
        raise UserError(f"unknown protocol '{name}'", f"did you mean '{near[0]}'? Or {known}" if near else known)
    return PROTOCOLS[name]
