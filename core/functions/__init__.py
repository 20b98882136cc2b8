"""Functions that users call by torch's names and signatures, composed of ops: overloads, alternatives of spelling, combinations.

An op is here only wrapped: nothing in this package has a gradient rule. A file for each family.
"""

from core.functions import elementwise, histograms, indices, memory, products, rare, reduce, sampling, shape, storages
from core.functions.elementwise import *  # noqa: F403
from core.functions.histograms import *  # noqa: F403
from core.functions.indices import *  # noqa: F403
from core.functions.memory import *  # noqa: F403
from core.functions.products import *  # noqa: F403
from core.functions.rare import *  # noqa: F403
from core.functions.reduce import *  # noqa: F403
from core.functions.sampling import *  # noqa: F403
from core.functions.shape import *  # noqa: F403
from core.functions.storages import *  # noqa: F403

FAMILIES = (elementwise, histograms, indices, memory, products, rare, reduce, sampling, shape, storages)
