"""What the lazy names of the package are, for type checkers."""

from scale_toolkit import get as get
from scale_toolkit import plot as pl
from scale_toolkit import plot as plot
from scale_toolkit import pp as pp
from scale_toolkit import report as report
from scale_toolkit import tl as tl
from scale_toolkit import utils as utils
from scale_toolkit.api import SCALE as SCALE
from scale_toolkit.stages.annotate import annotate as annotate
from scale_toolkit.stages.choose_k import choose_k as choose_k
from scale_toolkit.stages.cluster import cluster as cluster
from scale_toolkit.stages.doublets import doublets as doublets
from scale_toolkit.stages.embed import embed as embed
from scale_toolkit.stages.encode import encode as encode
from scale_toolkit.stages.genes import genes as genes
from scale_toolkit.stages.impute import impute as impute
from scale_toolkit.stages.imputed import imputed as imputed
from scale_toolkit.stages.map import map as map
from scale_toolkit.stages.markers import markers as markers
from scale_toolkit.stages.prepare import prepare as prepare
from scale_toolkit.stages.receipts import receipts as receipts
from scale_toolkit.stages.select_peaks import select_peaks as select_peaks
from scale_toolkit.stages.simulate import simulate as simulate
from scale_toolkit.stages.train import train as train
from scale_toolkit.stages.unpack import unpack_binary as unpack_binary
from scale_toolkit.stages.unpack import unpack_numeric as unpack_numeric
from scale_toolkit.stages.verify import verify as verify

__version__: str

__all__ = [
    "SCALE",
    "__version__",
    "annotate",
    "choose_k",
    "cluster",
    "doublets",
    "embed",
    "encode",
    "genes",
    "get",
    "impute",
    "imputed",
    "map",
    "markers",
    "pl",
    "plot",
    "pp",
    "prepare",
    "receipts",
    "report",
    "select_peaks",
    "simulate",
    "tl",
    "train",
    "unpack_binary",
    "unpack_numeric",
    "utils",
    "verify",
]
