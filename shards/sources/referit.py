"""ReferIt (Kazemzadeh et al. 2014) as the REFER tool has it, which calls it RefCLEF: what was said in the ReferItGame.

The root holds ``refclef/refs(<partition>).p`` and ``refclef/instances.json``; the images of SAIAPR TC-12 lie in
``images/saiapr_tc-12``, or in ``--images``. The default partition is ``berkeley``, with train, val and test, on which
results are reported; the tool's README tells of three images of it that its download lacks, and the builder puts
them into quarantine. The splits of ``unc`` are train, val and the tests A, B and C; a referent may belong to two of
these and then has a label such as "testAB", which is kept as a split of its own.

An annotation is known by a number, or by a name like "25_1". Its mask is a list of run lengths, of the size of the
segmented image. Its category contradicts the expressions too often (as its users tell), so that a region has none.
The numbers of the images are those of IAPR TC-12, not of COCO.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laconvnet.shards.sources.refer import ImageSet, Refer


@dataclass(frozen=True, slots=True)
class ReferIt(Refer):
    """The data set of REFER on other images than COCO's."""

    @property
    def folder(self) -> str:
        return "refclef"


REFERIT = ReferIt(
    "referit",
    "ReferIt (RefCLEF): 130,525 expressions for 96,654 objects in 19,894 images of SAIAPR TC-12",
    "berkeley",
    "annotations: terms unknown; pictures: IAPR TC-12, free of charge and without copyright restrictions",
    ImageSet("SAIAPR TC-12", Path("images", "saiapr_tc-12"), coco=False),
)
